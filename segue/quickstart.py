"""A tour of the whole toolkit: synthesize speech, train a small Jasper, test it on new voices, export it."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from segue import formats, recipe, tasks, training
from segue.data import corpora
from segue.data.corpora.fsdd import WORDS as DIGITS
from segue.data.corpora.synthesized import VOICES, spoken
from segue.data.examples import Utterance
from segue.data.manifest import Manifest, write_manifest
from segue.data.synthesis import Synthesizer

SAMPLE_RATE_HZ = 8000  # that of telephones and of fsdd
NUM_UTTERANCES = {"train": 2400, "dev": 150, "test": 200}

VERBS = ("turn on", "turn off", "open", "close", "check", "find")
THINGS = ("the light", "the door", "the window", "the heating", "the radio", "the kitchen light", "my phone", "the car")
OTHERS = ("play the next song", "stop the music", "call home", "what time is it", "good morning", "cancel the alarm")


def run(out: Path, recordings: Path | None) -> int:
    """Runs all steps in the folder `out` and prints word error rates, also on `recordings` if given. Returns the exit
    status."""
    formats.exporter_of("onnx", "speech_recognition")  # fails now rather than in the last step if a package is missing
    start = perf_counter()
    data, run_folder = out / "data", out / "run"
    people = None if recordings is None else Manifest(Utterance, _manifests(recordings, out / "recordings"))
    if not all((data / f"{split}.jsonl").is_file() for split in NUM_UTTERANCES):
        _say(f"1. Synthesizing {sum(NUM_UTTERANCES.values())} utterances of {sum(map(len, VOICES.values()))} voices")
        synthesize(data)
    _say(f"2. Training a small Jasper in {run_folder}")
    result = training.train(recipe.find("quickstart"), run_folder, [f"data.root={data}"])
    if result.signal is not None:
        _say("stopped and saved; the same command continues from there")
        return 128 + int(result.signal)
    _say(f"3. Trying voices that were not in the training: {', '.join(VOICES['test'])}\n")
    evaluator = tasks.load(run_folder).evaluator
    manifest = Manifest(Utterance, [data / "test.jsonl"])
    predictions = evaluator.results(manifest)
    scores = evaluator.score(predictions).overall()
    for prediction in predictions[:: max(1, len(predictions) // 5)][:5]:
        print(f"  said   {prediction.reference}\n  found  {prediction.hypothesis}\n")
    print(f"word error rate on held-out voices: {scores['word_error_rate']:.2%} ({len(predictions)} utterances)")
    if people is not None:
        predictions = evaluator.results(people)
        scores = evaluator.score(predictions).overall()
        print(f"word error rate on {recordings}: {scores['word_error_rate']:.2%} ({len(predictions)} utterances)")
        print("(trained on synthesized speech only: real voices need real recordings)")
    shipped, example = out / "onnx", manifest[0]
    _say(f"\n4. Exporting it for onnxruntime into {shipped}: one file, and a recognizer that needs no torch")
    formats.export(run_folder, "onnx", shipped, force=True)
    _say("\n5. Transcribing with what was exported\n")
    transcript = tasks.load(shipped).transcribe(example.audio)
    print(f"  said   {example.text}\n  found  {transcript.text}")
    print(f"""
{perf_counter() - start:.0f} seconds. Next{"" if shutil.which("segue") else " (after: source .venv/bin/activate)"}:
  segue transcribe {shipped} {example.audio} --format json
  segue evaluate {run_folder} {data / "test.jsonl"}
  segue export {run_folder} sherpa-onnx {out / "sherpa"}
  segue recipes list                  what else can be trained
  segue prepare csv YOUR_TABLE.csv data/yours
  segue train your_speech data.root=data/yours --out runs/yours""")
    return 0


def synthesize(folder: Path, num_utterances: dict[str, int] | None = None) -> None:
    """Writes digit strings and short commands, said by many voices, and their manifests."""
    voice = Synthesizer()
    for split, count in (num_utterances or NUM_UTTERANCES).items():
        utterances = []
        for number in range(count):
            draw = np.random.default_rng([list(NUM_UTTERANCES).index(split), number])
            file = folder / split / f"{number:05d}.flac"
            utterances.append(spoken(voice, _text(draw), split, file, draw, SAMPLE_RATE_HZ))
        write_manifest(folder / f"{split}.jsonl", utterances)


def _text(draw: np.random.Generator) -> str:
    """A random text: a string of digits (two out of three) or a command."""
    if draw.random() < 2 / 3:
        return " ".join(draw.choice(DIGITS, size=draw.integers(1, 6)))
    if draw.random() < 1 / 4:
        return str(draw.choice(OTHERS))
    return f"{draw.choice(VERBS)} {draw.choice(THINGS)}"


def _manifests(recordings: Path, folder: Path) -> Sequence[Path]:
    """`recordings` itself if it is a manifest; else manifests of this folder, with file names like those of fsdd."""
    if recordings.is_file():
        return [recordings]
    no_strings = ["train_strings=0", "dev_strings=0", "test_strings=0"]
    return [written.path for written in corpora.prepare("fsdd", recordings, folder, no_strings)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
