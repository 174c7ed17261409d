"""What must be known of a format, so that every model is exported in the same way?"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segue.data.manifest import Manifest

GRAPH = "model.onnx"
"""What a graph of `Exporter.inputs` is called."""


class Exporter(NamedTuple):
    """How models of one task are written for one runtime."""

    packages: tuple[str, ...]
    """What it needs; the runtime first."""
    write: Callable[[Any, Path, str], None]
    """Writes a trained model into a folder, with weights of this kind; in full precision where there are `inputs`."""
    run: Callable[[Any, Path, int], Any]
    """The runtime with what was written into the folder, on so many threads: what the task compares with PyTorch."""
    use: Callable[[Any, str], str]
    """How a trained model is used there, in Markdown, from the folder that holds the one of this name."""
    quantizations: tuple[str, ...]
    """Kinds of smaller weights."""
    inputs: Callable[[Any, Manifest[Any]], Iterable[Mapping[str, NDArray[Any]]]] | None = None
    """Inputs of the graph `GRAPH`, an example each, from which the ranges of eight-bit numbers come. None where `write`
    itself makes weights smaller."""
    least: Callable[[Path, int], tuple[str, AbstractContextManager[Any]]] | None = None
    """The same as `run` with eight-bit weights on the fewest instructions that the runtime can be told to use, and how
    it is told."""
