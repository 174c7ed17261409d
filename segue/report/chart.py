"""Charts of values against steps, as inline SVG that is readable on phones and on wide pages."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from segue.report.logs import Series
from segue.report.page import Part, svg_text, tag, ticks

ACROSS, HEIGHT = 1000, 180
"""Size of the plot: width in units that stretch with the page, height in pixels."""
COLUMNS = 250  # resolution: of a line, only the smallest and the largest value in each column are drawn
FEW = 25  # lines with fewer points have dots; noisy lines with at least as many are smoothed
NUM_COLORS, NUM_DASHES = 6, 2
BULK = (2, 98)  # percentiles that an axis has to include; values far outside may be cut off

Floats = NDArray[np.float64]
Scale = Literal["zero", "free", "log"]
"""zero: linear from 0. free: fitted to the values, logarithmic if most span over two decades. log: logarithmic."""
Kind = Literal["best", "averaged", "skipped"]

# Colors that differ by at least 34 in CIE L*a*b*, on light and dark pages, also for readers with color blindness
# (simulated after Machado et al. 2009), with a contrast to the page above 3.
STYLE = """
:root { --color-0: #1c3bde; --color-1: #982832; --color-2: #0e9e92; --color-3: #6b3687; --color-4: #b77f0d;
  --color-5: #110d21; --run: currentColor; }
@media (prefers-color-scheme: dark) { :root { --color-0: #7c8ce2; --color-1: #ff3222; --color-2: #38ee86;
  --color-3: #ca658b; --color-4: #ffe40e; --color-5: #d4fff4; } }
.color-0 { --run: var(--color-0); } .color-1 { --run: var(--color-1); } .color-2 { --run: var(--color-2); }
.color-3 { --run: var(--color-3); } .color-4 { --run: var(--color-4); } .color-5 { --run: var(--color-5); }
.dash-1 { stroke-dasharray: 7 3; }
.dev { stroke-dasharray: 2 3; }
.plot { width: calc(100% - 5.25rem); margin-left: 4rem; overflow: visible; }
polyline { fill: none; stroke: var(--run); stroke-width: 1.75; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.raw { stroke-width: 1; stroke-opacity: .35; stroke-dasharray: none; }
.many .raw { stroke-opacity: .15; }
.dot { fill: var(--run); }
.mark { overflow: visible; }
.mark path { fill: var(--page); stroke: var(--run); stroke-width: 2; stroke-dasharray: none; }
.mark .skipped { fill: var(--run); stroke: none; }
.swatch { display: inline-block; vertical-align: middle; margin-right: .35rem; overflow: visible; }
.swatch line { stroke: var(--run); stroke-width: 3; }
"""

# Paths around the marked point; a skipped step has no value and is drawn on the axis.
SHAPES: dict[Kind, str] = {
    "best": "M-4.5,0a4.5,4.5 0 1 0 9,0a4.5,4.5 0 1 0 -9,0z",
    "averaged": "M0,-6L6,0L0,6L-6,0z",
    "skipped": "M0,-7L4,0L-4,0z",
}


class Mark(NamedTuple):
    """A marked step in a chart."""

    kind: Kind
    step: int
    value: float | None
    """None: on the axis."""
    text: str


class Line(NamedTuple):
    """The line and marks of one run in a chart."""

    style: str
    series: Series
    marks: Sequence[Mark] = ()


def style(number: int) -> str:
    """The CSS classes of a run: runs differ by color; once all colors are used, by dashes."""
    return f"color-{number % NUM_COLORS} dash-{number // NUM_COLORS}"


def swatch(style: str, kind: Kind | None = None) -> Element:
    """A sample of a line, or of a mark, for legends."""
    if kind is None:
        drawn = tag("line", x1="0", x2="22", y1="5", y2="5")
        return tag("svg", drawn, width="22", height="10", class_=f"swatch {style}", aria_hidden="true")
    drawn = tag("svg", tag("path", d=SHAPES[kind], class_=kind), x="7", y="7", class_="mark")
    return tag("svg", drawn, width="14", height="14", class_=f"swatch {style}", aria_hidden="true")


def draw(
    title: str, unit: str, lines: Sequence[Line], last_step: int, scale: Scale, is_noisy: bool, notes: Sequence[Part]
) -> Element:
    """A figure with title, unit and notes above the chart. If `is_noisy`, lines are drawn smoothed, and faintly as they
    are."""
    axis = _axis([line.series.values for line in lines], scale)
    faint: list[Element] = []
    bold: list[Element] = []
    points: list[Element] = []
    for line in lines:
        few = len(line.series.steps) < FEW
        if few or not is_noisy:
            bold.append(_line(thinned(line.series, last_step), last_step, axis, line.style))
        else:
            faint.append(_line(thinned(line.series, last_step), last_step, axis, f"raw {line.style}"))
            bold.append(_line(smoothed(line.series), last_step, axis, line.style))
        points += [*(_dots(line, last_step, axis) if few else []), *_marks(line, last_step, axis)]
    stretched = tag(
        "svg",
        *faint,
        *bold,
        width="100%",
        height=f"{HEIGHT}",
        viewBox=f"0 0 {ACROSS} {HEIGHT}",
        preserveAspectRatio="none",
    )
    label = f"{title} against steps"
    picture = tag(
        "svg",
        *_grid(axis, last_step),
        stretched,
        *points,
        class_="plot",
        height=f"{HEIGHT + 40}",
        role="img",
        aria_label=label,
    )
    heading: list[Part] = [tag("b", title), " ", tag("span", unit, class_="quiet")]
    cut = _cut(axis, [line.series.values for line in lines])
    said = [tag("p", note, class_="quiet") for note in (*notes, *cut)]
    return tag("figure", tag("figcaption", *heading, *said), picture, class_="curve")


def smoothed(series: Series) -> Series:
    """A running median over 8 % of the values, at up to `COLUMNS` steps.

    Near both ends, windows are smaller but still symmetric, so that the curve follows a steep fall at the start.
    """
    count, half = len(series.steps), len(series.steps) // 25
    at = np.unique(np.linspace(0, count - 1, COLUMNS).round().astype(int))
    reaches = np.minimum(at, half)
    windows = zip((at - reaches).tolist(), (at + reaches + 1).tolist(), strict=True)
    return Series(series.steps[at], np.array([np.median(series.values[low:high]) for low, high in windows]))


def thinned(series: Series, last_step: int) -> Series:
    """The first and last point, and the lowest and highest in each of `COLUMNS` equal parts of the plot."""
    column = np.floor(series.steps * (COLUMNS / last_step))
    order = np.lexsort((series.values, column))
    starts = np.flatnonzero(np.diff(column[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    kept = np.unique(np.concatenate([order[starts], order[ends], [0, len(order) - 1]]))
    return Series(series.steps[kept], series.values[kept])


# --- the axis of values ---


class _Axis(NamedTuple):
    """Limits of the axis; if `is_log`, their decimal logarithms."""

    low: float
    high: float
    is_log: bool

    def places(self, values: Floats) -> Floats:
        """Positions in pixels from the top. Values that are cut off are placed slightly outside of the plot."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.log10(np.maximum(values, 0)) if self.is_log else values
        return HEIGHT * (1 - np.clip((scaled - self.low) / (self.high - self.low), -0.2, 1.2))

    def ticks(self) -> list[float]:
        if not self.is_log:
            return ticks(self.low, self.high)
        first, last = math.ceil(self.low), math.floor(self.high)
        if last - first >= 2:
            return [10.0**power for power in range(first, last + 1, math.ceil((last - first + 1) / 6))]
        fine = [digit * 10.0**power for power in range(first - 1, last + 1) for digit in (1, 2, 5)]
        found = [value for value in fine if self.low <= math.log10(value) <= self.high]
        return found if len(found) > 2 else ticks(10**self.low, 10**self.high)


def _axis(series: Sequence[Floats], scale: Scale) -> _Axis:
    """An axis for the values; outliers, such as a huge first loss, are cut off."""
    if scale == "zero":
        _, high = _ends([*series, np.zeros(1)])
        return _Axis(min(0.0, *(float(values.min()) for values in series)), high, is_log=False)
    positive = [values[values > 0] for values in series if (values > 0).any()]
    low, high = _bulk(series)
    is_spread = min(map(np.min, series)) > 0 and high > 100 * low
    if positive and (scale == "log" or is_spread):
        return _Axis(*_ends([np.log10(values) for values in positive]), is_log=True)
    return _Axis(*_ends(series), is_log=False)


def _bulk(series: Sequence[Floats]) -> tuple[float, float]:
    """Lowest and highest of the lines' percentiles `BULK`; each line counts, however few values it has."""
    bounds = np.array([np.percentile(values, BULK) for values in series])
    return float(bounds[:, 0].min()), float(bounds[:, 1].max())


def _ends(series: Sequence[Floats]) -> tuple[float, float]:
    """Limits with a margin. They exclude extreme values that would leave the bulk of the values too little space."""
    low, high = _bulk(series)
    room = high - low
    least, most = (float(end) for end in (min(map(np.min, series)), max(map(np.max, series))))
    if not room or low - least <= room:
        low = least
    if not room or most - high <= room:
        high = most
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _cut(axis: _Axis, series: Sequence[Floats]) -> list[str]:
    """A note on values outside of the axis; empty if there are none."""
    values = np.concatenate(series)
    low, high = (10**axis.low, 10**axis.high) if axis.is_log else (axis.low, axis.high)
    above, below = values[values > high], values[values < low]
    said = []
    if len(above):
        said.append(f"{len(above):,} above, up to {_rounded(above.max())}")
    if len(below):
        said.append(f"{len(below):,} below, down to {_rounded(below.min())}")
    return [f"Cut off: {' and '.join(said)}, of {len(values):,} values."] if said else []


def _rounded(value: float) -> str:
    return _number(float(f"{value:.3g}"))


def _number(value: float) -> str:
    """At most six digits: `12,000`, `0.0015`, `2e-5`."""
    if 1e6 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    digits, _, exponent = f"{value:,.6g}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


# --- parts of the drawing ---


def _grid(axis: _Axis, last_step: int) -> list[Element]:
    found = []
    for value in axis.ticks():
        y = float(axis.places(np.array([value]))[0])
        found.append(tag("line", x1="0", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="line"))
        found.append(svg_text(_number(value), "0", round(y + 4, 1), class_="quiet", text_anchor="end", dx="-8"))
    for value in ticks(0, last_step):
        x = _across(value, last_step)
        found.append(tag("line", x1=x, x2=x, y1="0", y2=f"{HEIGHT}", class_="line"))
        found.append(svg_text(_number(value), x, HEIGHT + 16, class_="quiet", text_anchor="middle"))
    found.append(svg_text("step", "50%", HEIGHT + 34, class_="quiet", text_anchor="middle"))
    return found


def _line(series: Series, last_step: int, axis: _Axis, style: str) -> Element:
    across, down = series.steps * (ACROSS / last_step), axis.places(series.values)
    points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(across.tolist(), down.tolist(), strict=True))
    return tag("polyline", points=points, class_=style)


def _dots(line: Line, last_step: int, axis: _Axis) -> list[Element]:
    places = zip(line.series.steps.tolist(), axis.places(line.series.values).tolist(), strict=True)
    return [
        tag("circle", cx=_across(step, last_step), cy=f"{y:.1f}", r="2.5", class_=f"dot {line.style}")
        for step, y in places
        if 0 <= y <= HEIGHT
    ]


def _marks(line: Line, last_step: int, axis: _Axis) -> list[Element]:
    found: dict[tuple[Kind, int], Element] = {}
    for mark in line.marks:
        y = HEIGHT if mark.value is None else float(np.clip(axis.places(np.array([mark.value]))[0], 0, HEIGHT))
        column = mark.step * COLUMNS // last_step  # marks in the same column would overlap
        found[mark.kind, column] = tag(
            "svg",
            tag("path", tag("title", mark.text), d=SHAPES[mark.kind], class_=mark.kind),
            x=_across(mark.step, last_step),
            y=f"{y:.1f}",
            class_=f"mark {line.style}",
        )
    return list(found.values())


def _across(step: float, last_step: int) -> str:
    return f"{100 * step / last_step:.2f}%"
