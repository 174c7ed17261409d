"""How do recordings of any length become transcripts? Windows, search, words with times.

The `Backend` is PyTorch's model or an exported one; all else is the same for both.

Shape letters: S samples, T frames, V vocabulary (blank included, last).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import audio, reading
from segue.data.audio import Samples
from segue.data.subtitles import cues
from segue.data.text import TextSection
from segue.decoding.emissions import Emission, merge
from segue.recipe import Section
from segue.runtime.words import Word, text_of, words

if TYPE_CHECKING:
    from segue.runtime.speech_evaluation import SpeechEvaluator

PositiveInt = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class SpeechMetadata(Section):
    """What is to be known of a speech model to use it."""

    task: Literal["speech_recognition"] = "speech_recognition"
    """The task."""
    sample_rate_hz: PositiveInt
    """Of the samples that the model reads."""
    feature_dim: PositiveInt
    """Mel bins of its front end."""
    tokens: tuple[str | tuple[Byte, ...], ...]
    """What each writes: text, or the bytes of a part of a character. After the last comes the blank."""
    samples_per_frame: PositiveInt
    """Samples from one output frame to the next."""
    text: TextSection
    """How texts are written before they are scored."""
    metric: metrics.SpeechMetric = "auto"
    """What the model is scored by (`metrics.speech_metric`)."""
    parameters: PositiveInt
    """Numbers that were trained."""

    @property
    def pieces(self) -> list[bytes]:
        """What each token writes, in UTF-8."""
        return [token.encode() if isinstance(token, str) else bytes(token) for token in self.tokens]


def written(pieces: Sequence[bytes]) -> tuple[str | tuple[int, ...], ...]:
    """`SpeechMetadata.tokens` of pieces."""
    found: list[str | tuple[int, ...]] = []
    for piece in pieces:
        try:
            found.append(piece.decode())
        except UnicodeDecodeError:
            found.append(tuple(piece))
    return tuple(found)


class Recognized(NamedTuple):
    """What a backend recognizes in a waveform."""

    emissions: list[Emission]
    """Frames count from its start."""
    scores: NDArray[np.float32]
    """(T, V) that the tokens were chosen by, T at most ceil(S / samples a frame). Runtimes are compared by it."""


class Backend(Protocol):
    """A model in some runtime, with the search of its objective."""

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """Mono waveforms (S) at the model's rate. Results do not depend on the rest of the batch."""
        ...


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    audio: str
    duration: float
    """Seconds."""
    text: str
    words: list[Word]

    def written(self, form: Literal["text", "json", "srt", "vtt"]) -> str:
        """The transcript in a format. JSON is one line; its segments are the cues of srt and vtt, as they were said."""
        if form == "text":
            return self.text
        found = cues.cut(self.words, self.duration)
        if form == "json":
            words = [
                {"word": word, "start": round(start, 3), "end": round(end, 3), "confidence": round(confidence, 4)}
                for word, start, end, confidence, _ in self.words
            ]
            segments = [
                {"id": number, "start": cue.spoken[0] / 1000, "end": cue.spoken[1] / 1000, "text": cue.text}
                for number, cue in enumerate(found)
            ]
            said = {"audio": self.audio, "duration": round(self.duration, 3), "text": self.text}
            # A path that is not UTF-8 is escaped, and all else then.
            is_text = not any("\udc80" <= character <= "\udcff" for character in self.audio)
            return json.dumps({**said, "segments": segments, "words": words}, ensure_ascii=not is_text)
        return cues.write(found, form).rstrip("\n")


class Recognizer:
    """A trained model, ready for recordings of any length. It holds no state between calls: threads may share it."""

    WINDOW_SECONDS = reading.WINDOW_SECONDS
    OVERLAP_SECONDS = 6.0
    BATCH = reading.BATCH

    def __init__(self, metadata: SpeechMetadata, backend: Backend) -> None:
        self.metadata, self.backend = metadata, backend
        self._pieces = metadata.pieces
        self._seconds_per_frame = metadata.samples_per_frame / metadata.sample_rate_hz
        # Windows start on output frames, so that frames of all windows share one clock.
        self._window_frames = round(self.WINDOW_SECONDS / self._seconds_per_frame)
        self._overlap_frames = round(self.OVERLAP_SECONDS / self._seconds_per_frame)

    def transcribe(
        self, recording: str | Path | NDArray[Any], sample_rate_hz: int | None = None, channel: int | str | None = None
    ) -> Transcript:
        """The words of a recording, with times; silence gives none.

        A file (its own rate counts), or samples (S) or (S, channels) at `sample_rate_hz`, from 1 kHz to 1 MHz: floats
        in [-1, 1] or whole numbers. `channel` is a number from 1, "left", "right" or "mix"; None: the mean, or one of
        channels that cancel each other. A UserError says why it cannot be read, also of two channels that hold
        different speakers where no `channel` is given.
        """
        rate = self.metadata.sample_rate_hz
        name, blocks = reading.opened(recording, rate, sample_rate_hz, channel)
        emissions: list[list[Emission]] = []
        windows, step = self._windows(blocks), self._window_frames - self._overlap_frames
        while batch := list(islice(windows, self.BATCH)):
            emissions += self._emissions(batch, len(emissions) * step)
            last = len(batch[-1])
        overlaps = [(n * step, n * step + self._overlap_frames) for n in range(1, len(emissions))]
        found = self._words(merge(emissions, overlaps))
        duration = ((len(emissions) - 1) * step * self.metadata.samples_per_frame + last) / rate
        found = [word._replace(start=min(word.start, duration), end=min(word.end, duration)) for word in found]
        return Transcript(name, duration, text_of(found), found)

    @staticmethod
    def rate_of(path: Path) -> int:
        """Samples a second of a recording."""
        return audio.properties(path).sample_rate_hz

    def evaluate(self, manifest: Path, skip_bad: bool = False, *, as_transcribed: bool = False) -> dict[str, Any]:
        """Error rates on a manifest with their intervals, also by speaker, and how many bad examples were left out.

        `as_transcribed` scores recordings (`data/recordings.py`) as `transcribe` reads them, and says the rate of
        utterances alone beside it.
        """
        evaluated = self.evaluator.explain(manifest, skip_bad, has_media=False, as_transcribed=as_transcribed)
        return evaluated.as_json()

    @property
    def evaluator(self) -> "SpeechEvaluator":
        """What scores this model."""
        from segue.runtime.speech_evaluation import SpeechEvaluator  # which knows this class

        return SpeechEvaluator(self)

    def recognize(self, waveforms: Sequence[Samples]) -> tuple[list[str], list[NDArray[np.float32]]]:
        """Waveforms (S) of any length, each as a whole -> their texts, and log-probabilities (T, V)."""
        found = self._recognized(waveforms)
        return [text_of(self._words(each.emissions)) for each in found], [each.scores for each in found]

    def _words(self, emissions: Sequence[Emission]) -> list[Word]:
        return words(emissions, self._pieces, self._seconds_per_frame)

    def _windows(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Overlapping windows; only the last one may be shorter."""
        size, overlap = (n * self.metadata.samples_per_frame for n in (self._window_frames, self._overlap_frames))
        pending = np.zeros(0, np.float32)
        for block in blocks:
            pending = np.concatenate([pending, block])
            # One sample more than a window: the last window never lies all inside of the one before it.
            while len(pending) > size:
                yield pending[:size]
                pending = pending[size - overlap :]
        yield pending

    def _emissions(self, windows: list[Samples], first_frame: int) -> list[list[Emission]]:
        """The tokens of consecutive windows; frames count from the start of the recording."""
        step = self._window_frames - self._overlap_frames
        return [
            [emission.later(first_frame + number * step) for emission in each.emissions]
            for number, each in enumerate(self._recognized(windows))
        ]

    def _recognized(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """Of each; nothing in digital silence: no recording that a model learns from has it, so it could say
        anything."""
        found = iter(self.backend.recognize(sounding) if (sounding := [w for w in waveforms if w.any()]) else [])
        nothing = Recognized([], np.zeros((0, len(self._pieces) + 1), np.float32))
        return [next(found) if waveform.any() else nothing for waveform in waveforms]
