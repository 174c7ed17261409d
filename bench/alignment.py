"""Benchmark: times of words by forced alignment, on synthesized speech whose times are exact, and an hour of speech.

    python bench/alignment.py words MODEL                  # quickstart's: digits of espeak-ng's voices
    python bench/alignment.py words MODEL FSDD SPEAKER ... # digits of people: recordings 0 to 4
    python bench/alignment.py hour MODEL MANIFEST OUT      # an hour joined from utterances, with 0.2 to 5 s of silence
    python bench/alignment.py peer MODEL MANIFEST PYTHON   # read English beside pocketsphinx's times
    python bench/alignment.py peer-words PYTHON            # pocketsphinx on the words of `words`

PYTHON is the interpreter of an environment with pocketsphinx. `words` joins single digits with pauses of several
lengths, and prints the mean absolute error of starts and of ends, the largest tenth's least, and the shares within 50
and 100 ms, all in milliseconds. `hour` prints the errors and times of the hour and of its parts. `peer` prints the
differences of starts and ends: of all words, of those beside which pocketsphinx has silence, and of the others.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import segue
from segue import metrics
from segue.data import audio
from segue.data.audio import Samples
from segue.data.corpora.fsdd import WORDS
from segue.data.corpora.synthesized import VOICES
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.synthesis import Synthesizer
from segue.data.text import normalize
from segue.runtime.recognizer import Recognizer, VoiceActivity
from segue.runtime.words import text_of

TRIMMED_DB = 40.0  # below a word's loudest 10 ms: silence around it is cut off, so that its times are known
CONDITIONS = {  # pauses in seconds, noise in dB relative to full scale
    "no pauses": ((0.0, 0.0), None),
    "pauses up to 0.1 s": ((0.0, 0.1), None),
    "pauses up to 0.3 s, noise at -60 dB": ((0.0, 0.3), -60),
    "pauses of 0.2 to 1 s, noise at -60 dB": ((0.2, 1.0), -60),
    "pauses of 0.2 to 1 s, noise at -40 dB": ((0.2, 1.0), -40),
}
RECORDINGS, DIGITS = 40, 12


class Place(NamedTuple):
    """A word or utterance in a recording."""

    text: str
    start: float
    end: float


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("words", "hour", "peer", "peer-words"):
        command = commands.add_parser(name)
        if name != "peer-words":
            command.add_argument("model", type=Path)
        if name == "words":
            command.add_argument("recordings", type=Path, nargs="?")
            command.add_argument("speakers", nargs="*")
        elif name != "peer-words":
            command.add_argument("manifest", type=Path)
        if name == "hour":
            command.add_argument("out", type=Path)
        elif name.startswith("peer"):
            command.add_argument("python")
    given = parser.parse_args()
    if given.command == "peer-words":
        peer_words(given.python)
        return
    model: Recognizer = segue.load(given.model)
    if given.command == "words":
        words(model, given.recordings, given.speakers)
    elif given.command == "peer":
        peer(model, given.manifest, given.python)
    else:
        hour(model, given.manifest, given.out)


def words(model: Recognizer, recordings: Path | None, speakers: Sequence[str]) -> None:
    synthesizer = Synthesizer() if recordings is None else None
    rate = 8000 if synthesizer is None else synthesizer.sample_rate_hz
    print("| words | starts: mean, 90 %, in 50, 100 ms | ends | lowest score |\n|---|---|---|---|")
    for name, (pauses, noise) in CONDITIONS.items():
        errors: list[tuple[float, float]] = []
        scores: list[float] = []
        for seed in range(RECORDINGS):
            draw = np.random.default_rng(seed)
            if synthesizer is None:
                assert recordings is not None
                say = person(recordings, str(draw.choice(speakers)), draw)
            else:
                say = synthesized(synthesizer, draw)
            samples, places = digits(say, rate, draw, pauses, noise)
            text = " ".join(place.text for place in places)
            found = model.align(samples, text, rate, least_score=0.0)
            scores.append(found.score)
            errors += [(a.start - b.start, a.end - b.end) for a, b in zip(found.words, places, strict=True)]
        starts, ends = np.array(errors).T
        print(f"| {name} | {summary(starts)} | {summary(ends)} | {min(scores):.2f} |", flush=True)


POCKETSPHINX = """
import json, re, sys
import numpy as np
from pocketsphinx import Decoder
decoder = Decoder(samprate=16000, lm=None, loglevel="FATAL")
for line in sys.stdin:
    path, text = json.loads(line)
    words = text.split()
    if any(decoder.lookup_word(word) is None for word in words):
        print("null", flush=True)
        continue
    decoder.set_align_text(text)
    decoder.start_utt()
    decoder.process_raw(np.load(path).tobytes(), full_utt=True)
    decoder.end_utt()
    found = [(each.word, each.start_frame, each.end_frame + 1) for each in decoder.seg() or []]
    found = [(re.sub(r"\\(\\d+\\)$", "", word), start, end) for word, start, end in found]
    found = [each for each in found if each[0][0] not in "<[("]
    print(json.dumps(found if [each[0] for each in found] == words else None), flush=True)
"""
"""Lines of a file of 16-bit samples and a text -> words with frames of 10 ms; null if it has a word that it does not
know, or finds no alignment."""


def pocketsphinx(python: str, sounds: Sequence[tuple[Samples, str]]) -> list[list[Place] | None]:
    """The words of each text in its sound at 16 kHz; None where it knows not all of them, or finds no alignment."""
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for number, (samples, text) in enumerate(sounds):
            path = f"{folder}/{number}.npy"
            np.save(path, (np.clip(samples, -1, 1) * 32767).astype(np.int16))
            lines.append(json.dumps([path, text]))
        done = subprocess.run(
            [python, "-c", POCKETSPHINX], input="\n".join(lines), capture_output=True, text=True, check=True
        )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [each and [Place(word, start / 100, end / 100) for word, start, end in each] for each in found]


def peer(model: Recognizer, manifest: Path, python: str) -> None:
    """Word times of read English and pocketsphinx's."""
    utterances = list(Manifest(Utterance, [manifest]))
    texts = [normalize(each.text, model.metadata.text) for each in utterances]
    theirs = pocketsphinx(python, [(each.samples(16000), text) for each, text in zip(utterances, texts, strict=True)])
    rows = list[tuple[float, float, bool, bool]]()
    scores = list[float]()
    for utterance, text, places in zip(utterances, texts, theirs, strict=True):
        if places is None:
            continue
        rate = model.metadata.sample_rate_hz
        found = model.align(utterance.samples(rate), text, rate, least_score=0.0)
        scores.append(found.score)
        for number, (a, b) in enumerate(zip(found.words, places, strict=True)):
            is_first = number == 0 or places[number - 1].end < b.start
            is_last = number + 1 == len(places) or b.end < places[number + 1].start
            rows.append((a.start - b.start, a.end - b.end, is_first, is_last))
    print(f"{len(scores)} of {len(utterances)} utterances, {len(rows)} words; lowest score {min(scores):.2f}")
    starts, ends, firsts, lasts = (np.array(column) for column in zip(*rows, strict=True))
    for name, errors, beside in (("starts", starts, firsts.astype(bool)), ("ends", ends, lasts.astype(bool))):
        for title, own in (("all", errors), ("beside silence", errors[beside]), ("within speech", errors[~beside])):
            middle = np.median(own)
            print(
                f"{name}, {title}: {len(own)}: {summary(own)}; median {1000 * middle:+.0f} ms, "
                f"without it {summary(own - middle)}"
            )


def peer_words(python: str) -> None:
    """Pocketsphinx on words whose times are exact."""
    synthesizer = Synthesizer()
    for name, (pauses, noise) in CONDITIONS.items():
        sounds, truth = list[tuple[Samples, str]](), list[list[Place]]()
        for seed in range(RECORDINGS):
            draw = np.random.default_rng(seed)
            rate = synthesizer.sample_rate_hz
            samples, places = digits(synthesized(synthesizer, draw), rate, draw, pauses, noise)
            sounds.append((audio.resample(samples, rate, 16000), " ".join(place.text for place in places)))
            truth.append(places)
        pairs = [
            (a, b)
            for found, places in zip(pocketsphinx(python, sounds), truth, strict=True)
            if found
            for a, b in zip(found, places, strict=True)
        ]
        starts = np.array([a.start - b.start for a, b in pairs])
        ends = np.array([a.end - b.end for a, b in pairs])
        print(f"| {name} | {summary(starts)} | {summary(ends)} | {len(pairs)} words |", flush=True)


def synthesized(synthesizer: Synthesizer, draw: np.random.Generator) -> Callable[[str], Samples]:
    """One of quickstart's test voices."""
    voice = f"en-us+{draw.choice(VOICES['test'])}"
    speed, pitch = int(draw.integers(120, 220)), int(draw.integers(30, 71))
    return lambda text: synthesizer.say(text, voice, speed, pitch)


def person(recordings: Path, speaker: str, draw: np.random.Generator) -> Callable[[str], Samples]:
    """A speaker of FSDD: the digit's test recordings."""
    return lambda text: audio.read(recordings / f"{WORDS.index(text)}_{speaker}_{draw.integers(5)}.wav", 8000)


def digits(
    say: Callable[[str], Samples],
    rate: int,
    draw: np.random.Generator,
    pauses: tuple[float, float],
    noise_db: int | None,
) -> tuple[Samples, list[Place]]:
    """Digits said one by one."""
    parts: list[Samples] = [np.zeros(round(0.3 * rate), np.float32)]
    places: list[Place] = []
    size = len(parts[0])
    for _ in range(DIGITS):
        text = str(draw.choice(WORDS))
        word = trimmed(say(text), rate)
        places.append(Place(text, size / rate, (size + len(word)) / rate))
        parts += [word, np.zeros(round(draw.uniform(*pauses) * rate), np.float32)]
        size += len(parts[-1]) + len(word)
    samples = np.concatenate(parts)
    if noise_db is not None:
        samples += np.float32(10 ** (noise_db / 20)) * draw.standard_normal(len(samples), dtype=np.float32)
    return samples, places


def trimmed(samples: Samples, rate: int) -> Samples:
    """A word without the silence around it."""
    size = rate // 100
    power = np.convolve(np.square(samples), np.ones(size) / size, "same")
    loud = np.flatnonzero(power > power.max() * 10 ** (-TRIMMED_DB / 10))
    found: Samples = samples[loud[0] : loud[-1] + 1]
    return found


def summary(errors: NDArray[np.float64]) -> str:
    milliseconds = 1000 * np.abs(errors)
    shares = ", ".join(f"{100 * float((milliseconds <= limit).mean()):.0f} %" for limit in (50, 100))
    return f"{milliseconds.mean():.0f}, {np.quantile(milliseconds, 0.9):.0f}, {shares}"


def hour(model: Recognizer, manifest: Path, out: Path) -> None:
    rate = model.metadata.sample_rate_hz
    utterances = list(Manifest(Utterance, [manifest]))
    path, places = joined(utterances, rate, out)
    texts = [normalize(place.text, model.metadata.text) for place in places]
    samples = audio.read(path, rate)
    parts = [model.recognize_words([samples[round(each.start * rate) : round(each.end * rate)]])[0] for each in places]
    rates = {"the parts": metrics.error_rates(texts, [text_of(words) for words in parts])["word_error_rate"]}
    ways: dict[str, VoiceActivity] = {"the hour, cut in silence": "on", "the hour, in overlapping windows": "off"}
    for name, activity in ways.items():
        start = time.process_time()
        said = model.transcribe(path, voice_activity=activity)
        found = metrics.error_rates([" ".join(texts)], [normalize(said.text, model.metadata.text)])
        rates[f"{name} ({time.process_time() - start:.0f} CPU-s)"] = found["word_error_rate"]
    print(f"{said.duration:.0f} s, {len(places)} utterances, {sum(len(text.split()) for text in texts)} words")
    print("word error rates:", "; ".join(f"{name} {rate:.2%}" for name, rate in rates.items()), flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    aligned = model.align(path, "\n".join(place.text for place in places))
    seconds = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"aligned: score {aligned.score:.3f}; {seconds:.1f} CPU-s; peak memory {before >> 10}, {after >> 10} MB")
    # The sound of an utterance begins and ends a little inside of its recording, so errors of all are the measure.
    starts = np.array([a.start - b.start for a, b in zip(aligned.sentences, places, strict=True)])
    ends = np.array([a.end - b.end for a, b in zip(aligned.sentences, places, strict=True)])
    lasts = np.array([place.start >= said.duration - 60 for place in places])
    for name, errors in (("starts", starts), ("ends", ends)):
        firsts = errors[: int(lasts.sum())]
        drift = np.median(errors[lasts]) - np.median(errors)
        print(
            f"{name}: {summary(errors)}; medians of all {1000 * np.median(errors):.0f} ms, of the first "
            f"{1000 * np.median(firsts):.0f}, of the last minute {1000 * np.median(errors[lasts]):.0f} (drift "
            f"{1000 * drift:.0f} ms); farther off than 0.5 s: {int((np.abs(errors) > 0.5).sum())}"
        )


def joined(utterances: Sequence[Utterance], rate: int, out: Path) -> tuple[Path, list[Place]]:
    """An hour of them, drawn with replacement, with noise at -60 dB everywhere."""
    draw = np.random.default_rng(0)
    parts: list[Samples] = []
    places: list[Place] = []
    size = 0
    while size < 3600 * rate:
        each = utterances[int(draw.integers(len(utterances)))]
        pause = np.zeros(round(draw.uniform(0.2, 5.0) * rate), np.float32)
        samples = each.samples(rate)
        start = size + len(pause)
        size = start + len(samples)
        places.append(Place(each.text, start / rate, size / rate))
        parts += [pause, samples]
    out.mkdir(parents=True, exist_ok=True)
    whole = np.concatenate(parts)
    whole += np.float32(0.001) * draw.standard_normal(len(whole), dtype=np.float32)
    audio.write(out / "hour.flac", whole, rate)
    return out / "hour.flac", places


if __name__ == "__main__":
    main()
