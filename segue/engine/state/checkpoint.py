"""How is the state of a training saved? Checkpoints that are written atomically and verified by checksums. No pickle.

A checkpoint is a folder `step_N` with safetensors files, one from each rank, and `state.json`, which contains their
SHA-256 and its own. It is written under another name, flushed to disk and renamed: if the process is killed at any
moment, the previous checkpoint remains. Ranks write and read their own parts (torch.distributed.checkpoint); the layout
may change in between. No rank ever holds the whole model, nor a file's content, in memory (`tensor_files.py`).
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as distributed_load
from torch.distributed.checkpoint.state_dict_saver import save as distributed_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from segue.engine.distributed import parts
from segue.engine.distributed.parallel import World, is_lost
from segue.engine.state import tensor_files
from segue.errors import UserError, some_of, warn
from segue.files import PARTIAL, replacing

Tensors = dict[str, Tensor]
STATE = "state.json"
OWN_CHECKSUM = "own_sha256"


class Checkpoints:
    """The checkpoints of a run. All methods are collective."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        """Keeps the newest `keep`."""
        self.folder, self._keep, self._world = folder, keep, world
        # A process group of its own, since it saves while the training continues.
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        self._thread: Thread | None = None
        self._problem: UserError | SystemExit | None = None

    def save(self, step: int, tensors: Tensors, state: dict[str, Any], *, in_background: bool = True) -> None:
        """Copies `tensors`, which may be sharded, and writes them in a background thread; `state` is JSON-serializable.

        Otherwise they are written before it returns, without a copy. A UserError of the previous save, for instance a
        full disk, is raised here or by `wait`.
        """
        self.wait()
        if not in_background:
            self._save(step, tensors, state)
            self.wait()
            return
        copies = {name: parts.spread_like(_copied(tensor), tensor) for name, tensor in tensors.items()}
        is_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        device = torch.cuda.current_device() if is_cuda else None

        def save() -> None:
            if device is not None:  # the current device is per thread
                torch.cuda.set_device(device)
            self._save(step, copies, state)

        self._thread = Thread(target=save, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Blocks until the last `save` is on disk. Raises its UserError."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last `save`, however the training ended."""
        try:
            self.wait()
        except (UserError, SystemExit) as problem:
            if value is None:
                raise
            warn(str(problem))

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest valid checkpoint and its state; damaged ones are skipped with a warning.

        None if there is no checkpoint. Raises a UserError if all are damaged.
        """
        paths = self._world.first(lambda: [path for _, path in saved(self.folder)])
        for path in paths:
            problem: str | None = None
            try:
                state = _load_state(path)
                # Ranks share the work of checking the files.
                for name, checksum in list(state["sha256"].items())[self._world.rank :: self._world.size]:
                    if checksum_of(path / name) != checksum:
                        raise ValueError(f"{name} is not what was saved")
            except (OSError, ValueError) as error:
                problem = str(error)
            problems = [each for each in self._world.gather(problem) if each is not None]
            if not problems:
                return path, state
            warn(f"{path}: damaged checkpoint skipped: {problems[0]}")
        if paths:
            raise UserError(
                f"{self.folder}: no checkpoint in it can be read; delete this folder to train from the start"
            )
        return None

    def read(self, path: Path, tensors: Tensors) -> None:
        """Fills `tensors`, which may be sharded, from a checkpoint. Raises a UserError if one does not fit."""
        reader = HuggingFaceStorageReader(str(path))
        known = reader.read_metadata().state_dict_metadata
        for name, tensor in tensors.items():
            saved = known.get(name)
            if not isinstance(saved, TensorStorageMetadata) or saved.size != tensor.shape:
                if any(each.startswith("model.model.") for each in known):
                    raise UserError(
                        f"{path}: saved by an earlier version of Segue, whose weights had other names; model/ can "
                        "still be used, training needs another --out"
                    )
                there = f"has {tuple(saved.size)}" if isinstance(saved, TensorStorageMetadata) else "lacks it"
                raise UserError(
                    f"{path}: a checkpoint of another model: {name} is {tuple(tensor.shape)}, the checkpoint {there}"
                )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # true and intended with one rank
            distributed_load(dict(tensors), storage_reader=reader, process_group=self._group)

    def _save(self, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        target, partial = self.folder / f"step_{step:08d}", self.folder / f"{PARTIAL}{step:08d}"
        is_first = self._world.is_first
        try:
            self._together(lambda: _make_empty(partial) if is_first else None)
            self._together(lambda: self._write(partial, tensors))
            checksums: dict[str, str] = {}
            for each in self._together(lambda: _flushed(partial, self._world.rank)):
                checksums.update(each)
            self._together(lambda: self._publish(partial, target, step, state, checksums) if is_first else None)
        except OSError as error:
            if is_first:
                shutil.rmtree(partial, ignore_errors=True)
            self._problem = self._world.told_once(
                UserError(
                    f"{target}: cannot save this checkpoint: {error.strerror or error}; earlier ones are intact, so "
                    "make room and train again"
                )
            )
        except RuntimeError as error:
            if not is_lost(error):
                raise
            # The training notices the lost rank too, and reports it.

    def _write(self, partial: Path, tensors: Tensors) -> None:
        if self._group is None:  # one file, named as the distributed writer would name it
            write_tensors(partial / "shard-00001-model-00001-of-00001.safetensors", tensors)
            return
        writer = _Writer(str(partial), save_distributed=True)
        distributed_save(tensors, storage_writer=writer, process_group=self._group)

    def _together(self, act: Any) -> list[Any]:
        """Calls `act` on all ranks and returns all results; if it fails on any rank, all raise an OSError."""
        result, problem = None, None
        try:
            result = act()
        except (Exception, CheckpointException) as error:  # catch everything: the other ranks wait for an answer
            problem = _reason(error)
        if self._group is None:
            results = [(result, problem)]
        else:
            results = [(None, None)] * self._world.size
            dist.all_gather_object(results, (result, problem), group=self._group)
        for _, failed in results:
            if failed is not None:
                raise OSError(errno.EIO, failed)
        return [value for value, _ in results]

    def _publish(
        self, partial: Path, target: Path, step: int, state: dict[str, Any], checksums: dict[str, str]
    ) -> None:
        state = {**state, "step": step, "sha256": checksums}
        write_text(partial / STATE, json.dumps({**state, OWN_CHECKSUM: _own_checksum(state)}, indent=1))
        _flush(partial)
        if target.exists():  # left over from before the run was resumed at an earlier step
            target.rename(_doomed(target))
        partial.rename(target)
        _flush(self.folder)
        if _doomed(target).exists():
            _delete(_doomed(target))
        later = [path for number, path in saved(self.folder) if number > step]  # damaged, since the run resumed earlier
        earlier = [path for number, path in saved(self.folder) if number <= step]
        for path in [*later, *earlier[self._keep :]]:
            _remove(path)


class _Writer(HuggingFaceStorageWriter):
    """Writes a rank's tensors one after the other; torch's own first makes two copies of the file in memory."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """The file of this rank, named and with metadata as torch's reader expects them."""
        found, metadata = dict[str, Tensor](), dict[str, object]()
        for item in plan.items:  # no tensor has two parts on a rank
            assert item.tensor_data is not None
            found[item.index.fqn] = planner.resolve_data(item)  # type: ignore[assignment]
            metadata[item.index.fqn] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
        assert len(found) == len(plan.items)
        if found:
            path = Path(self.path) / f"shard-{plan.storage_data['shard_index']:05d}-model-00001-of-00001.safetensors"
            tensors = tensor_files.in_order(found)
            told = {"DCP_SHARDING_INFO": json.dumps(metadata), "DCP_VERSION": "1.0", "format": "pt"}
            tensor_files.write(path, tensors, tensors.values(), told)
        done: Future[list[WriteResult]] = Future()
        done.set_result([])  # `finish` needs none, where each rank's file stays
        return done


def saved(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in a folder, newest first; other files are ignored."""
    found = ((re.fullmatch(r"step_(\d{8,})", path.name), path) for path in folder.glob("step_*") if path.is_dir())
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def states(folder: Path) -> Iterator[dict[str, Any]]:
    """The state of every checkpoint that is not damaged, newest first."""
    for _, path in saved(folder):
        try:
            yield _load_state(path)
        except (OSError, ValueError):
            continue


def write_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically and flushes it to disk."""
    tensors = tensor_files.in_order(tensors)
    _write_values(path, tensors, tensors.values(), metadata)


def write_whole(path: Path, tensors: Tensors, world: World, metadata: dict[str, str] | None = None) -> None:
    """Rank 0 writes the whole tensors, which may be sharded, like `write_tensors`. Collective.

    They are gathered one at a time.
    """
    tensors = tensor_files.in_order(tensors)
    wholes = (parts.whole(tensor) for tensor in tensors.values())
    problem: Exception | None = None
    if world.is_first:
        try:
            _write_values(path, tensors, wholes, metadata)
        except Exception as error:  # raised below, on all ranks
            problem = error
    for _ in wholes:  # of the other ranks; and if rank 0 could not write all, the others still gather with it
        pass

    def finish() -> None:
        if problem is not None:
            raise problem

    world.first(finish)


def _write_values(
    path: Path, tensors: Tensors, values: Iterable[Tensor], metadata: dict[str, str] | None = None
) -> None:
    with replacing(path) as partial:
        tensor_files.write(partial, tensors, values, metadata)
        _flush(partial)


def is_readable(path: Path) -> bool:
    """Whether a safetensors file exists and is not truncated."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


WEIGHTS = "model.safetensors"
"""In a model directory."""


def unchanged(names: Iterable[str]) -> dict[str, str]:
    """The identity mapping, for models whose tensors were never renamed."""
    return {name: name for name in names}


def load_weights(
    model: nn.Module, path: Path, renamed: Callable[[Iterable[str]], Mapping[str, str]] = unchanged
) -> None:
    """Loads the weights file of a model directory into a model. If it is sharded, each rank reads only its own parts.

    `renamed`, given the names in the file, maps current names to them. Raises a UserError if the file is missing or
    damaged, or does not fit the model.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; was the model trained to its first evaluation?")
    path.open("rb").close()  # without permission to read, safetensors says that there is no such file
    try:
        with safe_open(path, framework="pt") as file:
            problem = _fill(model.state_dict(), file, renamed(file.keys()))
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut off ({error}); copy it again, or train on") from None
    if problem is not None:
        raise UserError(f"{path}: these weights do not fit the recipe and tokenizer next to them: {problem}")


@torch.no_grad()
def _fill(tensors: Tensors, file: Any, saved: Mapping[str, str]) -> str | None:
    """Reads a safetensors file into tensors, part by part; if any does not fit, returns why and reads nothing."""
    wrong = [f"{name} is missing" for name in tensors if name not in saved]
    wrong += [f"{name} is unknown" for name in saved if name not in tensors]
    for name in tensors.keys() & saved.keys():
        shape = tuple(file.get_slice(saved[name]).get_shape())
        if shape != tuple(tensors[name].shape):
            wrong.append(f"{name} is of shape {shape}, not {tuple(tensors[name].shape)}")
    if wrong:
        return some_of(sorted(wrong), 3)
    for name, tensor in tensors.items():
        parts.local(tensor).copy_(part_of(file, saved[name], tensor))
    return None


def part_of(file: Any, name: str, tensor: Tensor) -> Tensor:
    """This rank's part of a tensor in an open safetensors file, sharded like `tensor`; no more of it is read."""
    part = parts.local(tensor)
    if not part.ndim:
        return file.get_tensor(name)  # type: ignore[no-any-return]
    if not part.numel():
        return torch.empty_like(part, device="cpu")
    return file.get_slice(name)[parts.own_slices(tensor)]  # type: ignore[no-any-return]


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically and flushes it to disk."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
        _flush(partial)


def checksum_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copied(tensor: Tensor) -> Tensor:
    """A copy of this rank's part in CPU memory, which the training does not change."""
    part = parts.local(tensor)
    return part.clone() if part.device.type == "cpu" else part.cpu()


def _make_empty(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    for left in partial.parent.glob(f"{PARTIAL}*"):  # left over from a process that was killed
        _delete(left)
    partial.mkdir()


def _remove(path: Path) -> None:
    """Deletes a checkpoint; renamed first, so that no half-deleted one keeps its name if the process is killed."""
    _delete(path.rename(_doomed(path)))


def _doomed(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}")


def _delete(path: Path) -> None:
    """Deletes a folder, or a file or link in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _flushed(partial: Path, rank: int) -> dict[str, str]:
    """Flushes a rank's files to disk; returns their checksums."""
    checksums = {}
    for path in sorted(partial.glob(f"shard-{rank + 1:05d}-*.safetensors")):
        _flush(path)
        checksums[path.name] = checksum_of(path)
    return checksums


def _reason(error: BaseException) -> str:
    """The reason why a file could not be written, unwrapped from torch's CheckpointException."""
    failures = getattr(error, "failures", {})  # rank -> (error, trace)
    for failed, _ in failures.values():
        return _reason(failed)
    return str(getattr(error, "strerror", None) or error)


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or state.pop(OWN_CHECKSUM, None) != _own_checksum(state):
        raise ValueError(f"{STATE} is not what was saved")
    return state


def _own_checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Flushes a file, or a folder's entries, to disk (fsync)."""
    if os.name == "nt":  # Windows cannot open folders, and flushes only files that are open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
