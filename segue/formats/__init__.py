"""What are other people's formats? One file each, and one road to all: write, run, compare, and only then publish."""

import importlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segue import card, tasks
from segue.compress import quantize
from segue.data import manifests
from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest, ManifestsSection
from segue.errors import UserError, missing_extra, warn
from segue.files import PARTIAL
from segue.formats import parity
from segue.formats.parity import Parity, Size
from segue.formats.target import Speech, Text
from segue.progress import Bar, progress, say
from segue.runtime import exported
from segue.runtime.recogniser import Recogniser
from segue.runtime.separate import SeparateWriter
from segue.runtime.translator import Translator, Writer
from segue.tasks import speech_recognition, translation

MODULES = {
    "onnx": "segue.formats.onnx",
    "sherpa-onnx": "segue.formats.sherpa_onnx",
    "ctranslate2": "segue.formats.ctranslate2",
    "huggingface": "segue.formats.huggingface",
}
EXACT = "float32"
_INSTRUCTIONS = {"avx512_f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sse4_1": "SSE4.1"}  # of x86, the largest first
NUM_CALIBRATION = 128
"""Utterances, evenly spaced, whose activations give the ranges of eight-bit numbers."""


def export(
    model: Path,
    target: str,
    out: Path,
    *,
    weights: str = EXACT,
    max_metric_loss: float = 0.5,
    examples: Path | None = None,
    calibration: Path | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> Parity:
    """Writes a trained model into the directory `out`, in a format that `target` names; the proof lies beside it.

    The runtime's outputs are compared with PyTorch's on `examples`, or else on the test or development manifests of the
    model's data; bad ones are left out with `skip_bad`. With `weights` int8 or float16 the metric may lose
    `max_metric_loss` points; otherwise outputs must be the same as well. Where they are not, nothing is published and a
    UserError says why.
    """
    trained, own_card = tasks.restore(model), _card_of(model)
    task = trained.facts().task
    leaves = way(target, task)
    if weights != EXACT and weights not in leaves.quantizations:
        permitted = ", ".join(leaves.quantizations) or "none"
        raise UserError(f"--quantize {weights}: {target} has no such weights for {task} (it has: {permitted})")
    if calibration is not None and not (weights == "int8" and isinstance(leaves, Speech)):
        raise UserError("--calibration: only eight-bit speech models are calibrated (--quantize int8)")
    _warn_of_unfinished(model, trained.recipe.engine.steps)
    data: ManifestsSection = trained.recipe.data
    kind = Utterance if isinstance(leaves, Speech) else Pair
    skip_bad = skip_bad or data.skip_bad
    manifest: Manifest[Any] = (
        _examples(kind, data, skip_bad) if examples is None else Manifest(kind, [examples], skip_bad=skip_bad)
    )
    with _publishing(out, force) as folder:
        if isinstance(leaves, Speech):
            ranges: Manifest[Any] | None = Manifest(kind, [calibration], skip_bad=skip_bad) if calibration else None
            if ranges is None:
                ranges = manifests.dev(kind, data, skip_bad) or manifest.part(np.arange(len(manifest)))
            found, more = _speech(trained, leaves, folder, weights, max_metric_loss, manifest, ranges)
        else:
            found, more = _text(trained, leaves, folder, weights, manifest), {}
        print("\n".join(f"{key:22} {value}" for key, value in found.rows().items()), flush=True)
        problems = found.problems(weights == EXACT, max_metric_loss)
        if problems:
            raise UserError(f"{out}: not written: " + "; ".join(problems))
        exported.save(folder, target, trained.facts(), weights=weights, **more)
        found.save(folder / "parity.json", target=target, weights=weights, **more)
        text = card.with_use(own_card, leaves.use(trained, out.resolve().name), _table(found))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return found


def way(target: str, task: str) -> Speech | Text:
    """How a model of this task leaves in the format; a UserError if it does not, or if a package is missing."""
    found: dict[str, Any] = {}
    for name, module in MODULES.items():
        kind = "SPEECH" if task == "speech_recognition" else "TEXT"
        leaves = getattr(importlib.import_module(module), kind, None)
        if leaves is not None:
            found[name] = leaves
    if target not in found:
        wrong = "no such target" if target not in MODULES else f"not for {task}"
        raise UserError(f"{target}: {wrong} (targets for {task}: {', '.join(found)})")
    leaves = found[target]
    assert isinstance(leaves, Speech | Text)
    for package in leaves.packages:
        if util.find_spec(package) is None:
            raise missing_extra(package, "export")
    return leaves


def _warn_of_unfinished(run: Path, steps: int) -> None:
    """A run's model is the best so far; its training may still go on."""
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    with suppress(ValueError, LookupError, TypeError):  # no log, or a line that is being written
        last = json.loads(lines[-1])
        if last["step"] < steps and not last.get("is_last"):  # patience may have run out
            warn(f"{run}: its training has taken {last['step']} of {steps} steps; what leaves is the best model so far")


def _examples(kind: type[Any], data: ManifestsSection, skip_bad: bool) -> Manifest[Any]:
    """Of the model's own test manifests, or else its development examples."""
    root = Path(data.root)
    paths = sorted(root.glob("test*.jsonl")) + sorted(root.glob("test*.jsonl.gz"))
    found = Manifest(kind, paths, skip_bad=skip_bad) if paths else manifests.dev(kind, data, skip_bad)
    if found is None:
        raise UserError(
            f"no examples to compare on: neither test*.jsonl nor {manifests.dev_name(data)} in {root} (data.root of "
            "the model's recipe); give --examples MANIFEST"
        )
    return found


def _speech(
    trained: speech_recognition.Trained,
    leaves: Speech,
    folder: Path,
    weights: str,
    max_loss: float,
    manifest: Manifest[Utterance],
    calibration: Manifest[Utterance],
) -> tuple[Parity, dict[str, Any]]:
    """Writes a recogniser; what comparing found, and which layers stayed in float."""
    threads, path = torch.get_num_threads(), folder / "model.onnx"
    ours = Recogniser(trained.facts(), speech_recognition.TorchListener(trained.model, torch.device("cpu")))

    def compare() -> Parity:
        runtime, hear = _version(leaves.packages[0]), leaves.hear(trained, folder, threads)
        size = Size(_bytes_of(trained.model), _bytes_in(folder))
        return parity.of_speech(
            ours, hear, manifest, runtime=runtime, instructions=_instructions(), threads=threads, size=size
        )

    with Bar("writes the graph"):
        leaves.write(trained, folder)
    if weights == EXACT:
        return compare(), {}
    whole = path.rename(folder / f"{PARTIAL}whole.onnx")
    try:
        if weights == "float16":
            quantize.float16_weights(whole, path)
            return compare(), {}
        parity.thin_out(calibration, NUM_CALIBRATION)

        def inputs() -> Iterator[Mapping[str, NDArray[Any]]]:
            sounds = ours.sounds(calibration)
            for _, waveforms in progress(sounds, "sees ranges of activations", unit="batches"):
                for waveform in waveforms:
                    yield leaves.inputs(trained, [waveform])

        quantize.quantize_int8(whole, path, inputs())
        found, kept = compare(), list[str]()
        if found.loss > max_loss:
            worst_first = list(quantize.layer_errors(whole, path, inputs()))
            while found.loss > max_loss and len(kept) < len(worst_first):
                lost, kept = found.loss, worst_first[: max(1, 2 * len(kept))]
                said = f"{lost:.2f} points lost; once more with {len(kept)} of {len(worst_first)} layers in float"
                say(said)
                quantize.quantize_int8(whole, path, inputs(), kept)
                found = compare()
        return found, {"layers_in_float": kept}
    finally:
        whole.unlink()


def _text(trained: translation.Trained, leaves: Text, folder: Path, weights: str, manifest: Manifest[Pair]) -> Parity:
    """Writes a translator; what comparing found."""
    threads, facts = torch.get_num_threads(), trained.facts()
    with Bar("writes the model"):
        leaves.write(trained, folder, weights)
    writer = translation.TorchWriter(trained.model, trained.vocabularies, torch.device("cpu"))

    def translator(writer: Writer) -> Translator:
        return Translator(facts, trained.vocabularies, writer)

    with ExitStack() as opened:
        least: tuple[str, Translator] | None = None
        if weights == "int8" and leaves.least:
            name = " ".join(f"{key}={value}" for key, value in leaves.least.items())
            least = name, translator(opened.enter_context(SeparateWriter(folder, threads, leaves.least)))
        return parity.of_translation(
            translator(writer),
            translator(leaves.writer(trained, folder, threads)),
            manifest,
            runtime=_version(leaves.packages[0]),
            instructions=_instructions(),
            threads=threads,
            size=Size(_bytes_of(trained.model), _bytes_in(folder)),
            least=least,
        )


def _instructions() -> str:
    """Those of this processor that matter to eight bits, in words."""
    known = torch.cpu.get_capabilities()
    if known.get("architecture") != "x86_64":
        return platform.machine()
    largest = next((name for key, name in _INSTRUCTIONS.items() if known.get(key)), "older than SSE4.1")
    has_vnni = known.get("avx512_vnni") or known.get("avx_vnni")
    return f"{largest}, {'with' if has_vnni else 'without'} VNNI"


def _version(package: str) -> str:
    return f"{package} {metadata.version(package)}"


def _bytes_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.startswith(PARTIAL))


def _card_of(model: Path) -> str:
    path = (model / "model" if (model / "model").is_dir() else model) / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else "# Model\n"


def _table(found: Parity) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in found.rows().items())
    return f"\n## Beside PyTorch\n\n| | |\n|---|---|\n{rows}\n"


@contextmanager
def _publishing(out: Path, force: bool) -> Iterator[Path]:
    """A folder to write into, which takes `out`'s place when the block ends well, and vanishes otherwise."""
    out = out.resolve()

    def check() -> None:
        if out.exists() and not force:
            raise UserError(f"{out}: exists already; --force writes it anew")
        if out.exists() and not (out / exported.NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: not an exported model: --force does not remove it")

    check()
    # Each process has its own: two exports to one place do not mix.
    partial, old = (out.with_name(f"{PARTIAL}{word}_{out.name}_{os.getpid()}") for word in ("new", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        check()
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
