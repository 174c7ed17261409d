"""Bars on a terminal, and nowhere else."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pytest

from segue import progress
from segue.cli import main
from segue.errors import warn
from segue.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What a person sees in the end; the last line is where the next would begin."""
        rows, row, column = [""], 0, 0
        for part in self.getvalue().replace("\x1b[A", "\v").replace("\r\n", "\n"):
            if part == "\n":
                row, column = row + 1, 0
                rows += [""] * (row >= len(rows))
            elif part == "\v":
                row -= 1
            elif part == "\r":
                column = 0
            else:
                rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + 1 :]
                column += 1
        return [each.rstrip() for each in rows]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=found))  # pytest puts its own back into the real one
    monkeypatch.setattr(progress, "_is_shown", True)
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("RANK", raising=False)
    yield found
    progress.stop()


def test_a_bar_says_what_how_much_and_how_long(terminal: Terminal) -> None:
    with Bar("reads", 3600, "seconds", is_delayed=False) as bar:
        bar.note("film.mp3")
        bar.advance(900)
        bar.tick()
        assert "reads:  25 % " in terminal.lines()[0]
        assert "900/3,600 seconds  00:00 elapsed, 00:00 remaining, film.mp3" in terminal.lines()[0]
    assert terminal.lines() == [""]


def test_without_a_total_time_alone_is_said(terminal: Terminal) -> None:
    with Bar("learns the tokenizer") as bar:
        bar.tick()
        assert terminal.lines()[0] == "learns the tokenizer: 00:00 elapsed"
    assert terminal.lines() == [""]
    with Bar("reads", unit="lines") as bar:
        bar.advance(1200)
        bar.tick()
        assert terminal.lines()[0] == "reads: 1,200 lines  00:00 elapsed"
    with Bar("reads", 0, "lines") as bar:
        bar.tick()
        assert terminal.lines()[0] == "reads: 0 lines  00:00 elapsed"


def test_progress_yields_and_counts_items(terminal: Terminal) -> None:
    items = progress.progress(["a", "bc"], "reads", 3, "letters", amount=len)
    seen = [(item, progress._bars[0].done) for item in items]
    assert seen == [("a", 0), ("bc", 1)]
    assert list(progress.progress(iter(range(3)), "counts")) == [0, 1, 2]
    assert progress._bars == []
    assert terminal.lines() == [""]


def test_lines_stay_whole_beside_bars(terminal: Terminal) -> None:
    with Bar("outer", 2, is_delayed=False) as outer, Bar("inner", 3, is_delayed=False) as inner:
        for _ in range(2):
            outer.advance()
            inner.advance()
            outer.tick()
            inner.tick()
            warn("one file is left out")
    assert list(filter(None, terminal.lines())) == ["warning: one file is left out"] * 2


def test_quick_loops_show_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 100.0)
    for _ in progress.progress(range(3), "reads"):
        progress._bars[0].tick()
    assert terminal.getvalue() == ""


def test_bars_are_redrawn_during_a_long_step(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.001)
    with Bar("waits"):
        length = len(terminal.getvalue())
        for _ in range(10_000):  # until it was drawn again
            if len(terminal.getvalue()) > length:
                break
            sleep(0.001)
        else:
            pytest.fail("nothing was drawn")


def test_an_interrupted_loop_leaves_no_bar(terminal: Terminal) -> None:
    bars = progress.progress(range(3), "reads")
    next(bars)
    progress.stop()
    progress.say("segue: a mistake")
    assert terminal.lines() == ["segue: a mistake", ""]
    assert list(bars) == [1, 2]


def draw() -> None:
    with Bar("reads", 10, is_delayed=False) as bar:
        bar.advance()
        bar.note("x")
        bar.tick()


def test_nothing_is_drawn_without_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by a program that uses the package, nor by a second rank."""
    no_terminal, closed = io.StringIO(), Terminal()
    closed.close()
    with monkeypatch.context() as changed:
        changed.setattr(progress, "_is_shown", False)  # a program that uses the package
        draw()
    with monkeypatch.context() as changed:
        changed.setenv("RANK", "1")
        draw()
    for file in (no_terminal, closed, None):
        with monkeypatch.context() as changed:
            changed.setattr(progress, "sys", SimpleNamespace(stderr=file))
            draw()
    assert terminal.getvalue() == no_terminal.getvalue() == ""
    draw()
    assert "reads" in terminal.getvalue()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_no_bars(terminal: Terminal) -> None:
    with Bar("reads", 10, is_delayed=False):
        if (child := os.fork()) == 0:
            with Bar("reads more", is_delayed=False):
                os._exit(len(progress._bars))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def assert_drawn_and_taken_away(
    words: list[object], bars: list[str], terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command draws these bars, leaves nothing of them, and answers what it does where nobody looks."""

    def answer() -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    on_a_terminal = answer()
    for bar in bars:
        assert f"{bar}: " in terminal.getvalue()
    assert not any(terminal.lines())
    assert progress._bars == []
    terminal.truncate(0)
    terminal.isatty = lambda: False  # type: ignore[method-assign]
    assert answer() == on_a_terminal != ""
    assert "\r" not in on_a_terminal
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_transcribing_shows_recordings_and_seconds(
    trained: Path,
    corpus: Path,
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    monkeypatch.chdir(corpus)  # whole paths are wider than the terminal
    names = [f"test_0{number}.wav" for number in range(3)]
    bars = ["transcribes", *(f"reads {name}" for name in names)]
    assert_drawn_and_taken_away(["transcribe", trained, *names, "--format", form], bars, terminal, capsys)


def test_evaluating_speech_shows_seconds_and_scores(
    trained: Path, corpus: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[object] = ["evaluate", trained, corpus / "test.jsonl"]
    assert_drawn_and_taken_away(words, ["evaluates test.jsonl", "scores test.jsonl"], terminal, capsys)


def test_translating_shows_lines_and_sentences(
    trained_translator: Path, tmp_path: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    text, subtitles = tmp_path / "film.txt", tmp_path / "film.srt"
    text.write_text("one two three\nfour five six\n")
    subtitles.write_text("1\n00:00:01,000 --> 00:00:03,000\none two three\n")
    bars = ["translates film.txt", "translates film.srt"]
    assert_drawn_and_taken_away(["translate", trained_translator, text, subtitles], bars, terminal, capsys)


def test_evaluating_text_shows_sentences(
    trained_translator: Path, pairs: Path, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows scores too."""
    words: list[object] = ["evaluate", trained_translator, pairs / "test.jsonl", "--json"]
    assert_drawn_and_taken_away(words, ["evaluates test.jsonl", "scores test.jsonl"], terminal, capsys)
