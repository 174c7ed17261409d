"""Ranks that run a function of a test file: for proofs that need no recipe."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import Start


def run(start: Start, file: str, name: str, size: int, folder: Path, *arguments: str) -> list[Any]:
    """What `name(rank, folder, *arguments)` of a file returned on each of `size` ranks, in order."""
    ended = start(size, [file, name, folder, *arguments], program="forked").end()
    assert set(ended.statuses) == {0}, ended.lines
    return [torch.load(folder / f"{name}_{rank}.pt", weights_only=False) for rank in range(size)]


def main(words: Sequence[str]) -> int:
    """Is a rank, which `server.py` has forked."""
    file, name, place, *arguments = words
    rank, folder = int(os.environ["RANK"]), Path(place)
    found = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(getattr(module, name)(rank, folder, *arguments), folder / f"{name}_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    return 0
