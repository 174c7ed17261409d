"""How is a file written so that it either is whole or does not exist?"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """A path to write to, in `path`'s folder, which is made; the file takes `path`'s place when the block ends well."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
