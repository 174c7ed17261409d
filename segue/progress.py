"""How far is what a person waits for? Bars on a terminal's standard error, which vanish at the end; elsewhere nothing.

Only commands show them (`show`): a program that uses the package has its terminal to itself.
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

_DELAY_SECONDS = 0.5  # what is done sooner shows nothing
_TICK_SECONDS = 1.0

_is_shown = False
_bars: "list[Bar]" = []
_lock = threading.RLock()  # a bar that is closed is not drawn again
_ticking: threading.Thread | None = None


def show() -> None:
    """From here on, waits are shown in this process."""
    global _is_shown
    _is_shown = True


def progress(
    items: Iterable[Item],
    what: str,
    total: float | None = None,
    unit: str = "",
    amount: Callable[[Item], float] = lambda _: 1,
) -> Iterator[Item]:
    """The same items. While the caller works on them, a bar says `what` is done and how far it is.

    `total` is in `unit`, and so is the `amount` of one item (default: one); without it, the number of items, if they
    know it.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(what, total, unit) as bar:
        for item in items:
            yield item
            bar.advance(amount(item))


class Bar:
    """The same for work that is not a loop over items. A context manager; bars may stand inside each other."""

    def __init__(
        self, what: str, total: float | None = None, unit: str = "", *, done: float = 0, is_delayed: bool = True
    ) -> None:
        """`what` is done: "reads film.mp3". Without `total` (in `unit`) only what is done and the time are said."""
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
        """The bar vanishes."""
        with _lock:
            if self in _bars:
                _bars.remove(self)
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    @property
    def is_shown(self) -> bool:
        """Whether a person sees it, or will when it takes longer."""
        return self in _bars

    def advance(self, amount: float = 1) -> None:
        """So much more is done."""
        self.done += amount
        with _lock:
            if self._bar is None:
                self.tick()
            else:
                self._bar.update(amount)

    def note(self, text: str) -> None:
        """`text` stands behind the bar from here on."""
        self._note = text
        with _lock:
            if self._bar is not None:
                self._bar.set_postfix_str(text, refresh=False)

    def tick(self) -> None:
        """Draws it anew: time has passed."""
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
            total=self.total or None,  # of nothing there is no share
            initial=self._first,
            file=sys.stderr,
            leave=False,
            smoothing=0,  # steps differ, and evaluations come between them: the mean rate says most
            dynamic_ncols=True,
            unit=self.unit,
            bar_format=_format(self.unit, has_total=bool(self.total)),
        )
        self._bar.start_t -= perf_counter() - self._since
        self._bar.set_postfix_str(self._note, refresh=False)
        self._bar.update(self.done - self._first)


@contextmanager
def aside() -> Iterator[None]:
    """Inside, bars are gone from the terminal, so that lines may be printed, on standard output as well."""
    with _lock:
        if not _bars:
            yield
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            yield


def say(line: str, file: TextIO | None = None) -> None:
    """A line for a person, on standard error, above progress bars; where that is closed, work goes on."""
    with aside():
        try:
            print(line, file=file or sys.stderr, flush=True)
        except BrokenPipeError:  # `segue train ... 2>&1 | head`
            if file is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def stop() -> None:
    """Closes all bars: what they stood for was broken off."""
    for bar in reversed(_bars[:]):
        bar.close()


def is_terminal(file: TextIO | None) -> bool:
    """Whether a person looks at it; not where it is closed, or missing as in a program without a console."""
    return file is not None and not file.closed and file.isatty()


def _format(unit: str, *, has_total: bool) -> str:
    """For tqdm."""
    if not has_total:
        return "{desc}: " + ("{n:,.0f} {unit}  " if unit else "") + "{elapsed} elapsed{postfix}"
    done = "{percentage:3.0f} % {bar:20} {n:,.0f}/{total:,.0f}" + (" {unit}" if unit else "")
    return "{desc}: " + done + "  {elapsed} elapsed, {remaining} remaining{postfix}"


def _start_ticking() -> None:
    """Bars are drawn anew once a second: a single step may take minutes."""
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
    """A process that was forked, to read data for instance, has no part in its parent's bars, nor in their locks."""
    global _is_shown, _lock, _ticking
    _is_shown, _lock, _ticking = False, threading.RLock(), None
    _bars.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
