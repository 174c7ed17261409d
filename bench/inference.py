"""Benchmark: speed, memory and startup time of exported models, compared with PyTorch, sherpa-onnx and transformers.

    python bench/inference.py speech RUN data/fsdd/test_strings.jsonl
    python bench/inference.py quartznet data/fsdd/test_strings.jsonl
    python bench/inference.py translation RUN data/multi30k/test_2016_flickr.jsonl --transformers PYTHON
    python bench/inference.py memory EXPORTED data/fsdd/test_strings.jsonl
    python bench/inference.py startup EXPORTED data/fsdd/test_strings.jsonl

The first three compare sides with 1 and 2 threads (`--threads`): each side is a process, and blocks of the same work
alternate (turns.py). Each side runs all blocks once before the timing; these outputs are scored.

- speech: waveforms in memory to texts, by greedy search. A copy of the model is exported as by `segue export`, with
  the comparison with PyTorch (8-bit weights are calibrated on the model's development data). PyTorch, onnxruntime and
  onnxruntime with 8-bit weights run as the `Recognizer` of users; sherpa-onnx computes its own features. They recognize
  the utterances in the batches of evaluations, then a long recording, joined from utterances: the `Recognizer` in
  overlapping windows (a third more work, or half), sherpa-onnx as a whole.
- quartznet: the same with a model of the size of librispeech_quartznet15x5 (19 M parameters), with random weights and a
  batch normalization other than the identity; 60 s of audio (synthetic, or from a manifest, at 16 kHz) in five pieces
  of 10 to 14 s, recognized as one batch. 8-bit weights are calibrated on them. Outputs are not scored.
- translation: CTranslate2 and transformers' `generate`, with the same weights and batches (as in decoding.py).
- memory: peak resident memory of a new process that loads a model and transcribes a file of several hours.
- startup: seconds until a new process has imported segue and loaded the model, and of its first transcriptions.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import turns
from numpy.typing import NDArray

Samples = NDArray[np.float32]

LONG_SECONDS = 60.0
PIECE_SECONDS = (10.0, 11.0, 12.0, 13.0, 14.0)
QUARTZNET = "librispeech_quartznet15x5"
# Bound on the mean difference of a float32 export's scores, in their standard deviations: random weights amplify
# rounding errors, in QuartzNet by a factor of ten thousand.
LARGEST_DIFFERENCE = 2e-2
SPEECH_RATIOS = (("onnx", "pytorch"), ("onnx-int8", "onnx"), ("onnx", "sherpa-onnx"))
TEXT_RATIOS = (("ctranslate2", "transformers"), ("ctranslate2-int8", "transformers"))

# Code for new processes, which must not import anything else before. VmHWM, because ru_maxrss includes the memory of
# the parent process.
MEMORY = """
import json, sys
from time import perf_counter
import segue
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
model = segue.load(sys.argv[1], "cpu", int(sys.argv[3]))
loaded, start = peak(), perf_counter()
found = model.transcribe(sys.argv[2])
print(json.dumps([loaded, peak(), found.duration, perf_counter() - start, len(found.words)]))
"""
STARTUP = """
from time import perf_counter
start = perf_counter()
import sys
import segue
model = segue.load(sys.argv[1], "cpu", int(sys.argv[3]))
times = [perf_counter()]
for _ in range(2):
    model.transcribe(sys.argv[2])
    times.append(perf_counter())
print(*(end - begin for begin, end in zip([start, *times], times)))
"""


class Part(NamedTuple):
    """Speech that is measured separately."""

    name: str
    batches: list[list[Samples]]
    references: list[list[str]] | None = None
    """Texts of each batch."""
    is_recording: bool = False
    """Whether each batch is one waveform that is transcribed like a recording of any length."""


@dataclass(frozen=True)
class Plan:
    """The work for all sides."""

    models: dict[str, str]
    """Name of a side -> its model directory."""
    threads: int
    waveforms: str = ""
    """File with all batches of waveforms, written by `_save`."""
    recordings: Any = ()
    """Numbers of the batches that are one recording of any length."""
    batches: Any = ()
    """Batches of sources, as token numbers."""
    beams: int = 1


# --- In a side's process ---


def serve(name: str, plan_path: Path) -> None:
    answer = turns.channel()
    plan = Plan(**json.loads(plan_path.read_text()))
    work = _hears(name, plan) if plan.waveforms else _translates(name, plan)

    def run(numbers: list[int]) -> dict[str, Any]:
        start, processor_start = perf_counter(), process_time()
        outputs = [work(number) for number in numbers]
        wall, processor = perf_counter() - start, process_time() - processor_start
        return {"outputs": outputs, "wall": wall, "processor": processor}

    turns.serve({}, run, answer)


def _hears(name: str, plan: Plan) -> Callable[[int], list[str]]:
    """A function: number of a batch -> its texts."""
    import segue

    with np.load(plan.waveforms) as file:
        rate = int(file["rate"])
        batches = [np.split(file[f"samples{n}"], file[f"ends{n}"][:-1]) for n in range(int(file["count"]))]
    if name == "sherpa-onnx":
        from segue.formats import sherpa_onnx
        from segue.tasks import speech_recognition

        trained = speech_recognition.restore(Path(plan.models["pytorch"]))
        recognize = sherpa_onnx.SPEECH.run(trained, Path(plan.models[name]), plan.threads)
        return lambda number: recognize(batches[number])[0]
    if name == "pytorch":
        import torch

        torch.set_num_threads(plan.threads)
    model = segue.load(plan.models[name], "cpu", plan.threads)

    def texts(number: int) -> list[str]:
        batch = batches[number]
        return [model.transcribe(batch[0], rate).text] if number in plan.recordings else model.recognize(batch)[0]

    return texts


def _translates(name: str, plan: Plan) -> Callable[[int], list[list[int]]]:
    """A function: number of a batch -> its outputs in CTranslate2."""
    import decoding

    from segue.runtime import exported

    translator = exported.load(Path(plan.models[name]), "cpu", plan.threads)
    section = translator.metadata.search.model_copy(update={"beams": plan.beams, "alpha": decoding.LENGTH_EXPONENT})
    return lambda number: [best[0].tokens for best in translator.backend.search(plan.batches[number], section)]


# --- Comparisons ---


def measure(
    sides: dict[str, turns.Side], blocks: Sequence[list[int]], repeats: int, amounts: Sequence[float]
) -> tuple[dict[str, dict[int, list[Any]]], list[float], dict[str, list[turns.Answer]]]:
    """Each side's outputs of each batch, the amount of work in each timed block, and the answers to the blocks.

    `amounts` are the amounts of work of the batches.
    """
    outputs: dict[str, dict[int, list[Any]]] = {name: {} for name in sides}
    for name, side in sides.items():
        for block in blocks:
            outputs[name].update(zip(block, side.ask(block)["outputs"], strict=True))
    orders = list(blocks) * repeats
    answers = turns.take_turns(sides, orders)
    return outputs, [sum(amounts[number] for number in block) for block in orders], answers


def report(
    unit: str, amounts: Sequence[float], answers: dict[str, list[turns.Answer]], ratios: Sequence[tuple[str, str]]
) -> None:
    """Prints speeds and ratios; `amounts` are the amounts of work per block."""
    wall, processor = (
        {name: np.array([answer[what] for answer in answers[name]]) for name in answers}
        for what in ("wall", "processor")
    )
    print(f"    {len(amounts)} blocks; {unit} a second: ", end="")
    print(", ".join(f"{name} {sum(amounts) / seconds.sum():.1f}" for name, seconds in wall.items()))
    if unit == "seconds of audio":
        print("    real-time factor: ", end="")
        print(", ".join(f"{name} {seconds.sum() / sum(amounts):.5f}" for name, seconds in wall.items()))
    for ours, other in ratios:
        if ours in wall and other in wall:
            speed, share = turns.interval(wall[other] / wall[ours]), turns.interval(processor[ours] / processor[other])
            print(f"    {ours} / {other}: speed {speed}, processor time {share}", flush=True)


def compare_speech(
    title: str,
    models: dict[str, Path],
    parts: Sequence[Part],
    rate: int,
    options: argparse.Namespace,
    folder: Path,
) -> None:
    """Compares `models`, by the names of sides, and prints the results of each part."""
    import segue
    from segue import metrics
    from segue.data.text import normalize

    rule = segue.load(models["onnx"]).metadata.text
    batches = [batch for part in parts for batch in part.batches]
    recordings = np.flatnonzero([part.is_recording for part in parts for _ in part.batches]).tolist()
    waveforms = folder / "waveforms.npz"
    _save(waveforms, batches, rate)
    amounts = [sum(map(len, batch)) / rate for batch in batches]
    for threads in options.threads:
        print(f"{title}, {threads} thread(s):", flush=True)
        plan_path = folder / "plan.json"
        plan = Plan({name: str(path) for name, path in models.items()}, threads, str(waveforms), recordings)
        plan_path.write_text(json.dumps(asdict(plan)))
        sides = turns.start(__file__, dict.fromkeys(models, sys.executable), plan_path)
        first = 0
        for part in parts:
            numbers = list(range(first, first + len(part.batches)))
            first += len(part.batches)
            blocks = [block for start in range(options.blocks) if (block := numbers[start :: options.blocks])]
            outputs, work, answers = measure(sides, blocks, options.repeats, amounts)
            print(f"  {part.name}, {sum(amounts[number] for number in numbers):.0f} s:")
            report("seconds of audio", work, answers, SPEECH_RATIOS)
            if part.references is not None:
                expected = [normalize(text, rule) for texts in part.references for text in texts]
                print("    word errors: ", end="")
                said = {name: [text for n in numbers for text in of_side[n]] for name, of_side in outputs.items()}
                rates = {
                    name: metrics.error_rates(expected, [normalize(text, rule) for text in texts])["word_error_rate"]
                    for name, texts in said.items()
                }
                print(", ".join(f"{name} {value:.2%}" for name, value in rates.items()), flush=True)
        for side in sides.values():
            side.end()


def _save(path: Path, batches: Sequence[Sequence[Samples]], rate: int) -> None:
    arrays: dict[str, Any] = {"rate": rate, "count": len(batches)}
    for number, batch in enumerate(batches):
        arrays[f"samples{number}"], arrays[f"ends{number}"] = np.concatenate(batch), np.cumsum([len(w) for w in batch])
    np.savez(path, **arrays)


def _exported(target: str, model: Path, folder: Path, manifest: Path, weights: str = "float32") -> Path:
    """Exports the model to `folder` as `segue export` does, but with its output on standard error."""
    from segue import formats

    with contextlib.redirect_stdout(sys.stderr):
        formats.export(model, target, folder, weights=weights, examples=manifest)
    return folder


def speech(options: argparse.Namespace, folder: Path) -> None:
    import segue
    from segue import parity
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest

    model = _copied(options.model, folder)
    models = {
        "pytorch": model,
        "onnx": _exported("onnx", model, folder / "onnx", options.manifest),
        "onnx-int8": options.int8 or _exported("onnx", model, folder / "int8", options.manifest, "int8"),
        "sherpa-onnx": _exported("sherpa-onnx", model, folder / "sherpa", options.manifest),
    }
    recognizer = segue.load(models["onnx"])
    rate = recognizer.metadata.sample_rate_hz
    manifest = Manifest(Utterance, [options.manifest])
    parity.thin_out(manifest, options.utterances)
    groups = list(recognizer.evaluator.sounds(manifest))
    references = [[utterance.text for utterance in utterances] for utterances, _ in groups]
    pieces: list[Samples] = []
    texts: list[str] = []
    for utterance in manifest:
        if sum(map(len, pieces)) < LONG_SECONDS * rate:
            pieces.append(utterance.samples(rate))
            texts.append(utterance.text)
    parts = [
        Part("utterances", [waveforms for _, waveforms in groups], references),
        Part("a long recording", [[np.concatenate(pieces)]], [[" ".join(texts)]], is_recording=True),
    ]
    compare_speech(str(options.model), models, parts, rate, options, folder)


def quartznet(options: argparse.Namespace, folder: Path) -> None:
    import torch

    from segue import recipe
    from segue.compress import quantize
    from segue.data import tokenizer as tokenizers
    from segue.data.audio import padded
    from segue.engine.state import checkpoint
    from segue.formats import onnx
    from segue.runtime import exported
    from segue.runtime.onnx import OnnxBackend
    from segue.runtime.onnx import inputs as graph_inputs
    from segue.tasks import speech_recognition
    from segue.tasks.speech_recognition import AcousticModel, TorchBackend

    section = recipe.validate(recipe.read(recipe.find(QUARTZNET)), speech_recognition.Recipe)
    tokenizer = tokenizers.build(section.tokenizer, ())
    rate = section.features.sample_rate_hz
    source = _sounds(options.manifest, rate) if options.manifest else _made_up(rate)
    audio = np.concatenate(list(_first(source, round(sum(PIECE_SECONDS) * rate))))
    pieces = np.split(audio, (np.cumsum(PIECE_SECONDS)[:-1] * rate).astype(int))
    torch.manual_seed(0)
    model = AcousticModel(section, len(tokenizer))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
                module.momentum = None  # use the statistics of the single batch that follows
        model.train()(*map(torch.from_numpy, padded(pieces)))
    torch_folder, onnx_folder, int8_folder = (folder / name for name in ("pytorch", "onnx", "int8"))
    torch_folder.mkdir()
    onnx_folder.mkdir()
    checkpoint.write_text(torch_folder / "recipe.toml", recipe.dump(section))
    tokenizer.save(torch_folder / "tokenizer.json")
    checkpoint.write_tensors(torch_folder / "model.safetensors", model.state_dict())
    trained = speech_recognition.restore(torch_folder)
    onnx.SPEECH.write(trained, onnx_folder, "float32")
    exported.save(onnx_folder, "onnx", trained.metadata())
    shutil.copytree(onnx_folder, int8_folder)
    inputs = [graph_inputs([piece]) for piece in pieces]
    quantize.quantize_int8(onnx_folder / "model.onnx", int8_folder / "model.onnx", inputs)
    objective = trained.recipe.objective.build(len(trained.tokenizer))
    ours = TorchBackend(trained.model, objective, torch.device("cpu")).recognize(pieces)
    theirs = OnnxBackend(onnx_folder / "model.onnx", trained.metadata()).recognize(pieces)
    pairs = [(one.scores, other.scores) for one, other in zip(ours, theirs, strict=True)]
    off = [np.abs(one - other).mean() / one.std() for one, other in pairs]
    assert max(off) < LARGEST_DIFFERENCE, f"onnx is off by {max(off)} standard deviations"
    models = {"pytorch": torch_folder, "onnx": onnx_folder, "onnx-int8": int8_folder}
    compare_speech(QUARTZNET, models, [Part("pieces", [pieces])], rate, options, folder)


def translation(options: argparse.Namespace, folder: Path) -> None:
    import decoding
    import peer_models

    from segue import metrics, parity
    from segue.data.examples import Pair
    from segue.data.manifest import Manifest
    from segue.data.text import normalize
    from segue.data.vocabularies import END
    from segue.formats import ctranslate2
    from segue.runtime import exported
    from segue.tasks import translation

    model = _copied(options.model, folder)
    trained = translation.restore(model)
    vocabularies, rule, search = trained.vocabularies, trained.recipe.text, trained.recipe.search
    sizes = trained.recipe.model.model_dump()
    if strange := peer_models.strange(sizes):
        raise SystemExit(f"{options.model}: transformers has no such model: {', '.join(strange)}")
    models = {}
    for name, weights in (("ctranslate2", "float32"), ("ctranslate2-int8", "int8")):
        (folder / name).mkdir()
        ctranslate2.TEXT.write(trained, folder / name, weights)
        exported.save(folder / name, "ctranslate2", trained.metadata())
        models[name] = str(folder / name)
    manifest = Manifest(Pair, [options.manifest])
    parity.thin_out(manifest, options.sentences)
    pairs = list(manifest)
    sources = [
        vocabularies.source_tokens(vocabularies.source.encode(normalize(pair.source, rule)), pair.target_language)
        for pair in pairs
    ]
    order = sorted(range(len(pairs)), key=lambda number: len(sources[number]))
    batches = [order[start : start + options.batch] for start in range(0, len(order), options.batch)]
    batches_of_sources = [[sources[number] for number in batch] for batch in batches]
    blocks = [block for start in range(options.blocks) if (block := list(range(start, len(batches), options.blocks)))]
    references = [tuple(normalize(text, rule) for text in (pair.target, *pair.alternatives)) for pair in pairs]
    for threads in options.threads:
        print(f"{options.model}, {options.beams} beams, {threads} thread(s):", flush=True)
        (folder / "plan.json").write_text(
            json.dumps(asdict(Plan(models, threads, batches=batches_of_sources, beams=options.beams)))
        )
        theirs = decoding.Plan(
            model=str(model),
            sizes=sizes,
            padding=vocabularies.padding,
            begin=vocabularies.begin,
            end=vocabularies.end,
            impossible=[number for token, number in vocabularies.target.special.items() if token != END],
            batches=batches_of_sources,
            longest=[
                int(len(batch[-1]) * search.longest_factor + search.longest_extra) for batch in batches_of_sources
            ],
            beams=options.beams,
            threads=threads,
        )
        (folder / "transformers.json").write_text(json.dumps(asdict(theirs)))
        sides = turns.start(__file__, dict.fromkeys(models, sys.executable), folder / "plan.json")
        sides |= turns.start(decoding.__file__, {"transformers": options.transformers}, folder / "transformers.json")
        outputs, work, answers = measure(sides, blocks, options.repeats, [len(batch) for batch in batches])
        report("sentences", work, answers, TEXT_RATIOS)
        tokens = {
            name: {n: row for b, batch in enumerate(batches) for n, row in zip(batch, of_side[b], strict=True)}
            for name, of_side in outputs.items()
        }
        for name, of_side in tokens.items():
            texts = [vocabularies.target.decode(of_side[number]) for number in range(len(pairs))]
            same = sum(of_side[number] == tokens["transformers"][number] for number in of_side)
            bleu = metrics.texts("bleu", "auto", references, texts, [None] * len(texts)).overall()["bleu"]
            print(f"    {name}: BLEU {bleu:.2f}; {same} of {len(pairs)} outputs as transformers'", flush=True)
        for side in sides.values():
            side.end()


def _copied(model: Path, folder: Path) -> Path:
    """A copy of the model, since it may still be in training."""
    own = model / "model" if (model / "model").is_dir() else model
    return Path(shutil.copytree(own, folder / "pytorch"))


# --- New processes ---


def memory(options: argparse.Namespace, folder: Path) -> None:
    import segue

    rate = segue.load(options.model).metadata.sample_rate_hz
    for threads in options.threads:
        for hours in options.hours:
            path = folder / "recording.flac"
            _write(path, _first(_sounds(options.audio, rate), round(hours * 3600 * rate)), rate)
            answer = _fresh(MEMORY, options.model, path, threads)
            loaded, peak, seconds, wall, words = json.loads(answer)
            print(
                f"{options.model}, {threads} thread(s), {hours:g} h: loaded {loaded / 1e6:.0f} MB; transcribed "
                f"{seconds:.0f} s in {wall:.1f} s, {words} words: {(peak - loaded) / 1e6:.0f} MB more at the peak",
                flush=True,
            )


def startup(options: argparse.Namespace, folder: Path) -> None:
    import segue

    rate = segue.load(options.models[0]).metadata.sample_rate_hz
    path = folder / "recording.flac"
    _write(path, _first(_sounds(options.audio, rate), round(options.seconds * rate)), rate)
    for threads in options.threads:
        found: dict[Path, list[list[float]]] = {model: [] for model in options.models}
        for number in range(options.repeats + 1):
            for model in options.models:
                times = [float(value) for value in _fresh(STARTUP, model, path, threads).split()]
                if number:  # the first one reads files from the disk
                    found[model].append(times)
        for model, rows in found.items():
            ready, first, second = np.median(rows, axis=0)
            print(
                f"{model}, {threads} thread(s): import and load {ready:.2f} s; {options.seconds:g} s of audio: first "
                f"{1000 * first:.0f} ms, again {1000 * second:.0f} ms (medians of {options.repeats} processes)",
                flush=True,
            )


def _fresh(code: str, model: Path, audio: Path, threads: int) -> str:
    """The last line that a new process prints."""
    command = [sys.executable, "-c", code, str(model), str(audio), str(threads)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


# --- Audio ---


def _sounds(path: Path, rate: int) -> Iterator[Samples]:
    """A recording, or the utterances of a manifest, repeated endlessly, in blocks."""
    from segue.data import audio
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest

    is_manifest = path.name.endswith((".jsonl", ".jsonl.gz"))
    utterances = Manifest(Utterance, [path]) if is_manifest else None
    while True:
        if utterances is None:
            yield from audio.stream(path, rate)
        else:
            yield from (utterance.samples(rate) for utterance in utterances)


def _made_up(rate: int) -> Iterator[Samples]:
    """Noise that swells and fades four times a second."""
    draw = np.random.default_rng(0)
    swell = 0.1 * (1.05 - np.cos(2 * np.pi * 4 * np.arange(rate) / rate))
    while True:
        yield (swell * draw.standard_normal(rate) / 3).astype(np.float32)


def _first(blocks: Iterator[Samples], count: int) -> Iterator[Samples]:
    """The first `count` samples, in blocks."""
    while count > 0:
        block = next(blocks)[:count]
        count -= len(block)
        yield block


def _write(path: Path, blocks: Iterator[Samples], rate: int) -> None:
    import soundfile

    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for block in blocks:
            file.write(block)


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        serve(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(run: Callable[[argparse.Namespace, Path], None], threads: tuple[int, ...]) -> argparse.ArgumentParser:
        result = commands.add_parser(run.__name__)
        result.set_defaults(run=run)
        result.add_argument("--threads", type=int, nargs="+", default=list(threads))
        return result

    one = command(speech, (1, 2))
    one.add_argument("model", type=Path, help="a run or a model directory")
    one.add_argument("manifest", type=Path, help="manifest of test utterances")
    one.add_argument("--int8", type=Path, metavar="EXPORTED", help="the 8-bit model, if it exists already")
    one.add_argument("--utterances", type=int, default=500, help="maximum number, evenly spaced")
    one.add_argument("--blocks", type=int, default=4, help="number of blocks of batches")
    one.add_argument("--repeats", type=int, default=8)
    one = command(quartznet, (1, 2))
    one.add_argument("manifest", type=Path, nargs="?", help="manifest of utterances, or a recording")
    one.add_argument("--repeats", type=int, default=8)
    one.set_defaults(blocks=1)
    one = command(translation, (1, 2))
    one.add_argument("model", type=Path, help="a run or a model directory")
    one.add_argument("manifest", type=Path, help="manifest of test pairs")
    one.add_argument("--transformers", metavar="PYTHON", required=True, help="Python of transformers' environment")
    one.add_argument("--beams", type=int, default=5)
    one.add_argument("--batch", type=int, default=32)
    one.add_argument("--sentences", type=int, default=1000, help="maximum number, evenly spaced")
    one.add_argument("--blocks", type=int, default=8, help="number of blocks of batches")
    one.add_argument("--repeats", type=int, default=3)
    one = command(memory, (1,))
    one.add_argument("model", type=Path, help="an exported directory")
    one.add_argument("audio", type=Path, help="a recording or a manifest, repeated")
    one.add_argument("--hours", type=float, nargs="+", default=[0.1, 1.0])
    one = command(startup, (1,))
    one.add_argument("models", type=Path, nargs="+", help="exported directories")
    one.add_argument("audio", type=Path, help="a recording or a manifest")
    one.add_argument("--seconds", type=float, default=5.0, help="length of the audio that is transcribed")
    one.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.run(options, Path(folder))


if __name__ == "__main__":
    main()
