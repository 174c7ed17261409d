"""Comparison of two models: differences of their scores on the same examples, with confidence intervals."""

from collections.abc import Mapping
from typing import Any

from segue.errors import UserError
from segue.evaluation import Evaluation
from segue.metrics import Difference, describe


def between(ours: Evaluation, theirs: Evaluation) -> dict[str, Difference]:
    """The scores of `ours` minus those of `theirs`, by name.

    Raises a UserError if they were evaluated on different examples, or if their scores are computed differently.
    """
    if [each.id for each in ours.examples] != [each.id for each in theirs.examples]:
        raise UserError(
            "--against: the two models could not use the same examples of the manifest; see what was left out"
        )
    if [each.reference for each in ours.examples] != [each.reference for each in theirs.examples]:
        raise UserError("--against: the two models normalize texts differently, and their scores cannot be compared")
    if ours.measured.chosen.name != theirs.measured.chosen.name:
        names = (each.measured.chosen.name.replace("_", " ") for each in (ours, theirs))
        raise UserError(
            f"--against: the models are scored by different metrics: {', '.join(names)} (metric in their recipes)"
        )
    if ours.measured.signatures() != theirs.measured.signatures():
        raise UserError("--against: the models count words differently (bleu_tokenizer in their recipes)")
    speakers = [each.details.get("speaker") for each in ours.examples]
    found: dict[str, Difference] = theirs.measured.difference(ours.measured, speakers)
    return found


def lines(found: Mapping[str, Difference], other: str) -> list[str]:
    """Lines for the terminal."""
    if not found:
        return [f"compared with {other}: too few examples to say whether a difference is more than chance"]
    rows = [f"compared with {other} (95 % intervals of the difference, paired bootstrap):"]
    for name, each in found.items():
        value, low, high = (_signed(name, number) for number in each)
        rows.append(f"{name.replace('_', ' '):22} {value:>10}  [{low}, {high}]  {_verdict(name, each)}")
    return rows


def as_json(found: Mapping[str, Difference]) -> dict[str, Any]:
    """Value and interval of each difference, by name."""
    return {name: {"value": each.value, "interval": [each.low, each.high]} for name, each in found.items()}


def _verdict(name: str, found: Difference) -> str:
    if found.low == found.high == 0:
        return "the same"
    if not found.is_real:
        return "may be chance"
    return "better" if (found.value > 0) == (describe(name).direction == "max") else "worse"


def _signed(name: str, value: float) -> str:
    return f"{value:+.2%}" if describe(name).is_share else f"{value:+.2f}"
