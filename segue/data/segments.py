"""Where is a long recording cut for recognition? In silences, which are left out; in overlapping windows without them.

Where speech is, a voice activity detector says (`runtime/voice_activity.py`), frame by frame. All of this works on
streams: memory does not grow with the recording.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data.audio import Samples

ON, OFF = 0.5, 0.35
"""Speech begins at a frame with this probability, and lasts until one with less than the other: silero's defaults."""
LOW_ON, LOW_OFF = 0.2, 0.15
"""The same for recognition: a short word that is missed is worse than silence that is heard (bench/RESULTS.md)."""
PAUSE_SECONDS = 0.2
"""A shorter silence is a part of speech, as that of a stop consonant; a longer one may be cut."""
SHORTEST_SECONDS = 0.1
"""Shorter sounds, with silence around them, are not speech. Of a single "two" detectors hear little more than 0.1 s."""
SILENCE_SECONDS = 0.5
"""Speech with a longer silence inside is two segments for models that normalize over all of a segment (`Lengths`)."""
LONGEST_SILENCE_SECONDS = 5.0
"""The same for models to which silence makes no difference. They hear better with more speech to normalize over."""
LIKE_DB = 4.0
"""Speech after more than SILENCE_SECONDS is in the same segment only if its level differs by less from all levels
there: models normalize a segment as a whole, so that a quiet speaker beside a loud one is hardly heard. Of digits of
several people (FSDD), 2.0 % were wrong with 4 dB, 3.7 % with 8 dB, 14 % with any level (bench/RESULTS.md)."""
PAD_SECONDS = 0.3
"""So much silence before and after speech stays: quiet first and last sounds lie there."""
EARLY_SECONDS, LATE_SECONDS = 0.3, 0.2
"""Speech begins at most so much before the first frame of a detector, and ends so much after the last: detectors are
late."""
INSIDE_SECONDS = 0.5
"""It begins at most so much later, and ends so much earlier: what is quiet for longer may be another, quieter voice."""
LEVELS_A_SECOND = 100
BELOW_LOUD_DB, ABOVE_NOISE_DB, LEAST_BELOW_LOUD_DB = 30.0, 4.0, 6.0
"""Silence is so far below the level of speech, or less far above the noise around it. Where the noise is nearer to the
speech than LEAST_BELOW_LOUD_DB, levels do not tell where speech begins."""
AROUND_SECONDS = 2.0
"""So much around speech tells the level of the noise."""
NEAR_SECONDS = 0.1
"""So near to a token is speech: models may emit it anywhere in its sound."""
NOISE_QUANTILE, LOUD_QUANTILE = 0.1, 0.9
"""The levels of noise and of speech are these quantiles."""

Levels = NDArray[np.float32]
"""LEVELS_A_SECOND levels, in dB relative to full scale."""


class Region(NamedTuple):
    """Speech without a pause; in seconds, or in samples, as said."""

    start: float
    end: float


class Segment(NamedTuple):
    """A part of a recording that is recognized at once."""

    start: int
    """Its first sample in the recording."""
    samples: Samples
    continues: bool
    """Whether it begins with the end of the segment before it, since there was no silence to cut in."""


class Lengths(NamedTuple):
    """How long segments are, in samples."""

    longest: int
    overlap: int
    """Of windows, where there is no silence."""
    grid: int
    """Segments start at multiples of this; the two above are multiples, too."""
    silence: int
    """Longest silence inside a segment."""


class Frames(NamedTuple):
    """Consecutive samples, and the probabilities of speech in frames that end in them."""

    samples: Samples
    probabilities: NDArray[np.float32]


def windows(blocks: Iterable[Samples], lengths: Lengths) -> Iterator[Segment]:
    """A recording (S), block by block, in overlapping windows; only the last one may be shorter."""
    pending, start = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        # Not >=: the last window must not be completely contained in the one before it.
        while len(pending) > lengths.longest:
            yield Segment(start, pending[: lengths.longest], start > 0)
            pending = pending[lengths.longest - lengths.overlap :]
            start += lengths.longest - lengths.overlap
    yield Segment(start, pending, start > 0)


def regions(
    probabilities: Iterable[NDArray[np.float32]], frame_seconds: float, is_silent: Callable[[float], None] | None = None
) -> Iterator[Region]:
    """Speech in a recording, in seconds: with pauses below PAUSE_SECONDS, but without padding.

    `is_silent` is called with a time before which no further speech begins.
    """
    hysteresis = _Hysteresis(ON, OFF, round(PAUSE_SECONDS / frame_seconds))
    for values in probabilities:
        for value in values.tolist():
            if (run := hysteresis.add(value)) is not None:
                yield Region(run[0] * frame_seconds, run[1] * frame_seconds)
        if is_silent is not None and hysteresis.start is None:
            is_silent(hysteresis.frame * frame_seconds)
    if (run := hysteresis.end()) is not None:
        yield Region(run[0] * frame_seconds, run[1] * frame_seconds)


def speech(stream: Iterable[Frames], frame_samples: float, rate_hz: int, lengths: Lengths) -> Iterator[Segment]:
    """The speech in a recording, cut at its longest silences into segments of at most `lengths.longest`.

    A frame of the detector has `frame_samples` samples. Speech that is longer, without a pause, becomes overlapping
    windows.
    """
    cutter = _Cutter(frame_samples, rate_hz, lengths)
    hysteresis = _Hysteresis(LOW_ON, LOW_OFF, round(PAUSE_SECONDS * rate_hz / frame_samples))
    for samples, probabilities in stream:
        cutter.hold(samples)
        for value in probabilities.tolist():
            run = hysteresis.add(value)
            yield from cutter.advance(hysteresis.frame, hysteresis.start, run)
        cutter.release(hysteresis.frame if hysteresis.start is None else hysteresis.start)
    yield from cutter.finish(hysteresis.frame, hysteresis.end())


def levels(samples: Samples, rate_hz: int) -> Levels:
    """The levels of a recording (S), for `silences`."""
    return _decibels(samples, _level_size(rate_hz))


def silences(decibels: Levels, rate_hz: int, said: Sequence[Region]) -> list[Region]:
    """The silence of at least PAUSE_SECONDS in speech, by the `levels` of a recording alone; none in loud noise.

    `said` is when tokens were said, in samples, as the result: near them is speech, however much silence is between
    them, and what is before and after them has no part in it.
    """
    size = _level_size(rate_hz)
    # Whole levels, in numbers of them from the start of the recording.
    first, last = int(said[0].start) // size, -(-int(said[-1].end) // size)
    near = round(NEAR_SECONDS * rate_hz / size)
    is_near = np.zeros(len(decibels), bool)
    for start, end in said:
        is_near[max(int(start) // size - near, 0) : -(-int(end) // size) + near] = True
    inside = decibels[first:last]
    if not len(inside):
        return []
    noise, level = np.quantile(inside, NOISE_QUANTILE), np.quantile(decibels[is_near], LOUD_QUANTILE)
    is_silent = np.concatenate([[False], inside <= _silence(float(noise), float(level)), [False]])
    edges = (first + np.flatnonzero(np.diff(is_silent.astype(np.int8)))) * size
    return [
        Region(start, end)
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        if end - start >= PAUSE_SECONDS * rate_hz
    ]


def _level_size(rate_hz: int) -> int:
    """Samples of a level."""
    return max(1, rate_hz // LEVELS_A_SECOND)


def _decibels(samples: Samples, size: int) -> Levels:
    """(S) samples -> the level of each whole `size` of them, relative to full scale."""
    count = len(samples) // size
    power = np.square(samples[: count * size].reshape(count, size)).mean(axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, np.float32(1e-10))), np.float32)


def _silence(noise: float, level: float) -> float:
    """The level up to which there is silence beside speech of `level`; -inf if the noise is too loud to say."""
    if noise + ABOVE_NOISE_DB > level - LEAST_BELOW_LOUD_DB:
        return -np.inf
    return max(noise + ABOVE_NOISE_DB, level - BELOW_LOUD_DB)


class _Hysteresis:
    """Turns probabilities into runs of speech, in frames."""

    def __init__(self, on: float, off: float, pause_frames: int) -> None:
        self._on, self._off, self._pause_frames = on, off, pause_frames
        self.frame = 0
        """Number of frames so far."""
        self.start: int | None = None
        """First frame of speech that has not ended."""
        self._last = 0

    def add(self, probability: float) -> tuple[int, int] | None:
        """Adds a frame; returns speech that is now known to have ended."""
        self.frame += 1
        if probability >= (self._on if self.start is None else self._off):
            self.start = self.frame - 1 if self.start is None else self.start
            self._last = self.frame
        elif self.start is not None and self.frame - self._last >= self._pause_frames:
            return self.end()
        return None

    def end(self) -> tuple[int, int] | None:
        """Ends the speech that has not ended."""
        run = None if self.start is None else (self.start, self._last)
        self.start = None
        return run


class _Run(NamedTuple):
    """Speech without a pause, in samples."""

    start: int
    end: int
    level: float
    """dB relative to full scale."""


class _Levels:
    """The level of a recording, LEVELS_A_SECOND times a second: where speech begins and ends, and how loud it is."""

    def __init__(self, rate_hz: int) -> None:
        self._size = _level_size(rate_hz)
        self._rest = np.zeros(0, np.float32)
        self._decibels, self._first = np.zeros(0, np.float32), 0
        """Levels that are kept, and the number of the first."""
        self._early, self._late, self._inside, self._around = (
            round(seconds * rate_hz / self._size)
            for seconds in (EARLY_SECONDS, LATE_SECONDS, INSIDE_SECONDS, AROUND_SECONDS)
        )

    def add(self, samples: Samples) -> None:
        """Adds samples."""
        joined = np.concatenate([self._rest, samples])
        self._decibels = np.concatenate([self._decibels, _decibels(joined, self._size)])
        self._rest = joined[len(joined) // self._size * self._size :]

    def forget(self, sample: int) -> None:
        """Drops levels that speech from `sample` on does not need."""
        first = sample // self._size - self._early - self._around
        if first > self._first:
            self._decibels, self._first = self._decibels[first - self._first :], first

    def run(self, start: int, end: int, earliest: int, now: int) -> _Run:
        """Speech that a detector has found, from where its sound begins, not before `earliest`, to where it ends; only
        what lies before `now` is looked at."""
        begin, stop = start // self._size - self._first, -(-end // self._size) - self._first
        start = max(start, earliest)
        known = self._decibels[: max(now // self._size - self._first, 0)]
        own = known[max(begin, 0) : stop]
        if not len(own):
            return _Run(start, end, 0.0)
        level = float(np.quantile(own, LOUD_QUANTILE))
        low = max(begin - self._early, -(-earliest // self._size) - self._first, 0)
        noise = float(np.quantile(known[max(0, low - self._around) : stop + self._around], NOISE_QUANTILE))
        if (silence := _silence(noise, level)) > -np.inf:
            near = known[low : stop + self._late]
            loud = np.flatnonzero(near > silence)
            end = (self._first + max(low + int(loud[-1]) + 1, stop - self._inside)) * self._size
            if begin >= 0:  # else the start is not kept any more
                start = (self._first + min(low + int(loud[0]), begin + self._inside)) * self._size
        return _Run(start, end, level)


class _Cutter:
    """Collects speech until it is a segment; positions in samples."""

    def __init__(self, frame_samples: float, rate_hz: int, lengths: Lengths) -> None:
        self._frame_samples, self._lengths = frame_samples, lengths
        self._pad, self._silence, self._shortest, self._early = (
            round(seconds * rate_hz) for seconds in (PAD_SECONDS, SILENCE_SECONDS, SHORTEST_SECONDS, EARLY_SECONDS)
        )
        # A segment is padded, and starts on the grid.
        self._room = lengths.longest - 2 * self._pad - lengths.grid
        self._levels = _Levels(rate_hz)
        self._runs: list[_Run] = []
        """Speech that has ended, and is not yet in a segment."""
        self._free = 0
        """Samples before this are in an earlier segment."""
        self._forced: int | None = None
        """Where a window has to start that continues the last one."""
        self._samples, self._first = np.zeros(0, np.float32), 0
        """What may still be needed, and its position."""

    def hold(self, samples: Samples) -> None:
        """Adds samples."""
        self._samples = np.concatenate([self._samples, samples])
        self._levels.add(samples)

    def release(self, frame: int) -> None:
        """Drops the samples that no segment needs; no speech begins before `frame` but that which has ended."""
        following = round(frame * self._frame_samples) - self._early
        needed = self._runs[0].start if self._runs else following
        if self._forced is not None:
            needed = self._forced
        first = needed - self._pad - self._lengths.grid
        if first > self._first:
            self._samples, self._first = self._samples[first - self._first :], first
        self._levels.forget(max(needed, following) if self._forced is None else needed)

    def advance(self, frame: int, start: int | None, found: tuple[int, int] | None) -> Iterator[Segment]:
        """Segments complete after `frame` frames, of which `found` is speech that has just ended; speech goes on since
        `start`."""
        now = round(frame * self._frame_samples)
        if found is not None:
            yield from self._add(found, now)
        if start is None:
            # Not before both segments have their padding.
            if self._runs and now - self._runs[-1].end > max(self._lengths.silence, 2 * self._pad):
                yield from self._emitted(len(self._runs), now)
            return
        current = round(start * self._frame_samples)
        if self._runs and current - self._runs[-1].end > self._lengths.silence:
            yield from self._emitted(len(self._runs), current)
        while (begin := self._begin(current)) + (self._room if self._runs else self._lengths.longest) < now:
            yield from self._emitted(self._best_cut(begin, current), current) if self._runs else self._window(begin)

    def finish(self, frame: int, found: tuple[int, int] | None) -> Iterator[Segment]:
        """The last segments, after `frame` frames."""
        if found is not None:
            yield from self._add(found, round(frame * self._frame_samples))
        if self._runs:
            yield from self._emitted(len(self._runs), None)

    def _add(self, found: tuple[int, int], now: int) -> Iterator[Segment]:
        """Adds speech, in frames; what was said before is complete if this is too different from it."""
        start, end = (round(each * self._frame_samples) for each in found)
        run = self._levels.run(start, end, self._runs[-1].end if self._runs else self._free, now)
        levels = [each.level for each in (*self._runs, run)]
        if self._runs and run.start - self._runs[-1].end > self._silence and max(levels) - min(levels) > LIKE_DB:
            yield from self._emitted(len(self._runs), run.start)
        self._runs.append(run)

    def _begin(self, current: int) -> int:
        """Where the segment starts that speech since `current` belongs to."""
        if self._forced is not None:
            return self._forced
        return max((self._runs[0].start if self._runs else current) - self._pad, self._free, 0)

    def _best_cut(self, begin: int, current: int) -> int:
        """Number of runs before the longest silence: of those in the last two thirds of a segment, else of all."""
        starts = [*(run.start for run in self._runs), current]
        silences = [(starts[n] - self._runs[n - 1].end, n) for n in range(1, len(starts))]
        third = begin + self._lengths.longest // 3
        late = [each for each in silences if starts[each[1]] >= third]
        return max(late or silences)[1]

    def _emitted(self, count: int, following: int | None) -> Iterator[Segment]:
        """The segment of the first `count` runs; speech follows, or silence lasts until `following`. None: the end."""
        begin, continues = self._begin(0), self._forced is not None
        runs, self._runs = self._runs[:count], self._runs[count:]
        if self._runs:
            following = self._runs[0].start
        end = runs[-1].end + self._pad
        if following is not None:
            # Half of the silence, at most: the other half is for the segment after it.
            end = min(end, (runs[-1].end + following) // 2)
        # A window may have gone beyond the end: a detector hears more than levels say.
        self._forced, self._free = None, max(end, begin + self._lengths.overlap) if continues else end
        is_speech = end > begin if continues else sum(run.end - run.start for run in runs) >= self._shortest
        if is_speech:
            yield self._cut(begin, end, continues)

    def _window(self, begin: int) -> Iterator[Segment]:
        """A window of speech that goes on; the next one has to overlap with it."""
        start = begin // self._lengths.grid * self._lengths.grid
        yield self._cut(start, start + self._lengths.longest, self._forced is not None)
        self._forced = start + self._lengths.longest - self._lengths.overlap

    def _cut(self, start: int, end: int, continues: bool) -> Segment:
        """The samples from `start`, on the grid, to `end`."""
        start = start // self._lengths.grid * self._lengths.grid
        return Segment(start, self._samples[max(start - self._first, 0) : end - self._first], continues)
