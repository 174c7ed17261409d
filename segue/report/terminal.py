"""An evaluation as text: scores with their intervals, then those of speakers or languages."""

from collections.abc import Mapping, Sequence
from typing import Any

from segue.evaluation import Evaluation
from segue.metrics import describe

MOST_ROWS = 20


def lines(evaluation: Evaluation) -> list[str]:
    """The lines to print."""
    found = []
    for name, value in evaluation.scores.items():
        interval = evaluation.intervals.get(name)
        between = f"  [{', '.join(shown(name, end) for end in interval)}]" if interval else ""
        found.append(f"{name.replace('_', ' '):22} {shown(name, value):>10}{between}")
    found.append(evaluation.interval_note)
    for kind, groups in evaluation.groups.items():
        found += ["", *_table(kind.removesuffix("s"), groups)]
        if len(groups) > MOST_ROWS:
            found.append(f"... and {len(groups) - MOST_ROWS:,} more {kind}; --json and --report have all of them")
    return found


def shown(name: str, value: Any) -> str:
    """A number formatted for its metric."""
    return f"{value:.2%}" if describe(name).is_share else f"{value:.4f}" if isinstance(value, float) else f"{value}"


def columns(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the numbers that a table of groups shows: those that all groups have, without the counts of errors."""
    names = dict.fromkeys(name for scores in groups.values() for name in scores)
    hidden = {"insertions", "deletions", "substitutions"}
    return [
        name for name in names if name not in hidden and all(_is_number(each.get(name)) for each in groups.values())
    ]


def _table(kind: str, groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table with one row per group; numbers are right-aligned."""
    names = columns(groups)
    rows: list[Sequence[str]] = [[kind, *(name.replace("_", " ") for name in names)]]
    for group, scores in list(groups.items())[:MOST_ROWS]:
        rows.append([group, *(shown(name, scores[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{first:{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in rows
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
