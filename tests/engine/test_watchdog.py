"""When does the watchdog end a process? See test_faults.py for what it says about ranks."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from segue.engine.distributed import watchdog
from segue.engine.distributed.parallel import ALONE


def is_ended(monkeypatch: pytest.MonkeyPatch, folder: Path, waits: Iterable[float]) -> bool:
    """Whether a process without progress is ended, whose watchdog wakes up after each of `waits` seconds."""
    now, left = 0.0, iter(waits)

    class Over:
        def wait(self, seconds: float) -> bool:
            nonlocal now
            waited = next(left, None)
            now += waited or 0.0
            return waited is None

    class EndedError(Exception):
        pass

    def end(self: watchdog.Watchdog) -> None:
        raise EndedError

    monkeypatch.setattr(watchdog, "monotonic", lambda: now)
    monkeypatch.setattr(watchdog.Watchdog, "_stop", end)
    watched = watchdog.Watchdog(folder, ALONE, 60.0)
    monkeypatch.setattr(watched, "_is_over", Over())
    try:
        watched._watch()
    except EndedError:
        return True
    return False


def test_a_process_without_progress_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert is_ended(monkeypatch, tmp_path, [1.0] * 61)
    assert not is_ended(monkeypatch, tmp_path, [1.0] * 60)


def test_time_in_which_it_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By Ctrl-Z, for an hour."""
    assert not is_ended(monkeypatch, tmp_path, [1.0] * 30 + [3600.0] + [1.0] * 20)
    assert is_ended(monkeypatch, tmp_path, [1.0] * 30 + [3600.0] + [1.0] * 40)
