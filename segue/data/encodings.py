"""Which encoding does a text file have? A Unicode encoding if possible; legacy code pages are guessed on request."""

import codecs
import re
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import charset_normalizer

from segue.errors import UserError

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose BOM is a prefix of it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Candidates for legacy texts. More would only cause wrong guesses: a short text fits dozens of code pages.
_LATIN_PAGES = ["cp1252", "cp1250", "cp1254"]
_OTHER_PAGES = ["cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "gb18030", "big5", "cp932", "euc_jp", "cp949"]
# Bytes of letters that distinguish the three. Most others are letters in each page, such as e8: è or č.
_SLAVIC = re.compile(rb"[a-z][\x9a\x9d-\x9f\xb3\xb9\xbe\xbf]|[\x9a\x9d-\x9f\xb3\xbe][a-z]")  # š ť ž ź ł ą ľ ż
_ROMANIAN = re.compile(rb"[a-z][\xba\xfe][a-z]")  # ş ţ; or þ of Icelandic, beside ð and æ
_HUNGARIAN = re.compile(rb"[\xf5\xfb]")  # ő ű; or õ û, beside à ã ä ç è ê
_TURKISH = re.compile(rb"[\xf0\xfd\xfe]")  # ğ ı ş; or ð ý þ, beside á ã æ í ó
_NOT_ROMANIAN = re.compile(rb"[\xe6\xf0]")
_NOT_HUNGARIAN = re.compile(rb"[\xe0\xe3\xe4\xe7\xe8\xea]")
_NOT_TURKISH = re.compile(rb"[\xe1\xe3\xe6\xed\xf3]")
_OTHER_KINDS = {
    b"RIFF": "a sound or video file",
    b"fLaC": "a sound file",
    b"OggS": "a sound file",
    b"ID3": "a sound file",
    b"\xff\xfb": "a sound file",
    b"\xff\xf3": "a sound file",
    b"PK\x03\x04": "a file of an office program or a zip file",
    b"\xd0\xcf\x11\xe0": "a file of an office program",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a compressed file, whose name should end in .gz",
}
"""By the first bytes; a text could begin with most of them, but not go on as such a file does."""
_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\n\r")
_LEAST_CONTROLS = 0.25  # fraction of control bytes in UTF-16 text of small alphabets, whose upper bytes are below 0x20


def unicode_encoding(content: bytes) -> str | None:
    """The Unicode encoding of `content`: by its BOM, else UTF-16 if it looks like it, else UTF-8; None: not Unicode.

    Decoding with the result removes the BOM.
    """
    for mark, encoding in _BOMS.items():
        if content.startswith(mark):
            return encoding if _decoded(content, encoding) is not None else None
    text = _decoded(content, "utf-8")
    zeros = content[0::2].count(0), content[1::2].count(0)  # in UTF-16, spaces, line ends and Latin letters have one
    if any(zeros) and len(content) % 2 == 0:
        num_controls = len(content) - len(content.translate(None, _CONTROLS))
        wide = _decoded(content, "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be")
        if wide is not None and "\0" not in wide and (text is None or num_controls >= _LEAST_CONTROLS * len(content)):
            return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    return None if text is None else "utf-8"


def is_wide(start: bytes) -> bool:
    """Whether a file that begins with `start` is UTF-16 or UTF-32: by its BOM, or a NUL in its first line."""
    marks = [mark for mark in _BOMS if mark != codecs.BOM_UTF8]
    return start.startswith(tuple(marks)) or b"\0" in start


def split_lines(text: str) -> list[str]:
    r"""Lines without their ends: \n, \r\n, \r\r\n (converted twice), or \r if there is no \n. U+2028 is no line end."""
    end = "\n" if "\n" in text or "\r" not in text else "\r"
    lines = text.split(end)
    return [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]


def lines_of(file: BinaryIO | BufferedIOBase, name: Path | str) -> Iterator[tuple[int, str | UserError]]:
    """(number from 1, line without its end) of a stream; for a line that is not UTF-8, a UserError in its place.

    UTF-8 is read lazily; UTF-16 and UTF-32 are read at once, and raise a UserError if they are invalid.
    """
    lines = iter(file)
    begin = [next(lines, b"")]
    if not is_wide(begin[0]) and isinstance(_line(begin[0], 1, name), UserError):
        begin.append(next(lines, b""))
        if begin[1].startswith(b"\0"):  # UTF-16: the line end was split before its NUL
            begin = [b"".join(begin)]
    for number, line in enumerate(chain(filter(None, begin), lines), 1):
        if number == 1 and is_wide(line):
            yield from enumerate(split_lines(decode(line + file.read(), name)), 1)
        elif number == 1 and b"\r" in line[:-1] and not line.endswith(b"\n"):
            yield from (
                (place, _line(part, place, name)) for place, part in enumerate(line.rstrip(b"\r").split(b"\r"), 1)
            )
        else:
            yield number, _line(line, number, name)


def _line(line: bytes, number: int, name: Path | str) -> str | UserError:
    try:
        return line.removesuffix(b"\n").rstrip(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return UserError(f"{name}:{number}: not UTF-8: {error.reason} at byte {error.start + 1}")


def other_kind(content: bytes) -> str | None:
    """What a file is whose `content` is no text, by its first bytes; None if that is not known."""
    return next((kind for start, kind in _OTHER_KINDS.items() if content.startswith(start)), None)


def decode(content: bytes, path: Path | str) -> str:
    """The text of a file in any Unicode encoding, without a byte order mark.

    Raises a UserError with file and line if it is not Unicode or contains a NUL character.
    """
    encoding = unicode_encoding(content)
    if encoding is None:
        if kind := other_kind(content):
            raise UserError(f"{path}: {kind}, where a plain text in UTF-8 is wanted")
        raise UserError(f"{path}:{_bad_line(content)}: not UTF-8; save the file as UTF-8")
    text = content.decode(encoding)
    if "\0" in text:
        if kind := other_kind(content):
            raise UserError(f"{path}: {kind}, where a plain text in UTF-8 is wanted")
        raise UserError(f"{path}:{_nul_line(text)}: contains a NUL character: not a text")
    return text


def encoding_of(content: bytes, name: str = "the file") -> str:
    """The encoding of a file's `content`: a Unicode encoding if possible, else a guessed code page.

    A byte order mark is not part of the text. Raises a UserError with the file's `name` if no known encoding fits, or
    if it is damaged UTF-8: at most as many invalid bytes as valid multi-byte characters.
    """
    encoding = unicode_encoding(content)
    if encoding is not None:
        text = content.decode(encoding)
        if "\0" in text:
            raise UserError(f"{name}:{_nul_line(text)}: contains a NUL character: not a text")
        return encoding
    # Byte sequences that are valid multi-byte UTF-8 hardly ever occur in the words of a code page.
    text = content.decode("utf-8", errors="replace")
    num_bad = text.count("\ufffd")
    num_good = len(text) - num_bad - len(content.translate(None, bytes(range(0x80, 0x100))))
    if num_bad <= num_good:
        line = _bad_line(content)
        raise UserError(f"{name}:{line}: not UTF-8, unlike the rest: fix that line, or save the file as UTF-8")
    found = charset_normalizer.from_bytes(content, cp_isolation=[*_LATIN_PAGES, *_OTHER_PAGES]).best()
    pages = [found.encoding] if found else []
    if found and found.encoding in _LATIN_PAGES:
        pages = [_latin_page(content), *_LATIN_PAGES]
    for page in pages:
        if _decoded(content, page) is not None:
            return page
    raise UserError(f"{name}: unknown text encoding: save it as UTF-8")


def _bad_line(content: bytes) -> int:
    """The number of the first line that is not UTF-8; if all are, of the last one."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return content.count(b"\n") + 1


def _nul_line(text: str) -> int:
    return text.count("\n", 0, text.index("\0")) + 1


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _latin_page(content: bytes) -> str:
    """The code page of a European text, which charset_normalizer often gets wrong."""
    is_romanian = _ROMANIAN.search(content) and not _NOT_ROMANIAN.search(content)
    is_hungarian = _HUNGARIAN.search(content) and not _NOT_HUNGARIAN.search(content)
    if _SLAVIC.search(content):
        return "cp1250"
    if _TURKISH.search(content) and not _NOT_TURKISH.search(content):
        return "cp1254"
    return "cp1250" if is_romanian or is_hungarian else "cp1252"
