"""How do recordings of any length become transcripts? Windows, search, words with times.

The `Backend` is a PyTorch model or an exported one; everything else is the same for both.

Shape letters: S samples, T frames, V vocabulary (blank included, last).
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import audio, paragraphs, reading
from segue.data.audio import Samples
from segue.data.segments import LONGEST_SILENCE_SECONDS, SILENCE_SECONDS, Lengths, Segment, levels, windows
from segue.data.subtitles import cues
from segue.data.text import TextSection
from segue.decoding.emissions import Emission, merge
from segue.errors import UserError, warn
from segue.metrics.normalizers import Normalizer
from segue.recipe import Section
from segue.runtime import json_line
from segue.runtime.calibration import Calibration
from segue.runtime.speech_search import SpeechSearch, SpeechSearchSection
from segue.runtime.words import Word, after_silence, has_gap, joined, named, text_of, words

if TYPE_CHECKING:
    from segue.runtime.alignment import Aligned
    from segue.runtime.speech_evaluation import SpeechEvaluator

PositiveInt = Annotated[int, Field(gt=0)]
Form = Literal["text", "json", "srt", "vtt", "interview"]
VoiceActivity = Literal["auto", "on", "off"]
Byte = Annotated[int, Field(ge=0, le=255)]


class SpeechMetadata(Section):
    """What a runtime needs to know about a speech model."""

    task: Literal["speech_recognition"] = "speech_recognition"
    """The task."""
    sample_rate_hz: PositiveInt
    """Sample rate of the model's input."""
    feature_dim: PositiveInt
    """Number of mel bins of its front end."""
    tokens: tuple[str | tuple[Byte, ...], ...]
    """The text of each token, or its bytes if it is a part of a character. The blank follows the last token."""
    samples_per_frame: PositiveInt
    """Samples between the starts of two output frames."""
    text: TextSection
    """Text normalization before scoring."""
    metric: metrics.SpeechMetric = "auto"
    """Metric of the model (`metrics.speech_metric`)."""
    normalization: Literal["utterance", "speech"] | None = None
    """Which frames the front end normalizes over: all of an utterance, or those of speech, so that silence makes no
    difference. None: not known, as of exports of earlier versions."""
    parameters: PositiveInt
    """Number of parameters."""

    @property
    def pieces(self) -> list[bytes]:
        """The text of each token, in UTF-8."""
        return [token.encode() if isinstance(token, str) else bytes(token) for token in self.tokens]


def written(pieces: Sequence[bytes]) -> tuple[str | tuple[int, ...], ...]:
    """`SpeechMetadata.tokens` for these pieces."""
    found: list[str | tuple[int, ...]] = []
    for piece in pieces:
        try:
            found.append(piece.decode())
        except UnicodeDecodeError:
            found.append(tuple(piece))
    return tuple(found)


class Recognized(NamedTuple):
    """A backend's result for a waveform."""

    emissions: list[Emission]
    """Tokens, by greedy search; frames count from the start of the waveform."""
    scores: NDArray[np.float32]
    """(T, V) log-probabilities, T at most ceil(S / samples per frame), or one more: for other searches, and to
    compare runtimes."""


class Backend(Protocol):
    """A model in some runtime, with the greedy search of its objective."""

    def recognize(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """Recognizes mono waveforms (S) at the model's rate. Results do not depend on the rest of the batch."""
        ...


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording."""

    audio: str
    duration: float
    """Duration in seconds."""
    text: str
    words: list[Word]

    def written(self, form: Form) -> str:
        """The transcript in a format. JSON is one line; its segments are the cues of srt and vtt, with speech times."""
        if form == "text":
            return self.text
        if form == "interview":
            return paragraphs.interview(paragraphs.cut(self.words)).rstrip("\n")
        # srt has no tags for speakers: the first word of each turn has the name before it, "Ann: yes".
        found = cues.cut(named(self.words) if form == "srt" else self.words, self.duration)
        if form == "json":
            words = [
                {
                    "word": each.word,
                    "start": round(each.start, 3),
                    "end": round(each.end, 3),
                    "confidence": round(each.confidence, 4),
                    **_of(each.speaker),
                }
                for each in self.words
            ]
            segments = [
                {
                    "id": number,
                    "start": cue.spoken[0] / 1000,
                    "end": cue.spoken[1] / 1000,
                    "text": cue.text,
                    **_of(cue.speaker),
                }
                for number, cue in enumerate(found)
            ]
            said = {"audio": self.audio, "duration": round(self.duration, 3), "text": self.text}
            return json_line.written({**said, "segments": segments, "words": words}, self.audio)
        return cues.write(found, form).rstrip("\n")


def _of(speaker: str | None) -> dict[str, str]:
    """The speaker in JSON; nothing where none is known."""
    return {} if speaker is None else {"speaker": speaker}


class _Counted:
    """Blocks of samples, and how many of these have been read."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks, self.num_samples = blocks, 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self.num_samples += len(block)
            yield block


class Recognizer:
    """A trained model for recordings of any length. It has no state between calls and is thread-safe."""

    WINDOW_SECONDS = reading.WINDOW_SECONDS
    OVERLAP_SECONDS = 6.0
    BATCH = reading.BATCH

    def __init__(self, metadata: SpeechMetadata, backend: Backend, search: SpeechSearch | None = None) -> None:
        self.metadata, self.backend = metadata, backend
        self.calibration: Calibration | None = None
        """What makes probabilities of confidences; None: they stay as they are."""
        self._pieces = metadata.pieces
        self.search = search or SpeechSearch(SpeechSearchSection(kind="greedy"), self._pieces, metadata.text)
        self._seconds_per_frame = metadata.samples_per_frame / metadata.sample_rate_hz
        # Windows start on output frames, so that the frames of all windows are on one grid.
        self._window_frames = round(self.WINDOW_SECONDS / self._seconds_per_frame)
        self._overlap_frames = round(self.OVERLAP_SECONDS / self._seconds_per_frame)

    def with_search(self, search: SpeechSearch) -> "Recognizer":
        """The same model with another search."""
        found = copy(self)
        found.search = search
        return found

    def transcribe(
        self,
        recording: str | Path | NDArray[Any],
        sample_rate_hz: int | None = None,
        channel: int | str | None = None,
        voice_activity: VoiceActivity = "auto",
        phrases: Sequence[str] = (),
    ) -> Transcript:
        """Transcribes a recording; silence gives an empty transcript.

        `recording` is a file, or samples (S) or (S, channels) at `sample_rate_hz`, from 1 kHz to 1 MHz: floats in
        [-1, 1] or signed integers. `channel` is a number from 1, "left", "right" or "mix"; None: the mean, or one of
        channels that cancel each other. `phrases`, such as names, are preferred in this recording.

        Recordings longer than a window are cut at their longest silences, and silence is skipped, where voice activity
        detection is installed (`voice_activity` "auto"; "on": shorter ones, too); else, or with "off", they are cut
        into overlapping windows.

        Raises a UserError if the recording cannot be read, if `channel` is None and channels contain different
        speakers, if `voice_activity` is "on" and not installed, and for phrases that the model cannot spell.
        """
        model = self.with_search(self.search.with_phrases(phrases)) if phrases else self
        hearing = _Hearing(model, recording, sample_rate_hz, channel, voice_activity)
        for _ in hearing.batches():
            pass
        return hearing.transcript([])

    def pieces(
        self,
        recording: str | Path | NDArray[Any],
        sample_rate_hz: int | None = None,
        channel: int | str | None = None,
        voice_activity: VoiceActivity = "auto",
    ) -> Iterator[str | Transcript]:
        """The same piece by piece: parts of the text as soon as they are final, and the transcript last."""
        hearing = _Hearing(self, recording, sample_rate_hz, channel, voice_activity)
        parts, given = hearing.parts, ""
        done: list[list[Word]] = []  # the words of parts that no segment continues
        for end in hearing.batches():
            # What follows may overlap with the end of the last part, and go on with its last word.
            final = end // self.metadata.samples_per_frame - self._overlap_frames
            stable = self.words_of([each for each in parts[-1] if each.end <= final])[:-1]
            done += [self.words_of(part) for part in parts[len(done) : -1]]
            text = text_of(joined([*done, stable]))
            if news := text[len(given) :]:
                yield news
                given = text
        transcript = hearing.transcript(done)
        if news := transcript.text[len(given) :]:
            yield news
        yield transcript

    def align(
        self,
        recording: str | Path | NDArray[Any],
        text: str,
        sample_rate_hz: int | None = None,
        channel: int | str | None = None,
        **options: Any,
    ) -> "Aligned":
        """When the words of a known text are spoken; arguments as of `transcribe`, and `runtime.alignment.align`."""
        from segue.runtime import alignment  # imports this module

        return alignment.align(self, recording, text, sample_rate_hz, channel, **options)

    @staticmethod
    def rate_of(path: Path) -> int:
        """Sample rate of a recording."""
        return audio.properties(path).sample_rate_hz

    def evaluate(
        self,
        manifest: Path,
        skip_bad: bool = False,
        *,
        as_transcribed: bool = False,
        normalizer: Normalizer = "ours",
    ) -> dict[str, Any]:
        """Error rates on a manifest with confidence intervals, rates by speaker, and the number of bad examples.

        `as_transcribed` scores whole recordings (`data/recordings.py`) as transcribed by `transcribe`, and adds the
        rate of single utterances for comparison.
        """
        evaluated = self.evaluator.explain(
            manifest, skip_bad, has_media=False, as_transcribed=as_transcribed, normalizer=normalizer
        )
        return evaluated.as_json()

    @property
    def evaluator(self) -> "SpeechEvaluator":
        """An evaluator of this model."""
        from segue.runtime.speech_evaluation import SpeechEvaluator  # imports this module

        return SpeechEvaluator(self)

    def recognize(self, waveforms: Sequence[Samples]) -> tuple[list[str], list[NDArray[np.float32]]]:
        """Waveforms (S), not divided into windows -> their texts, and log-probabilities (T, V)."""
        found = self._recognized(waveforms)
        return [text_of(self.words_of(each.emissions)) for each in found], [each.scores for each in found]

    def recognize_words(self, waveforms: Sequence[Samples]) -> list[list[Word]]:
        """Waveforms (S), not divided into windows -> their words."""
        return [self.words_of(each.emissions) for each in self._recognized(waveforms)]

    def words_of(self, emissions: Sequence[Emission]) -> list[Word]:
        """The words of tokens that this model found, with calibrated confidences."""
        found, curve = words(emissions, self._pieces, self._seconds_per_frame), self.calibration
        return found if curve is None else [each._replace(confidence=curve.of(each.confidence)) for each in found]

    @property
    def lengths(self) -> Lengths:
        """Lengths of windows and segments, which start on output frames."""
        grid = self.metadata.samples_per_frame
        silence = LONGEST_SILENCE_SECONDS if self.metadata.normalization == "speech" else SILENCE_SECONDS
        return Lengths(
            self._window_frames * grid,
            self._overlap_frames * grid,
            grid,
            round(silence * self.metadata.sample_rate_hz),
        )

    def segments(self, blocks: Iterable[Samples], voice_activity: VoiceActivity) -> Iterator[Segment]:
        """What of a recording is recognized at once, as `transcribe` says."""
        from segue.runtime import voice_activity as detector  # imports this module, for its session

        lengths = self.lengths
        if voice_activity == "on":
            return detector.speech(blocks, self.metadata.sample_rate_hz, lengths)
        if voice_activity == "off" or not detector.is_available():
            return windows(blocks, lengths)
        following = iter(blocks)
        first: list[Samples] = []
        while sum(map(len, first)) <= lengths.longest and (block := next(following, None)) is not None:
            first.append(block)
        if sum(map(len, first)) <= lengths.longest:
            return windows(first, lengths)
        return detector.speech(chain(first, following), self.metadata.sample_rate_hz, lengths)

    def recognize_segments(self, segments: Sequence[Segment], parts: list[list[Emission]]) -> None:
        """Adds the tokens of consecutive segments to `parts`, which have silence between them; frames count from the
        start of the recording. A segment that continues the one before it is merged with it."""
        found = self._recognized([segment.samples for segment in segments])
        for segment, each in zip(segments, found, strict=True):
            first = segment.start // self.metadata.samples_per_frame
            emissions = [emission.later(first) for emission in each.emissions]
            if segment.continues:
                parts[-1] = merge([parts[-1], emissions], [(first, first + self._overlap_frames)])
            else:
                parts.append(emissions)

    def _recognized(self, waveforms: Sequence[Samples]) -> list[Recognized]:
        """The result of each waveform; empty for digital silence, which does not occur in training data, so that the
        model's output would be arbitrary."""
        found = iter(self.backend.recognize(sounding) if (sounding := [w for w in waveforms if w.any()]) else [])
        nothing = Recognized([], np.zeros((0, len(self._pieces) + 1), np.float32))
        results = [next(found) if waveform.any() else nothing for waveform in waveforms]
        if not self.search.is_greedy:  # else the backend's own
            results = [each._replace(emissions=self.search.emissions(each.scores)) for each in results]
        return [
            each._replace(emissions=self.parted(each.emissions, waveform))
            for each, waveform in zip(results, waveforms, strict=True)
        ]

    def parted(self, emissions: Sequence[Emission], waveform: Samples) -> list[Emission]:
        """The tokens of a waveform (S); those with silence before them say so: models may output no space there."""
        frame, rate = self.metadata.samples_per_frame, self.metadata.sample_rate_hz
        if not has_gap(emissions, self._pieces, frame, rate):
            return list(emissions)
        return after_silence(emissions, self._pieces, levels(waveform, rate), frame, rate)


class _Hearing:
    """A recording that a model recognizes, batch by batch."""

    def __init__(
        self,
        model: Recognizer,
        recording: str | Path | NDArray[Any],
        sample_rate_hz: int | None,
        channel: int | str | None,
        voice_activity: VoiceActivity,
    ) -> None:
        if voice_activity not in get_args(VoiceActivity):
            raise UserError(f"voice_activity: auto, on or off wanted, got {voice_activity!r}")
        self._model = model
        self._name, blocks = reading.opened(recording, model.metadata.sample_rate_hz, sample_rate_hz, channel)
        self._counted = _Counted(blocks)
        self._segments = model.segments(self._counted, voice_activity)
        self.parts: list[list[Emission]] = []
        """Tokens of what has silence around it; a segment may continue the last one."""

    def batches(self) -> Iterator[int]:
        """Recognizes a batch of segments after the other, and yields where each ends, in samples."""
        while batch := list(islice(self._segments, self._model.BATCH)):
            self._model.recognize_segments(batch, self.parts)
            yield batch[-1].start + len(batch[-1].samples)

    def transcript(self, done: Sequence[Sequence[Word]]) -> Transcript:
        """The transcript, after all batches; `done` are the words of the first parts, where they are known."""
        duration = self._counted.num_samples / self._model.metadata.sample_rate_hz
        found = joined([*done, *(self._model.words_of(part) for part in self.parts[len(done) :])])
        found = [word._replace(start=min(word.start, duration), end=min(word.end, duration)) for word in found]
        if not found:
            why = "there is no speech that the model knows"
            if not self.parts:
                why = "no speech found (--voice-activity off recognizes all)"
            warn(f"{self._name or 'samples'}: nothing was recognized: {why}")
        return Transcript(self._name, duration, text_of(found), found)
