"""Atomic writing of files: a file is either complete or does not exist."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from segue.errors import UserError

try:
    import fcntl as fcntl
except ModuleNotFoundError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial_"
"""Prefix of the names of files that are not complete yet."""
LOCK = ".lock"
"""In a run directory: a file that a running training locks, and that names its process."""


def is_file(path: Path) -> bool:
    """Whether there is such a file. False, without an error, if the name is too long for a file."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, in the folder of `path`; it replaces `path` if the block ends without an exception.

    The folder is created if necessary. The file gets the permissions of the umask, even if the writer replaces the
    temporary file by one with others.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        try:
            partial.touch(exist_ok=False)
        except FileExistsError:  # left by a process that was killed; its permissions may differ
            partial.unlink()
            partial.touch()
        except PermissionError as error:  # the user knows nothing of the temporary file
            raise PermissionError(error.errno, error.strerror, str(path)) from None
        mode = partial.stat().st_mode  # from the umask, which os.umask could only read by changing it for all threads
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file in UTF-8. Lone surrogates, which UTF-8 cannot encode, are escaped as in JSON."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{line}\n" for line in lines)


def say_replaced(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Says, in a line, which of the files that are to be written exist; nothing if none does."""
    replaced = [path for path in paths if path.exists()]
    if replaced:
        more = f", and {len(replaced) - 1:,} more" if replaced[1:] else ""
        say(f"{replaced[0]}: is replaced{more}")


def free(folder: Path) -> Path:
    """A path next to `folder` that does not exist yet: runs/digits_2."""
    named = (folder.with_name(f"{folder.resolve().name}_{number}") for number in count(2))
    return next(path for path in named if not path.exists())


def check_folder(option: str, path: Path) -> None:
    """Raises a UserError if the folder to write into, named by `option`, is a file or cannot be written to."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} {path}: a file; the name of a folder is wanted")
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {nearest} may not be written to")


def check_targets(targets: Mapping[str, Path | None], sources: Sequence[Path] = ()) -> None:
    """Checks files that will be written at the end of a long computation, and creates their folders.

    `targets` are by the option that names them. Raises a UserError for one that cannot be written, or that is also one
    of `sources` or another target.
    """
    taken = {path.resolve(): "is read" for path in sources}
    for option, path in targets.items():
        if path is None:
            continue
        if path.is_dir():
            raise UserError(f"{option} {path}: a folder; the name of a file is wanted")
        if path.resolve() in taken:
            raise UserError(f"{option} {path}: {taken[path.resolve()]} by this command too; give another name")
        taken[path.resolve()] = "is written"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{option} {path}: its folder cannot be made: {error.strerror}") from None
        if not os.access(path.parent, os.W_OK):
            raise UserError(f"{option} {path}: its folder may not be written to")
