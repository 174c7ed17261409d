"""Benchmark: robustness of a speech model to pauses, levels, noise, telephone bands and codecs.

    python bench/recordings.py MODEL MANIFEST [--utterances 200]

Word error rates in percent on the manifest's utterances as they are, and altered as in recordings of users; for a
classifier, error rates. "between" joins two to four utterances of one speaker (of any, if the manifest has no speakers)
with pauses between them.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from segue import metrics, tasks
from segue.data import audio
from segue.data.audio import Samples
from segue.data.augmentation import CODECS
from segue.data.examples import Labeled, Utterance
from segue.data.manifest import Manifest
from segue.data.text import normalize

Change = Callable[[Samples, np.random.Generator], Samples]
Join = Callable[[list[Samples], np.random.Generator], Samples]
PAUSES_DB = (None, -60, -50, -40)  # dB relative to full scale; None: digital silence


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--utterances", type=int, default=200)
    arguments = parser.parse_args()
    model = tasks.load(arguments.model)
    is_classifier = hasattr(model, "classify")
    rate = model.sample_rate_hz if is_classifier else model.metadata.sample_rate_hz
    rule = None if is_classifier else model.metadata.text
    if is_classifier:
        utterances = [each.sound for each in Manifest(Labeled, [arguments.manifest]) if each.sound is not None]
    else:
        utterances = list(Manifest(Utterance, [arguments.manifest]))
    utterances = utterances[:: max(1, len(utterances) // arguments.utterances)]
    alone = [([utterance.samples(rate)], utterance.text) for utterance in utterances]

    def error_rate(spoken: list[tuple[list[Samples], str]], change: Join) -> float:
        references, hypotheses = [], []
        for number, (pieces, text) in enumerate(spoken):
            samples = change(pieces, np.random.default_rng(number))
            references.append(text if rule is None else normalize(text, rule))
            said = model.classify(samples, rate).label if rule is None else model.recognize([samples])[0][0]
            hypotheses.append(said if rule is None else normalize(said, rule))
        if rule is None:
            return 100 * float(np.mean([right != said for right, said in zip(references, hypotheses, strict=True)]))
        return 100 * metrics.error_rates(references, hypotheses)["word_error_rate"]

    print(f"{len(alone)} utterances of {arguments.manifest}")
    for name, change in changes(rate):
        print(f"| {name} | {error_rate(alone, of_first(change)):.1f} |", flush=True)
    if is_classifier:
        return
    strings = joined(utterances, rate)
    print(f"| {len(strings)} joined, no pause | {error_rate(strings, lambda pieces, _: np.concatenate(pieces)):.1f} |")
    for seconds in (0.5, 1.0, 3.0):
        for level in PAUSES_DB:
            print(
                f"| between, {seconds:g} s, {named(level)} | {error_rate(strings, apart(seconds, level, rate)):.1f} |",
                flush=True,
            )


def of_first(change: Change) -> Join:
    return lambda pieces, draw: change(pieces[0], draw)


def apart(seconds: float, level: int | None, rate: int) -> Join:
    """Joins pieces with pauses between them."""

    def change(pieces: list[Samples], draw: np.random.Generator) -> Samples:
        parts = [pieces[0]]
        for piece in pieces[1:]:
            parts += [pause(seconds, level, rate, draw), piece]
        return np.concatenate(parts)

    return change


def changes(rate: int) -> Iterator[tuple[str, Change]]:
    """Alterations of a single utterance, by name."""
    yield "as they are", lambda samples, _: samples
    for seconds in (0.5, 1.0, 3.0):
        for level in PAUSES_DB:
            yield f"around, {seconds:g} s, {named(level)}", around(seconds, level, rate)
    for decibels in (-10, -20, -30, -40):
        yield f"level {decibels} dB", louder(decibels)
    for decibels in (30, 20, 10):
        yield f"white noise, {decibels} dB below the speech", noisy(decibels)
    for codec in CODECS:
        yield f"codec {codec.subtype}, {codec.sample_rate_hz} Hz", coded(codec, rate)
    yield "300 to 3400 Hz", telephone(rate)


def around(seconds: float, level: int | None, rate: int) -> Change:
    return lambda samples, draw: np.concatenate(
        [pause(seconds, level, rate, draw), samples, pause(seconds, level, rate, draw)]
    )


def pause(seconds: float, level: int | None, rate: int, draw: np.random.Generator) -> Samples:
    noise = draw.standard_normal(int(seconds * rate), dtype=np.float32)
    return noise * np.float32(0.0 if level is None else 10 ** (level / 20))


def louder(decibels: float) -> Change:
    return lambda samples, _: samples * np.float32(10 ** (decibels / 20))


def noisy(decibels: float) -> Change:
    def change(samples: Samples, draw: np.random.Generator) -> Samples:
        power = np.square(samples).mean() * 10 ** (-decibels / 10)
        return samples + np.float32(np.sqrt(power)) * draw.standard_normal(len(samples), dtype=np.float32)

    return change


def coded(codec: audio.Codec, rate: int) -> Change:
    def change(samples: Samples, _: np.random.Generator) -> Samples:
        recoded = audio.recoded(audio.resample(samples, rate, codec.sample_rate_hz), codec)
        return audio.resample(recoded, codec.sample_rate_hz, rate)

    return change


def telephone(rate: int) -> Change:
    def change(samples: Samples, _: np.random.Generator) -> Samples:
        spectrum, hertz = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / rate)
        spectrum[(hertz < 300) | (hertz > 3400)] = 0
        return np.fft.irfft(spectrum, len(samples)).astype(np.float32)

    return change


def joined(utterances: list[Utterance], rate: int, count: int = 100) -> list[tuple[list[Samples], str]]:
    """Two to four utterances of one speaker each, drawn at random."""
    speakers: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, []).append(utterance)
    draw, groups, found = np.random.default_rng(0), list(speakers.values()), []
    for number in range(count):
        group = groups[number % len(groups)]
        chosen = [group[index] for index in draw.integers(len(group), size=draw.integers(2, 5))]
        found.append(([each.samples(rate) for each in chosen], " ".join(each.text for each in chosen)))
    return found


def named(level: int | None) -> str:
    return "silence" if level is None else f"noise at {level} dB"


if __name__ == "__main__":
    main()
