"""What defines an export format? The functions that `formats.export` needs."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segue.data.manifest import Manifest

GRAPH = "model.onnx"
"""File name of the graph that `Exporter.inputs` is for."""


class Exporter(NamedTuple):
    """Export of one task's models to one runtime."""

    packages: tuple[str, ...]
    """Required packages; the runtime first."""
    write: Callable[[Any, Path, str], None]
    """(trained model, folder, kind of weights): writes the model; in full precision if there are `inputs`."""
    run: Callable[[Any, Path, int], Any]
    """(trained model, folder, threads) -> the export in its runtime, in the form that the task's `compare` takes."""
    use: Callable[[Any, str], str]
    """(trained model, folder name) -> Markdown that shows how to use the export, run from the parent folder."""
    quantizations: tuple[str, ...]
    """Supported kinds of smaller weights."""
    inputs: Callable[[Any, Manifest[Any]], Iterable[Mapping[str, NDArray[Any]]]] | None = None
    """(trained model, examples) -> inputs of the graph `GRAPH`, one example each, to calibrate 8-bit ranges. None if
    `write` itself converts weights."""
    least: Callable[[Path, int], tuple[str, AbstractContextManager[Any]]] | None = None
    """(folder, threads) -> the setting that restricts the runtime to the oldest instruction set, and the runtime under
    it, as from `run`. For eight-bit weights."""
