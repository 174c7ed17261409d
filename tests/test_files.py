"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from segue.engine.state.checkpoint import write_tensors
from segue.errors import UserError
from segue.files import check_folder, replacing


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_new_files_follow_the_umask(umask: int, tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(2)})  # safetensors makes its file private
    (tmp_path / ".partial_text").touch(0o600)  # left by a process that was killed
    with replacing(tmp_path / "text") as partial:
        partial.write_text("x")
    with replacing(tmp_path / "text") as partial:  # again, over the one before
        partial.unlink()
        partial.write_text("y")
        partial.chmod(0o600)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def interrupted(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def test_failed_writes_keep_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "text"
    with replacing(path) as partial:
        partial.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        interrupted(partial)
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_folders_to_write_into_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in their place, and a folder above them without permission."""
    (tmp_path / "file").touch()
    check_folder("--out", tmp_path / "a" / "b")
    with pytest.raises(UserError, match=f"--out {tmp_path / 'file'}: a file; the name of a folder is wanted"):
        check_folder("--out", tmp_path / "file")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"--out {tmp_path / 'a' / 'b'}: {tmp_path} may not be written to"):
        check_folder("--out", tmp_path / "a" / "b")
