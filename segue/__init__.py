"""Segue: sequence models from your own data to a deployed model. `load`, `train`; everything else is private."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["load", "train"]

# Before it is imported: onnxruntime 1.32 then writes an id of the machine, and what it reports to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def load(model: str | Path, device: str = "auto", threads: int | None = None) -> Any:
    """Loads the model in a run directory, a model directory or an exported directory.

    A speech recognizer has `transcribe(path)` and `transcribe(samples, sample_rate_hz)`; a translator has
    `translate(texts)`; a classifier has `classify(path)` and `classify(samples, sample_rate_hz)`, or `classify(text)`;
    a language model has `generate(prompts)` and `stream(prompt)`. All have `evaluate(manifest)`, and are thread-safe.

    `device` is "auto", "cpu", "cuda" or "mps". Exported models run on the CPU, without torch, on `threads`
    threads (None: all cores). Raises a UserError if `model` cannot be loaded.
    """
    from segue import tasks

    return tasks.load(Path(model), device, threads)


def train(recipe: str | Path, out: str | Path, *overrides: str, loggers: Sequence[Callable[..., Any]] = ()) -> Any:
    """Trains a recipe (a path, or the name of a shipped one) in the run directory `out`, or resumes the training there.

    `overrides` are "key.path=value". Each of `loggers` is called with the run directory, the last step that is done (0
    in a new run), and the number of steps of the whole run; it returns a Logger (`engine/log.py`). Returns the step
    reached and the best evaluation. Raises a UserError for mistakes in the recipe or the data.
    """
    from segue import training
    from segue.recipe import find

    return training.train(find(str(recipe)), Path(out), overrides, loggers)
