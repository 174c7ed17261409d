"""The table of all examples of an evaluation, with sorting, search and pages, drawn by the script `table.js`.

The rows are in the page as JSON, so that even thousands of them need few HTML elements.
"""

from collections.abc import Sequence
from importlib import resources
from xml.etree.ElementTree import Element

from segue.evaluation import Evaluation
from segue.metrics import describe
from segue.report import page
from segue.report.compare import Compared, signs, spaced, whole
from segue.report.page import Part, tag

SCRIPT = resources.files("segue.report").joinpath("table.js").read_text(encoding="utf-8")

STYLE = """
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; margin: .75rem 0; }
.pages { display: flex; gap: .5rem; }
.tools input { flex: 1 1 14rem; min-width: 0; max-width: 24rem; }
.tools .count { color: var(--quiet); font-size: .875rem; font-variant-numeric: tabular-nums; }
.tools input, .tools button { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line);
  border-radius: .3rem; padding: .3rem .6rem; }
.tools button { cursor: pointer; }
.tools button:disabled { color: var(--quiet); opacity: .6; cursor: default; }
:is(.tools, .rows) :focus-visible { outline: 2px solid var(--bar); outline-offset: 1px; }
.rows { width: 100%; }
.rows th button { all: unset; cursor: pointer; white-space: nowrap; }
.rows th[aria-sort="ascending"] button::after { content: " \\25b2"; }
.rows th[aria-sort="descending"] button::after { content: " \\25bc"; }
.rows td { vertical-align: top; padding: .6rem 1.25rem .6rem 0; }
.rows td:last-child, .rows th:last-child { width: 100%; text-align: start; white-space: normal; }
.rows .number { text-align: end; white-space: nowrap; }
.rows .name { min-width: 6.5rem; max-width: 12rem; font-size: .875rem; line-height: 1.7; }
.rows p { margin: 0; max-width: none; display: flex; gap: 0 .6rem; }
.rows p + p { margin-top: .2rem; }
.rows small { flex: 0 0 4.75rem; color: var(--quiet); font-size: .75rem; line-height: 2; }
.rows mark { padding: 0 .1em; border-radius: .2em; }
.rows .left-out { color: var(--left-out); background: var(--left-out-back); }
.rows .added { color: var(--added); background: var(--added-back); }
.rows .other { color: var(--other); background: var(--other-back); }
@media (max-width: 44rem) {
  .rows, .rows tbody { display: block; }
  .rows thead tr { display: flex; flex-wrap: wrap; gap: 0 1rem; }
  .rows thead th:last-child, .rows small { display: none; }
  .rows thead th { border: 0; padding: .2rem 0; }
  .rows tbody tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .6rem 0; border-top: 1px solid var(--line); }
  .rows td { border: 0; padding: 0; }
  .rows .name { min-width: 0; max-width: 100%; }
  .rows td:last-child { flex: 0 0 100%; margin-top: .2rem; }
}
@media print { .tools { display: none; } }
"""


def table(evaluation: Evaluation, compared: Sequence[Compared]) -> list[Part]:
    """The elements that the script fills, and its data; empty if there are no examples."""
    if not evaluation.examples:
        return []
    details = list(dict.fromkeys(name for each in evaluation.examples for name in each.details))
    score = "rate" if describe(evaluation.score_name).is_share else "score"
    columns = [(evaluation.score_name, score), (evaluation.length_name, "number")]
    columns += [(name, "name") for name in (*details, "id")]
    words = whole if evaluation.classes else spaced
    rows = [
        [
            *(each.score, each.length, *(each.details.get(name, "") for name in details), each.id),
            *(each.source, words(other.reference), words(each.hypothesis), signs(other.pairs)),
        ]
        for each, other in zip(evaluation.examples, compared, strict=True)
    ]
    worst_first = "descending" if evaluation.direction == "min" else "ascending"
    data = {"columns": [{"name": name, "kind": kind} for name, kind in columns], "order": worst_first, "rows": rows}
    hint = f"Search {', '.join(['texts', 'ids', *(f'{name}s' for name in details)])}"
    search = tag("input", type="search", placeholder=hint, aria_label=hint, autocomplete="off")
    tools = tag(
        "div",
        search,
        tag("span", class_="count", aria_live="polite"),
        tag("span", *(tag("button", name, type="button") for name in ("Previous", "Next")), class_="pages"),
        class_="tools",
    )
    body = tag("table", tag("thead", tag("tr")), tag("tbody"), class_="rows")
    block = tag("script", page.json(data), type="application/json")
    return [tag("div", tag("noscript", "This table needs JavaScript."), tools, body, block, id="all-examples")]


def groups(kind: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """A table of groups: the name in the first column, numbers in the others."""
    head = tag("tr", tag("th", kind), *(tag("th", name, class_="number") for name in names))
    body = [tag("tr", tag("td", first, dir="auto"), *(tag("td", cell) for cell in rest)) for first, *rest in rows]
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", *body), class_="groups"), class_="wide", tabindex="0"
    )
