"""When is each word of a known text spoken? Forced alignment of recordings of any length.

Scores are relative: how probable the text's path is beside the model's own best path, per token, from 0 to 1. A text
that is what the model hears has 1; in noise, where the model is sure of nothing, it may still be near 1.

Shape letters: S samples, T frames, V vocabulary (blank included, last), C columns, U tokens of the text.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data import reading
from segue.data.audio import Samples
from segue.decoding import alignment
from segue.errors import UserError, count_of, warn
from segue.runtime import json_line
from segue.runtime.recognizer import Recognizer
from segue.runtime.scores import scored
from segue.runtime.spelling import Spelling, Written, divided
from segue.runtime.word_times import Levels, spans

LEAST_SCORE = 0.1
"""A text with a lower score does not belong to the recording."""
STAR_NATS = 5.0
"""Nats a second by which what the model cannot spell is less probable than what it hears there."""
LEAST_LOG_PROB = -30.0
"""A token is never less probable in a frame: one wrong frame must not decide where a sentence is."""
LEVELS_A_SECOND = 100
MUCH_MORE, LEAST_MORE = 0.1, 20
"""Share of the text's tokens that may be heard between its sentences without a warning, and their least number."""


class AlignedWord(NamedTuple):
    """A word as it is written in the text, and when it is spoken, in seconds from the start of the file."""

    word: str
    start: float
    end: float
    score: float | None
    """From 0 to 1; None if the model cannot spell it, and it is placed by its neighbors."""
    follows_space: bool = True
    speaker: str | None = None


class AlignedSentence(NamedTuple):
    """A sentence, or a line of a text without punctuation."""

    text: str
    start: float
    end: float
    score: float
    words: range
    """Indices of its words."""


@dataclass(frozen=True)
class Aligned:
    """A recording with the times of its text."""

    audio: str
    duration: float
    """Duration in seconds."""
    score: float
    """From 0 to 1."""
    words: list[AlignedWord]
    sentences: list[AlignedSentence]
    spoken: "Spoken"
    """Scores of any stretch of words."""
    start: float = 0.0
    """Where the sound begins in its file, in seconds."""

    @property
    def end(self) -> float:
        """Where it ends in its file."""
        return self.start + self.duration

    @property
    def text(self) -> str:
        """The text as written, one sentence a line."""
        return "\n".join(sentence.text for sentence in self.sentences)

    def as_json(self) -> dict[str, Any]:
        """Values for JSON; times in seconds."""
        return {
            "audio": self.audio,
            "duration": round(self.duration, 3),
            "score": round(self.score, 4),
            "text": self.text,
            "sentences": [
                {"text": each.text, **_times(each.start, each.end), "score": round(each.score, 4)}
                for each in self.sentences
            ],
            "words": [
                {
                    "word": each.word,
                    **_times(each.start, each.end),
                    "score": None if each.score is None else round(each.score, 4),
                }
                for each in self.words
            ],
        }

    def json(self) -> str:
        """One line of JSON."""
        return json_line.written(self.as_json(), self.audio)


class Spoken:
    """The path of a text through a recording: its scores, and how much of the speech it leaves out."""

    def __init__(self, found: alignment.Alignment, best: NDArray[np.float32], owners: NDArray[np.int64]) -> None:
        """`best` (T) are the log-probabilities of the model's own best path; `owners` (U) the word of each token, or
        -1 for spaces."""
        numbers = np.flatnonzero(owners >= 0)
        _, firsts, self._counts = np.unique(owners[numbers], return_index=True, return_counts=True)
        lasts = firsts + self._counts - 1
        self._starts, self._ends = found.starts[numbers[firsts]], found.ends[numbers[lasts]]
        self._losses = np.concatenate([[0.0], np.cumsum(found.log_probs.astype(np.float64) - best)])

    def frames(self, word: int) -> tuple[int, int]:
        """First frame of a word, and the frame after its last."""
        return int(self._starts[word]), int(self._ends[word])

    def score(self, first: int, end: int) -> float:
        """The score of the words range(first, end), with all that is said between them."""
        nats, count = self.nats(first, end)
        return math.exp(min(0.0, nats / count))

    def nats(self, first: int, end: int) -> tuple[float, int]:
        """Words range(first, end): log-probability relative to the model's own best path, number of tokens."""
        nats = self._losses[self._ends[end - 1]] - self._losses[self._starts[first]]
        return float(nats), int(self._counts[first:end].sum())


class _Listener:
    """Power of the sound, LEVELS_A_SECOND times a second."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate = sample_rate_hz
        self._power: list[NDArray[np.float32]] = []
        self.num_samples = 0

    def of(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """The blocks themselves, listened to on their way."""
        rest = np.zeros(0, np.float32)
        for block in blocks:
            yield block
            self.num_samples += len(block)
            joined = np.concatenate([rest, block])
            size = self._rate // LEVELS_A_SECOND
            count = len(joined) // size
            self._power.append(np.square(joined[: count * size].reshape(count, size)).mean(axis=1))
            rest = joined[count * size :]

    def found(self) -> Levels:
        """Levels; at least -100 dB."""
        power = np.concatenate(self._power) if self._power else np.zeros(0, np.float32)
        decibels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, np.float32(1e-10)))
        return Levels(decibels, self._rate // LEVELS_A_SECOND / self._rate)


class _Plan(NamedTuple):
    """A text in columns of scores: the blank is column 0, spaces 1, anything 2 (what the model cannot spell)."""

    words: list[Written]
    sentences: list[range]
    columns: NDArray[np.int64]
    """(U)"""
    owners: NDArray[np.int64]
    """(U) index of the word, -1 for spaces."""
    gaps: NDArray[np.bool_]
    """(U + 1) where a sentence begins or ends."""
    used: NDArray[np.int64]
    """Tokens of the columns from 3 on."""
    space: int | None
    unknown: list[int]
    """Words that the model cannot spell."""


def align(
    model: Recognizer,
    recording: str | Path | NDArray[Any],
    text: str,
    sample_rate_hz: int | None = None,
    channel: int | str | None = None,
    *,
    language: str | None = None,
    least_score: float = LEAST_SCORE,
    offset_seconds: float = 0.0,
) -> Aligned:
    """The times of the words of `text` in a recording, which is given as for `Recognizer.transcribe`.

    `offset_seconds` is added to all times. Raises a UserError if the text cannot be said in this time, or does not
    belong to the recording: its score is below `least_score`.
    """
    metadata = model.metadata
    name, blocks = reading.opened(recording, metadata.sample_rate_hz, sample_rate_hz, channel)
    shown = name or "the recording"
    plan = _planned(text, model, language, shown)
    listener = _Listener(metadata.sample_rate_hz)
    # One block of memory that grows: arrays put together at the end would be there twice.
    columns = bytearray()
    best: list[NDArray[np.float32]] = []
    heard: list[NDArray[np.bool_]] = []
    seconds_per_frame = metadata.samples_per_frame / metadata.sample_rate_hz
    for scores in scored(model, listener.of(blocks)):
        best.append(scores.max(axis=1))
        heard.append(scores[:, -1] < best[-1])
        columns += _in_columns(scores, best[-1], plan, STAR_NATS * seconds_per_frame).tobytes()
    duration = listener.num_samples / metadata.sample_rate_hz
    num_frames = sum(map(len, best))
    needed = alignment.frames_needed(plan.columns)
    if needed > num_frames:
        raise UserError(
            f"{shown}: the text needs {needed * seconds_per_frame:.1f} s or more, and there are {duration:.1f} s: it "
            f"does not belong to this sound: {_start_of(text)!r}"
        )
    # (T, C) of an hour of frames of 20 ms with 30 columns are 11 MB.
    matrix = np.frombuffer(columns, np.float16).reshape(num_frames, -1)
    joined = np.concatenate(best)
    found = _found(plan, alignment.align(matrix, plan.columns, 0, gaps=plan.gaps, anything=2), joined)
    if found[0] < least_score and len(plan.columns) > alignment.WIDTH:
        size = len(plan.columns)
        whole = alignment.align(matrix, plan.columns, 0, gaps=plan.gaps, anything=2, width=size, beam=math.inf)
        found = _found(plan, whole, joined)
    score, spoken = found
    words = _timed(plan, spoken, listener.found(), seconds_per_frame, duration, offset_seconds)
    sentences = [
        AlignedSentence(
            "".join(" " * word.follows_space + word.word for word in words[each.start : each.stop]).strip(),
            words[each.start].start,
            words[each.stop - 1].end,
            spoken.score(each.start, each.stop),
            each,
        )
        for each in plan.sentences
    ]
    if not score >= least_score:
        worst = min(sentences, key=lambda each: each.score)
        raise UserError(
            f"{shown}: the text does not belong to this recording: score {score:.2f}, {least_score:g} "
            f"or more is wanted; the worst is at {worst.start:.1f} s: {_start_of(worst.text)!r}, {worst.score:.2f}"
        )
    _warn_of_more(shown, plan, spoken, np.concatenate(heard), seconds_per_frame, offset_seconds)
    _warn_of(shown, [each for each in sentences if each.score < least_score], [words[each] for each in plan.unknown])
    return Aligned(name, duration, score, words, sentences, spoken, offset_seconds)


def _planned(text: str, model: Recognizer, language: str | None, shown: str) -> _Plan:
    """Raises a UserError if the model can spell none of the words."""
    spelling = Spelling(model.metadata.pieces)
    words: list[Written] = []
    ranges: list[range] = []
    for sentence in divided(text, model.metadata.text, language):
        ranges.append(range(len(words), len(words) + len(sentence)))
        words += sentence
    if not words:
        raise UserError(f"{shown}: its text has no words: {_start_of(text)!r}")
    spelled = [spelling.tokens(word.said, word.follows_space) for word in words]
    unknown = [number for number, tokens in enumerate(spelled) if tokens is None]
    if len(unknown) == len(words):
        raise UserError(f"{shown}: the model cannot spell any word of the text: {_start_of(text)!r}")
    used = sorted({token for tokens in spelled for token in tokens or () if token != spelling.space})
    column_of = {token: 3 + number for number, token in enumerate(used)}
    if spelling.space is not None:
        column_of[spelling.space] = 1
    columns: list[int] = []
    owners: list[int] = []
    for number, (word, tokens) in enumerate(zip(words, spelled, strict=True)):
        if tokens is None:
            tokens = [] if spelling.space is None or not word.follows_space else [spelling.space]
            own = [*(column_of[token] for token in tokens), 2]
        else:
            own = [column_of[token] for token in tokens]
        if not columns and own[0] == 1:
            del own[0]
        columns += own
        owners += [-1 if column == 1 else number for column in own]
    firsts = {each.start for each in ranges}
    of_word = np.array(owners)
    begins = np.array([owner in firsts and owner != before for before, owner in pairwise([-2, *owners])])
    gaps = np.concatenate([begins, [True]])
    gaps[:-1] |= (of_word < 0) & gaps[1:]  # before and after the space
    return _Plan(words, ranges, np.array(columns), of_word, gaps, np.array(used, np.int64), spelling.space, unknown)


def _in_columns(
    scores: NDArray[np.float32], best: NDArray[np.float32], plan: _Plan, star_nats: float
) -> NDArray[np.float16]:
    """(T, V) -> (T, C). A space may also be silent: after a pause, models do not always write one."""
    found = np.empty((len(scores), 3 + len(plan.used)), np.float16)
    found[:, 0] = scores[:, -1]
    found[:, 1] = scores[:, -1] if plan.space is None else np.maximum(scores[:, -1], scores[:, plan.space])
    found[:, 2] = np.maximum(scores[:, -1], best - star_nats)
    found[:, 3:] = scores[:, plan.used]
    return np.maximum(found, np.float16(LEAST_LOG_PROB))


def _found(plan: _Plan, found: alignment.Alignment, best: NDArray[np.float32]) -> tuple[float, Spoken]:
    """The score of the text: of its sentences, but not of what is said between them."""
    spoken = Spoken(found, best, plan.owners)
    nats, counts = zip(*(spoken.nats(each.start, each.stop) for each in plan.sentences), strict=True)
    return math.exp(sum(nats) / sum(counts)), spoken


def _timed(
    plan: _Plan, spoken: Spoken, levels: Levels, seconds_per_frame: float, duration: float, offset_seconds: float
) -> list[AlignedWord]:
    """Words with times in seconds of the file."""
    frames = [spoken.frames(number) for number in range(len(plan.words))]
    emitted = [(start * seconds_per_frame, min(end * seconds_per_frame, duration)) for start, end in frames]
    times = spans(emitted, levels, duration)
    unknown = set(plan.unknown)
    return [
        AlignedWord(
            word.word,
            offset_seconds + start,
            offset_seconds + end,
            None if number in unknown else spoken.score(number, number + 1),
            word.follows_space,
        )
        for number, (word, (start, end)) in enumerate(zip(plan.words, times, strict=True))
    ]


def _warn_of(shown: str, wrong: Sequence[AlignedSentence], unknown: Sequence[AlignedWord]) -> None:
    """Warns of what is badly placed."""
    if unknown:
        words = ", ".join(dict.fromkeys(each.word for each in unknown))
        what = count_of(len(unknown), "word that the model cannot spell is", "words that the model cannot spell are")
        warn(f"{shown}: {what} placed between the neighbors (write what is said instead): {_start_of(words)}")
    if wrong:
        some = "; ".join(f"{each.start:.1f} s {_start_of(each.text)!r}, {each.score:.2f}" for each in wrong[:3])
        warn(
            f"{shown}: {count_of(len(wrong), 'sentence does', 'sentences do')} not sound like the text (score): {some}"
        )


def _warn_of_more(
    shown: str,
    plan: _Plan,
    spoken: Spoken,
    heard: NDArray[np.bool_],
    seconds_per_frame: float,
    offset_seconds: float,
) -> None:
    """Warns if much is said that is not in the text; `heard` (T) is whether the model hears a token."""
    for sentence in plan.sentences:
        heard[spoken.frames(sentence.start)[0] : spoken.frames(sentence.stop - 1)[1]] = False
    starts = np.flatnonzero(np.diff(np.concatenate([[False], heard]).astype(np.int8)) == 1)
    if len(starts) > max(LEAST_MORE, MUCH_MORE * len(plan.columns)):
        warn(
            f"{shown}: much is said between the sentences that is not in the text: {len(starts)} tokens, where the "
            f"text has {len(plan.columns)}; first at {offset_seconds + starts[0] * seconds_per_frame:.1f} s"
        )


def _start_of(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _times(start: float, end: float) -> dict[str, float]:
    return {"start": round(start, 3), "end": round(end, 3)}
