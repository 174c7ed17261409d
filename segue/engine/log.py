"""What is logged while a model trains? Console, `metrics.jsonl`, TensorBoard.

`metrics.jsonl` has one object per logged step and is authoritative; the TensorBoard files are rewritten from it on
resume.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from segue import progress
from segue.engine.state import checkpoint
from segue.errors import missing_extra, warn
from segue.progress import Bar


class Logger(Protocol):
    """Receives the progress of a training. `Log` is one; users can add their own.

    A context manager that exists on rank 0 only; `__exit__` gets the exception that ended the training, if any.
    """

    def __enter__(self) -> Any:
        """Called before the first step."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Any:
        """Called after the last step, or with the exception that ended the training."""
        ...

    def advance(self, step: int) -> None:
        """Called after each step."""
        ...

    def write(self, record: dict[str, Any]) -> None:
        """Called with each record of `metrics.jsonl`: the numbers of a step; an evaluation is a nested dict."""
        ...

    def say(self, text: str) -> None:
        """Called with a line of text for the user."""
        ...


MakeLogger = Callable[[Path, int, int], Logger]
"""(run directory, last step already taken, steps in the whole run) -> logger; `Log` is one."""


class Log:
    """Logs a run to `metrics.jsonl`, TensorBoard and the console. A context manager, which shows a progress bar."""

    def __init__(self, run: Path, step: int, num_steps: int) -> None:
        """Continues after `step`; later records, written by a process that was killed, are removed."""
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
        self._bar = Bar("step", num_steps, done=step, is_delayed=False)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()
        if self._tensorboard is not None:
            with self._drawing():
                self._tensorboard.close()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._bar.advance(step - self._bar.done)

    def write(self, record: dict[str, Any]) -> None:
        """Logs the numbers of a step; nested dicts are evaluations."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._draw([record])
        reason = (
            "gradients not finite"
            if "is_skipped" in record
            else "noise alone, no text"
            if "has_no_targets" in record
            else "every example is bad"
        )
        text = f"loss {record['loss']:.4f}" if "loss" in record else f"skipped: {reason}"
        if "rate" in record:
            text += f"  {_rate(record['rate'], record['unit'])}"
        self._bar.note(text)
        evaluations = [f"{name}: {_scores(value)}" for name, value in record.items() if isinstance(value, dict)]
        if evaluations or not self._bar.is_shown:
            self.say("  ".join([f"step {record['step']}", text, *evaluations]))

    def say(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        progress.say(text)

    def _draw(self, records: list[dict[str, Any]]) -> None:
        if self._tensorboard is None:
            return
        with self._drawing():
            for record in records:
                for name, value in flat(record):
                    if name not in ("step", "time"):
                        self._tensorboard.add_scalar(name, value, record["step"], walltime=record.get("time"))
            self._tensorboard.flush()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """An I/O error, such as a full disk, ends the TensorBoard output, not the training."""
        try:
            yield
        except OSError as error:
            self._tensorboard = None
            warn(f"{self._drawings}: {error.strerror or error}; nothing more is written there")


class Loggers:
    """The log and further loggers. A logger that raises is dropped with a warning; the training continues."""

    def __init__(self, log: Log, others: Sequence[Logger]) -> None:
        self._log, self._others = log, list(others)

    def __enter__(self) -> Self:
        self._log.__enter__()
        self._tell("__enter__")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell("__exit__", kind, value, trace)
        self._log.__exit__(kind, value, trace)

    def advance(self, step: int) -> None:
        """Calls `advance` of all loggers."""
        self._log.advance(step)
        self._tell("advance", step)

    def write(self, record: dict[str, Any]) -> None:
        """Calls `write` of all loggers."""
        self._log.write(record)
        self._tell("write", record)

    def say(self, text: str) -> None:
        """Calls `say` of all loggers."""
        self._log.say(text)
        self._tell("say", text)

    def _tell(self, what: str, *arguments: Any) -> None:
        for logger in self._others[:]:
            try:
                getattr(logger, what)(*arguments)
            except Exception as error:  # third-party code may raise anything
                self._others.remove(logger)
                warn(f"{type(logger).__name__}: {type(error).__name__}: {error}; this logger is dropped")


class Silence:
    """The log of all ranks but the first: does nothing."""

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
            if number < len(lines):  # the last line may be incomplete: the process was killed while writing it
                warn(f"{path}:{number}: damaged: not the numbers of a step; dropped")
    return kept


def flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """(name, value) for each number of a record; nested names are joined as in "dev/loss"."""
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found.extend(flat(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found


def _scores(scores: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float))


def _rate(amount: float, unit: str) -> str:
    """Throughput as text; `amount` is in `unit` per second."""
    return f"{amount:.{0 if amount >= 10 else 1}f}x real time" if unit == "seconds" else f"{amount:.0f} {unit}/s"
