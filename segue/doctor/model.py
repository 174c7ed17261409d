"""Which transcripts, translations or classes does a trained model disagree with most?"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue import tasks
from segue.data.manifest import write_manifest
from segue.diagnosis import Sample, Symptom
from segue.doctor.looking import Split, cut
from segue.errors import UserError, gathered
from segue.evaluation import Evaluation, Example, shown
from segue.metrics import describe

MOST_EXAMPLES = 500
"""Examples that the model is run on."""


def symptoms(model: Path, splits: Sequence[Split], device: str) -> Iterator[Symptom]:
    """Training examples (of the first split) whose outputs differ most from what is written, the worst first.

    Raises a UserError if there is no model, or one of another task.
    """
    [split, *_] = splits
    size = len(split.examples)
    places = np.unique(np.linspace(0, size - 1, min(size, MOST_EXAMPLES)).astype(int)).tolist()
    with tempfile.TemporaryDirectory() as folder, gathered():
        path = Path(folder) / f"{split.name}.jsonl"
        chosen = [split.examples[place] for place in places]
        # As ids, the places in the manifests: they come back with the outputs.
        write_manifest(path, (_named(each) for each in chosen))
        evaluator = tasks.load(model, device).evaluator
        try:
            found: Evaluation = evaluator.explain(path, skip_bad=True, has_media=True)
        except UserError as problem:
            names = ", ".join(map(str, split.examples.paths))
            raise UserError(f"--model {model}: {str(problem).replace(str(path), names)}") from None
    worst = [found.examples[index] for index in shown(found.examples, found.direction)["worst"]]
    name, is_share = found.score_name, describe(found.score_name).is_share
    overall = next((value for key, value in found.scores.items() if key.replace("_", " ") == name), "?")
    said = f"{overall:.1%}" if is_share and isinstance(overall, float) else f"{overall}"
    yield Symptom(
        "note",
        "model",
        f"{model}: the examples in {split.name} that it disagrees with most; {name} of all that it was run on: {said}",
        "where the model is right, correct the manifest",
        len(worst),
        len(found.examples),
        [Sample(each.id, _said(each, is_share=is_share), each.audio) for each in worst],
    )


def _named(example: Any) -> Any:
    changes: dict[str, Any] = {"id": example.origin, "has_id": True}
    if getattr(example, "sound", None) is not None:
        changes["sound"] = replace(example.sound, id=example.origin, has_id=True)
    return replace(example, **changes)


def _said(example: Example, *, is_share: bool) -> str:
    score = f"{example.score:.0%}" if is_share else f"{example.score:.1f}"
    return f"{score}: {cut(example.reference)!r} is written, {cut(example.hypothesis)!r} is the output"
