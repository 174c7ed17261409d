"""How are tags in a cue's text parsed: which are pairs, which apply to all of it, where does another speaker begin?"""

import html
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from segue.data import sentences
from segue.data.subtitles.lines import MARKS, Form

_LINE = {"srt": r"\n|\\N|<[bB][rR] */?>", "vtt": r"\n", "ass": r"\\[nN]"}
_ENTITY_SPACE = "&nbsp;|&\\#160;|&\\#[xX][aA]0;"
_SPACE = {"srt": f"\u00a0|{_ENTITY_SPACE}", "vtt": f"\u00a0|{_ENTITY_SPACE}", "ass": r"\\h|\u00a0"}
_READING = r"<rt\b[^<>]*>.*?(?:</rt>|(?=<rt\b|</ruby)|\Z)"  # text above a ruby base is not part of the sentence
# Tags that a converter escaped are not words either.
_ESCAPED_TAG = r"&lt;/?(?i:[ibus]|font(?:\s(?:(?!&[lg]t;)[^\n])*)?)&gt;"
_TAG = {
    # Other words between angle brackets are not tags, as in "<<That's OK, >> - he calmed himself."
    "srt": rf"{_READING}|</?[a-zA-Z][\w.:-]*/?>|< */? *(?i:[ibus]|br|font) */?>|<[a-zA-Z]+\s[^<>]*=[^<>]*>"
    rf"|<(?:v|lang|font)\b[^<>]*>|\{{\\[^{{}}]*\}}|\{{[yYcCfFsSpP]:[^{{}}]*\}}|{_ESCAPED_TAG}",
    "vtt": rf"{_READING}|<[^<>]*>|\{{\\[^{{}}]*\}}|{_ESCAPED_TAG}",
    "ass": r"\{[^}]*+\}",
}
_MARK = rf"[{MARKS}]|&(?:lrm|rlm|\#8206|\#8207|\#[xX]200[eEfF]|ZeroWidthSpace);"
_TOKEN = {
    form: re.compile(
        rf"(?P<line>{_LINE[form]})|(?P<tag>{_TAG[form]})|(?P<mark>{_MARK})|(?P<space>{_SPACE[form]})", re.DOTALL
    )
    for form in _LINE
}
_ENTITY = re.compile(r"&#?\w{1,10};")
_HAS_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|lrm|rlm|#\d{1,6}|#[xX][0-9a-fA-F]{1,5});")

_NAME = re.compile(r"(?:<|&lt;)[ /]*([a-zA-Z]*)")
_OVERRIDE = re.compile(r"\\([ibus])[0-9]")
_CLOSES = re.compile(r"(?:<|&lt;)\s*/.*|<rt\b.*|\{(?:\\(?:[ibus]0|r|1?c))+\}", re.DOTALL)
_OPENING_MARKS = {"\u202a": "embedding", "\u202b": "embedding", "\u202d": "embedding", "\u202e": "embedding"} | {
    "\u2066": "isolate",
    "\u2067": "isolate",
    "\u2068": "isolate",
}
_CLOSING_MARKS = {"\u202c": "embedding", "\u2069": "isolate"}
_DRAWING = re.compile(r"\\p(\d+)")
_PASSING = re.compile(r"<[\d:.]+>|\{[^\\}]*\}|\{(?:\\[kK][fo]?[\d.]+)+\}")  # timestamps of words, comments
_VOICE = re.compile(r"<\s*v(?=[\s.>])([^>]*)>")
_CLASS = re.compile(r"<\s*c((?:\.[^\s<>.]+)+)[^<>]*>")
_FONT_COLOR = re.compile(r"<\s*font\b[^<>]*\bcolor\s*=\s*[\"']?([^\s\"'<>]*)", re.IGNORECASE)
_ASS_COLOR = re.compile(r"\\1?c(&?[hH]?[0-9a-fA-F]*&?)(?=[\\}]|\Z)|\\r(?![a-z]{2})")
_COLORS = ["white", "lime", "cyan", "red", "yellow", "magenta", "blue", "black", "green", "aqua", "orange", "pink"]


class Tag(NamedTuple):
    """A tag or an invisible mark, and its position in the plain text."""

    text: str
    position: int
    closes: bool
    """Whether it belongs to the text before it."""

    is_mark: bool = False


def split(body: str, form: Form) -> tuple[str, list[Tag]]:
    """A cue's text without its tags, and the tags, which include drawings and readings above ruby bases."""
    texts: list[str] = []
    size = position = 0
    tags: list[Tag] = []
    is_drawing = False
    is_escaped = has_entities(body, form)

    def add(text: str) -> None:
        nonlocal size
        if is_drawing:
            tags[-1] = tags[-1]._replace(text=tags[-1].text + text)
        else:
            texts.append(text)
            size += len(text)

    for token in _tokens(body, form):
        before = body[position : token.start()]
        add(_unescaped(before) if is_escaped else before)
        position = token.end()
        if is_drawing:
            add(token[0])
        elif token["tag"]:
            tags.append(Tag(token[0], size, bool(_CLOSES.fullmatch(token[0]))))
        elif token["mark"]:
            mark = html.unescape(token[0])
            is_last = not body[position : position + 1].strip() and bool(
                body[max(0, token.start() - 1) : token.start()].strip()
            )
            closes = mark in _CLOSING_MARKS or (is_last and mark not in _OPENING_MARKS)
            tags.append(Tag(token[0], size, closes, True))
        else:
            add("\n" if token["line"] else "\u00a0")
        if form == "ass" and token["tag"] and (scales := _DRAWING.findall(token[0])):
            is_drawing = int(scales[-1][:9]) > 0
    add(_unescaped(body[position:]) if is_escaped else body[position:])
    return "".join(texts), tags


def has_entities(body: str, form: Form) -> bool:
    """Whether "&lt;" means "<": in WebVTT, and in SubRip texts with entities, as written by converters."""
    return form == "vtt" or (form == "srt" and bool(_HAS_ENTITY.search(body)))


def escaped(text: str, form: Form, is_escaped: bool) -> str:
    """Words as written in this format."""
    if is_escaped:
        return html.escape(text, quote=False).replace("\u00a0", "&nbsp;")
    return text.replace("\u00a0", r"\h") if form == "ass" else text


def without_tags(text: str, form: Form, is_escaped: bool) -> str:
    """A translation without anything that would be a tag or a line end in this format, unless it will be escaped."""
    # A lone surrogate cannot be encoded, and a file with a NUL could not be read again.
    text = text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if form == "ass":
        text = text.replace("{", "(").replace("}", ")")
    if is_escaped:
        return text.replace(r"\N", " ") if form == "srt" else text
    return _TOKEN[form].sub(
        lambda token: "" if token["tag"] else token[0] if token["mark"] else "\u00a0" if token["space"] else " ", text
    )


def _tokens(body: str, form: Form) -> Iterator[re.Match[str]]:
    """Tags, line ends and hard spaces; in linear time, since no "{" after the last "}" begins a tag."""
    last = body.rfind("}") + 1 if form == "ass" else len(body)
    yield from _TOKEN[form].finditer(body, 0, last)
    if last < len(body):
        yield from _TOKEN[form].finditer(body.replace("{", " "), last)


def _unescaped(text: str) -> str:
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _name(tag: Tag) -> str:
    """The name that an opening tag and its closing tag have in common."""
    if tag.is_mark:
        mark = html.unescape(tag.text)
        return _OPENING_MARKS.get(mark) or _CLOSING_MARKS.get(mark) or ""
    found = _NAME.match(tag.text) or _OVERRIDE.search(tag.text)
    return found[1].lower() if found else ""


def pairs(tags: Sequence[Tag]) -> Iterator[tuple[int, int]]:
    """(opening, closing): indices of paired tags."""
    is_open: dict[str, list[int]] = {}
    for index, tag in enumerate(tags):
        name = _name(tag)
        if tag.is_mark and not name:
            continue
        if name == "rt" and is_open.get("ruby"):
            yield is_open["ruby"][-1], index  # there is a base between
            continue
        same = is_open.setdefault(name, [])
        if not tag.closes:
            same.append(index)
        elif same:
            yield same.pop(), index


def lasting(tags: Sequence[Tag], start: int, end: int) -> tuple[str, ...]:
    """The tags that apply from `start` to `end` of the plain text: opened before and not closed in between.

    Of several voices only the last one. A tag that is closed without being opened is included: it was opened in the
    previous cue.
    """
    closed_at = dict(pairs(tags))
    opened = set(closed_at.values())
    found: list[str] = []
    for index, tag in enumerate(tags):
        if tag.is_mark or _PASSING.fullmatch(tag.text):
            continue
        if (
            not tag.closes
            and tag.position <= start
            and not (index in closed_at and tags[closed_at[index]].position < end)
        ):
            if _VOICE.fullmatch(tag.text):
                found = [each for each in found if not _VOICE.fullmatch(each)]
            found.append(tag.text)
        elif tag.closes and index not in opened and tag.position >= end and tag.text.startswith("<"):
            found.append(f"<{_name(tag)}>")
    return tuple(found)


def changes(plain: str, tags: Sequence[Tag]) -> list[int]:
    """Positions where another speaker begins: a voice tag, or another color at the start of a line or sentence."""
    found: list[int] = []
    state = ("", "")
    voices: list[str] = []
    colors: list[tuple[str, str]] = []  # name of the tag, color
    index = 0
    while index < len(tags):
        before = state
        start = _solid_before(plain, tags[index].position)
        stop = _solid_from(plain, tags[index].position)
        while index < len(tags) and tags[index].position <= stop:
            _follow(tags[index], voices, colors)
            index += 1
        state = ("".join(voices[-1:]), colors[-1][1] if colors else "")
        if start == 0 or stop == len(plain) or state == before:
            continue
        gap = plain[start:stop]
        is_new_color = state[1] != before[1] and bool(gap) and gap.isspace()
        has_stop = sentences.has_stop(plain[:start][-40:])
        if state[0] and state[0] != before[0]:
            found.append(stop)
        elif is_new_color and state[1] and before[1]:
            if "\n" in gap or has_stop:
                found.append(stop)
        elif is_new_color and "\n" in gap and has_stop:
            found.append(stop)
    return found


def _follow(tag: Tag, voices: list[str], colors: list[tuple[str, str]]) -> None:
    """Updates the current voices and colors with a tag."""
    if tag.is_mark:
        return
    if voice := _VOICE.fullmatch(tag.text):
        voices[:] = [voice[1].strip()]
    elif tag.closes and tag.text.startswith("<"):
        name = _name(tag)
        if name == "v":
            voices.clear()
        for at in range(len(colors) - 1, -1, -1):
            if colors[at][0] == name:
                del colors[at]
                break
    elif font := _FONT_COLOR.match(tag.text):
        colors.append(("font", font[1].lower()))
    elif tag.text.lower().startswith("<font"):
        colors.append(("font", colors[-1][1] if colors else ""))
    elif css := _CLASS.fullmatch(tag.text):
        own = [each for each in css[1].lower().split(".") if each in _COLORS or each.startswith("color")]
        colors.append(("c", own[0] if own else colors[-1][1] if colors else ""))
    elif _name(tag) == "c":
        colors.append(("c", colors[-1][1] if colors else ""))
    elif tag.text.startswith("{"):
        for color in _ASS_COLOR.finditer(tag.text):
            colors[:] = [("ass", color[1].strip("&hH").lstrip("0").lower() or "black")] if color[1] else []


def _solid_before(plain: str, position: int) -> int:
    """The end of the last character before `position` that is not white space."""
    return len(plain[:position].rstrip())


def _solid_from(plain: str, position: int) -> int:
    """The position of the first character from `position` on that is not white space."""
    return len(plain) - len(plain[position:].lstrip())
