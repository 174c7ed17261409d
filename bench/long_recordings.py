"""Benchmark: long recordings with voice activity detection: errors, times, memory and speed; and the detector itself.

    python bench/long_recordings.py MODEL MANIFEST [--hours 1] [--seed 1] [--snr DB]   # a model of `segue export`
    python bench/long_recordings.py voices FOLDER                                      # recordings of read speech

The recording is joined from the manifest's utterances with 0.2 to 5 s of silence between them, all in white noise at
-54 dB, or so many decibels below the speech. Each utterance alone, with 0.3 s of what is around it, is what the whole
should be equal to. One core; seconds are CPU-seconds.
"""

import argparse
import resource
import time
from collections.abc import Iterator, Sequence
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from segue import metrics
from segue.data import audio
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.text import normalize
from segue.runtime import exported, voice_activity
from segue.runtime.words import Word

NOISE = 0.002
AROUND_SECONDS = 0.3
SNR_DB = (30, 20, 10, 5, 0)


class Said(NamedTuple):
    start: int
    end: int
    text: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--snr", type=float)
    parser.add_argument("--only-memory", action="store_true")
    arguments = parser.parse_args()
    if str(arguments.model) == "voices":
        detector(arguments.manifest)
        return
    model = exported.load(arguments.model, threads=1)
    rate, loaded = model.metadata.sample_rate_hz, peak()
    with TemporaryDirectory() as folder:
        path = Path(folder, "long.wav")
        said = joined(arguments.manifest, path, rate, 3600 * arguments.hours, arguments.seed, arguments.snr)
        print(f"{soundfile.info(path).duration / 3600:.2f} hours, {len(said):,} utterances")
        whole = {}
        for mode in ("auto",) if arguments.only_memory else ("auto", "off"):
            start = time.process_time()
            whole[mode] = model.transcribe(path, voice_activity=mode)
            seconds = time.process_time() - start
            speed = soundfile.info(path).duration / seconds
            print(
                f"voice activity {mode}: {speed:.0f} x real time, {peak() - loaded:.0f} MB above the loaded model",
                flush=True,
            )
        if not arguments.only_memory:
            compare(model, path, said, whole)


def compare(model: Any, path: Path, said: list[Said], whole: dict[str, Any]) -> None:
    """Word error rates, and how far the times of words are from those of each utterance alone."""
    rate = model.metadata.sample_rate_hz
    samples, around = audio.read(path, rate), round(AROUND_SECONDS * rate)
    texts: list[str] = []
    alone: list[tuple[str, float]] = []
    for start, end, _ in said:
        first = max(start - around, 0)
        found = model.transcribe(samples[first : end + around], rate, voice_activity="off")
        texts.append(found.text)
        alone += [(word.word, (word.start + word.end) / 2 + first / rate) for word in found.words]
    references = [normalize(each.text, model.metadata.text) for each in said]

    def errors(hypotheses: list[str]) -> float:
        joined = [" ".join(references)] if len(hypotheses) == 1 else references
        normal = [normalize(each, model.metadata.text) for each in hypotheses]
        return 100 * metrics.error_rates(joined, normal)["word_error_rate"]

    print(f"| each utterance alone | {errors(texts):.2f} |")
    single = errors_of(references, [normalize(each, model.metadata.text) for each in texts])
    for mode, transcript in whole.items():
        parts = [normalize(each, model.metadata.text) for each in divided(transcript.words, said, rate)]
        more = errors_of(references, parts) - single
        better, worse = int((more < 0).sum()), int((more > 0).sum())
        print(
            f"| the whole, voice activity {mode} | {errors([transcript.text]):.2f} | {better} utterances with "
            f"{-more[more < 0].sum()} errors less than alone, {worse} with {more[more > 0].sum()} more: p = "
            f"{by_chance(better, worse):.2f}; {sum(not each for each in parts)} without a word |"
        )
    # Words that both found, by time: nearest in the whole with the same text, within half a second.
    ours = [(word.word, (word.start + word.end) / 2) for word in whole["auto"].words]
    centers = np.array([center for _, center in ours])
    late: list[tuple[float, float]] = []
    for text, center in alone:
        near = [n for n in np.flatnonzero(np.abs(centers - center) < 0.5) if ours[n][0] == text]
        if near:
            late.append((center, min((centers[n] - center for n in near), key=abs)))
    shifts = np.array(late)
    last = shifts[shifts[:, 0] > len(samples) / rate - 60, 1]
    print(
        f"{len(late):,} of {len(alone):,} words in both: {1000 * np.abs(shifts[:, 1]).mean():.1f} ms apart on average; "
        f"in the last minute {1000 * np.median(last):+.1f} ms (median of {len(last)})"
    )


def divided(words: Sequence[Word], said: Sequence[Said], rate: int) -> list[str]:
    """The text of each utterance; a word belongs to the nearest one."""
    starts, ends = (np.array([each[place] for each in said]) / rate for place in (0, 1))
    texts: list[list[str]] = [[] for _ in said]
    for word in words:
        middle = (word.start + word.end) / 2
        texts[int(np.maximum(starts - middle, middle - ends).argmin())].append(word.word)
    return [" ".join(each) for each in texts]


def errors_of(references: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.int64]:
    """Wrong words of each utterance."""
    rates = [
        metrics.error_rates([one], [other])["word_error_rate"]
        for one, other in zip(references, hypotheses, strict=True)
    ]
    return np.array([round(rate * len(one.split())) for rate, one in zip(rates, references, strict=True)])


def by_chance(better: int, worse: int) -> float:
    """The probability of a difference like this or larger if both were equally likely (sign test, two-sided)."""
    count = better + worse
    tail = sum(comb(count, n) for n in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**count))


def joined(manifest: Path, path: Path, rate: int, seconds: float, seed: int, snr: float | None) -> list[Said]:
    """Writes the recording; returns what is said where, in samples."""
    utterances = list(Manifest(Utterance, [manifest]))
    sounds = [utterance.samples(rate) for utterance in utterances]
    noise = NOISE if snr is None else float(np.sqrt(np.square(np.concatenate(sounds)).mean() * 10 ** (-snr / 10)))
    draw = np.random.default_rng(seed)
    said: list[Said] = []
    place, number = 0, 0
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as written:
        while place < seconds * rate:
            index = number % len(utterances)
            number += 1
            silence = int(draw.uniform(0.2, 5) * rate)
            clip = np.concatenate([np.zeros(silence, np.float32), sounds[index]])
            written.write(clip + np.float32(noise) * draw.standard_normal(len(clip), dtype=np.float32))
            said.append(Said(place + silence, place + len(clip), utterances[index].text))
            place += len(clip)
    return said


def detector(folder: Path) -> None:
    """Recall and precision in white noise, by frames of 10 ms.

    Speech are frames of the clean recordings above -35 dB of their loudest tenth, with pauses below 0.2 s.
    """
    rate = 16000
    files = sorted([*folder.rglob("*.flac"), *folder.rglob("*.wav")])[:60]
    draw = np.random.default_rng(0)
    parts: list[Samples] = []
    for file in files:
        parts += [np.zeros(int(draw.uniform(0.2, 5) * rate), np.float32), audio.read(file, rate)]
    clean = np.concatenate(parts)
    is_speech = filled(sounding(clean, rate), 20)
    power = np.square(clean[is_speech.repeat(rate // 100)[: len(clean)].nonzero()[0]]).mean()
    print(f"{len(clean) / rate / 60:.1f} minutes, {is_speech.mean():.0%} speech")
    print("| dB | recall | precision | regions missed |")
    for snr in SNR_DB:
        noisy = clean + np.float32(np.sqrt(power * 10 ** (-snr / 10))) * draw.standard_normal(
            len(clean), dtype=np.float32
        )
        found = np.zeros(len(is_speech), bool)
        padded = found.copy()
        for start, end in voice_activity.regions(blocks(noisy, rate), rate):
            found[round(100 * start) : round(100 * end)] = True
            padded[max(0, round(100 * (start - 0.3))) : round(100 * (end + 0.3))] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_speech.astype(int), [0]])))
        missed = sum(not found[a:b].any() for a, b in zip(edges[::2], edges[1::2], strict=True))
        print(
            f"| {snr} | {found[is_speech].mean():.1%} ({padded[is_speech].mean():.1%} padded) | "
            f"{is_speech[found].mean():.1%} | {missed} of {len(edges) // 2} |",
            flush=True,
        )


def sounding(samples: Samples, rate: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(10 ms frames) whether they are loud enough to be speech."""
    size = rate // 100
    power = np.square(samples[: len(samples) // size * size].reshape(-1, size)).mean(axis=1)
    return np.asarray(power > np.quantile(power, 0.9) * 10**-3.5)


def filled(frames: np.ndarray[Any, np.dtype[np.bool_]], pause: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pauses below so many frames are speech, too."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    found = frames.copy()
    for end, start in zip(edges[1:-1:2], edges[2::2], strict=True):
        if start - end < pause:
            found[end:start] = True
    return found


def blocks(samples: Samples, rate: int) -> Iterator[Samples]:
    return (samples[start : start + 10 * rate] for start in range(0, len(samples), 10 * rate))


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
