"""How is a file written so that it either is whole or does not exist?"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from segue.errors import UserError

PARTIAL = ".partial_"
"""What the names of files begin with that are not whole yet."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; also for what can be no file's name, since it is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, in `path`'s folder, which is made; the file takes `path`'s place when the block ends well.

    Whoever may read other new files may read this one, also where the writer puts a private file in its place.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        try:
            partial.touch(exist_ok=False)
        except FileExistsError:  # left by a process that was killed, maybe private
            partial.unlink()
            partial.touch()
        mode = partial.stat().st_mode  # what the umask leaves: asking for it would change it for other threads
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file in UTF-8; what has none, half a surrogate pair, is escaped as in JSON."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{line}\n" for line in lines)


def check_targets(targets: Mapping[str, Path | None], sources: Sequence[Path] = ()) -> None:
    """Makes the folders of files that will be written when hours of work are done.

    `targets` go by the option that names them. A UserError for one that cannot be written, or that is one of `sources`
    or another target.
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
