"""What the doctor found: as lines for a terminal, and as a self-contained HTML page with recordings to play."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from segue.diagnosis import LEVELS, Diagnosis, Level, Symptom
from segue.errors import count_of
from segue.report import page
from segue.report.page import Part, tag

NUM_LINES = 3
"""Examples of a finding in a terminal."""

STYLE = """
:root { --error: #a01c1c; --warning: #7a4600; --note: #63636b; }
@media (prefers-color-scheme: dark) { :root { --error: #ff9d96; --warning: #f5c474; --note: #9c9ca6; } }
.verdict { font-size: 1.15rem; font-weight: bold; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.summary td { vertical-align: top; } .summary td:nth-child(3) { text-align: end; white-space: nowrap; }
.summary td:nth-child(1), .summary td:nth-child(2), .summary th { white-space: nowrap; }
article { padding: .875rem 0; border-top: 1px solid var(--line); }
article:first-of-type { border-top: 0; }
article h3 { margin: 0 0 .25rem; }
article ul { list-style: none; margin: .5rem 0 0; padding: 0; }
article li { display: flex; flex-wrap: wrap; align-items: center; gap: 0 .75rem; margin: .375rem 0; }
article li > span { flex: 1 1 20rem; min-width: 0; }
audio { flex: 0 0 auto; width: 15rem; height: 2rem; }
pre { white-space: pre-wrap; margin: .25rem 0; font-size: .875rem; }
@media print { audio { display: none; } article { break-inside: avoid; } }
"""
_HEADINGS: dict[Level, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines to print: facts, findings with a few examples each, what was not examined, the verdict."""
    for name, value in diagnosis.facts.items():
        yield f"{name:10} {value}"
    for each in diagnosis.symptoms:
        yield ""
        yield f"{each.level:8} {each.about}: {each.what}{_counted(each)}"
        for one in each.samples[:NUM_LINES]:
            yield f"           {': '.join(filter(None, (one.where, _shown(one.text))))}"
        left = max(each.num_affected, len(each.samples)) - NUM_LINES
        if each.samples and left > 0:
            yield f"           ... and {left:,} more"
        for number, line in enumerate(each.mend.splitlines()):
            yield f"       {'   ' if number else '-> '} {line}"
    if diagnosis.unseen:
        yield ""
        yield f"not examined: {'; '.join(diagnosis.unseen)}"
    yield ""
    yield diagnosis.verdict


def write(diagnosis: Diagnosis, path: Path) -> None:
    """Writes the page, atomically."""
    of_level = {level: [each for each in diagnosis.symptoms if each.level == level] for level in LEVELS}
    sections: dict[str, Sequence[Part]] = {
        "Result": [_verdict(diagnosis), *_summary(diagnosis)],
        **{_HEADINGS[level]: [_article(each) for each in found] for level, found in of_level.items()},
        "Not examined": [tag("ul", *(tag("li", each) for each in diagnosis.unseen))] if diagnosis.unseen else [],
    }
    page.write(path, f"Examination of {diagnosis.title}", diagnosis.facts, sections, STYLE)


def _verdict(diagnosis: Diagnosis) -> Element:
    return tag("p", f"{diagnosis.verdict}.", class_=f"verdict {'note' if diagnosis.is_advisable else 'error'}")


def _summary(diagnosis: Diagnosis) -> list[Part]:
    """A table of errors and warnings."""
    found = [each for each in diagnosis.symptoms if each.level != "note"]
    if not found:
        return []
    head = tag("tr", *(tag("th", name) for name in ("", "about", "examples", "finding")))
    rows = [
        tag(
            "tr",
            tag("td", each.level, class_=each.level),
            tag("td", each.about),
            tag("td", f"{each.num_affected:,}" if each.num_affected else ""),
            tag("td", each.what, dir="auto"),
        )
        for each in found
    ]
    return [
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="summary"), class_="wide", tabindex="0")
    ]


def _article(symptom: Symptom) -> Element:
    title = tag("h3", tag("span", f"{symptom.about}: ", class_=symptom.level), f"{symptom.what}{_counted(symptom)}")
    parts: list[Part] = [title]
    if symptom.mend:
        first, *rest = symptom.mend.split("\n")
        parts.append(tag("p", first))
        parts += [tag("pre", "\n".join(rest))] if rest else []
    items = []
    for one in symptom.samples:
        shown: list[Part] = []
        if one.audio is not None:
            source = f"data:audio/ogg;base64,{b64encode(one.audio).decode()}"
            shown.append(tag("audio", controls="", preload="none", src=source))
        text = tag("span", tag("span", one.where, class_="quiet"), " ", tag("span", _shown(one.text), dir="auto"))
        items.append(tag("li", *shown, text))
    if items:
        parts.append(tag("ul", *items))
    return tag("article", *parts)


def _counted(symptom: Symptom) -> str:
    if not symptom.num_affected:
        return ""
    if symptom.num_examined:
        return f" ({symptom.num_affected:,} of {symptom.num_examined:,})"
    return f" ({count_of(symptom.num_affected, 'time')})"


def _shown(text: str) -> str:
    """The text with control characters as escapes, in one line."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
