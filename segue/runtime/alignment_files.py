"""How are the times of a text written? As JSON, subtitles, Praat's TextGrid and NIST's CTM."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from segue.data.subtitles import cues
from segue.runtime.alignment import Aligned

Form = Literal["json", "srt", "vtt", "textgrid", "ctm"]


def written(found: Aligned, form: Form) -> str:
    """The alignment in a format, without a line break at the end. JSON is one line."""
    if form == "json":
        return found.json()
    if form == "textgrid":
        return _textgrid(found)
    if form == "ctm":
        return "\n".join(_ctm(found))
    return cues.write(cues.cut(found.words, found.end), form).rstrip("\n")


def _textgrid(found: Aligned) -> str:
    """Two tiers of intervals without gaps (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html)."""
    tiers = {
        "sentences": [(each.start, each.end, each.text) for each in found.sentences],
        "words": [(each.start, each.end, each.word) for each in found.words],
    }
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {found.end:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, spans) in enumerate(tiers.items(), 1):
        filled = list(_filled(spans, found.end))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {found.end:.6f}",
            f"        intervals: size = {len(filled)}",
        ]
        for index, (start, end, text) in enumerate(filled, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines)


def _filled(spans: Iterable[tuple[float, float, str]], end: float) -> Iterator[tuple[float, float, str]]:
    """The intervals, and empty ones between them."""
    last = 0.0
    for start, stop, text in spans:
        if start > last:
            yield last, start, ""
        yield start, stop, text
        last = stop
    if end > last:
        yield last, end, ""


def _ctm(found: Aligned) -> Iterator[str]:
    """Recording, channel, start, duration, word, confidence; fields have no spaces in them."""
    name = "_".join(Path(found.audio).stem.split()) or "recording"
    for each in found.words:
        word = "_".join(each.word.split())
        score = "" if each.score is None else f" {each.score:.3f}"
        yield f"{name} 1 {each.start:.3f} {each.end - each.start:.3f} {word}{score}"
