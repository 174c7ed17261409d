"""What is said while a model learns? Console, `metrics.jsonl`, TensorBoard.

`metrics.jsonl` has one object a logged step and is the truth; TensorBoard is a picture of it, drawn anew on resume.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segue.engine import checkpoint
from segue.errors import missing_extra, warn


class Log:
    """The record of a run. A context manager: the progress bar lives inside it."""

    def __init__(self, run: Path, step: int, num_steps: int) -> None:
        """Goes on after `step`: whatever was logged later, by a process that was killed, is cut off."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import
        except ModuleNotFoundError:
            raise missing_extra("tensorboard", "train") from None
        self.path = run / "metrics.jsonl"
        lines = _lines_until(self.path, step)
        run.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(self.path, "".join(line + "\n" for line in lines))
        self._file = self.path.open("a", encoding="utf-8")
        self._drawings, self._tensorboard = run / "tensorboard", None  # a path, a SummaryWriter
        shutil.rmtree(self._drawings, ignore_errors=True)
        with self._drawing():
            self._tensorboard = SummaryWriter(str(self._drawings))
        self._draw([json.loads(line) for line in lines])
        self.console = _Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        self._bar = self._progress.add_task("train", total=num_steps, completed=step, text="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        if self._tensorboard is not None:
            with self._drawing():
                self._tensorboard.close()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._progress.update(self._bar, completed=step)

    def write(self, record: dict[str, Any]) -> None:
        """One step's numbers; nested ones, of an evaluation, under its name."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._draw([record])
        reason = "gradients not finite" if "is_skipped" in record else "every example is bad"
        text = f"loss {record['loss']:.4f}" if "loss" in record else f"skipped: {reason}"
        if "rate" in record:
            text += f"  {record['rate']:.0f} {record['unit']}/s"
        self._progress.update(self._bar, completed=record["step"], text=text)
        evaluations = [f"{name}: {_scores(value)}" for name, value in record.items() if isinstance(value, dict)]
        if evaluations or self._progress.disable:
            self.say("  ".join([f"step {record['step']}", text, *evaluations]))

    def say(self, text: str) -> None:
        """A line for the person at the terminal."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _draw(self, records: list[dict[str, Any]]) -> None:
        if self._tensorboard is None:
            return
        with self._drawing():
            for record in records:
                for name, value in _flat(record):
                    if name not in ("step", "time"):
                        self._tensorboard.add_scalar(name, value, record["step"], walltime=record.get("time"))
            self._tensorboard.flush()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """A full disk ends the pictures, not the training."""
        try:
            yield
        except OSError as error:
            self._tensorboard = None
            warn(f"{self._drawings}: {error.strerror or error}; nothing more is drawn there")


class _Console(Console):
    """Falls silent when nobody listens any more (`segue train ... 2>&1 | head`): a training goes on."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Silence:
    """The log of a rank that does not speak."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, step: int) -> None:
        """Nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


def _lines_until(path: Path, step: int) -> list[str]:
    """The complete lines of a log up to `step`."""
    if not path.is_file():
        return []
    kept = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.decode())
        except (ValueError, TypeError, LookupError):
            if number < len(lines):  # else what a process was writing when it was killed
                warn(f"{path}:{number}: damaged: not the numbers of a step; left out")
    return kept


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found.extend(_flat(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found


def _scores(scores: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float))
