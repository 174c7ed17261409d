"""The report of training runs, as a self-contained HTML file: curves, and the differences between their recipes."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from segue.errors import UserError
from segue.metrics import describe
from segue.report import chart, logs, page
from segue.report.chart import Line, Mark, Scale, draw, style, swatch
from segue.report.logs import Run, Series
from segue.report.page import Part, headline, tag

MOST_RUNS = chart.NUM_COLORS * chart.NUM_DASHES

STYLE = f"""{chart.STYLE}
body {{ max-width: 76rem; }}
.scores {{ grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }}
.curves {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2rem; }}
.curve {{ display: flex; flex-direction: column; justify-content: space-between; gap: .75rem; }}
.curve p {{ margin: .125rem 0; }}
.key {{ display: flex; flex-wrap: wrap; gap: 0 1.25rem; }}
.key + .curves {{ margin-top: 1rem; }}
.key span span {{ white-space: nowrap; margin-right: .75rem; }}
.wide td, .wide th {{ max-width: 24rem; overflow-wrap: break-word; vertical-align: top; }}
.wide td:first-child, .numbers td, .numbers th {{ white-space: nowrap; }}
pre {{ font-size: .8125rem; white-space: pre-wrap; }}
"""


class Curve(NamedTuple):
    """How to draw a number of the log."""

    title: str
    unit: str = ""
    scale: Scale = "free"
    is_noisy: bool = True
    factor: int = 1


CURVES = {
    "loss": Curve("training loss"),
    "learning_rate": Curve("learning rate", scale="zero", is_noisy=False),
    "gradient_norm": Curve("gradient norm", scale="log"),
    "rate": Curve("throughput", scale="zero"),
    "data_wait": Curve("waiting for data", "% of the time", "zero", factor=100),
    "utilization": Curve("model FLOP utilization", "%", "zero", factor=100),
    "memory_gb": Curve("peak memory", "GB", "zero", is_noisy=False),
    "loss_scale": Curve("loss scale", scale="log", is_noisy=False),
}
"""Settings by number. Other numbers of the log are metrics of the task and have the default settings."""
NO_CURVES = {"step", "epoch", "time"}
ERRORS = {"insertions", "deletions", "substitutions"}
"""Scores that are counts. Other integers among the scores are sizes of the development data and are not drawn."""


def write(paths: Sequence[Path], path: Path) -> None:
    """Writes the report of the runs in the directories `paths` to the HTML file `path`."""
    if len(paths) > MOST_RUNS:
        raise UserError(f"{len(paths)} runs: more than {MOST_RUNS} cannot be distinguished in one chart")
    runs = logs.read(paths)
    first, is_alone = runs[0], len(runs) == 1
    facts = {"run": str(first.path), **_when(first)} if is_alone else {}
    sections: dict[str, Sequence[Part]] = {
        "Summary" if is_alone else "Runs": _summaries(runs),
        "Scores on the development data": _section(runs, _score_curves(runs)),
        "Training": _section(
            runs, [*_losses(runs), *_training_curves(runs)], "Faint: as logged. Bold: the running median."
        ),
        "Recipe": [tag("details", tag("summary", "Show it"), tag("pre", first.recipe_text))] if is_alone else [],
        "Recipes": [] if is_alone else _differences(runs),
        "Environment" if is_alone else "Environments": _table_by_key(runs, [each.environment for each in runs]),
    }
    page.write(path, f"Run {first.label}" if is_alone else f"{len(runs)} runs", facts, sections, STYLE)


# --- numbers ---


def _summaries(runs: Sequence[Run]) -> list[Part]:
    summaries = [_summary(run) for run in runs]
    names = list(dict.fromkeys(name for each in summaries for name in each))
    note = "The time is that from the first logged step to the last, pauses included. "
    note += "The rate is the mean of the logged ones, which leave out evaluations."
    if len(runs) == 1:
        cells = [tag("div", tag("dt", name), tag("dd", summaries[0][name]), class_="number") for name in names]
        shown = tag("dl", *cells, class_="scores")
    else:
        rows: list[list[Part]] = [
            [_named(run, at), *(summary.get(name, "") for name in names)]
            for at, (run, summary) in enumerate(zip(runs, summaries, strict=True))
        ]
        shown = tag("div", _table(["run", *names], rows), class_="wide numbers", tabindex="0")
    return [shown, tag("p", note, class_="quiet")]


def _summary(run: Run) -> dict[str, str]:
    """The main results of a run, by name."""
    found = {}
    if run.metric is not None:
        name = run.metric.replace("_", " ")
        best, averaged = run.best(run.metric), run.series(run.metric, "averaged")
        if best is not None:
            found[f"best {name}"] = f"{_score(run.metric, best[1])} at step {best[0]:,}"
        if len(averaged.steps):
            found[f"averaged {name}"] = _score(run.metric, averaged.point(-1)[1])
    last = run.records[-1]
    planned = run.recipe.get("engine.steps", "")
    found["steps"] = f"{last['step']:,}" + (f" of {int(planned):,}" if planned.isdecimal() else "")
    epochs, times, rates = (run.series(name).values for name in ("epoch", "time", "rate"))
    if len(epochs):
        found["epochs"] = f"{epochs[-1]:.1f}"
    if len(times):
        found["time"] = _duration(times[-1] - times[0])
    if len(rates):
        found["mean rate"] = f"{rates.mean():,.0f} {_unit(run)}/s"
    num_skipped = len(_skipped(run))
    if num_skipped:
        found["skipped steps"] = f"{num_skipped:,}"
    return found


def _score(name: str, value: float) -> str:
    return headline(name, int(value) if name in ERRORS else value)


def _when(run: Run) -> dict[str, str]:
    times = run.series("time").values
    if not len(times):
        return {}
    return {"logged until": f"{datetime.datetime.fromtimestamp(times[-1]):%Y-%m-%d %H:%M}"}


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60} min"
    return f"{minutes} min" if minutes > 2 else f"{seconds:.0f} s"


def _unit(run: Run) -> str:
    """Unit of the amounts in the rate; empty if unknown."""
    return next((str(each["unit"]) for each in run.records if "unit" in each), "")


def _skipped(run: Run) -> list[int]:
    return [each["step"] for each in run.records if each.get("is_skipped")]


# --- curves ---


def _section(runs: Sequence[Run], curves: Sequence[Element], note: str = "") -> list[Part]:
    """Curves below a legend."""
    if not curves:
        return []
    legend = [_named(run, at) for at, run in enumerate(runs)] if len(runs) > 1 else []
    above = [*legend, *([tag("span", note, class_="quiet")] if note else [])]
    faint = "curves many" if len(runs) > 2 else "curves"
    return [*([tag("p", *above, class_="key")] if above else []), tag("div", *curves, class_=faint)]


def _named(run: Run, at: int) -> Element:
    return tag("span", swatch(style(at)), run.label)


def _score_curves(runs: Sequence[Run]) -> list[Element]:
    records = [each["dev"] for run in runs for each in run.records if each.get("dev")]
    names = dict.fromkeys(name for each in records for name, value in each.items() if _is_score(name, value))
    return [_score_curve(runs, name) for name in names]


def _is_score(name: str, value: object) -> bool:
    return isinstance(value, float) or name in ERRORS


def _score_curve(runs: Sequence[Run], name: str) -> Element:
    factor = 100 if describe(name).is_share else 1
    lines, key = [], []
    for at, run in enumerate(runs):
        series = run.series(name, "dev")
        if not len(series.steps):
            continue
        marks = _score_marks(run, name)
        said = [tag("span", swatch(style(at), mark.kind), mark.text) for mark in marks]
        key.append(tag("span", *([] if len(runs) == 1 else [f"{run.label}: "]), *said))
        drawn = [mark._replace(value=factor * (mark.value or 0)) for mark in marks]
        lines.append(Line(style(at), _times(series, factor), drawn))
    better = {"min": "lower is better", "max": "higher is better", None: ""}[describe(name).direction]
    unit = ", ".join(filter(None, ["%" if factor == 100 else "", better]))
    note = tag("span", *key, class_="key")
    scale: Scale = "zero" if name in ERRORS else "free"
    return draw(name.replace("_", " "), unit, lines, _last_step(runs), scale, is_noisy=False, notes=[note])


def _score_marks(run: Run, name: str) -> list[Mark]:
    best, averaged = run.best(name), run.series(name, "averaged")
    found = []
    if best is not None:
        found.append(Mark("best", *best, f"best {_score(name, best[1])} at step {best[0]:,}"))
    if len(averaged.steps):
        step, value = averaged.point(-1)
        found.append(Mark("averaged", step, value, f"averaged {_score(name, value)}"))
    return found


def _training_curves(runs: Sequence[Run]) -> list[Element]:
    names = dict.fromkeys(name for run in runs for each in run.records for name in each if name not in NO_CURVES)
    found = []
    for name in sorted(names, key=lambda name: name != "loss"):  # the loss first, then as they are logged
        curve = CURVES.get(name, Curve(name.replace("_", " ")))
        # Rates with different units do not share an axis.
        for unit in dict.fromkeys(_unit(run) for run in runs) if name == "rate" else [""]:
            lines = []
            for at, run in enumerate(runs):
                series = run.series(name)
                if len(series.steps) and (name != "rate" or _unit(run) == unit):
                    marks = _skip_marks(run) if name in ("loss", "loss_scale") else []
                    lines.append(Line(style(at), _times(series, curve.factor), marks))
            if lines:
                notes = _skip_notes(runs, lines)
                shown = curve.unit or (f"{unit}/s" if unit else "")
                found.append(draw(curve.title, shown, lines, _last_step(runs), curve.scale, curve.is_noisy, notes))
    return found


def _losses(runs: Sequence[Run]) -> list[Element]:
    """Training and development loss in one chart, to show overfitting.

    With label smoothing, the training loss is the negative log-likelihood, as on the development data.
    """
    lines = []
    for at, run in enumerate(runs):
        likelihood = run.series("likelihood_loss")
        training = likelihood if len(likelihood.steps) else run.series("loss")
        both = ((style(at), training), (style(1) if len(runs) == 1 else f"{style(at)} dev", run.series("loss", "dev")))
        if all(len(series.steps) for _, series in both):
            lines += [Line(*each) for each in both]
    if not lines:
        return []
    kinds = zip(lines[:2], ("training", "development"), strict=True)
    key = tag("span", *(tag("span", swatch(line.style), name) for line, name in kinds), class_="key")
    return [draw("training and development loss", "", lines, _last_step(runs), "free", is_noisy=True, notes=[key])]


def _skip_marks(run: Run) -> list[Mark]:
    return [Mark("skipped", step, None, f"step {step:,}: skipped") for step in _skipped(run)]


def _skip_notes(runs: Sequence[Run], lines: Sequence[Line]) -> list[Part]:
    if not any(line.marks for line in lines):
        return []
    drawn = swatch(lines[0].style if len(runs) == 1 else "", "skipped")
    return [tag("span", drawn, "skipped: gradients were not finite")]


def _times(series: Series, factor: int) -> Series:
    return series._replace(values=factor * series.values)


def _last_step(runs: Sequence[Run]) -> int:
    return max(1, *(int(run.records[-1]["step"]) for run in runs))


# --- tables ---


def _differences(runs: Sequence[Run]) -> list[Part]:
    """A table of the recipes' keys whose values are not all the same."""
    recipes = [run.recipe for run in runs]
    keys = {key for each in recipes for key in each if len({other.get(key) for other in recipes}) > 1}
    if not keys:
        return [tag("p", "All runs have the same recipe.")]
    return _table_by_key(runs, [{key: each[key] for key in each if key in keys} for each in recipes])


def _table_by_key(runs: Sequence[Run], texts: Sequence[Mapping[str, str]]) -> list[Part]:
    """A table with one row per key and one column per run; empty if there are no keys."""
    keys = dict.fromkeys(key for each in texts for key in each)
    rows: list[list[Part]] = [[key, *(each.get(key, "(none)") for each in texts)] for key in keys]
    head: list[Part] = ["", *(_named(run, at) for at, run in enumerate(runs))]
    return [tag("div", _table(head, rows), class_="wide", tabindex="0")] if rows else []


def _table(head: Iterable[Part], rows: Iterable[Iterable[Part]]) -> Element:
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("table", tag("thead", tag("tr", *(tag("th", each) for each in head))), tag("tbody", *body))
