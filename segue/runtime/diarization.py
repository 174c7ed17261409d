"""Who speaks when? Parts of speech, their voices as vectors, clusters of these, a smooth sequence.

Shape letters: S samples, N parts, D dimensions, K speakers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data import reading
from segue.data.audio import Samples
from segue.data.turns import Turn, rttm
from segue.errors import UserError, count_of, warn
from segue.runtime import clustering, json_line, voice_activity
from segue.runtime.speaker_embedder import Embedder

PART_SECONDS, STEP_SECONDS = 1.5, 0.75
"""Length of the parts whose voices are compared, and the largest distance of their starts."""
CLEAR_SECONDS = 0.7
"""Shorter parts say too little about a voice to be clustered."""
BATCH = 8
"""Parts that are embedded at once: with 32, memory grew by 18 MB more, and no time was saved."""
SWITCH_SECONDS, PAUSE_SWITCH_SECONDS = 0.3, 0.1
"""What a change of the speaker costs in speech, and after a pause: so many seconds of a voice that is nearer to another
speaker by the model's threshold."""
PAD_SECONDS = 0.05
"""Speech is so much longer at both ends than detectors of voice activity say."""
BRIDGED_SECONDS = 0.5
"""A shorter pause is a part of a speaker's turn."""
MOST_ASKED = 50
"""Largest number of speakers that can be asked for."""


@dataclass(frozen=True)
class Diarization:
    """Who speaks when in a recording."""

    audio: str
    duration: float
    """Seconds."""
    turns: list[Turn]
    """One after the other; speakers are named in the order of their first turns."""

    @property
    def speakers(self) -> list[str]:
        """In the order of their first turns."""
        return list(dict.fromkeys(turn.speaker for turn in self.turns))

    def written(self, form: Literal["text", "json", "rttm"]) -> str:
        """The turns in a format; JSON is one line."""
        if form == "rttm":
            return rttm(self.turns, Path(self.audio).stem or "recording").rstrip("\n")
        if form == "text":
            return "\n".join(f"{turn.start:9.2f} {turn.end:9.2f}  {turn.speaker}" for turn in self.turns)
        turns = [
            {"start": round(start, 3), "end": round(end, 3), "speaker": speaker} for start, end, speaker in self.turns
        ]
        said = {"audio": self.audio, "duration": round(self.duration, 3), "turns": turns}
        return json_line.written(said, self.audio)


class Part(NamedTuple):
    """A stretch of speech of one speaker, as far as is known."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    follows_pause: bool
    vector: NDArray[np.float32]
    """(D) the voice, heard in a longer stretch around it."""


def diarize(
    embedder: Embedder,
    recording: str | Path | NDArray[Any],
    sample_rate_hz: int | None = None,
    channel: int | str | None = None,
    *,
    speakers: int | None = None,
    names: Sequence[str] = (),
) -> Diarization:
    """Who speaks when: `speakers` voices, or as many as are found. Where several speak, one of them is named.

    `recording`, `sample_rate_hz` and `channel` as for `reading.opened`. `names` are for the speakers in the order of
    their first turns; others are "Speaker 3". Raises a UserError if the recording cannot be read, and without the
    extra for voice activity.
    """
    if speakers is not None and not 1 <= speakers <= MOST_ASKED:
        raise UserError(f"speakers: a number from 1 to {MOST_ASKED} wanted, got {speakers}")
    name, blocks = reading.opened(recording, embedder.sample_rate_hz, sample_rate_hz, channel)
    duration, parts = parts_of(embedder, blocks)
    found = turns(parts, duration, embedder.threshold, speakers, name or "samples")
    return Diarization(name, duration, named(found, names, name or "samples"))


def parts_of(embedder: Embedder, blocks: Iterable[Samples]) -> tuple[float, list[Part]]:
    """The duration of a recording (S), block by block, in seconds; and all parts of its speech, in order."""
    kept = _Recent(blocks)
    parts = list(_parts(kept, embedder))
    return kept.num_samples / embedder.sample_rate_hz, parts


def named(turns: Sequence[Turn], names: Sequence[str], where: str) -> list[Turn]:
    """The turns with names for their speakers, in the order of first turns. Warns if there are more or fewer names."""
    found = list(dict.fromkeys(turn.speaker for turn in turns))
    if names and len(names) != len(found):
        said = count_of(len(found), "speaker was found", "speakers were found")
        given = count_of(len(names), "name is given", "names are given")
        warn(f"{where}: {said}, but {given}: {', '.join(names)}")
    all_names = {
        speaker: names[number] if number < len(names) else f"Speaker {number + 1}"
        for number, speaker in enumerate(found)
    }
    return [turn._replace(speaker=all_names[turn.speaker]) for turn in turns]


class _Recent:
    """The blocks of a recording; samples that may still be needed are kept."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = iter(blocks)
        self.num_samples = 0
        """Samples so far."""
        self._kept = np.zeros(0, np.float32)

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self._kept = np.concatenate([self._kept, block])
            self.num_samples += len(block)
            yield block

    def between(self, start: int, end: int) -> Samples:
        """Samples `start` to `end` of the recording."""
        first = self.num_samples - len(self._kept)
        return self._kept[max(0, start - first) : max(0, end - first)]

    def forget(self, end: int) -> None:
        """Samples before `end` are not needed any more."""
        first = self.num_samples - len(self._kept)
        self._kept = self._kept[max(0, end - first) :]


def _parts(recent: _Recent, embedder: Embedder) -> Iterator[Part]:
    """The parts of all speech, in order."""
    rate = embedder.sample_rate_hz
    pending: list[tuple[float, float, bool]] = []
    sounds: list[Samples] = []

    def embedded() -> Iterator[Part]:
        for (start, end, follows), vector in zip(pending, embedder.embed(sounds) if sounds else [], strict=True):
            yield Part(start, end, follows, vector)
        pending.clear()
        sounds.clear()

    def forget(seconds: float) -> None:
        recent.forget(round(seconds * rate))

    for start, end in voice_activity.regions(recent, rate, forget):
        length = end - start
        count = 1 + max(0, int(np.ceil((length - PART_SECONDS) / STEP_SECONDS - 1e-6)))
        size = min(length, PART_SECONDS)
        starts = np.linspace(start, end - size, count) if count > 1 else np.array([start])
        middles = starts + size / 2
        edges = [start, *((middles[1:] + middles[:-1]) / 2).tolist(), end]
        for number in range(count):
            sound = recent.between(round(starts[number] * rate), round((starts[number] + size) * rate))
            if len(sound):
                pending.append((edges[number], edges[number + 1], number == 0))
                sounds.append(sound)
            if len(pending) == BATCH:
                yield from embedded()
        forget(end)
    yield from embedded()


def turns(parts: Sequence[Part], duration: float, threshold: float, count: int | None, where: str) -> list[Turn]:
    """Turns of numbered speakers, `count` of them or as many as are found; `where` is for warnings."""
    parts = _finite(parts, where)
    if not parts:
        return []
    vectors = np.stack([part.vector for part in parts])
    seconds = np.array([part.end - part.start for part in parts])
    is_clear = seconds >= min(CLEAR_SECONDS, float(np.median(seconds)))
    labels = clustering.clusters(vectors[is_clear], seconds[is_clear], threshold, count)
    found = int(labels.max()) + 1
    means = clustering.centers(vectors[is_clear], labels, np.ones(len(labels), bool), found)
    if count is not None and found < count:
        warn(f"{where}: {count} speakers asked for, but there is too little speech to tell apart more than {found}")
    elif count is not None and found > 1:
        _warn_of_likeness(vectors[is_clear], labels, found, threshold, where)
    path = smoothed(parts, means, threshold)
    spoken: list[Turn] = []
    for part, speaker in zip(parts, path, strict=True):
        start, end, name = max(0.0, part.start - PAD_SECONDS * part.follows_pause), part.end, str(speaker)
        if spoken and part.follows_pause:
            before = spoken[-1]
            if before.speaker == name and part.start - before.end <= BRIDGED_SECONDS:
                start = before.end
            else:  # padded at most to the middle of the pause
                middle = (before.end + part.start) / 2
                spoken[-1] = before._replace(end=min(before.end + PAD_SECONDS, middle))
                start = max(start, middle)
        if spoken and spoken[-1].speaker == name and spoken[-1].end == start:
            spoken[-1] = spoken[-1]._replace(end=end)
        else:
            spoken.append(Turn(start, end, name))
    return [*spoken[:-1], spoken[-1]._replace(end=min(spoken[-1].end + PAD_SECONDS, duration))]


def _finite(parts: Sequence[Part], where: str) -> Sequence[Part]:
    """The parts whose vectors are numbers. Warns of others, which no clustering could place; raises a UserError if all
    parts are such."""
    found = [part for part in parts if np.isfinite(part.vector).all()]
    if parts and not found:
        raise UserError(f"{where}: the model of voices gives no numbers (NaN) for any speech; take another one")
    if len(found) < len(parts):
        left = f"{len(parts) - len(found)} of {count_of(len(parts), 'part')} of the speech"
        warn(f"{where}: left out: {left}, for which the model of voices gives no numbers (NaN)")
    return found


def _warn_of_likeness(
    vectors: NDArray[np.float32], labels: NDArray[np.intp], count: int, threshold: float, where: str
) -> None:
    """Warns if voices that count as different are as alike as one voice is to itself."""
    sums = np.stack([vectors[labels == number].mean(axis=0) for number in range(count)])
    distances = 1 - sums @ sums.T  # mean cosine distances of the pairs
    if (distances[np.triu_indices(count, 1)] <= threshold).any():
        warn(
            f"{where}: {count} speakers asked for, but some of the voices are as alike as one is to itself: one "
            "may have been divided; if so, ask for fewer, or let --speakers auto count them"
        )


def smoothed(parts: Sequence[Part], means: NDArray[np.floating], threshold: float) -> list[int]:
    """The speaker of each part, by (K, D) centers: the best path, on which changes cost something (Viterbi)."""
    similarities = np.stack([part.vector for part in parts]) @ means.T / max(threshold, 1e-3)  # (N, K)
    seconds = np.array([part.end - part.start for part in parts])
    gains = similarities * seconds[:, None]
    best, back = gains[0], np.zeros(gains.shape, np.intp)
    for number in range(1, len(parts)):
        cost = PAUSE_SWITCH_SECONDS if parts[number].follows_pause else SWITCH_SECONDS
        source = int(best.argmax())
        stays = best >= best[source] - cost
        back[number] = np.where(stays, np.arange(len(best)), source)
        best = np.where(stays, best, best[source] - cost) + gains[number]
    path = [int(best.argmax())]
    for number in range(len(parts) - 1, 0, -1):
        path.append(int(back[number, path[-1]]))
    return path[::-1]
