"""Which recordings does an audio file contain? Their start, end and length, even if headers are wrong.

Headers of files written to a pipe contain no or meaningless sizes, and files joined with `cat` contain several
recordings, of which a decoder sees only the first. So the structure of a file is parsed here, without decoding: a
`Part` is a range of bytes that libsndfile can read as one file, if necessary with a replaced header. MPEG frames are in
`mpeg.py`.
"""

import math
import mmap
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from segue.data.mpeg import Bytes, Part, counted_frames, mpeg, next_mpeg_frame
from segue.errors import UserError

LONGEST_JUNK = 1 << 16
"""Bytes of arbitrary content that may precede an mp3 stream."""
LONGEST_TAIL = 1 << 12
"""Bytes of arbitrary content that may follow a recording: as audio they would last an eighth of a second."""

Reader = Callable[[Bytes, int], tuple[list[Part], int]]
"""(data, place) -> the recordings that begin there, and the position after them."""


def parts(path: Path) -> tuple[Part, ...]:
    """The recordings in a file, in order; empty if its format is not known here.

    Raises a UserError for a file that cannot be read, is empty, or continues with bytes of unknown content.
    """
    try:
        status = path.stat()
        if not path.is_file():
            raise UserError(f"{path}: cannot read this audio file: it is {'a folder' if path.is_dir() else 'no file'}")
        if status.st_size == 0:
            raise UserError(f"{path}: the file is empty")
        return _kept_parts(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:  # a ValueError: a name with a NUL in it
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot read this audio file: {getattr(error, 'strerror', error)}") from None


def declared(path: Path) -> Part | None:
    """The recording according to the file's header and last bytes; None if the whole file has to be parsed.

    It never declares more than the file contains, so if its length suffices, large files need not be read for a check.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if head.startswith(b"fLaC"):
        [part], _ = _flac(head, 0)
        return Part("flac", 0, size, num_frames=part.num_frames) if part.num_frames else None
    start = _after_tags(head, 0)
    if head[start : start + 4] == b"OggS":
        last = tail.rfind(b"OggS")
        is_whole = last >= 0 and _page_end(tail, last) == len(tail)
        is_same = is_whole and tail[last + 14 : last + 18] == head[start + 14 : start + 18]
        return Part("ogg", start, size) if is_same and not start else None
    num_frames = counted_frames(head, start, size - start)
    return None if num_frames is None else Part("mpeg", start, size)


def _page_end(data: Bytes, place: int) -> int:
    """End of a page of an ogg file: beyond the end of the data if it is truncated."""
    num_sizes = data[place + 26] if place + 26 < len(data) else 255
    sizes = data[place + 27 : place + 27 + num_sizes]
    return place + 27 + num_sizes + sum(sizes)


class Stretch:
    """A range of bytes of a file, with a prefix, as a file object for soundfile and PyAV."""

    def __init__(self, file: BinaryIO, start: int, end: int, prefix: bytes = b"") -> None:
        self._file, self._start, self._prefix = file, start, prefix
        self._place, self._size = 0, len(prefix) + end - start

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file, but clamped to it: with damaged files, decoders seek to arbitrary positions."""
        self._place = max(0, min((0, self._place, self._size)[whence] + offset, self._size))
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place

    def read(self, count: int) -> bytes:
        """As of a file."""
        found = self._prefix[self._place : self._place + count]
        count = min(count, self._size - self._place) - len(found)
        self._place += len(found)
        if count > 0:
            self._file.seek(self._start + self._place - len(self._prefix))
            more = self._file.read(count)
            self._place += len(more)
            found += more
        return found


@lru_cache(maxsize=256)
def _kept_parts(path: Path, size: int, changed_ns: int) -> tuple[Part, ...]:
    del changed_ns  # cache key: the file changed if this did
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        return tuple(_parts(data, path))


def _parts(data: Bytes, path: Path) -> list[Part]:
    place, found = _after_tags(data, 0), list[Part]()
    while place < len(data):
        reader = _reader(data, place)
        is_junk_first = reader is None and not found and not _is_other_container(data, place)
        if is_junk_first and next_mpeg_frame(data, place, place + LONGEST_JUNK, in_a_row=4) is not None:
            reader = mpeg
        if reader is None:
            break
        more, after = reader(data, place)
        if not more:
            break
        if found and more[0].start - place > LONGEST_TAIL:
            break
        found += more
        place = _after_tags(data, after)
    if found and len(data) - place > LONGEST_TAIL and not _is_zero(data, place):
        raise UserError(
            f"{path}: damaged audio, or a wrong header: from byte {place} of {len(data)} on it contains no audio "
            "that can be recognized; convert it, as with: ffmpeg -i FILE new.flac"
        )
    return found


def _reader(data: Bytes, place: int) -> Reader | None:
    """The parser for a recording that begins at `place`; None if there is none."""
    magic = data[place : place + 4]
    if _is_wav(data, place):
        return _wav
    if magic == b"fLaC":
        return _flac
    if magic == b"OggS":
        return _ogg
    if (magic == b"FORM" and data[place + 8 : place + 11] == b"AIF") or magic in (b".snd", b"caff"):
        return _other
    if data[place : place + 8] == NIST:
        return _other
    if data[place : place + 16] == W64_RIFF:
        return _other
    return mpeg if next_mpeg_frame(data, place, place + 1) is not None else None


def _is_wav(data: Bytes, place: int) -> bool:
    magic = data[place : place + 4]
    return magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and data[place + 8 : place + 12] == b"WAVE"


def _is_other_container(data: Bytes, place: int) -> bool:
    """Whether it is mp4, Matroska, AVI, FLV, ASF or an MPEG stream, in which MPEG audio is only one of the contents."""
    head = data[place : place + 12]
    marks = (b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01", b"0&\xb2u", b"\0\0\x01\xba", b"G")
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or head.startswith(marks)


def _after_tags(data: Bytes, place: int) -> int:
    """The position after ID3, APE and lyrics tags that start at `place`; `place` itself if there are none."""
    while True:
        start = place
        if data[place : place + 3] == b"ID3" and len(data) >= place + 10:
            size = 0
            for byte in data[place + 6 : place + 10]:
                size = size << 7 | byte & 0x7F
            place = min(place + 10 + size + 10 * bool(data[place + 5] & 0x10), len(data))
        elif data[place : place + 3] == b"TAG":
            place = min(place + 128, len(data))
        elif data[place : place + 8] == b"APETAGEX" and len(data) >= place + 32:
            size, flags = struct.unpack("<I4xI", data[place + 12 : place + 24])
            place = min(place + size + 32 * bool(flags & 1 << 29), len(data))
        elif data[place : place + 11] == b"LYRICSBEGIN":
            end = data.find(b"LYRICS200", place)
            place = len(data) if end < 0 else end + 9
        if place == start:
            return place


def _is_zero(data: Bytes, place: int) -> bool:
    """Whether all bytes from `place` on are zero."""
    return all(not any(data[at : at + 65536]) for at in range(place, len(data), 65536))


# --- wav ---

LINEAR = (1, 3, 6, 7, 0xFFFE)
"""Format tags whose samples all have the same size: PCM, float, A-law, mu-law, extensible."""
MP3_IN_WAV = 0x55
WRAP = 1 << 32


def _wav(data: Bytes, start: int) -> tuple[list[Part], int]:
    """RIFF, RIFX, RF64 and BW64 (EBU Tech 3306): the data chunk, of its declared length or up to the end of file."""
    magic = data[start : start + 4]
    order = ">" if magic == b"RIFX" else "<"
    wide_size, form, place = 0, b"", start + 12
    name, size = b"", 0
    while place + 8 <= len(data):
        name = data[place : place + 4]
        [size] = struct.unpack(f"{order}I", data[place + 4 : place + 8])
        if name == b"data":
            break
        if name == b"ds64" and place + 24 <= len(data):
            [wide_size] = struct.unpack("<Q", data[place + 16 : place + 24])
        if name == b"fmt ":
            form = data[place : place + 8 + size]
        place += 8 + size + size % 2
    if name != b"data" or len(form) < 24:
        return [Part("other", start, len(data))], len(data)  # libsndfile will report what is wrong
    tag, _, _, _, block = struct.unpack(f"{order}HHIIH", form[8:22])
    samples = place + 8
    declared = wide_size if size == 0xFFFFFFFF and wide_size else size
    available = len(data) - samples
    is_told = not _is_placeholder(declared) and bool(declared or _are_chunks(data, samples, order))
    length = declared
    if not is_told:
        after = _next_wav(data, samples)
        length = (after if after is not None else len(data)) - samples
    elif not _may_end(data, samples + length, order):
        # The 32-bit size of a file of more than 4 GiB has wrapped around.
        length += (available - length) // WRAP * WRAP
    missing = max(0, length - available) / max(1, available)
    length = min(length, available)
    after = samples + length
    if is_told:
        after = min(after + length % 2, len(data))
        while not _is_wav(data, after) and (end := _chunk_end(data, after, order)) is not None:
            after = end
    if tag == MP3_IN_WAV:
        found, _ = mpeg(data[samples : samples + length], 0)
        return [part.moved(samples) for part in found], after
    num_frames = length // block if tag in LINEAR and block else None
    kind = "other" if num_frames is None else "wav"  # FFmpeg knows more codecs
    if length == declared and magic != b"BW64":
        return [Part(kind, start, after, b"", num_frames, missing)], after
    header = _wav_header(form, order, length)
    return [Part(kind, samples, samples + length, header, num_frames, missing)], after


def _is_placeholder(size: int) -> bool:
    """Whether a size is a placeholder of a program that cannot seek back: the maximum of 31, 32 or 64 bits or less."""
    return any(most - 0x10000 <= size <= most for most in (0x80000000, 0xFFFFFFFF)) or size >= 1 << 62


def _next_wav(data: Bytes, place: int) -> int | None:
    """The start of the next wav file after `place`; None if there is none."""
    while (place := data.find(b"WAVE", place)) >= 0:
        if _is_wav(data, place - 8) and data[place + 4 : place + 8] in (b"fmt ", b"ds64", b"LIST", b"bext", b"JUNK"):
            return place - 8
        place += 4
    return None


def _chunk_end(data: Bytes, place: int, order: str) -> int | None:
    """The end of the chunk at `place`; None if there is no complete chunk."""
    name = data[place : place + 4]
    if place + 8 > len(data) or not all(0x20 <= byte < 0x7F for byte in name):
        return None
    [size] = struct.unpack(f"{order}I", data[place + 4 : place + 8])
    end = place + 8 + int(size)
    return min(end + size % 2, len(data)) if end <= len(data) else None


def _are_chunks(data: Bytes, place: int, order: str) -> bool:
    """Whether the file consists of chunks from `place` to its end."""
    end: int | None = place
    while end is not None and end < len(data):
        end = _chunk_end(data, end, order)
    return end is not None


def _may_end(data: Bytes, place: int, order: str) -> bool:
    """Whether samples may end at `place` or one byte later: little data, a chunk, a tag or another file follows."""
    if len(data) - place <= LONGEST_TAIL:
        return True
    return any(
        _chunk_end(data, at, order) is not None or _after_tags(data, at) > at or _reader(data, at) is not None
        for at in (place, place + 1)
    )


def _wav_header(form: bytes, order: str, length: int) -> bytes:
    """A wav header for `length` bytes of samples; `form` is the "fmt " chunk."""
    form += b"\0" * (len(form) % 2)
    total = 4 + len(form) + 8 + length
    if total < WRAP - 0x10000:
        magic = b"RIFF" if order == "<" else b"RIFX"
        return magic + struct.pack(f"{order}I", total) + b"WAVE" + form + b"data" + struct.pack(f"{order}I", length)
    sizes = struct.pack("<QQQI", total + 36, length, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes + form + b"data\xff\xff\xff\xff"


# --- flac ---


_BEGINS = re.compile(
    rb"fLaC[\x00\x80]\0\0\x22|(?:RIFF|RIFX|RF64|BW64).{4}WAVE|OggS\0\x02\0{8}|FORM.{4}AIF[FC]|ID3[\x03\x04]\0.[\0-\x7f]{4}T",
    re.DOTALL,
)
"""What another file begins with; hardly a place in samples that are compressed looks like it by chance."""
_WORDS = (b"fLaC", b"RIFF", b"RIFX", b"RF64", b"BW64", b"OggS", b"FORM", b"ID3")
"""The first bytes of it, which are found ten times as fast as the rest."""


def _next_begin(data: Bytes, start: int, word: bytes) -> int:
    """The next place where another file begins with this word; the end of the data if there is none."""
    place = data.find(word, start)
    while place >= 0 and not _BEGINS.match(data, place):
        place = data.find(word, place + 1)
    return place if place >= 0 else len(data)


def _flac(data: Bytes, start: int) -> tuple[list[Part], int]:
    """RFC 9639: the first block has the number of samples, or 0 if unknown. Nothing marks the end of the file."""
    total = int.from_bytes(data[start + 21 : start + 26], "big") & (1 << 36) - 1
    end = min(_next_begin(data, start + 42, word) for word in _WORDS)
    return [Part("flac", start, end, num_frames=total or None)], end


# --- ogg ---

BEGINS, ENDS = 0x02, 0x04  # page flags: first and last page of a stream


def _ogg(data: Bytes, start: int) -> tuple[list[Part], int]:
    """RFC 3533: pages. After the last page of a stream the first one of another may follow (chaining)."""
    found: list[Part] = []
    place, link, is_first, is_ended, is_cut, serial = start, start, True, False, False, b""

    def part() -> Part:
        return Part("ogg", link, place, is_cut=is_cut, has_end=is_ended)

    while place < len(data) and not is_cut:
        if data[place : place + 4] != b"OggS":
            after = data.find(b"OggS", place)
            if after < 0 or after - place > LONGEST_TAIL:
                break
            place = after
        end = _page_end(data, place)
        if end > len(data):
            end, is_cut = len(data), True
        elif data[place + 5] & BEGINS:
            if not is_first:
                found.append(part())
                link = place
            is_first, serial = True, data[place + 14 : place + 18]
        else:
            is_first = False
        if not is_cut and data[place + 14 : place + 18] == serial:
            is_ended = bool(data[place + 5] & ENDS)
        place = end
    return [*found, part()], place


# --- other formats that libsndfile reads ---

NIST = b"NIST_1A\n"
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")


def _other(data: Bytes, start: int) -> tuple[list[Part], int]:
    """aiff, au, caf, w64 and NIST sphere: up to the end that the header declares."""
    magic = data[start : start + 4]
    if magic == b"FORM":
        size = int.from_bytes(data[start + 4 : start + 8], "big")
        length = 8 + size + size % 2
    elif magic == b".snd":
        offset, size = struct.unpack(">II", data[start + 4 : start + 12].ljust(8, b"\0"))
        length = offset + size
    elif magic == b"riff":
        length = size = int.from_bytes(data[start + 16 : start + 24], "little")
    elif magic == NIST[:4]:
        length = size = _nist_length(data, start)
    else:
        length = size = _caf_length(data, start)
    present = len(data) - start
    if not size or _is_placeholder(size):
        length = present
    end = min(start + length, len(data))
    # The declared length may include padding that is missing; w64 pads to eight bytes.
    missing = max(0, length - present - 8) / max(1, present)
    if length + 8 >= present:
        end = len(data)
    return [Part("other", start, end, missing_share=missing)], end


def _caf_length(data: Bytes, start: int) -> int:
    """Length of a caf file in bytes; 0 if its samples continue to the end of the file."""
    place = start + 8
    while place + 12 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 12], "big", signed=True)
        if size < 0:
            return 0
        if name == b"caff" or not all(0x20 <= byte < 0x7F for byte in name):
            break
        place += 12 + size
    return place - start


def _nist_length(data: Bytes, start: int) -> int:
    """Bytes of a sphere file; 0 where its header does not say how many samples it has."""
    head = bytes(data[start : start + 1024])
    found = {key: int(value) for key, value in re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,18})\b", head, re.MULTILINE)}
    size = math.prod(found.get(key, 0) for key in (b"sample_count", b"channel_count", b"sample_n_bytes"))
    lines = head.split(b"\n", 2)
    return int(lines[1]) + size if size and lines[1].strip().isdigit() else 0
