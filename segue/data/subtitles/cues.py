"""How do timed words become subtitles? Readable cues, and subtitle files.

The limits are the usual ones of broadcasters and streaming services: two lines of 42 characters, 17 characters per
second, 0.8 to 7 seconds. For full-width characters: 16 per line and 4 per second; 13 per line in Japanese, 12 per
second in Korean.
"""

import html
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple, Protocol

from segue.data import scripts, sentences
from segue.data.subtitles import layout

LINES = 2
COLUMNS = 42
READING_SPEED = 17.0
WIDE_A_LINE, KANA_A_LINE = 16, 13
WIDE_READING_SPEED, HANGUL_READING_SPEED = 4.0, 12.0
SHORTEST_MS, LONGEST_MS = 800, 7000
LONGEST_PAUSE_MS = 1000  # a longer pause ends a cue; at least SHORTEST_MS, so a word between two pauses has enough time
LEAD_OUT_MS = 500  # a cue is shown this long after its last word, if the next one permits
LEAD_IN_MS = 500  # and up to this long before its first word, if it could not be read in time otherwise

_KANA = re.compile("[\u3040-\u30ff\uff66-\uff9d]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7af]")
# What players take for tags. SRT has no escapes: an invisible word joiner after the character prevents it.
_SRT_MARKUP = re.compile(r"<(?=[/a-zA-Z ])|\{(?=[\\a-zA-Z])|--(?=>)")


class TimedWord(Protocol):
    """A word and when it was spoken, in seconds."""

    @property
    def word(self) -> str:
        """Its text."""
        ...

    @property
    def start(self) -> float:
        """Start in seconds."""
        ...

    @property
    def end(self) -> float:
        """End in seconds."""
        ...

    @property
    def follows_space(self) -> bool:
        """Whether there is a space before it in a text."""
        ...

    @property
    def speaker(self) -> str | None:
        """Who said it, if that is known."""
        ...


class Cue(NamedTuple):
    """Text that is shown at once; times in milliseconds."""

    lines: list[str]
    start: int
    """When it is shown, as `end`."""
    end: int
    text: str
    """The text in one line."""
    spoken: tuple[int, int]
    """Start and end of its speech."""
    speaker: str | None = None
    """Who said all of it, if that is known."""


class _Piece(NamedTuple):
    """A word, or a part of one, that stays on a line; times in milliseconds."""

    text: str
    start: int
    end: int
    follows_space: bool
    speaker: str | None = None


def write(cues: Sequence[Cue], form: Literal["srt", "vtt"]) -> str:
    """The cues as a subtitle file; in vtt with a voice tag where the speaker is known."""
    blocks = [
        f"{number}\n{_clock(cue.start, form)} --> {_clock(cue.end, form)}\n"
        f"{_voice(cue, form)}{_escaped(cue.lines, form)}\n"
        for number, cue in enumerate(cues, 1)
    ]
    return "\n".join((["WEBVTT\n"] if form == "vtt" else []) + blocks)


def cut(words: Sequence[TimedWord], seconds: float) -> list[Cue]:
    """Divides the words of a recording of `seconds` seconds into cues.

    Cues keep the order, do not overlap, lie inside the recording, and have one speaker each. Words that are spoken too
    fast to be read, or too close to the end, are still shown in time.
    """
    measure = _Measure(words)
    end = math.floor(1000 * seconds)
    pieces = [part for piece in _pieces(words, end) for part in measure.parts(piece)]
    # A word at the very end needs time from the pause before it, or has too little of its own.
    longest = [LONGEST_PAUSE_MS if end - piece.start >= SHORTEST_MS else 2 * SHORTEST_MS for piece in pieces]
    cuts = [
        n
        for n in range(1, len(pieces))
        if pieces[n].start - pieces[n - 1].end > longest[n] or pieces[n].speaker != pieces[n - 1].speaker
    ]
    groups: list[Sequence[_Piece]] = []
    for first, last in pairwise([0, *cuts, len(pieces)]):
        if first < last:
            following = pieces[last].start if last < len(pieces) else end
            groups += _groups(pieces[first:last], following, measure)
    return list(_timed(groups, end, measure))


class _Measure:
    """Width of texts on a line, and time to read them."""

    def __init__(self, words: Sequence[TimedWord]) -> None:
        has_kana = any(_KANA.search(word.word) for word in words)
        self._wide_columns = COLUMNS / (KANA_A_LINE if has_kana else WIDE_A_LINE)

    def columns(self, text: str) -> float:
        """Width in columns; a line has 42."""
        return sum(self._wide_columns if _is_wide(c) else not _is_mark(c) for c in text)

    def reading_ms(self, text: str) -> float:
        """Milliseconds to read a text."""
        speeds = (
            READING_SPEED
            if not _is_wide(character)
            else HANGUL_READING_SPEED
            if _HANGUL.match(character)
            else WIDE_READING_SPEED
            for character in text
            if not _is_mark(character)
        )
        return sum(1000 / speed for speed in speeds)

    def fits(self, columns: float) -> bool:
        """Whether a text of this width fits on a line."""
        return columns <= COLUMNS + 1e-6  # thirds and thirteenths do not add up exactly

    def parts(self, piece: _Piece) -> Iterator[_Piece]:
        """The piece, cut if it is wider than a line."""
        if self.fits(self.columns(piece.text)):
            yield piece
            return
        cuts = [0]
        for position in range(1, len(piece.text)):
            if not self.fits(self.columns(piece.text[cuts[-1] : position + 1])):
                cuts.append(position)
        times = [piece.start + (piece.end - piece.start) * each // len(piece.text) for each in [*cuts, len(piece.text)]]
        for number, (first, last) in enumerate(pairwise([*cuts, len(piece.text)])):
            follows_space = piece.follows_space and number == 0
            yield _Piece(piece.text[first:last], times[number], times[number + 1], follows_space, piece.speaker)


def _pieces(words: Sequence[TimedWord], end: int) -> Iterator[_Piece]:
    """Words with monotonic times, joined where no line break is allowed between them."""
    pending: _Piece | None = None
    for word in words:
        start = min(max(round(1000 * word.start), pending.start if pending else 0), end)
        stop = min(max(round(1000 * word.end), start), end)
        piece = _Piece(word.word, start, stop, word.follows_space, word.speaker)
        if pending is not None:
            may_break = word.follows_space or scripts.may_break(pending.text, word.word)
            is_near = start - pending.end <= LONGEST_PAUSE_MS and piece.speaker == pending.speaker
            if not may_break and is_near:
                pending = pending._replace(text=pending.text + piece.text, end=max(pending.end, piece.end))
                continue
            yield pending._replace(end=min(pending.end, start))
        pending = piece
    if pending is not None:
        yield pending


def _groups(pieces: Sequence[_Piece], following: int, measure: _Measure) -> Iterator[Sequence[_Piece]]:
    """Groups pieces into cues with the least total cost (dynamic programming).

    `following` is when the piece after them starts. The unit of cost is one cue.
    """
    starts = [*(piece.start for piece in pieces), following]
    spaced = [" " * (piece.follows_space and index > 0) + piece.text for index, piece in enumerate(pieces)]
    columns = list(accumulate(map(measure.columns, spaced), initial=0.0))
    reading = list(accumulate(map(measure.reading_ms, spaced), initial=0.0))
    inside, behind = zip(*_costs(pieces, spaced), strict=True)  # for each piece: cost of no cut and of a cut after it
    kept = list(accumulate(inside, initial=0.0))
    # The least cost to reach each cut, and the previous cut.
    reached: list[tuple[float, int]] = [(0.0, 0), *[(math.inf, 0)] * len(pieces)]
    for first in range(len(pieces)):
        line, num_lines = first, 1
        for last in range(first + 1, len(pieces) + 1):
            if not measure.fits(columns[last] - columns[line] - (spaced[line][0] == " ")) and line < last - 1:
                line, num_lines = last - 1, num_lines + 1
            is_one = last == first + 1
            if not is_one and (num_lines > LINES or pieces[last - 1].end - starts[first] > LONGEST_MS):
                break
            time = min(starts[last] - starts[first], LONGEST_MS)
            needed = reading[last] - reading[first]
            cost = reached[first][0] + 1.0 + 0.5 * ((columns[last] - columns[first]) / (LINES * COLUMNS)) ** 2
            cost += kept[last - 1] - kept[first] + (behind[last - 1] if last < len(pieces) else 0.0)
            if needed > time:
                cost += 2.0 + (needed - time) / 300
            if time < SHORTEST_MS:
                cost += 10.0 + (SHORTEST_MS - time) / 50
            cost += max(0.0, 1.5 - time / 1000) / 2
            reached[last] = min(reached[last], (cost, first))
    cuts = [len(pieces)]
    while cuts[-1]:
        cuts.append(reached[cuts[-1]][1])
    for last, first in reversed(list(pairwise(cuts))):
        yield pieces[first:last]


def _costs(pieces: Sequence[_Piece], spaced: Sequence[str]) -> Iterator[tuple[float, float]]:
    """For each piece: the cost if the cue continues after it, and the cost if the cue ends there."""
    stops = sentences.are_ends(spaced)
    for piece, following, is_stop in zip(pieces, [*pieces[1:], pieces[-1]], stops, strict=True):
        pause = max(0, following.start - piece.end) / 1000
        inside = 1.5 * is_stop + 3.0 * max(0.0, pause - 0.4)
        behind = max(0.0, 1.0 - pause / 0.6)
        if is_stop:
            behind = 0.0
        elif sentences.ends_clause(piece.text):
            behind *= 0.4
        elif sentences.is_short(piece.text):
            behind *= 1.5
        yield inside, behind


def _timed(groups: Sequence[Sequence[_Piece]], end: int, measure: _Measure) -> Iterator[Cue]:
    """Cues with times: from their first word on, until they can be read."""
    spoken = [(group[0].start, max(piece.end for piece in group)) for group in groups]
    texts = ["".join(" " * piece.follows_space + piece.text for piece in group).lstrip(" ") for group in groups]
    wanted = [max(SHORTEST_MS, math.ceil(measure.reading_ms(text))) for text in texts]
    starts = list[int]()
    for number, (start, _) in enumerate(spoken):
        # If there is too little time until the next cue, start earlier, as far as the previous cue can spare time.
        stop = min(spoken[number + 1][0] if number + 1 < len(groups) else end, start + LONGEST_MS)
        before = spoken[number - 1][1] if number else 0
        to_be_seen = max(before, starts[-1] + SHORTEST_MS if number else 0, stop - SHORTEST_MS)
        spare = starts[-1] + wanted[number - 1] if number else 0
        to_be_read = max(before, spare, start - LEAD_IN_MS, stop - wanted[number])
        starts.append(min(start, to_be_seen, to_be_read))
    for number, (group, text) in enumerate(zip(groups, texts, strict=True)):
        start, spoken_end = starts[number], spoken[number][1]
        latest = min(starts[number + 1] if number + 1 < len(groups) else end, start + LONGEST_MS)
        lines = layout.in_lines(
            [(a.text, b.follows_space) for a, b in pairwise([*group, group[0]._replace(follows_space=False)])],
            COLUMNS + 1e-6,
            measure.columns,
        )
        stop = min(latest, max(spoken_end + LEAD_OUT_MS, start + wanted[number]))
        yield Cue(lines, start, stop, text, spoken[number], group[0].speaker)


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _voice(cue: Cue, form: Literal["srt", "vtt"]) -> str:
    """The tag that says in vtt who speaks: https://www.w3.org/TR/webvtt1/#webvtt-cue-voice-span."""
    if form == "srt" or cue.speaker is None:
        return ""
    return f"<v {html.escape(' '.join(cue.speaker.split()), quote=False)}>"


def _escaped(lines: Sequence[str], form: Literal["srt", "vtt"]) -> str:
    if form == "vtt":
        return html.escape("\n".join(lines), quote=False)
    return _SRT_MARKUP.sub(lambda sign: f"{sign[0]}\u2060", "\n".join(lines))


def _clock(milliseconds: int, form: Literal["srt", "vtt"]) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    comma = "," if form == "srt" else "."
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{comma}{rest:03}"
