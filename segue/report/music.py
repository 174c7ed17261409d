"""Pieces of music as a self-contained HTML page: a piano roll of each, and its sound."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from segue.data.music import Note
from segue.errors import count_of
from segue.report import page
from segue.report.page import Part, svg_text, tag

STYLE = """
.roll .note { fill: #3d6f9e; } .roll .other { fill: #b3651d; } .roll .third { fill: #3f7d4e; }
.roll .drum { fill: #7b7b84; }
@media (prefers-color-scheme: dark) { .roll .note { fill: #7fb0de; } .roll .other { fill: #e0a060; }
  .roll .third { fill: #86c796; } .roll .drum { fill: #8d8d97; } }
.roll .now { stroke: #c0392b; stroke-width: 2; visibility: hidden; }
audio { display: block; width: 100%; max-width: 30rem; height: 2.25rem; margin: .5rem 0; }
pre { white-space: pre-wrap; font-size: .8125rem; }
@media print { audio { display: none; } }
"""
SCRIPT = """
for (const piece of document.querySelectorAll("figure")) {
  const audio = piece.querySelector("audio"), line = piece.querySelector(".now");
  const roll = piece.querySelector("svg"), scale = Number(roll.dataset.pixels), left = Number(roll.dataset.left);
  const move = () => {
    const x = left + scale * audio.currentTime;
    line.setAttribute("x1", x); line.setAttribute("x2", x); line.style.visibility = "visible";
    const view = roll.parentElement;
    if (x < view.scrollLeft + left || x > view.scrollLeft + view.clientWidth - 40) view.scrollLeft = x - left - 20;
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener("play", move); audio.addEventListener("seeked", move);
}
"""
PIXELS, ROW, LEFT, TOP = 36, 5, 34, 18  # a second, a semitone, the space for names of octaves and for seconds
EVERY = 5  # seconds between lines
KINDS = ("note", "other", "third")
"""Colors of the instruments, in turn."""


class Piece(NamedTuple):
    """What is shown of a piece."""

    title: str
    notes: Sequence[Note]
    audio: bytes
    """Content of an Ogg file."""
    text: str
    """As the model wrote it."""


def write(pieces: Sequence[Piece], facts: Mapping[str, str], path: Path) -> None:
    """Writes the page, atomically."""
    sections = {each.title: [_figure(each)] for each in pieces}
    page.write(path, "Generated music", facts, sections, STYLE, SCRIPT)


def _figure(piece: Piece) -> Element:
    source = f"data:audio/ogg;base64,{b64encode(piece.audio).decode()}"
    seconds = max((note.start + note.seconds for note in piece.notes), default=0.0)
    length = f"{count_of(len(piece.notes), 'note')}, {count_of(round(seconds), 'second')}"
    shown: list[Part] = [tag("p", length, class_="quiet"), tag("audio", controls="", preload="metadata", src=source)]
    if piece.notes:
        shown.append(tag("div", roll(piece.notes, piece.title), class_="wide", tabindex="0"))
    shown.append(tag("details", tag("summary", "Text"), tag("pre", piece.text)))
    return tag("figure", *shown)


def roll(notes: Sequence[Note], title: str) -> Element:
    """Time from left to right, pitch from bottom to top, with a line at each C and every five seconds."""
    lowest, highest = min(note.pitch for note in notes) - 1, max(note.pitch for note in notes) + 1
    seconds = max(note.start + note.seconds for note in notes)
    bottom, right = TOP + ROW * (highest - lowest + 1), LEFT + PIXELS * seconds + 8
    parts: list[Part] = []
    for pitch in range(lowest, highest + 1):
        if pitch % 12 == 0:
            y = TOP + ROW * (highest - pitch + 1)
            parts.append(tag("line", x1=f"{LEFT}", x2=f"{right:.0f}", y1=f"{y}", y2=f"{y}", class_="line"))
            parts.append(svg_text(f"C{pitch // 12 - 1}", f"{LEFT - 6}", y + 4, class_="quiet", text_anchor="end"))
    for second in range(0, int(seconds) + 1, EVERY):
        x = f"{LEFT + PIXELS * second}"
        parts.append(tag("line", x1=x, x2=x, y1=f"{TOP}", y2=f"{bottom}", class_="line"))
        parts.append(svg_text(f"{second} s", x, 12, class_="quiet"))
    programs = sorted({note.program for note in notes if note.program >= 0})
    kinds = {program: KINDS[number % len(KINDS)] for number, program in enumerate(programs)} | {-1: "drum"}
    for note in notes:
        place = {"x": f"{LEFT + PIXELS * note.start:.1f}", "y": f"{TOP + ROW * (highest - note.pitch)}"}
        size = {"width": f"{max(PIXELS * note.seconds - 1, 1):.1f}", "height": f"{ROW - 1}"}
        parts.append(tag("rect", class_=kinds[note.program], **place, **size))
    parts.append(tag("line", x1=f"{LEFT}", x2=f"{LEFT}", y1=f"{TOP}", y2=f"{bottom}", class_="now"))
    width, height = f"{right:.0f}", f"{bottom + 4}"
    return tag(
        "svg",
        *parts,
        class_="roll",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"Piano roll: {title}",
        data_pixels=f"{PIXELS}",
        data_left=f"{LEFT}",
    )
