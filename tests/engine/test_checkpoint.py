import errno
import io
import itertools
import os
import resource
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segue.engine.distributed import parts
from segue.engine.distributed.parallel import ALONE, World
from segue.engine.state import checkpoint
from segue.engine.state.checkpoint import Checkpoints
from segue.engine.state.tensor_files import in_order
from segue.errors import UserError
from segue.files import LOCK

WEIGHTS = "shard-00001-model-00001-of-00001.safetensors"
FILES = [WEIGHTS, "state.json"]


class Killed(BaseException):
    """What no code handles: the process ends here."""


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and these tests do not cut the power


def save(folder: Path, step: int, keep: int = 2, size: int = 8) -> None:
    tensors = {f"{name}.weight": torch.full((size,), float(step)) for name in ("model", "optimizer")}
    checkpoints = Checkpoints(folder, keep, World())
    checkpoints._save(step, tensors, {"best": [step, step / 7], "data": "36 cafe"})  # what a thread does
    checkpoints.wait()


def loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint that loads; all of it has to belong to that step."""
    checkpoints = Checkpoints(folder, 2, World())
    found = checkpoints.newest()
    assert found is not None
    path, state = found
    step: int = state["step"]
    assert state["best"] == [step, step / 7]
    tensors = {f"{name}.weight": torch.zeros(8) for name in ("model", "optimizer")}
    checkpoints.read(path, tensors)
    assert [tensor.tolist() for tensor in tensors.values()] == [[step] * 8] * 2
    return step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int, failure: BaseException) -> Iterator[list[str]]:
    """Inside the block, file operation `number` (from 0) raises `failure`.

    Yields a list that has the name of this operation as soon as it was reached.
    """
    count = itertools.count()
    reached: list[str] = []

    def sabotage(module: Any, name: str) -> None:
        real = getattr(module, name)

        def operation(*arguments: Any, **options: Any) -> Any:
            if next(count) != number:
                return real(*arguments, **options)
            reached.append(name)
            raise failure

        patch.setattr(module, name, operation)

    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"):
            sabotage(os, name)
        sabotage(io, "open")
        yield reached


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["full", "kill"])
def test_failed_saves_leave_a_loadable_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: BaseException
) -> None:
    """Saving fails, or is killed, at each of its file operations."""
    steps_found, operations = set(), set()
    for number in itertools.count():
        folder = tmp_path / str(number)
        save(folder, 10)
        save(folder, 20)
        try:
            with failing(monkeypatch, number, failure) as reached:
                save(folder, 30)
        except (Killed, OSError, UserError):
            pass
        if not reached:
            break
        operations.update(reached)
        steps_found.add(loaded_step(folder))
        save(folder, 30)
        assert loaded_step(folder) == 30
        assert names(folder) == ["step_00000020", "step_00000030"]
    assert steps_found == {20, 30}
    assert operations == {"open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"}
    assert capsys.readouterr().err == ""  # none was damaged


def test_saving_a_step_again_never_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving is killed at each of its file operations."""
    for number in itertools.count():
        folder = tmp_path / str(number)
        save(folder, 10)
        save(folder, 20)
        with suppress(Killed), failing(monkeypatch, number, Killed()) as reached:
            save(folder, 20)
        assert loaded_step(folder) in (10, 20)
        if not reached:
            break
        save(folder, 20)
        assert names(folder) == ["step_00000010", "step_00000020"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["full", "kill"])
def test_a_text_file_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("old")
    for number in itertools.count():
        try:
            with failing(monkeypatch, number, failure):
                checkpoint.write_text(path, "new")
        except (Killed, OSError):
            assert path.read_text() == "old"
        else:
            break
    assert number > 2
    assert path.read_text() == "new"


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_reported_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20)
    path = tmp_path / "step_00000020" / file
    for position in range(path.stat().st_size):
        damage(path, position, bit=position % 8)
        assert loaded_step(tmp_path) == 10, f"byte {position} of {path.read_bytes()!r}"
        assert f"{path.parent}: damaged checkpoint skipped" in capsys.readouterr().err
        damage(path, position, bit=position % 8)  # mends it
    assert loaded_step(tmp_path) == 20


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("size", [None, 0, 40], ids=["missing", "empty", "truncated"])
def test_incomplete_checkpoints_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, size: int | None
) -> None:
    """They are reported, and the one before is loaded."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    path = tmp_path / "step_00000020" / file
    path.unlink() if size is None else os.truncate(path, size)
    assert loaded_step(tmp_path) == 10
    assert f"{path.parent}: damaged checkpoint skipped" in capsys.readouterr().err


def test_all_checkpoints_damaged_is_an_error(tmp_path: Path) -> None:
    """Training does not start from scratch instead."""
    save(tmp_path, 10)
    damage(tmp_path / "step_00000010" / "state.json", 5)
    with pytest.raises(UserError, match=f"{tmp_path}: no checkpoint in it can be read"):
        Checkpoints(tmp_path, 2, World()).newest()
    assert Checkpoints(tmp_path / "other", 2, World()).newest() is None


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step_00000020", "step_00000030", "step_00000040"]


def test_foreign_files_beside_checkpoints_stay(tmp_path: Path) -> None:
    save(tmp_path, 10)
    own = ["step_00000010.bak", "step_00000010 (copy)", "step_00000010_mine", "step_foo"]
    for name in own:
        shutil.copytree(tmp_path / "step_00000010", tmp_path / name)
    (tmp_path / "step_00000010_mine.tar").write_text("an archive")
    (tmp_path / "step_00000030").write_text("in the way")
    for step in (20, 30, 40):
        save(tmp_path, step)
    assert names(tmp_path) == sorted([*own, "step_00000010_mine.tar", "step_00000030", "step_00000040"])
    assert loaded_step(tmp_path) == 40


def test_damaged_later_checkpoints_are_deleted(tmp_path: Path) -> None:
    """A good one of an earlier step takes their place."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        damage(tmp_path / f"step_000000{step}" / WEIGHTS, 90)
    assert loaded_step(tmp_path) == 10
    save(tmp_path, 15)
    assert names(tmp_path) == ["step_00000010", "step_00000015"]
    assert loaded_step(tmp_path) == 15


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside the block the system refuses to write more than `size` bytes into a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_partial_checkpoint(tmp_path: Path) -> None:
    """A message says so, and the earlier checkpoint stays."""
    save(tmp_path, 10)
    with (
        largest_file(20_000),
        pytest.raises(UserError, match=r"step_00000020: cannot save .*: File too large.*make room"),
    ):
        save(tmp_path, 20, size=50_000)
    assert names(tmp_path) == ["step_00000010"]
    assert loaded_step(tmp_path) == 10


def test_a_full_disk_keeps_the_old_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write_tensors(path, {"weight": torch.zeros(8)})
    before = path.read_bytes()
    with largest_file(20_000), pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
        checkpoint.write_tensors(path, {"weight": torch.zeros(50_000)})
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


def test_saves_hold_the_weights_at_the_call(tmp_path: Path) -> None:
    """Training goes on meanwhile."""
    checkpoints = Checkpoints(tmp_path, 2, World())
    weight = torch.zeros(1000)
    checkpoints.save(10, {"weight": weight}, {})
    weight += 1  # the training goes on
    checkpoints.wait()
    read = {"weight": torch.full((1000,), 7.0)}
    checkpoints.read(tmp_path / "step_00000010", read)
    assert not read["weight"].any()


KINDS = {
    "scalar": torch.tensor(2.5),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(3, 2).bfloat16(),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "ä": torch.tensor([True, False, True]),
}


@pytest.mark.parametrize("in_background", [True, False])
def test_every_kind_of_tensor_round_trips(tmp_path: Path, in_background: bool) -> None:
    checkpoints = Checkpoints(tmp_path, 2, World())
    checkpoints.save(1, KINDS, {}, in_background=in_background)
    checkpoints.wait()
    read = {name: torch.zeros_like(tensor) for name, tensor in KINDS.items()}
    checkpoints.read(tmp_path / "step_00000001", read)
    torch.testing.assert_close(read, KINDS, rtol=0, atol=0)


def test_files_are_those_of_safetensors(tmp_path: Path) -> None:
    """Byte for byte."""
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    checkpoint.write_tensors(ours, KINDS, {"format": "pt"})
    save_file({name: tensor.contiguous() for name, tensor in KINDS.items()}, theirs, {"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_one_whole_tensor_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ranks gather: the one that is written, and the next one."""
    alive = weakref.WeakSet[torch.Tensor]()
    most = 0

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        found = tensor.clone()
        alive.add(found)
        most = max(most, len(alive))
        return found

    monkeypatch.setattr(parts, "whole", gathered)
    checkpoint.write_whole(tmp_path / "model.safetensors", {str(number): torch.zeros(5) for number in range(9)}, ALONE)
    assert most == 2


def test_all_is_gathered_though_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other ranks wait for the first in each gathering."""
    tensors = {name: torch.zeros(size) for name, size in (("a", 8), ("b", 50_000), ("c", 8), ("d", 8))}
    asked = list[int]()

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(len(tensor))
        return tensor

    monkeypatch.setattr(parts, "whole", gathered)
    with largest_file(20_000), pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
        checkpoint.write_whole(tmp_path / "model.safetensors", tensors, ALONE)
    assert asked == [len(tensor) for tensor in in_order(tensors).values()]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "tensor", "there"),
    [("model.weight", torch.zeros(9), "has (8,)"), ("model.bias", torch.zeros(2), "lacks it")],
)
def test_another_models_checkpoint_is_refused(tmp_path: Path, name: str, tensor: torch.Tensor, there: str) -> None:
    """The message names the first parameter that differs."""
    save(tmp_path, 10)
    with pytest.raises(UserError, match="another model") as caught:
        Checkpoints(tmp_path, 2, World()).read(
            tmp_path / "step_00000010", {"optimizer.weight": torch.zeros(8), name: tensor}
        )
    assert f"{name} is {tuple(tensor.shape)}, the checkpoint {there}" in str(caught.value)


def test_no_file_of_a_run_holds_a_pickle(trained: Path) -> None:
    files = [
        path
        for path in trained.rglob("*")
        if path.is_file() and path.parent.name != "tensorboard" and path.name != LOCK
    ]
    assert {path.suffix for path in files} | {".diff"} == {".diff", ".json", ".jsonl", ".md", ".safetensors", ".toml"}
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80")), path  # torch.save's zip, pickle
