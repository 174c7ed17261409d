"""How does a model that is not causal recognize speech while it is spoken? In a window over the last seconds.

Each time the window has moved on, the model reads it anew. What it says of the last moments may still change, for these
lack what follows them; what is far enough from the window's right edge is committed, and never changes. Words that a
pause follows are a final result. Times count from the start of the stream.

Shape letters: S samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from segue.data.audio import Samples
from segue.decoding.emissions import Emission
from segue.errors import UserError
from segue.runtime.recognizer import Recognizer
from segue.runtime.words import Word, text_of

HOP_SECONDS = 0.4
"""The model reads the window anew after so much more sound."""
MOST_SECONDS = 4.0
"""A sender that is faster than speech moves the window on by up to this much at a time."""
CONTEXT_SECONDS = 6.0
"""Sound before what is not committed yet, which the model reads with it."""
EDGE_SECONDS = 0.8
"""Tokens nearer to the right edge of the window are not committed."""
CUT_SECONDS = 1.5
"""The cut between what is committed and what is not is made in the widest gap between tokens of this long."""
LEAST_SECONDS = 2.0
"""Nothing is committed from a shorter window: normalization over so little differs from that of training."""
PAUSE_SECONDS = 0.8
"""A pause of this length after speech makes a final result."""
LONGEST_SECONDS = 60.0
"""Speech without such a pause is final after this long."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8000, 192_000


class Partial(NamedTuple):
    """What is heard since the last final result."""

    text: str
    committed: str
    """The words at its beginning that will not change."""


class Final(NamedTuple):
    """What was said between two pauses."""

    text: str
    words: list[Word]
    """Times in seconds from the start of the stream."""


class Stream:
    """One speaker's microphone. Not thread-safe."""

    def __init__(self, recognizer: Recognizer, sample_rate_hz: int) -> None:
        """Raises a UserError for a rate that is not from 8 to 192 kHz."""
        if not LOWEST_RATE_HZ <= sample_rate_hz <= HIGHEST_RATE_HZ:
            raise UserError(f"sample_rate: from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} wanted, got {sample_rate_hz}")
        metadata = recognizer.metadata
        self._recognizer = recognizer
        self._is_space = [not piece.strip() for piece in metadata.pieces]
        self._frame = metadata.samples_per_frame
        self._rate = metadata.sample_rate_hz
        resampler = soxr.ResampleStream(sample_rate_hz, self._rate, 1, dtype="float32")
        self._resampler = None if sample_rate_hz == self._rate else resampler
        self._sound: Samples = np.zeros(0, np.float32)
        self._start = 0
        """Frame of the first sample in `_sound`."""
        self._read = 0
        """Samples of the stream that the model has read."""
        self._cut = 0
        """Frame before which all is committed."""
        self._committed: list[Emission] = []
        self._open: list[Emission] = []
        """Tokens after the cut, which may change."""

    @property
    def seconds(self) -> float:
        """Seconds of sound so far."""
        return (self._start * self._frame + len(self._sound)) / self._rate

    @property
    def partial(self) -> Partial:
        """What is heard since the last final result."""
        every = text_of(self._words([*self._committed, *self._open]))
        # The last committed word may go on in what is not committed.
        return Partial(every, text_of(self._words(self._committed)[:-1]))

    def accept(self, samples: NDArray[Any]) -> list[Final]:
        """Takes (S) more samples, int16 or floats in [-1, 1], and returns what became final."""
        scale = np.float32(1 / 32768 if samples.dtype.kind == "i" else 1)
        self._append(samples.astype(np.float32) * scale, is_last=False)
        finals: list[Final] = []
        while (left := self._end - self._read) >= self._samples(HOP_SECONDS):
            self._read += min(left, self._samples(MOST_SECONDS))
            finals += self._look(is_last=False)
        return finals

    def finish(self) -> list[Final]:
        """Ends the stream; returns what was not final yet."""
        self._append(np.zeros(0, np.float32), is_last=True)
        finals: list[Final] = []
        while self._end - self._read > self._samples(MOST_SECONDS):
            self._read += self._samples(MOST_SECONDS)
            finals += self._look(is_last=False)
        self._read = self._end
        return finals + self._look(is_last=True)

    @property
    def _end(self) -> int:
        """Samples of the stream at the model's rate."""
        return self._start * self._frame + len(self._sound)

    def _samples(self, seconds: float) -> int:
        return round(seconds * self._rate)

    def _frames(self, seconds: float) -> int:
        return round(seconds * self._rate / self._frame)

    def _append(self, block: Samples, *, is_last: bool) -> None:
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=is_last)
        self._sound = np.concatenate([self._sound, block])

    def _words(self, emissions: Sequence[Emission]) -> list[Word]:
        return self._recognizer.words_of(emissions)

    def _look(self, *, is_last: bool) -> list[Final]:
        """Reads the window that ends at `_read`, commits what is stable, and returns what became final."""
        start = max(self._start, self._cut - self._frames(CONTEXT_SECONDS))
        self._sound = self._sound[(start - self._start) * self._frame :]
        self._start = start
        window = self._sound[: self._read - start * self._frame]
        found: list[Emission] = []
        if window.any():  # as in `Recognizer`: digital silence does not occur in training data
            [recognized] = self._recognizer.backend.recognize([window])
            found = [each.later(start) for each in self._recognizer.parted(recognized.emissions, window)]
        self._open = [each for each in found if each.start + each.end >= 2 * self._cut]
        end = -(-self._read // self._frame)
        if is_last:
            self._commit(end + 1)
        elif len(window) >= self._samples(LEAST_SECONDS) and (cut := self._best_cut(end)) is not None:
            self._commit(cut)
        return self._finals(end, is_last=is_last)

    def _best_cut(self, end: int) -> int | None:
        """The middle of the widest gap without tokens, some way before the window's end; None if there is none."""
        edge = end - self._frames(EDGE_SECONDS)
        first = max(self._cut, edge - self._frames(CUT_SECONDS))
        if edge <= first:
            return None
        gaps: list[tuple[int, int]] = []
        free = first
        for each in self._open:
            gaps.append((free, min(each.start, edge)))
            free = max(free, each.end)
        gaps.append((free, edge))
        start, stop = max(gaps, key=lambda gap: gap[1] - gap[0])
        if stop > start:
            # After the last token all that is left is silence, up to the edge.
            return stop if stop == edge else (start + stop) // 2
        # No gap: speech this dense is cut at the edge before the window becomes too long.
        return edge if edge - self._cut > self._frames(CONTEXT_SECONDS) else None

    def _commit(self, cut: int) -> None:
        """Commits the tokens whose middle is before a frame."""
        number = next((n for n, each in enumerate(self._open) if each.start + each.end >= 2 * cut), len(self._open))
        self._committed += self._open[:number]
        self._open, self._cut = self._open[number:], cut

    def _finals(self, end: int, *, is_last: bool) -> list[Final]:
        """Takes what precedes pauses out of the current speech; at the end of the stream all of it."""
        finals: list[Final] = []
        while True:
            every = [*self._committed, *self._open]
            sounding = [n for n, each in enumerate(every) if not self._is_space[each.token]]
            if not sounding:
                self._committed = []
                return finals
            following = [*(every[n].start for n in sounding[1:]), end]
            pause = self._frames(PAUSE_SECONDS)
            last = next(
                (n for n, start in zip(sounding, following, strict=True) if start - every[n].end >= pause), None
            )
            if last is not None:
                # What is left of the pause is context of what follows.
                self._commit(max(self._cut, every[last].end + pause // 2))
            elif is_last or end - every[sounding[0]].start > self._frames(LONGEST_SECONDS):
                last = len(self._committed) - 1
            if last is None or last < 0:
                return finals
            said, self._committed = self._committed[: last + 1], self._committed[last + 1 :]
            found = self._words(said)
            finals.append(Final(text_of(found), found))
