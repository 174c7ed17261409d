"""How is an archive read that a stranger may have made? In memory, member by member, within bounds that its size sets.

Nothing is extracted: names, types and sizes are checked, the wanted members become bytes.
"""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, Protocol

from segue.errors import UserError

MOST_MEMBERS = 1000
EXPANSION = 10
"""An archive may expand to this many times its size: trained weights hardly compress, text about five times."""
SPARE_BYTES = 1 << 20  # tar pads an archive to 10 kB, which compresses to nothing
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 20  # bytes read at once


class Readable(Protocol):
    """What `tarfile` reads from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        ...


def read_members(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """The content of the members `wanted` (name -> most bytes) of a tar archive, which may be compressed by gzip.

    A leading "./" of a member's name does not count. Raises a UserError if the archive is damaged, lacks a member, or
    contains what no archive of a model does: names outside of its folder, links, devices, more than it may expand to.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            inner: Readable = gzip.GzipFile(fileobj=file) if _starts_with(file, _GZIP) else file
            bounded: Any = _Bounded(inner, EXPANSION * size + SPARE_BYTES, path)
            with tarfile.open(fileobj=bounded, mode="r|", bufsize=_BLOCK) as archive:
                found = _read(archive, wanted, size, path)
    except (UserError, PermissionError):
        raise
    except Exception as problem:  # tarfile and gzip also raise EOFError, ValueError, RecursionError for odd headers
        raise UserError(
            f"{path}: not a complete tar archive, as .nemo files are ({problem}); download it again"
        ) from None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is not in it; a model that NeMo saved has it")
    return found


def _read(archive: tarfile.TarFile, wanted: Mapping[str, int], size: int, path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, member in enumerate(archive):
        name = str(PurePosixPath(member.name))  # without "./" and doubled slashes
        shown = f"{path}: {ascii(name)[:100]}"
        if number >= MOST_MEMBERS:
            raise UserError(f"{path}: more than {MOST_MEMBERS:,} members: not a model")
        if name.startswith("/") or ".." in PurePosixPath(name).parts or PureWindowsPath(name).drive or "\\" in name:
            raise UserError(f"{shown}: a name outside of the archive's folder: not a model to be trusted")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse is not None:
            raise UserError(f"{shown}: neither a file nor a folder (a link or a device): not a model to be trusted")
        if not 0 <= member.size <= EXPANSION * size + SPARE_BYTES:
            raise UserError(
                f"{shown}: claims {member.size:,} bytes in an archive of {size:,}: not a model to be trusted"
            )
        if name not in wanted or member.isdir():
            continue
        if name in found:
            raise UserError(f"{shown}: is in it twice")
        if member.size > wanted[name]:
            raise UserError(f"{shown}: has {member.size:,} bytes; at most {wanted[name]:,} are read")
        content = archive.extractfile(member)
        assert content is not None
        found[name] = content.read()
        if len(found[name]) != member.size:
            raise tarfile.ReadError("unexpected end of data")
    return found


class _Bounded:
    """Reads from a stream until it has given more bytes than permitted."""

    def __init__(self, inner: Readable, most: int, path: Path) -> None:
        self._inner, self._left, self._most, self._path = inner, most, most, path

    def read(self, size: int = _BLOCK) -> bytes:
        """At most `size` bytes. Raises a UserError once there are too many."""
        data = self._inner.read(min(size, _BLOCK))
        self._left -= len(data)
        if self._left < 0:
            raise UserError(
                f"{self._path}: expands to more than {self._most:,} bytes, {EXPANSION} times its size: not a model "
                "to be trusted"
            )
        return data


def _starts_with(file: BinaryIO, mark: bytes) -> bool:
    start = file.read(len(mark))
    file.seek(0)
    return start == mark
