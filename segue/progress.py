"""Progress bars. They are shown on standard error if that is a terminal, and disappear at the end.

Only commands turn them on (`show`), so that a program that imports the package prints nothing.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from time import perf_counter, sleep
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

Item = TypeVar("Item")

_DELAY_SECONDS = 0.5  # shorter work shows no bar
_TICK_SECONDS = 1.0

_is_shown = False
_bars: "list[Bar]" = []
_lock = threading.RLock()  # a bar that is closed is not drawn again
_ticking: threading.Thread | None = None


def show() -> None:
    """Turns progress bars on in this process."""
    global _is_shown
    _is_shown = True


def hide() -> None:
    """Turns them off again."""
    global _is_shown
    _is_shown = False


def progress(
    items: Iterable[Item],
    what: str,
    total: float | None = None,
    unit: str = "",
    amount: Callable[[Item], float] = lambda _: 1,
) -> Iterator[Item]:
    """Yields `items` and shows a bar, labeled `what`, while the caller works on them.

    `total` is in `unit`, and so is the `amount` of one item (default: 1). Without `total`, it is the length of `items`,
    if they have one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(what, total, unit) as bar:
        for item in items:
            yield item
            bar.advance(amount(item))


class Bar:
    """A bar for work that is not a loop over items. A context manager; bars may be nested."""

    def __init__(
        self, what: str, total: float | None = None, unit: str = "", *, done: float = 0, is_delayed: bool = True
    ) -> None:
        """`what` is the label, such as "reads film.mp3". Without `total`, the bar shows only the amount done and the
        time. Amounts are in `unit`. What is `done` already, as in a resumed run, is not counted in the speed."""
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._note = done, ""
        self._delay = _DELAY_SECONDS if is_delayed else 0.0
        self._bar: Any = None  # tqdm, once it is drawn

    def __enter__(self) -> Self:
        if not _is_shown or os.environ.get("RANK", "0") != "0" or not is_terminal(sys.stderr):
            return self
        self._since = perf_counter()
        with _lock:
            _bars.append(self)
            _start_ticking()
            self.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the bar."""
        with _lock:
            if self in _bars:
                _bars.remove(self)
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    @property
    def is_shown(self) -> bool:
        """Whether the bar is shown, or will be after the delay."""
        return self in _bars

    def advance(self, amount: float = 1) -> None:
        """Adds `amount`, in the unit of the bar, to what is done."""
        self.done += amount
        with _lock:
            if self._bar is None:
                self.tick()
            else:
                self._bar.update(amount)

    def note(self, text: str) -> None:
        """Shows `text` after the bar from now on."""
        self._note = text
        with _lock:
            if self._bar is not None:
                self._bar.set_postfix_str(text, refresh=False)

    def tick(self) -> None:
        """Redraws the bar, to update the time; draws it first once the delay is over."""
        with _lock:
            if self not in _bars:
                return
            if self._bar is not None:
                self._bar.refresh()
            elif perf_counter() - self._since >= self._delay:
                self._draw()

    def _draw(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=self.what,
            total=self.total or None,  # 0 has no percentage
            initial=self._first,
            file=sys.stderr,
            leave=False,
            smoothing=0,  # the mean speed: that of single steps varies, and evaluations interrupt them
            dynamic_ncols=True,
            unit=self.unit,
            bar_format=_format(self.unit, has_total=bool(self.total)),
        )
        self._bar.start_t -= perf_counter() - self._since
        self._bar.set_postfix_str(self._note, refresh=False)
        self._bar.update(self.done - self._first)


@contextmanager
def aside() -> Iterator[None]:
    """Inside, bars are hidden, so that lines can be printed, also on standard output."""
    with _lock:
        if not _bars:
            yield
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            yield


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line to `file` (default: standard error), above progress bars.

    If nothing reads standard error any longer, the line is lost and work continues.
    """
    with aside():
        try:
            print(line, file=file or sys.stderr, flush=True)
        except BrokenPipeError:  # `segue train ... 2>&1 | head`
            if file is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def stop() -> None:
    """Closes all bars, since their work was aborted."""
    for bar in reversed(_bars[:]):
        bar.close()


def is_terminal(file: TextIO | None) -> bool:
    """Whether `file` is a terminal. False if it is closed, or None as in a program without a console."""
    return file is not None and not file.closed and file.isatty()


def _format(unit: str, *, has_total: bool) -> str:
    """The `bar_format` for tqdm."""
    if not has_total:
        return "{desc}: " + ("{n:,.0f} {unit}  " if unit else "") + "{elapsed} elapsed{postfix}"
    done = "{percentage:3.0f} % {bar:20} {n:,.0f}/{total:,.0f}" + (" {unit}" if unit else "")
    return "{desc}: " + done + "  {elapsed} elapsed, {remaining} remaining{postfix}"


def _start_ticking() -> None:
    """Starts the thread that redraws bars once a second, since a single step may take minutes."""
    global _ticking
    if _ticking is None:
        _ticking = threading.Thread(target=_tick, name="progress", daemon=True)
        _ticking.start()


def _tick() -> None:
    global _ticking
    while True:
        sleep(_TICK_SECONDS)
        with _lock:
            if not _bars:
                _ticking = None
                return
            for bar in _bars:
                bar.tick()


def _forget() -> None:
    """Resets the state in a forked process, such as a data worker: bars and their locks belong to the parent."""
    global _is_shown, _lock, _ticking
    _is_shown, _lock, _ticking = False, threading.RLock(), None
    _bars.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
