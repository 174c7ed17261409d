"""Confusion matrix: a row for each class of the references, a column for each class of the outputs.

The darkness of a cell shows its share of the row.
"""

from collections import Counter
from collections.abc import Sequence

from segue.errors import count_of
from segue.evaluation import Example
from segue.report.page import Part, tag

MOST_CLASSES = 40  # a larger table is unreadable; the report still lists the most frequent confusions

STYLE = """
.confusion { font-size: .875rem; }
.confusion th, .confusion td { padding: .15rem .4rem; text-align: end; white-space: nowrap; border: 0; }
.confusion thead th { vertical-align: bottom; }
.confusion thead th:not(:first-child) span { writing-mode: vertical-rl; transform: rotate(180deg); }
.confusion tbody td { min-width: 1.75rem; border: 1px solid var(--line); padding: .15rem .4rem;
  background: color-mix(in srgb, var(--bar) calc(100% * var(--share)), transparent); }
.confusion td:last-child, .confusion th:last-child { padding-right: .4rem; }
.confusion .most { color: var(--page); }
"""


def matrix(examples: Sequence[Example], classes: Sequence[str]) -> list[Part]:
    """The table (rows: references, columns: outputs); empty if there are more than MOST_CLASSES."""
    if len(classes) > MOST_CLASSES:
        return []
    counts = Counter((each.reference, each.hypothesis) for each in examples)
    totals = Counter(each.reference for each in examples)
    head = tag("tr", tag("th"), *(tag("th", tag("span", label, dir="auto")) for label in classes))
    rows = []
    for right in classes:
        cells = []
        for said in classes:
            count = counts[right, said]
            share = count / max(totals[right], 1)
            shade = {"style": f"--share: {share:.3f}", "title": f"{right}: {said} said {count_of(count, 'time')}"}
            cells.append(tag("td", f"{count:,}" if count else "", class_="most" if share > 0.5 else "some", **shade))
        rows.append(tag("tr", tag("th", right, dir="auto"), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="confusion")
    note = "Rows: the right class; columns: the class that was said; darker is a larger share of a row."
    return [tag("p", note, class_="quiet"), tag("div", table, class_="wide", tabindex="0")]
