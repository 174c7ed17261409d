"""Which parts of a cue are words, and how are they replaced, with its tags, in lines of readable length?"""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from segue.data import sentences
from segue.data.subtitles import markup
from segue.data.subtitles.lines import Form
from segue.data.subtitles.markup import Tag

_DASH = re.compile(r"(?:[-‐‑–—−]++|>{2,3}+)(?!\d)")
_NOTES = "♩♪♫♬"
_NOTE_BEFORE = re.compile(rf"[{_NOTES}]++|[#*](?=\s)")
_NOTE_AFTER = re.compile(rf"(?:[{_NOTES}]++|(?<=\s)[#*])\Z")
_BRACKETS = {"[": "]", "(": ")", "［": "］", "（": "）", "【": "】"}
_STOPS = ".!?…。！？"
_LONGEST_LABEL = 40
_SPACE_RUN = re.compile(r"\s+")
_SPACE_OR_NOT = re.compile(r"\s+|\S+")

_SPACES = re.compile(r"[^\S\u00a0\u2007\u202f]+")  # between words; no-break spaces are kept in a translation
# French punctuation; a number, which players take for that of a cue; an arrow or a time, which they take for times.
_NO_LINE_START = re.compile(r"[!?:;,.%»”)\]]+\Z|\d+\Z|-+>|\d+:\d")

Kind = Literal["words", "opening", "closing", "dash", "label", "note", "other", "space", "row"]
_BREAKS_AFTER = ("words", "closing", "other")
_BREAKS_BEFORE = ("words", "opening", "other")


class Part(NamedTuple):
    """A range of a cue's plain text. Only parts of the kind "words" are translated."""

    kind: Kind
    start: int
    end: int


class Words(NamedTuple):
    """The translation of one part."""

    text: str
    ends: Sequence[tuple[int, int]] = ()
    """(in the part, in `text`): ends of sentences, as numbers of characters other than white space. Tags between two
    sentences stay between them."""


class Cue(NamedTuple):
    """A cue's text without its tags, divided into contiguous parts."""

    plain: str
    tags: list[Tag]
    parts: list[Part]
    form: Form
    is_escaped: bool
    """Whether "<" in its words is written "&lt;"."""

    def text_of(self, part: Part) -> str:
        """The words of a part in one line."""
        text = ""
        for line in self.plain[part.start : part.end].split("\n"):
            line = " ".join(line.split())
            text += " " * bool(text and line and sentences.are_apart(text, line)) + line
        return text


class Laid(NamedTuple):
    """A cue's text as written in a file, and its size."""

    body: str
    num_lines: int
    widest: int
    num_characters: int


class _Word(NamedTuple):
    text: str
    gap: Literal["", " ", "\n"]
    may_break: bool  # whether a line may end after it


def read(body: str, form: Form) -> Cue:
    """Splits a cue's text into parts and tags."""
    plain, tags = markup.split(body, form)
    parts = list(_parts(plain, markup.changes(plain, tags)))
    return Cue(plain, tags, parts, form, markup.has_entities(body, form))


def clean(text: str, form: Form, is_escaped: bool) -> str:
    """A translation in one line, without anything that would be a tag in this format, unless it will be escaped."""
    return _SPACES.sub(" ", markup.without_tags(text, form, is_escaped)).strip()


def write(cue: Cue, texts: Mapping[int, Words], line_length: int) -> Laid:
    """The cue with new words: `texts` by index of their part.

    Tags keep their order and their place between sentences; inside a sentence they move to the word boundary nearest to
    their relative position.
    """
    words: list[_Word] = []
    spans: list[tuple[int, int]] = []  # words of each part
    tagged = sorted({tag.position for tag in cue.tags})
    for index, part in enumerate(cue.parts):
        start = len(words)
        if part.kind in ("space", "row"):
            if words and words[-1].gap != "\n":
                after = cue.parts[index + 1].kind if index + 1 < len(cue.parts) else ""
                may_break = cue.parts[index - 1].kind in _BREAKS_AFTER and after in _BREAKS_BEFORE
                words[-1] = _Word(words[-1].text, "\n" if part.kind == "row" else " ", may_break)
        elif part.kind == "words":
            found = sentences.words(texts[index].text)
            words += [_Word(word.rstrip(" "), " " if word.endswith(" ") else "", True) for word in found]
            if found:
                words[-1] = _Word(words[-1].text, "", False)
        else:
            inside = tagged[bisect_right(tagged, part.start) : bisect_left(tagged, part.end)]
            words += [_Word(cue.plain[a:b], "", False) for a, b in pairwise([part.start, *inside, part.end])]
        spans.append((start, len(words)))
    if words:
        words[-1] = _Word(words[-1].text, "", False)
    laid = _in_lines(words, line_length)
    lines = "".join(word.text + word.gap for word in laid).split("\n")
    places = _places(cue, texts, words, spans)
    num_characters = sum(len(word.text) + bool(word.gap) for word in words)
    return Laid(_with_tags(cue, laid, places), len(lines), max(map(len, lines)), num_characters)


def _parts(plain: str, changes: Sequence[int]) -> Iterator[Part]:
    """The parts of a text, row by row: a dash, label, music note, description in brackets or voice begins a row."""
    rows: dict[int, int] = {0: 0}  # start of each row's text -> end of the text before it
    position = 0
    was_apart = False
    for line in plain.split("\n"):
        start, end = position, position + len(line)
        text = line.strip()
        is_apart = text[:1] in _BRACKETS and text.find(_BRACKETS[text[0]]) == len(text) - 1
        begins = _DASH.match(text) or _NOTE_BEFORE.match(text) or _label_end(text, 0, len(text))
        if start and (begins or is_apart or was_apart):
            rows[start] = start - 1
        was_apart = bool(is_apart or _NOTE_AFTER.search(text[-8:]))
        position = end + 1
    for change in changes:
        before = len(plain[:change].rstrip())
        if not any(before < start <= change for start in rows):
            rows[change] = before
    starts = sorted(rows)
    for start, next_start in zip(starts, [*starts[1:], None], strict=True):
        if start:
            yield Part("row", rows[start], start)
        yield from _row(plain, start, len(plain) if next_start is None else rows[next_start])


def _row(plain: str, start: int, end: int) -> list[Part]:
    """The parts of one row, or of a text in brackets."""
    left: list[Part] = []
    right: list[Part] = []
    while start < end:
        kind: Kind = "space"
        if match := _SPACE_RUN.match(plain, start, end):
            stop = match.end()
        elif match := _DASH.match(plain, start, end):
            stop, kind = match.end(), "dash"
        elif match := _NOTE_BEFORE.match(plain, start, end):
            stop, kind = match.end(), "note"
        elif stop := _label_end(plain, start, end):
            kind = "label"
        elif (stop := plain.find(_BRACKETS.get(plain[start], "\0"), start, end) + 1) and (
            stop == end or plain[stop].isspace() or plain[stop] == ":"
        ):
            stop += plain.startswith(":", stop, end)
            left += _in_brackets(plain, start, stop)
            start = stop
            continue
        else:
            break
        left.append(Part(kind, start, stop))
        start = stop
    while start < end:
        opening = next((a for a, b in _BRACKETS.items() if b == plain[end - 1]), "\0")
        if plain[end - 1].isspace():
            stop, kind = start + len(plain[start:end].rstrip()), "space"
        elif match := _NOTE_AFTER.search(plain[max(start, end - 8) : end]):
            stop, kind = end - len(match[0]), "note"
        elif (stop := plain.rfind(opening, start, end)) > start and plain[start:stop].rstrip().endswith(tuple(_STOPS)):
            right = _in_brackets(plain, stop, end) + right
            end = stop
            continue
        else:
            break
        right.insert(0, Part(kind, stop, end))
        end = stop
    if any(map(str.isalpha, plain[start:end])):
        left.append(Part("words", start, end))
    else:
        for match in _SPACE_OR_NOT.finditer(plain, start, end):
            kind = "other" if not match[0].isspace() else "row" if "\n" in match[0] else "space"
            left.append(Part(kind, *match.span()))
    return left + right


def _in_brackets(plain: str, start: int, end: int) -> list[Part]:
    closing = end - 1 - (plain[end - 1] == ":")
    inside = _row(plain, start + 1, closing)
    return [Part("opening", start, start + 1), *inside, Part("closing", closing, end)]


def _label_end(plain: str, start: int, end: int) -> int:
    """End of a speaker's name as in "JOHN: Hello."; 0 if there is none at `start`."""
    colon = plain.find(":", start, min(end, start + _LONGEST_LABEL))
    if colon < 0 or not plain[start:colon].isupper() or "\n" in plain[start:colon]:
        return 0
    return colon + 1 if colon + 1 == end or plain[colon + 1].isspace() else 0


def _places(
    cue: Cue, texts: Mapping[int, Words], words: Sequence[_Word], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """The index of the word before which each tag is placed; keeps their order, and words between paired tags."""
    solid = list(accumulate((not character.isspace() for character in cue.plain), initial=0))
    reached = list(accumulate((_solid(word.text) for word in words), initial=0))
    starts = [part.start for part in cue.parts]
    ends = [part.end for part in cue.parts]
    places: list[int] = []
    for tag in cue.tags:
        index = bisect_left(ends, tag.position) if tag.closes else bisect_right(starts, tag.position) - 1
        if 0 <= index < len(spans):
            part, (first, last) = cue.parts[index], spans[index]
            source = solid[tag.position] - solid[part.start]
            target = _over(
                source,
                tag.closes,
                [
                    (0, 0),
                    *(texts[index].ends if part.kind == "words" else ()),
                    (solid[part.end] - solid[part.start], reached[last] - reached[first]),
                ],
            )
            place = _nearest(reached, reached[first] + target, first, last)
        else:
            place = 0
        places.append(max(place, *places[-1:]) if places else place)
    pairs = [(a, b) for a, b in markup.pairs(cue.tags) if solid[cue.tags[a].position] < solid[cue.tags[b].position]]
    first_of = {b: a for a, b in pairs}
    last_of = dict(pairs)
    for index, place in enumerate(places):
        least = places[first_of[index]] + 1 if index in first_of else 0
        places[index] = min(len(words), max(place, least, places[index - 1] if index else 0))
    for index in reversed(range(len(places))):
        most = places[last_of[index]] - 1 if index in last_of else len(words)
        places[index] = max(0, min(places[index], most, places[index + 1] if index + 1 < len(places) else most))
    return places


def _over(source: int, is_at_end: bool, ends: Sequence[tuple[int, int]]) -> float:
    """Maps a position in the source to the translation: the same relative position in the same sentence."""
    before, after = ends[0], ends[-1]
    for end in ends[1:]:
        after = end
        if source < end[0] or (source == end[0] and (is_at_end or end == ends[-1])):
            break
        before = end
    size = after[0] - before[0]
    return before[1] + (source - before[0]) / size * (after[1] - before[1]) if size > 0 else before[1]


def _nearest(reached: Sequence[int], wanted: float, first: int, last: int) -> int:
    """The index from `first` to `last` at which the rising numbers `reached` come closest to `wanted`."""
    index = bisect_left(reached, wanted, first, last)
    return index - 1 if index > first and wanted - reached[index - 1] <= reached[index] - wanted else index


def lasting_tags(cue: Cue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tags that apply to the whole first row of the cue, and to the whole last one."""
    breaks = [part for part in cue.parts if part.kind == "row"]
    rows = ((0, breaks[0].start if breaks else len(cue.plain)), (breaks[-1].end if breaks else 0, len(cue.plain)))
    found = []
    for start, end in rows:
        text = cue.plain[start:end]
        found.append(markup.lasting(cue.tags, end - len(text.lstrip()), start + len(text.rstrip())))
    return found[0], found[1]


def _solid(text: str) -> int:
    """Number of characters other than white space."""
    return len(text) - sum(map(str.isspace, text))


def _with_tags(cue: Cue, words: Sequence[_Word], places: Sequence[int]) -> str:
    """The text as written in a file: closing tags before a space, opening tags after it."""
    parts: list[str] = []
    at = 0
    line = {"srt": "\n", "vtt": "\n", "ass": r"\N"}[cue.form]
    for index in range(len(words) + 1):
        gap = words[index - 1].gap.replace("\n", line) if index else ""
        while at < len(places) and places[at] <= index:
            if gap and not cue.tags[at].closes:
                parts.append(gap)
                gap = ""
            parts.append(cue.tags[at].text)
            at += 1
        parts.append(gap)
        if index < len(words):
            parts.append(markup.escaped(words[index].text, cue.form, cue.is_escaped))
    return "".join(parts)


def in_lines(words: Sequence[tuple[str, bool]], line_length: float, width_of: Callable[[str], float]) -> list[str]:
    """Lays out words, each with whether a space follows it, in lines of readable length."""
    laid = _in_lines([_Word(text, " " if has_space else "", True) for text, has_space in words], line_length, width_of)
    return "".join(word.text + word.gap for word in laid).split("\n")


def _in_lines(words: Sequence[_Word], line_length: float, width_of: Callable[[str], float] = len) -> list[_Word]:
    """The words with line ends in place of some spaces: as few lines as possible, balanced."""
    laid: list[_Word] = []
    start = 0
    for index, word in enumerate(words):
        if word.gap == "\n" or index + 1 == len(words):
            row = list(words[start : index + 1])
            for last in _breaks(row, line_length, width_of):
                row[last] = _Word(row[last].text, "\n", True)
            laid += row
            start = index + 1
    return laid


def _breaks(row: Sequence[_Word], line_length: float, width_of: Callable[[str], float]) -> list[int]:
    """Indices of the words of a row after which a line ends."""
    ends = [0.0]  # where each word ends, with its gap
    for word in row:
        ends.append(ends[-1] + width_of(word.text) + (word.gap == " "))

    def width(start: int, stop: int) -> float:
        return ends[stop] - ends[start] - (row[stop - 1].gap == " ")

    stops = [index + 1 for index, word in enumerate(row) if word.may_break and index + 1 < len(row)]
    greedy: list[int] = []
    start, last = 0, 0
    for stop in [*stops, len(row)]:
        if width(start, stop) > line_length and last > start:
            greedy.append(last)
            start = last
        last = stop
    num_lines = len(greedy) + 1
    if not 1 < num_lines < 6:
        return [stop - 1 for stop in greedy]
    target = width(0, len(row)) / num_lines
    # The least cost to reach each stop, and the stops on the path; a line wider than allowed has only one word.
    reached: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for number in range(num_lines):
        found: dict[int, tuple[float, list[int]]] = {}
        ends_here = [len(row)] if number + 1 == num_lines else stops
        for start, (cost, way) in reached.items():
            before = [stop for stop in ends_here if stop > start]
            for stop in before:
                size = width(start, stop)
                if size > line_length and stop != next(here for here in [*stops, len(row)] if here > start):
                    break
                total = cost + (size - target) ** 2 + (_break_cost(row, stop) if stop < len(row) else 0.0)
                if stop not in found or total < found[stop][0]:
                    found[stop] = (total, [*way, stop - 1])
        reached = found
    return reached[len(row)][1][:-1] if len(row) in reached else [stop - 1 for stop in greedy]


def _break_cost(row: Sequence[_Word], stop: int) -> float:
    """Cost of a line end here, in squared characters of imbalance."""
    word, following = row[stop - 1].text, row[stop].text
    if _NO_LINE_START.match(following):
        return 1e6
    if sentences.has_stop(word):
        return 0.0
    if sentences.ends_clause(word):
        return 40.0
    return 350.0 if sentences.is_short(word) else 200.0
