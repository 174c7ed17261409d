"""A program that forks ranks, as torchrun starts them, from one process that has imported torch.

A line is an order, a line answers it: the numbers of the processes, or, where it is told to wait, their statuses.
"""

import importlib
import json
import os
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

import forked  # noqa: F401
import jiwer  # noqa: F401  # what a training imports late
import pytest  # noqa: F401  # of the files whose functions `forked` runs
import sabotage
import sacrebleu  # noqa: F401  # the same
import torch._dynamo  # noqa: F401  # what a step imports late, in two seconds
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

import segue.training  # noqa: F401
from segue.engine import memory


def work(order: dict[str, Any], rank: int, port: str) -> NoReturn:
    """Is a rank."""
    with open(f"{order['said']}_{rank}", "a") as said, open(os.devnull, "w") as nothing:
        os.dup2(said.fileno(), 2)
        os.dup2(said.fileno() if order["ranks"] == 1 else nothing.fileno(), 1)
    os.environ.update(order["environment"])
    if order["ranks"] > 1:
        size = str(order["ranks"])
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    status: Any = 1
    try:
        sabotage.carry_out(os.environ)
        status = importlib.import_module(order["program"]).main(order["words"])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # as a process ends, less what takes a second of computing
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def begin(order: dict[str, Any]) -> list[int]:
    """The numbers of the ranks' processes, which are a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes: list[int] = []
    for rank in range(order["ranks"]):
        process = os.fork()
        if process == 0:
            os.setpgid(0, processes[0] if processes else 0)
            work(order, rank, port)
        os.setpgid(process, processes[0] if processes else process)
        processes.append(process)
    return processes


def main() -> None:
    with memory.old_objects_aside():  # in ranks, too, which would copy the pages of what they look through
        for line in sys.stdin:
            order = json.loads(line)
            if "wait" in order:
                answer = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in order["wait"]]
            else:
                answer = begin(order)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
