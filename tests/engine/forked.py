"""Ranks that are forked at once to run a function of a test file: for proofs that need no recipe.

A test file that uses it is also the program that starts the ranks: `if __name__ == "__main__": forked.main(globals())`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes


def run(file: str, name: str, size: int, folder: Path, *arguments: str) -> list[Any]:
    """What `name(rank, folder, *arguments)` of a file returned on each of `size` ranks, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, file, name, str(size), str(folder), *arguments]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{name}_{rank}.pt", weights_only=False) for rank in range(size)]


def main(functions: dict[str, Any]) -> None:
    """The program."""
    name, size, folder, *arguments = sys.argv[1:]
    rest = (functions[name], int(size), Path(folder), *arguments)
    start_processes(_be_rank, args=rest, nprocs=int(size), start_method="fork")  # type: ignore[no-untyped-call]


def _be_rank(rank: int, act: Callable[..., Any], size: int, folder: Path, *arguments: str) -> None:
    torch.set_num_threads(1)
    meeting = folder / f"{act.__name__}_meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    torch.save(act(rank, folder, *arguments), folder / f"{act.__name__}_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
