"""Shared parts of all reports: self-contained HTML pages and their elements."""

import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from segue.errors import UserError
from segue.files import replacing
from segue.metrics import describe

STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --quiet: #63636b; --line: #dcdce0; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e9; --quiet: #9c9ca6; --line: #3a3a41; --page: #17171a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 58rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
dl, dd, figure { margin: 0; }
dt, .quiet, nav { color: var(--quiet); font-size: .875rem; }
a { color: inherit; }
nav { display: flex; flex-wrap: wrap; gap: .125rem 1.25rem; margin-top: 1rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0 1.5rem; font-size: .875rem; }
.facts dt, .facts dd { display: inline; }
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem 1.5rem; }
.scores .text { grid-column: 1 / -1; }
.scores .number dd { font-size: 1.375rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
svg { display: block; }
svg text { fill: currentColor; font-size: 12px; }
svg .quiet { fill: var(--quiet); font-size: 12px; }
svg .line { stroke: var(--line); fill: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem 1.5rem .2rem 0; text-align: start; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-size: .875rem; font-weight: normal; }
summary { cursor: pointer; margin: .5rem 0; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""

BASE64_BYTES = 3 << 18
"""So many bytes are encoded at once: a multiple of three, so that the pieces are one Base64 text."""

Part = Element | str


def write(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    sections: Mapping[str, Sequence[Part]],
    style: str,
    script: str = "",
    media: str = "data:",
    sound: bytes = b"",
) -> None:
    """Writes an HTML file, atomically: a title, facts, and the sections that have content.

    `script` is the only script that the page permits, `media` where sounds may be. `sound` is written in Base64 where
    an element has its `marker`.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; the page needs the name of a file")
    shown = {name: parts for name, parts in sections.items() if parts}
    anchors = {name: f"section-{number}" for number, name in enumerate(shown)}
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Against injected HTML in texts: the browser runs no other script and loads no external resources.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'unsafe-inline'; media-src {media}{_permitted(script)}",
        ),
        tag("title", title),
        tag("style", STYLE + style),
    )
    known = [tag("div", tag("dt", name), ": ", tag("dd", value, dir="auto")) for name, value in facts.items()]
    header = tag(
        "header",
        tag("h1", title),
        tag("dl", *known, class_="facts"),
        tag("nav", *(tag("a", name, href=f"#{anchor}") for name, anchor in anchors.items())),
    )
    body = [tag("section", tag("h2", name), *parts, id=anchors[name]) for name, parts in shown.items()]
    scripts = [tag("script", script)] if script else []
    root = tag("html", head, tag("body", header, tag("main", *body), *scripts), lang="en")
    html = f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"
    # Lone surrogates, which JSON may contain, cannot be encoded; browsers show them as replacement characters.
    encoded = html.encode("utf-8", "xmlcharrefreplace")
    # Without a sound the marker is a text like any other: what was said, or is known, may be just this.
    before, mark, after = encoded.partition(marker(sound).encode()) if sound else (encoded, b"", b"")
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(before)
        for start in range(0, len(sound) if mark else 0, BASE64_BYTES):
            file.write(b64encode(sound[start : start + BASE64_BYTES]))
        file.write(after)


def marker(sound: bytes) -> str:
    """What stands for the Base64 form of a sound in an element until the page is written: no copy of it is made."""
    return hashlib.sha256(sound).hexdigest()


def _permitted(script: str) -> str:
    """The Content-Security-Policy directive that permits only this script."""
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"; script-src 'sha256-{digest}'" if script else ""


def json(data: Any) -> str:
    """JSON for a script element: without "<", and with lone surrogates escaped, which UTF-8 cannot encode."""
    text = dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def tag(name_: str, *content: Part, **attributes: str) -> Element:
    """An element. Text content is escaped when the page is written."""
    element = Element(name_, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            element.append(part)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + part
        else:
            element.text = (element.text or "") + part
    return element


def svg_text(text: str, x: str, y: float, **attributes: str) -> Element:
    """An SVG text element at (x, y)."""
    return tag("text", text, x=x, y=f"{y:g}", **attributes)


def headline(name: str, value: float) -> str:
    """A score of a whole set, with enough digits to compare models."""
    if describe(name).is_share:
        return f"{value:.2%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, at least two and at most six."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(step for step in (power / 5, power / 2, power, 2 * power) if (high - low) / step < 6)
    # With a tolerance for rounding errors.
    return [step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
