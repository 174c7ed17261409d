"""Export to other formats, one module each. An export is published once it has been run and compared with PyTorch."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segue import card, parity, tasks
from segue.compress import quantize
from segue.data import manifests
from segue.data.manifest import Manifest
from segue.errors import UserError, missing_extra, warn
from segue.files import PARTIAL
from segue.formats.exporter import GRAPH, Exporter
from segue.parity import Circumstances, Parity
from segue.progress import Bar, say
from segue.runtime import exported, speech_search, table
from segue.runtime.calibration import copy as copy_calibration
from segue.runtime.table import TASKS

EXACT = "float32"
_INSTRUCTIONS = {"avx512_f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sse4_1": "SSE4.1"}  # x86, most capable first
NUM_CALIBRATION = 128
"""Number of calibration examples, evenly spaced, whose activations determine the ranges of eight-bit numbers."""


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
    """Exports a trained model to the directory `out`, in the format `target`, with a report of the comparison.

    The runtime's outputs are compared with PyTorch's on `examples`, or else on the test or development data of the
    model's recipe; bad ones are left out with `skip_bad`. With `weights` int8 or float16 the metric may lose
    `max_metric_loss` points; in full precision the outputs must be the same as well. Raises a UserError, and publishes
    nothing, if these bounds are exceeded.
    """
    trained, own_card = tasks.restore(model), _card_of(model)
    task = trained.metadata().task
    module, exporter = tasks.module(task), exporter_of(target, task)
    if weights != EXACT and weights not in exporter.quantizations:
        permitted = ", ".join(exporter.quantizations) or "none"
        raise UserError(f"--quantize {weights}: {target} has no such weights for {task} (it has: {permitted})")
    if calibration is not None and not (weights == "int8" and exporter.inputs is not None):
        raise UserError("--calibration: only eight-bit speech models are calibrated (--quantize int8)")
    _warn_of_unfinished(model, trained.recipe.engine.steps)
    data = trained.recipe.data
    skip_bad = skip_bad or data.skip_bad
    found_examples = module.examples(data, examples, skip_bad)
    with _publishing(out, force) as folder:
        compare = partial(_compared, module, trained, exporter, folder, weights, found_examples)
        more: dict[str, Any] = {}
        inputs = None
        if weights != EXACT and exporter.inputs is not None:
            kind = module.EXAMPLE
            ranges: Manifest[Any] | None = Manifest(kind, [calibration], skip_bad=skip_bad) if calibration else None
            if ranges is None:
                ranges = manifests.dev(kind, data, skip_bad) or found_examples.part(np.arange(len(found_examples)))
            parity.thin_out(ranges, NUM_CALIBRATION)
            inputs = partial(exporter.inputs, trained, ranges)
        with Bar("writes the model"):
            exporter.write(trained, folder, weights)
        if inputs is None:
            found = compare()
        else:
            found, more = _smaller(folder, weights, max_metric_loss, compare, inputs)
        print("\n".join(f"{key:22} {value}" for key, value in found.rows().items()), flush=True)
        problems = found.problems(weights == EXACT, max_metric_loss, module.LEAST_IDENTICAL)
        if problems:
            raise UserError(f"{out}: not written: " + "; ".join(problems))
        exported.save(folder, target, trained.metadata(), weights=weights, **more)
        copy_calibration(tasks.folder_of(model), folder)
        if task == "speech_recognition" and TASKS[task].targets[target].opens is not None:
            speech_search.copy(tasks.folder_of(model), folder)
        found.save(folder / "parity.json", target=target, weights=weights, **more)
        text = card.with_use(own_card, exporter.use(trained, out.resolve().name), _table(found))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return found


def exporter_of(target: str, task: str) -> Exporter:
    """The exporter for a target and task. Raises a UserError if there is none, or if a package is missing."""
    known = TASKS[task].targets
    if target not in known:
        wrong = f"not for {task}" if target in table.targets() else "no such target"
        raise UserError(f"{target}: {wrong} (targets for {task}: {', '.join(known)})")
    exporter = table.find(known[target].exporter)
    assert isinstance(exporter, Exporter)
    for package in exporter.packages:
        if util.find_spec(package) is None:
            raise missing_extra(package, "export")
    return exporter


def _warn_of_unfinished(run: Path, steps: int) -> None:
    """Warns if a run is not finished: its model is the best one so far."""
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    with suppress(ValueError, LookupError, TypeError):  # no log, or an incomplete line
        last = json.loads(lines[-1])
        if last["step"] < steps and not last.get("is_last"):  # engine.patience may have ended it
            warn(f"{run}: has taken {last['step']} of {steps} steps; its best model so far is exported")


def _compared(
    module: ModuleType, trained: Any, exporter: Exporter, folder: Path, weights: str, examples: Any
) -> Parity:
    """Runs the task's comparison of the export with the PyTorch model."""
    threads = torch.get_num_threads()
    where = Circumstances(
        runtime=_version(exporter.packages[0]),
        instructions=_instructions(),
        threads=threads,
        bytes_before=_bytes_of(trained.model),
        bytes_after=_bytes_in(folder),
    )
    with ExitStack() as opened:
        least = None
        if weights == "int8" and exporter.least is not None:
            name, runtime = exporter.least(folder, threads)
            least = name, opened.enter_context(runtime)
        found: Parity = module.compare(trained, exporter.run(trained, folder, threads), examples, where, least)
    return found


def _smaller(
    folder: Path,
    weights: str,
    max_loss: float,
    compare: Callable[[], Parity],
    inputs: Callable[[], Iterable[Mapping[str, NDArray[Any]]]],
) -> tuple[Parity, dict[str, Any]]:
    """Converts a graph to smaller weights; returns the comparison, and the layers that stay in float.

    If int8 loses too much, more and more layers, those with the largest errors first, are kept in float.
    """
    path = folder / GRAPH
    whole = path.rename(folder / f"{PARTIAL}whole.onnx")
    try:
        if weights == "float16":
            quantize.float16_weights(whole, path)
            return compare(), {}
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


def _instructions() -> str:
    """The processor's instruction sets that matter for eight-bit products, as text."""
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
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(PARTIAL))
    return sum(path.stat().st_size for path in files)


def _card_of(model: Path) -> str:
    path = (model / "model" if (model / "model").is_dir() else model) / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else "# Model\n"


def _table(found: Parity) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in found.rows().items())
    return f"\n## Comparison with PyTorch\n\n| | |\n|---|---|\n{rows}\n"


@contextmanager
def _publishing(out: Path, force: bool) -> Iterator[Path]:
    """A folder to write into, which replaces `out` when the block succeeds, and is deleted otherwise."""
    out = out.resolve()

    def check() -> None:
        if not out.exists():
            return
        if not (out / exported.NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists already, and is not an exported model, which --force would replace")
        if not force:
            raise UserError(f"{out}: exists already; --force replaces it")

    check()
    # Separate folders per process, so that two exports to the same directory do not mix.
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
