"""Segue: sequence models from your own data to a deployed model. `load`, `train`; everything else is private."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["load", "train"]


def load(model: str | Path, device: str = "auto", threads: int | None = None) -> Any:
    """The model in a run directory, a model directory or an exported directory, ready for use.

    A speech model has `transcribe(path)` and `transcribe(samples, sample_rate_hz)`, a translation model
    `translate(texts)`, a classifier `classify` of a path, of samples with their rate, or of a text; all have
    `evaluate(manifest)`. Threads may share a model. Exported ones need no torch; they
    take so many `threads` of the CPU (None: all cores).
    """
    from segue import tasks

    return tasks.load(Path(model), device, threads)


def train(recipe: str | Path, out: str | Path, *overrides: str, loggers: Sequence[Callable[..., Any]] = ()) -> Any:
    """Trains a recipe (a path, or a shipped one's name) in the directory `out`, or goes on there.

    `overrides` are "key.path=value". Each of `loggers` is called with the run directory, the step after which the run
    goes on, and the steps in the whole run; it returns what is told how the training goes (`engine/log.py`: Logger).
    Returns the step reached and the best evaluation.
    """
    from segue import training
    from segue.recipe import find

    return training.train(find(str(recipe)), Path(out), overrides, loggers)
