"""How is training kept safe? Checkpoints that either are complete and verified, or do not exist. No pickle.

A checkpoint is a folder `step_N` with safetensors files and `state.json`, which holds their SHA-256 and its own. It is
written under another name, flushed to the disk and renamed: killed at any moment, the previous checkpoint stays.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.errors import UserError, warn
from segue.files import PARTIAL, replacing

Tensors = dict[str, Tensor]
STATE = "state.json"
OWN_CHECKSUM = "own_sha256"


def save(folder: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any], keep: int) -> Path:
    """Publishes checkpoint `step` in `folder` and drops all but the newest `keep`.

    `tensors` becomes one file per name; `state` is JSON. Raises a UserError if the disk refuses.
    """
    target, partial = folder / f"step_{step:08d}", folder / f"{PARTIAL}{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(left)
        partial.mkdir()
        for name, group in tensors.items():
            write_tensors(partial / f"{name}.safetensors", group)
        checksums = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
        state = {**state, "step": step, "sha256": checksums}
        write_text(partial / STATE, json.dumps({**state, OWN_CHECKSUM: _own_checksum(state)}, indent=1))
        _flush(partial)
        if target.exists():  # left by a run that was resumed from an earlier one
            shutil.rmtree(target)
        partial.rename(target)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{target}: cannot save this checkpoint: {error.strerror or error}; earlier ones are intact, so make room "
            "and train again"
        ) from None
    later = [path for number, path in _all(folder) if number > step]  # damaged: this run was resumed before them
    earlier = [path for number, path in _all(folder) if number <= step]
    for path in [*later, *earlier[keep:]]:
        shutil.rmtree(path)
    return target


def load_newest(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint that verifies; damaged ones are reported and passed over.

    None if there is no checkpoint; a UserError if there are only damaged ones.
    """
    paths = [path for _, path in _all(folder)]
    for path in paths:
        try:
            state = _load_state(path)
            for name, checksum in state["sha256"].items():
                if _sha256(path / name) != checksum:
                    raise ValueError(f"{name} is not what was saved")
            return {Path(name).stem: load_file(path / name) for name in state["sha256"]}, state
        except (OSError, ValueError, SafetensorError) as error:
            warn(f"{path}: damaged checkpoint passed over: {error}")
    if paths:
        raise UserError(f"{folder}: no checkpoint in it can be read; delete this folder to train from the start")
    return None


def states(folder: Path) -> Iterator[dict[str, Any]]:
    """The state of every checkpoint that is not damaged, newest first."""
    for _, path in _all(folder):
        try:
            yield _load_state(path)
        except (OSError, ValueError):
            continue


def write_tensors(path: Path, tensors: Tensors) -> None:
    """A safetensors file, replaced at once and flushed to the disk."""
    with replacing(path) as partial:
        try:
            # Contiguous copies: safetensors refuses views that share memory.
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        except SafetensorError as error:  # what it raises for a full disk, too
            raise OSError(errno.EIO, str(error), str(path)) from None
        _flush(partial)


def load_weights(model: nn.Module, path: Path) -> None:
    """Weights of a model directory; a UserError if they are missing, or are not this model's."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; was the model trained to its first evaluation?")
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:  # names every tensor that is missing or has another shape
        raise UserError(f"{path}: these weights do not fit the recipe and tokenizer beside them: {error}") from None


def write_text(path: Path, text: str) -> None:
    """A text file, replaced at once and flushed to the disk."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
        _flush(partial)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as flat tensors, named `parameter.key`. Its settings come from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _all(folder: Path) -> list[tuple[int, Path]]:
    """(step, path), newest first."""
    return sorted(((int(path.name.split("_")[1]), path) for path in folder.glob("step_*")), reverse=True)


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or state.pop(OWN_CHECKSUM, None) != _own_checksum(state):
        raise ValueError(f"{STATE} is not what was saved")
    return state


def _own_checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Forces a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
