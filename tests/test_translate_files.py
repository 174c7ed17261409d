"""Files in, translated files out: with a translator that turns every word around, so that none can be lost unseen."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from segue import translate_files
from segue.cli import main
from segue.data.subtitles.translation import Shape
from segue.errors import UserError

SRT = "1\n00:00:01,000 --> 00:00:03,000\nOne two.\n\n2\n00:00:04,000 --> 00:00:06,000\n<i>Three.</i>\n"


def turned(lines: Iterable[str]) -> Iterator[str]:
    """Every word backwards, punctuation at its place."""
    for line in lines:
        yield " ".join(word[::-1] if word.isalpha() else word[:-1][::-1] + word[-1:] for word in line.split())


def translate(source: Path, target: Path) -> str:
    translate_files.translate(source, target, turned, Shape())
    return target.read_text(encoding="utf-8")


def test_line_ends_are_cut_and_empty_lines_stay() -> None:
    stream = io.BytesIO(b"\xef\xbb\xbfone\r\n\ntwo\xc3\xa9")
    assert list(translate_files.lines(stream, "x")) == ["one", "", "twoé"]


def test_a_line_that_is_not_utf8_is_named() -> None:
    """After those before it were given."""
    lines = translate_files.lines(io.BytesIO(b"good\nbad \xff\n"), "standard input")
    assert next(lines) == "good"
    with pytest.raises(UserError, match=r"standard input:2: not UTF-8: .* at byte 5"):
        next(lines)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_needs_no_mark_or_latin_letter(encoding: str) -> None:
    stream = io.BytesIO("我們回家。\n好。\n".encode(encoding))
    assert list(translate_files.lines(stream, "x")) == ["我們回家。", "好。"]


def test_lines_are_read_lazily() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"line\n"

    lines = translate_files.lines(endless(), "x")  # type: ignore[arg-type]
    assert [next(lines) for _ in range(3)] == ["line"] * 3


@pytest.mark.parametrize(
    ("out", "expected"),
    [(None, "films/a.b.de.srt"), (Path("there"), "there/a.b.de.srt"), (Path("there/x.srt"), "there/x.srt")],
)
def test_translations_go_beside_files_or_to_out(out: Path | None, expected: str) -> None:
    assert translate_files.targets([Path("films/a.b.srt")], out, "de") == [Path(expected)]


@pytest.mark.parametrize(
    ("sources", "out", "message"),
    [
        (["a.pdf"], None, r"a.pdf: what kind of file is this\? Known: .txt, .srt, .vtt, .ass"),
        (["a.srt", "b.srt"], "x.srt", "one file cannot hold 2 translations"),
        (["a.srt"], "x.vtt", "the name has to end in .srt"),
        (["a.srt"], "a.srt", "a.srt: is to be read or written already"),
        (["one/a.srt", "two/a.srt"], "there", "there/a.de.srt: is to be read or written already"),
        (["a.srt", "a.de.srt"], None, "a.de.srt: is to be read or written already"),
    ],
)
def test_targets_that_lose_a_file_are_refused(sources: list[str], out: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        translate_files.targets([Path(source) for source in sources], Path(out) if out else None, "de")


def test_a_text_keeps_its_lines(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_bytes("\ufeffeins zwei.\r\n\r\ndrei".encode())
    assert translate(source, tmp_path / "out" / "b.txt") == "snie iewz.\n\nierd\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_text_in_utf16_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "a.txt"
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    source.write_bytes(f"{mark}eins\nzwei".encode(encoding))
    assert translate(source, tmp_path / "b.txt") == "snie\niewz\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_feeds_and_returns_end_a_line(tmp_path: Path, encoding: str, end: str) -> None:
    source = tmp_path / "a.txt"
    source.write_bytes(end.join(["one\u2028two\x85three", "four\x0bfive\x0csix", "seven", ""]).encode(encoding))
    assert translate(source, tmp_path / "b.txt") == "eno owt eerht\nruof evif xis\nneves\n"


def test_subtitles_keep_their_times_and_tags(tmp_path: Path) -> None:
    source = tmp_path / "a.srt"
    source.write_bytes(SRT.encode("utf-16"))
    expected = SRT.replace("One two.", "enO owt.").replace("Three.", "eerhT.")
    assert translate(source, tmp_path / "b.srt") == expected


def test_warnings_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.srt"
    source.write_text(SRT.replace("00:00:03,000", "00:00:01,100"))
    translate(source, tmp_path / "b.srt")
    assert f"warning: {source}: 1 cue" in capsys.readouterr().err


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    source, target = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_bytes(b"one\n\xff\n")
    target.write_text("before")
    with pytest.raises(UserError, match=r"a.txt:2: not UTF-8"):
        translate(source, target)
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    "option", ["--context=-1", "--context=x", "--reading-speed=nan", "--reading-speed=0", "--reading-speed=inf"]
)
def test_options_that_make_no_sense_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "model", "a.srt", option]) == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder; give the files in it"):
        translate(tmp_path, tmp_path / "b")


def test_subtitles_that_cannot_be_read_leave_no_file(tmp_path: Path) -> None:
    source = tmp_path / "a.srt"
    source.write_text(SRT.replace("--> 00:00:06", "--> noon"))
    with pytest.raises(UserError, match=r"a\.srt:6: times that cannot be read"):
        translate(source, tmp_path / "out.srt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.srt"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.srt: no such file"):
        translate(tmp_path / "none.srt", tmp_path / "b.srt")
