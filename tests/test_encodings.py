# ruff: noqa: RUF001 (letters of many scripts, on purpose)
"""Which encoding a file is in: Unicode with and without marks, damaged UTF-8, and what is no text."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.encodings import decode, encoding_of, unicode_encoding
from segue.errors import UserError

PATH = Path("x.txt")
TEXTS = [
    "A line.\nAnother one.\n",
    "Я не знаю.\nДа.\n",
    "我不知道。\n我们回家吧。\n",
    "a\tb\nचलो घर चलें\tहाँ\n",
    "Πάμε σπίτι.\n",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_unicode_is_read_with_and_without_a_mark(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding), PATH) == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
@settings(deadline=None)
def test_utf8_is_never_taken_for_another_encoding(text: str) -> None:
    assert decode(text.encode(), PATH) == text.removeprefix("\ufeff")


def test_what_is_not_unicode_is_named_with_its_line() -> None:
    with pytest.raises(UserError, match=r"x\.txt:3: not UTF-8; save the file as UTF-8"):
        decode("one\ntwö\n".encode() + b"caf\xe9\n", PATH)
    with pytest.raises(UserError, match=r"x\.txt:2: contains a NUL character"):
        decode(b"one\ntw\0o three four five\n", PATH)


@pytest.mark.parametrize("bad", [b"\xff", b"\xe9", b"\xc3", b"\xe2\x82"])
def test_one_bad_byte_in_utf8_is_named(bad: bytes) -> None:
    """It is not read as a code page."""
    content = "Schöne Grüße,\nwie geht es\n".encode() + b"dir" + bad + b" heute?\nGut.\n"
    with pytest.raises(UserError, match=r"x\.srt:3: not UTF-8, unlike the rest"):
        encoding_of(content, "x.srt")


@given(st.binary())
@settings(deadline=None)
def test_random_bytes_are_read_or_refused(content: bytes) -> None:
    encoding = unicode_encoding(content)
    if encoding is not None:
        content.decode(encoding)
    with suppress(UserError):
        decode(content, PATH)
    with suppress(UserError):
        content.decode(encoding_of(content))
