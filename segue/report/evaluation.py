"""The report of an evaluation, with its examples, as a self-contained HTML file."""

import math
import unicodedata
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from segue.errors import count_of
from segue.evaluation import NUM_MAPS, AttentionMap, Evaluation, length_groups, shown
from segue.metrics import describe
from segue.report import confusion, page, table, terminal
from segue.report.compare import Compared, Pair, compare, of_classes
from segue.report.page import Part, headline, svg_text, tag, ticks

NUM_LENGTH_GROUPS = 8
NUM_CONFUSIONS = 15
MOST_GROUPS = 20
MOST_TOKENS = 64  # rows and columns of an attention map; larger ones are unreadable and make the file large
DARKEST, MOST_SHADE = 8, 60
"""Nats from which a piece of text has the darkest shade, and its share of color in percent: text stays readable."""
FAINTEST = 0.05  # share of a map's largest weight; smaller weights are invisible and would be most of the file


def write(evaluation: Evaluation, path: Path) -> None:
    """Writes the report as an HTML file, atomically."""
    assert all(math.isfinite(example.score) for example in evaluation.examples)
    classes = evaluation.classes
    compared = of_classes(evaluation.examples) if classes else compare(evaluation.examples)
    sections: dict[str, Sequence[Part]] = {
        "Scores": _scores(evaluation),
        **{
            f"By {kind.removesuffix('s')}": _groups(kind.removesuffix("s"), each)
            for kind, each in evaluation.groups.items()
        },
        f"{_capital(evaluation.score_name)} by length": _by_length(evaluation),
        "Classes": confusion.matrix(evaluation.examples, classes) if classes else [],
        "Confusions": _errors(evaluation.confusions) if evaluation.confusions else _confusions(compared),
        **_examples(evaluation, compared),
        f"All {count_of(len(evaluation.examples), 'example')}": table.table(evaluation, compared),
        "Attention": [_attention(each) for each in evaluation.attention[:NUM_MAPS]],
    }
    page.write(path, evaluation.title, evaluation.facts, sections, STYLE + table.STYLE + confusion.STYLE, table.SCRIPT)


STYLE = """
:root { --bar: #3d6f9e; --left-out: #a01c1c; --left-out-back: #fcebea; --added: #0a5c38; --added-back: #e4f4ea;
  --other: #7a4600; --other-back: #fdf0d8; }
@media (prefers-color-scheme: dark) { :root { --bar: #7fb0de; --left-out: #ff9d96; --left-out-back: #431d1c;
  --added: #7ddba6; --added-back: #123522; --other: #f5c474; --other-back: #3d2c0e; } }
svg .bar { fill: var(--bar); }
.scores .number .interval { font-size: .875rem; }
.groups td + td, .groups .number { text-align: end; }
.groups td + td { white-space: nowrap; }
.groups td:first-child { min-width: 5rem; }
.groups th { vertical-align: bottom; overflow-wrap: normal; }
@media (max-width: 44rem) { .groups th, .groups td { padding-right: .9rem; } .groups th { white-space: normal; } }
.chart { width: 100%; max-width: 42rem; }
td:last-child, th:last-child { text-align: end; padding-right: 0; white-space: nowrap; }
article { padding: .875rem 0; border-top: 1px solid var(--line); }
article:first-of-type { border-top: 0; }
article header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem; color: var(--quiet);
  font-size: .875rem; }
article header b { color: var(--text); font-size: 1rem; min-width: 3.5rem; font-variant-numeric: tabular-nums; }
audio { display: block; width: 100%; max-width: 24rem; height: 2.25rem; margin: .5rem 0; }
.texts { display: grid; grid-template-columns: 5rem minmax(0, 1fr); gap: .375rem 0; margin-top: .375rem; }
.texts p { margin: 0; max-width: none; }
.side { color: var(--quiet); font-size: .75rem; line-height: 1.8667; }
.side span { display: block; }
.words { display: flex; flex-wrap: wrap; gap: .5rem .3em; line-height: 1.4; margin: 0 -.15em; }
.words > span { max-width: 100%; }
.words > span > * { display: block; min-height: 1.4em; padding: 0 .15em; border-radius: .2em; text-decoration: none; }
.words .same { color: var(--quiet); }
.words i { font-style: normal; font-weight: bold; padding-inline-end: .15em; }
.words .left-out { color: var(--left-out); background: var(--left-out-back); }
.words .added { color: var(--added); background: var(--added-back); }
.words .other { color: var(--other); background: var(--other-back); }
.shaded { white-space: pre-wrap; max-width: none; line-height: 1.6; margin: .375rem 0 0; }
.shaded span { border-radius: .2em; }
.legend { display: inline-flex; gap: 0; margin: 0 .35em 0 0; vertical-align: baseline; }
@media (max-width: 36rem) { .side { display: none; } .texts { display: block; } .texts p { margin-bottom: .375rem; } }
@media print { audio { display: none; } article, .chart { break-inside: avoid; }
  .wide svg { max-width: 100%; height: auto; } }
"""


# --- scores ---


def _scores(evaluation: Evaluation) -> list[Part]:
    """Each score with its name and interval."""
    found: list[Part] = []
    cells = []
    for name, value in evaluation.scores.items():
        shown: list[Part] = [tag("dd", value if isinstance(value, str) else headline(name, value))]
        if name in evaluation.intervals:
            low, high = (headline(name, end) for end in evaluation.intervals[name])
            shown.append(tag("dd", f"{low}\N{EN DASH}{high}", class_="interval quiet"))
        cells.append(
            tag("div", tag("dt", name.replace("_", " ")), *shown, class_="text" if isinstance(value, str) else "number")
        )
    found.append(tag("dl", *cells, class_="scores"))
    if evaluation.interval_note:
        found.append(tag("p", f"{evaluation.interval_note}.", class_="quiet"))
    return found


def _groups(kind: str, scores: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """A table with one row per group; collapsed if it has more than MOST_GROUPS rows."""
    names = terminal.columns(scores)
    rows = [[name, *(headline(column, each[column]) for column in names)] for name, each in scores.items()]
    shown = table.groups(kind, [name.replace("_", " ") for name in names], rows)
    return [shown] if len(rows) <= MOST_GROUPS else [tag("details", tag("summary", f"Show {len(rows):,}"), shown)]


def _score(name: str, value: float) -> str:
    """A score of one or a few examples, with fewer digits than `headline`."""
    return f"{value:.1%}" if describe(name).is_share else f"{value:.1f}"


def _capital(text: str) -> str:
    """Capitalizes a lowercase text; "chrF" and "BLEU" are unchanged."""
    return text[:1].upper() + text[1:] if text == text.lower() else text


# --- scores by length ---


def _by_length(evaluation: Evaluation) -> list[Part]:
    """A bar chart of the mean score by length, in groups of about equal size; empty if all lengths are equal.

    Horizontal positions are in percent of the width, text is in pixels, so that it is readable on phones.
    """
    lengths = np.array([example.length for example in evaluation.examples])
    if len(set(lengths.tolist())) < 2:
        return []
    scores = np.array([example.score for example in evaluation.examples])
    groups = length_groups(lengths, NUM_LENGTH_GROUPS)
    means = [float(scores[group].mean()) for group in groups]
    name = evaluation.score_name
    marks = ticks(0, max(means) if max(means) > 0 else 1)
    first, across, top, row = 24.0, 52.0, 30, 26  # start and maximum width of bars in percent; pixels
    scale = across / max(marks[-1], *means)
    bottom = top + row * len(groups)
    parts = [
        svg_text(evaluation.length_name, f"{first}%", 14, class_="quiet", text_anchor="end", dx="-8"),
        svg_text(f"mean {name}", f"{first}%", 14, class_="quiet"),
        svg_text("examples", "100%", 14, class_="quiet", text_anchor="end"),
    ]
    for tick in marks:
        x = f"{first + scale * tick:.2f}%"
        parts.append(tag("line", x1=x, x2=x, y1=f"{top - 6}", y2=f"{bottom}", class_="line"))
        text = f"{tick:.4g}" if not describe(name).is_share else f"{100 * tick:.4g}%"
        parts.append(svg_text(text, x, bottom + 16, class_="quiet", text_anchor="middle"))
    for number, (group, mean) in enumerate(zip(groups, means, strict=True)):
        y = top + row * number
        shortest, longest = _length(lengths[group].min()), _length(lengths[group].max())
        label = shortest if shortest == longest else f"{shortest}\N{EN DASH}{longest}"
        width = f"{scale * mean:.2f}%"
        parts += [
            svg_text(label, f"{first}%", y + 13, text_anchor="end", dx="-8"),
            tag("rect", x=f"{first}%", y=f"{y}", width=width, height=f"{row - 8}", class_="bar"),
            svg_text(_score(name, mean), f"{first + scale * mean:.2f}%", y + 13, dx="5"),
            svg_text(f"{len(group):,}", "100%", y + 13, text_anchor="end"),
        ]
    label = f"Mean {name} by {evaluation.length_name}"
    chart = tag("svg", *parts, class_="chart", height=f"{bottom + 22}", role="img", aria_label=label)
    note = (
        f"{'Lower' if evaluation.direction == 'min' else 'Higher'} is better. Each example counts once here, whatever "
    )
    note += "its length, so the mean of all can differ from the score of the whole set."
    return [chart, tag("p", note, class_="quiet")]


def _length(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


# --- differences ---

NOTHING = "\N{EMPTY SET}"
SIGNS = {"left-out": "\N{MINUS SIGN}", "added": "+", "other": "~"}


def _differences(pairs: Sequence[Pair]) -> Element:
    """The words of the reference above those of the hypothesis; differences are marked by color and by a sign."""
    cells = []
    empty = [NOTHING if all(pair[side] is None for pair in pairs) else "" for side in (0, 1)]
    for right, said in pairs or [(None, None)]:
        above, below = (tag("span", word or nothing) for word, nothing in zip((right, said), empty, strict=True))
        if right == said:
            below.set("class", "same")
        elif said is None:
            above = _marked(right or "", "left-out")
        elif right is None:
            below = _marked(said, "added")
        else:
            above.set("class", "other")
            below = _marked(said, "other")
        cells.append(tag("span", above, below))
        empty = ["", ""]  # show NOTHING only once
    return tag("div", *cells, class_="words", dir="auto")


def _marked(word: str, kind: str) -> Element:
    return tag("span", tag("i", SIGNS[kind]), word, class_=kind)


def _confusions(compared: Iterable[Compared]) -> list[Part]:
    """The most frequent substitutions of words."""
    counts = Counter(pair for each in compared for pair in each.pairs if None not in pair and pair[0] != pair[1])
    if not counts:
        return []
    shown = counts.most_common(NUM_CONFUSIONS)
    head = tag("tr", *(tag("th", name) for name in ("reference", "hypothesis", "times")))
    rows = [
        tag("tr", tag("td", right or "", dir="auto"), tag("td", said or "", dir="auto"), tag("td", f"{count:,}"))
        for (right, said), count in shown
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    if len(counts) == len(shown):
        return [table]
    return [table, tag("p", f"The {len(shown)} most frequent of {len(counts):,}.", class_="quiet")]


def _errors(confusions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Part]:
    """A table for each kind of errors; those of a score, which may be of texts normalized in another way."""
    found: list[Part] = []
    for kind, errors in confusions.items():
        if not errors:
            continue
        names = [name for name in ("reference", "hypothesis") if name in errors[0]]
        head = tag("tr", *(tag("th", name) for name in (*names, "times")))
        rows = [
            tag("tr", *(tag("td", each[name], dir="auto") for name in names), tag("td", f"{each['count']:,}"))
            for each in errors[:NUM_CONFUSIONS]
        ]
        found += [tag("h3", _capital(kind)), tag("table", tag("thead", head), tag("tbody", *rows))]
    return found


# --- examples ---


def _examples(evaluation: Evaluation, compared: Sequence[Compared]) -> dict[str, list[Part]]:
    """Sections of examples."""
    worst, median, best = (
        [_example(evaluation, index, compared[index]) for index in indices]
        for indices in shown(evaluation.examples, evaluation.direction).values()
    )
    count = f"{len(evaluation.examples):,}"
    has_pieces = any(example.pieces for example in evaluation.examples)
    legend = _legend(has_words=not evaluation.classes, has_pieces=has_pieces)
    return {
        f"The {len(worst)} worst of {count}": [legend, *worst] if worst else [],
        f"{len(median)} around the median": [*([] if worst else [legend]), *median] if has_pieces else [*median],
        f"The {len(best)} best": [tag("details", tag("summary", "Show them"), *best)] if best else [],
    }


def _legend(*, has_words: bool, has_pieces: bool = False) -> Element:
    if has_pieces:
        return tag("p", f"The darker, the less expected, from 0 to {DARKEST} nats and more.", class_="quiet")
    if not has_words:
        return tag("p", "Reference above, hypothesis below.", class_="quiet")
    samples = [tag("span", tag("span", _marked("word", kind)), class_="words legend") for kind in SIGNS]
    meanings = ("left out, ", "added, ", f"another word; {NOTHING} stands for no words at all.")
    parts = [part for pair in zip(samples, meanings, strict=True) for part in pair]
    return tag("p", "Reference above, hypothesis below. ", *parts, class_="quiet")


def _example(evaluation: Evaluation, index: int, compared: Compared) -> Element:
    example = evaluation.examples[index]
    notes = [f"{_length(example.length)} {evaluation.length_name}" if example.length else "", example.extra]
    if example.alternatives:
        notes.append(f"nearest of {1 + len(example.alternatives)} references")
    parts: list[Part] = [
        tag(
            "header",
            tag("b", _score(evaluation.score_name, example.score), title=evaluation.score_name),
            tag("span", example.id, dir="auto"),
            *(tag("span", note) for note in notes if note),
        )
    ]
    if example.audio is not None:
        source = f"data:{_media_type(example.audio)};base64,{b64encode(example.audio).decode()}"
        parts.append(tag("audio", controls="", preload="metadata", src=source))
    texts: list[Part] = []
    if example.source is not None:
        texts += [tag("div", "source", class_="side"), tag("p", example.source or NOTHING, dir="auto")]
    if example.pieces:
        return tag("article", *parts, tag("p", *map(_shaded, example.pieces), class_="shaded", dir="auto"))
    sides = tag("div", tag("span", "reference"), tag("span", "hypothesis"), class_="side")
    return tag("article", *parts, tag("div", *texts, sides, _differences(compared.pairs), class_="texts"))


def _shaded(piece: tuple[str, float]) -> Element:
    """A piece of text, darker the less it was expected."""
    text, nats = piece
    share = min(MOST_SHADE, round(MOST_SHADE * nats / DARKEST))
    color = f"background: color-mix(in srgb, var(--added) {share}%, transparent)"
    return tag("span", text, title=f"{nats:.2f} nats", style=color)


def _media_type(audio: bytes) -> str:
    """The media type of a wav, flac, ogg or mp3 file, from its first bytes."""
    starts = {b"RIFF": "audio/wav", b"fLaC": "audio/flac", b"OggS": "audio/ogg"}
    return starts.get(audio[:4], "audio/mpeg")


# --- attention ---


def _attention(attention: AttentionMap) -> Element:
    """A heat map of the attention weights: target tokens are rows, source tokens columns."""
    weights = np.asarray(attention.weights, np.float32)
    assert weights.shape[-2:] == (len(attention.rows), len(attention.columns))
    note = "Rows: target tokens; columns: source tokens"
    if weights.ndim == 3:
        note += f"; the mean of {len(weights)}"
        weights = weights.mean(0)
    if max(weights.shape) > MOST_TOKENS:
        note += f"; the first {MOST_TOKENS} of {len(attention.rows)} and {len(attention.columns)}"
    weights = weights[:MOST_TOKENS, :MOST_TOKENS]
    largest = float(weights.max(initial=0)) or 1.0
    note += f"; the strongest color is {largest:.2f}."
    rows, columns = map(_labels, (attention.rows, attention.columns))
    size = 18  # of a cell, in pixels
    left = max(map(_pixels, rows), default=0) + 12
    slant = max(map(_pixels, columns), default=0) * math.sqrt(0.5)
    top = slant + 16
    parts = [svg_text(row, f"{left - 6:.0f}", top + size * n + 13, text_anchor="end") for n, row in enumerate(rows)]
    for number, column in enumerate(columns):
        x, y = left + size * (number + 0.5) + 2, top - 5
        parts.append(svg_text(column, f"{x:g}", y, transform=f"rotate(-45 {x:g} {y:g})"))
    cells = [
        tag(
            "rect",
            tag("title", f"{rows[row]} ← {columns[column]}: {weights[row, column]:.2f}"),
            x=f"{column}",
            y=f"{row}",
            width="1",
            height="1",
            fill_opacity=f"{weights[row, column] / largest:.2f}",
        )
        for row, column in np.argwhere(weights >= FAINTEST * largest).tolist()
    ]
    width, height = size * len(columns), size * len(rows)
    frame = tag("rect", x=f"{left:g}", y=f"{top:g}", width=f"{width}", height=f"{height}", class_="line")
    parts += [tag("g", *cells, class_="bar", transform=f"translate({left:g} {top:g}) scale({size})"), frame]
    across, down = f"{left + width + slant + 8:.0f}", f"{top + height + 2:.0f}"
    heat_map = tag(
        "svg",
        *parts,
        width=across,
        height=down,
        viewBox=f"0 0 {across} {down}",
        role="img",
        aria_label=f"Attention of {attention.id}",
    )
    return tag(
        "figure",
        tag("h3", attention.id, dir="auto"),
        tag("p", note, class_="quiet"),
        tag("div", heat_map, class_="wide", tabindex="0"),
    )


def _labels(tokens: Sequence[str]) -> list[str]:
    return [token if len(token) <= 18 else f"{token[:17]}…" for token in tokens[:MOST_TOKENS]]


def _pixels(text: str) -> float:
    """Approximate width of a label."""
    return sum(12.5 if unicodedata.east_asian_width(character) in "WF" else 7 for character in text)
