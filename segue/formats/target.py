"""What must be known of a format, so that every model takes the same road into it?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.data.vocabularies import TO_LANGUAGE
from segue.formats.parity import Hear
from segue.runtime.translator import Writer
from segue.tasks import speech_recognition, translation


class Speech(NamedTuple):
    """How a recogniser leaves, as `model.onnx` and what belongs to it."""

    packages: tuple[str, ...]
    """What it needs; the runtime first."""
    write: Callable[[speech_recognition.Trained, Path], None]
    """Into a folder."""
    inputs: Callable[[speech_recognition.Trained, Sequence[Samples]], Mapping[str, NDArray[Any]]]
    """The graph's inputs of waveforms: what eight-bit weights are calibrated on."""
    hear: Callable[[speech_recognition.Trained, Path, int], Hear]
    """The runtime, with what was written into the folder, on so many threads."""
    use: Callable[[speech_recognition.Trained, str], str]
    """How it is used, in Markdown, from the folder that holds the one of this name."""
    quantizations: tuple[str, ...] = ("int8", "float16")


class Text(NamedTuple):
    """How a translator leaves."""

    packages: tuple[str, ...]
    """What it needs; the runtime first."""
    write: Callable[[translation.Trained, Path, str], None]
    """Into a folder, with weights of this kind."""
    writer: Callable[[translation.Trained, Path, int], Writer]
    """The runtime, with what was written into the folder, on so many threads."""
    use: Callable[[translation.Trained, str], str]
    """How it is used, in Markdown, from the folder that holds the one of this name."""
    quantizations: tuple[str, ...]
    least: Mapping[str, str] = MappingProxyType({})
    """Variables of the environment that have CTranslate2 use the fewest instructions that it can."""


def source_side(trained: translation.Trained) -> tuple[str, str]:
    """For the code on a card: the name of the source's tokenizer, and what stands before the source's tokens."""
    vocabularies = trained.vocabularies
    name = "tokenizer" if vocabularies.source is vocabularies.target else "source_tokenizer"
    several = len(vocabularies.languages) > 1
    return name, f'"{TO_LANGUAGE.format(vocabularies.languages[0])}", ' if several else ""
