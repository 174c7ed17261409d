"""Is the sound good? Unreadable, silent, quiet, clipped or narrow recordings, rates, durations, speaking rates.

Shape letters: S samples, N frames, K frequencies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.data import audio
from segue.data.audio import USUAL_RATE_HZ, Samples
from segue.data.examples import Utterance, sound_of
from segue.diagnosis import Level, Sample, Symptom
from segue.doctor.looking import Split, Tallies, Tally, cut, hashed, joined
from segue.errors import Problems, UserError

LONGEST_SECONDS = 60.0
"""Of longer recordings, this much is decoded."""
QUIET = 10 ** (-50 / 20)
"""Peak of full scale below which 16 bits have fewer than 7 left."""
CLIPPED_SHARE = 0.002
"""Share of samples in flat tops from which a recording is called clipped."""
NARROW_SHARE, NARROW_DB = 0.7, 60.0
"""Narrow: no sound in the upper 30 % of the band, to 60 dB below the loudest frequency at its loudest.

Of 630 recordings (LJSpeech, LibriVox, digits, synthesized speech) it finds each that was resampled to half its rate and
back, and none as it was; 50 dB is below some of the latter.
"""
NUM_BANDS = 40
LONGER_SECONDS, LONGER_SHARE = 0.5, 1.25
"""A recording is longer than its line says from so much on."""
MOST_DEVIATIONS, LEAST_FACTOR = 6.0, 3.0
"""Speaking rates so many deviations and so many times from the median are outliers."""
UNUSUAL_DEVIATIONS = 1.0
"""Speaking rates nearer to the median than this are usual."""
NUM_OUTLIERS = 20

COLUMNS: Any = [
    ("index", "i8"),
    ("rate", "i4"),
    ("seconds", "f4"),
    ("file_seconds", "f4"),
    ("characters", "i4"),
    ("file", "u8"),
    ("sound", "u8"),
    ("is_whole", "?"),
    ("is_cut", "?"),
]

KINDS: dict[str, tuple[Level, str, str]] = {
    "clipped": (
        "warning",
        "clipped: the tops of waves are cut off",
        "record or convert again with a lower level; training can use such recordings, if they sound like those of use",
    ),
    "quiet": (
        "warning",
        "very quiet: below -50 dB of full scale, hardly more than rounding noise",
        "convert again from the originals with a higher level, or leave these lines out",
    ),
    "narrow": (
        "warning",
        "narrow: no sound in the upper part of the band that their sample rate promises, as of telephones, strong "
        "compression, or recordings that were resampled to a higher rate",
        "fine if use is like that; else take the originals. If all recordings are, a lower features.sample_rate_hz "
        "saves time",
    ),
    "longer": (
        "warning",
        "longer than the `duration` of their line: the rest is not used",
        "correct `duration`, or, if only a part is meant, keep it as it is",
    ),
}


class SoundCheck:
    """Decodes every recording once."""

    def __init__(self, wanted_hz: int | None) -> None:
        """`wanted_hz` is the recipe's sample rate, if there is a recipe."""
        self._wanted_hz = wanted_hz
        self.problems = Problems()
        self.tallies = Tallies()
        self.rows: dict[str, tuple[Split, list[NDArray[Any]]]] = {}

    def look(self, indices: Sequence[int], examples: Sequence[Any]) -> tuple[NDArray[Any], Problems, Tally]:
        """Measures of each recording that can be read, problems of the others, and bad ones by kind."""
        rows, problems, tally = list[tuple[Any, ...]](), Problems(), Tally()
        for index, example in zip(indices, examples, strict=True):
            sound = sound_of(example)
            if sound is None:
                continue
            try:
                found = sound.check_audio()
                read = replace(sound, seconds=min(sound.seconds, LONGEST_SECONDS))
                samples = read.samples(found.sample_rate_hz)
            except UserError as problem:
                problems.add(str(problem))
                continue
            if np.abs(samples).max() < QUIET:
                tally.add("quiet", index)
            elif flat_share(samples) > CLIPPED_SHARE:
                tally.add("clipped", index)
            if self._is_narrow(samples, found.sample_rate_hz):
                tally.add("narrow", index)
            rows.append(
                (
                    *(
                        index,
                        found.sample_rate_hz,
                        sound.seconds,
                        found.seconds,
                        len(sound.text),
                        hashed(str(sound.audio)),
                    ),
                    *(hashed(np.round(samples * 32768).astype(np.int32).tobytes()), not sound.offset_seconds),
                    sound.seconds > LONGEST_SECONDS,
                )
            )
        return np.array(rows, COLUMNS), problems, tally

    def _is_narrow(self, samples: Samples, rate: int) -> bool:
        highest = min(rate, self._wanted_hz or rate, USUAL_RATE_HZ) / 2
        return highest > 2000 and bandwidth(samples, rate, highest) < NARROW_SHARE * highest

    def gather(self, split: Split, seen: tuple[NDArray[Any], Problems, Tally]) -> None:
        """Adds what was seen in a chunk."""
        rows, problems, tally = seen
        self.rows.setdefault(split.name, (split, []))[1].append(rows)
        self.problems.merge(problems)
        self.tallies.merge(split, tally)

    def of(self, split: str) -> NDArray[Any]:
        """The measures of a split, in COLUMNS."""
        return joined(self.rows[split][1], COLUMNS) if split in self.rows else np.zeros(0, COLUMNS)

    def symptoms(self) -> Iterator[Symptom]:
        """The findings."""
        every = joined((self.of(name) for name in self.rows), COLUMNS)
        total = len(every) + len(self.problems)
        self._find_longer()
        for kind in self.tallies.kinds():
            level, what, mend = KINDS[kind]
            yield Symptom(level, "audio", what, mend, self.tallies.count(kind), total, self.tallies.samples(kind))
        yield from self._rates(every)
        yield from self._speaking()

    def _find_longer(self) -> None:
        """Adds recordings of which only the beginning is used, by a single line."""
        tables = {name: self.of(name) for name in self.rows}
        files, numbers = np.unique(joined((each["file"] for each in tables.values()), "u8"), return_counts=True)
        of_several = set(files[numbers > 1].tolist())
        for name, table in tables.items():
            more = table["file_seconds"] - table["seconds"]
            is_longer = (more > LONGER_SECONDS) & (table["file_seconds"] > LONGER_SHARE * table["seconds"])
            tally = Tally()
            for row in table[is_longer & table["is_whole"]]:
                if int(row["file"]) not in of_several:
                    tally.add("longer", int(row["index"]), f"{row['seconds']:.2f} s of {row['file_seconds']:.2f} s")
            self.tallies.merge(self.rows[name][0], tally)

    def _rates(self, every: NDArray[Any]) -> Iterator[Symptom]:
        rates, counts = np.unique(every["rate"], return_counts=True)
        if len(rates) > 1:
            listed = ", ".join(f"{rate} Hz {count:,}" for rate, count in zip(rates, counts, strict=True))
            yield Symptom(
                "note",
                "audio",
                f"several sample rates: {listed}",
                "all are resampled; if classes or speakers differ in it, a model may learn the rate instead",
                len(every) - int(counts.max()),
                len(every),
            )

    def _speaking(self) -> Iterator[Symptom]:
        """The transcripts whose number of characters a second is the least likely."""
        tables = [(split, self.of(name)) for name, (split, _) in self.rows.items()]
        is_said = [isinstance(split.examples[0], Utterance) for split, _ in tables]
        suspects = [
            (abs(deviation), factor, split, int(row["index"]), float(row["characters"] / row["seconds"]))
            for (split, table), said in zip(tables, is_said, strict=True)
            if said
            for deviation, factor, row in _outliers(table[table["characters"] > 0])
        ]
        suspects = [each for each in suspects if each[0] > UNUSUAL_DEVIATIONS]
        suspects.sort(key=lambda each: -each[0])
        wrong = [each for each in suspects if each[0] > MOST_DEVIATIONS and each[1] > LEAST_FACTOR]
        rest = [each for each in suspects if each not in wrong][: max(0, NUM_OUTLIERS - len(wrong))]
        named, unusual = ([_sample(*each[2:]) for each in found] for found in (wrong[:NUM_OUTLIERS], rest))
        total = sum(len(table) for (_, table), said in zip(tables, is_said, strict=True) if said)
        if wrong:
            yield Symptom(
                "warning",
                "audio",
                "far more or fewer characters a second than the others: the text may belong to another recording",
                "listen to them (--report FILE.html); correct the text, or leave the line out",
                len(wrong),
                total,
                named,
            )
        if unusual:
            yield Symptom(
                "note",
                "audio",
                f"the {len(unusual)} most unusual numbers of characters a second among the rest",
                "worth a listen (--report FILE.html)",
                samples=unusual,
            )


def _sample(split: Split, index: int, rate: float) -> Sample:
    example = split.examples[index]
    return Sample(example.origin, f"{rate:.1f} characters a second: {cut(example.text)}")


def _outliers(table: NDArray[Any]) -> Iterator[tuple[float, float, Any]]:
    """(deviations from the median, factor from it, row) of the speaking rates that are the farthest from the median."""
    if len(table) < NUM_OUTLIERS:
        return
    logs = np.log(table["characters"] / np.maximum(table["seconds"], 1e-3))
    away = logs - np.median(logs)
    deviation = 1.4826 * float(np.median(np.abs(away))) + 0.1  # a factor of 1.1 is never strange
    for place in np.argsort(-np.abs(away))[: 10 * NUM_OUTLIERS]:
        yield float(abs(away[place]) / deviation), float(np.exp(abs(away[place]))), table[place]


def flat_share(samples: Samples) -> float:
    """Share of samples (S) that are in flat tops: three or more equal ones in a row at the peak."""
    high, low = samples.max(), samples.min()
    if max(high, -low) < 0.3:  # a recording that was clipped and then made quieter is seen from here on
        return 0.0
    near = 1 / 16384  # lossy compression and resampling blur the tops
    at_top = (samples >= high - near * abs(high)) | (samples <= low + near * abs(low))
    runs = at_top[:-2] & at_top[1:-1] & at_top[2:]
    return float(runs.sum()) / len(samples)


def bandwidth(samples: Samples, rate: int, highest: float) -> float:
    """The highest frequency in Hz, at most `highest`, with sound at any time: (S) -> Hz."""
    size = 512 if rate <= USUAL_RATE_HZ else 1024
    if len(samples) < size:
        return highest
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]  # (N, size)
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)))  # (N, K)
    peaks = power[:, : round(highest / rate * size) + 1].max(axis=0)  # (K), at the loudest time
    bands = np.array([part.max() for part in np.array_split(peaks[1:], NUM_BANDS)])
    has_sound = bands > bands.max() * 10 ** (-NARROW_DB / 10)
    return float((np.flatnonzero(has_sound)[-1] + 1) / NUM_BANDS * highest)


def playable(sound: Utterance) -> bytes | None:
    """The beginning of a recording, to be played in a page; None if it cannot be read."""
    try:
        rate = min(USUAL_RATE_HZ, sound.check_audio().sample_rate_hz)
        return audio.encoded(replace(sound, seconds=min(sound.seconds, 10.0)).samples(rate), rate)
    except UserError:
        return None
