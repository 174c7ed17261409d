"""How are texts normalized before training and scoring? By one rule for both, which is part of the recipe."""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from segue.recipe import Section

LEFT_OUT = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters, except white space
    "\xad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # U+200B is the zero-width space
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
)
"""Character class (regex): invisible characters that no word needs: bidi marks, soft hyphens, byte order marks."""
BLANK = "\u3164\uffa0"
"""Character class: blank letters of Hangul (fillers)."""
STRONG = "\u2019\u02bc\uff07"
"""Character class: apostrophes, which are treated as '."""
WEAK = "\u2018\u201a\u201b\u2032\xb4`"
"""Character class: apostrophes only between letters: quotation marks, primes, spacing accents."""
ELISIONS = "tis twas twere twill twould em cause til n s t k d m ll re ve"
"""Words that begin with an apostrophe: 'tis, rock 'n' roll, 's morgens."""

# Also lone surrogates, and tag characters that are not part of a flag.
_LEFT_OUT = re.compile(f"[{LEFT_OUT}\ud800-\udfff]|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+")
_BLANK = re.compile(f"[{BLANK}]")
_STRONG = re.compile(f"[{STRONG}]")
_WEAK = re.compile(f"[{WEAK}]")
_PENDING = "\ufdd1"  # noncharacter that replaces each of WEAK
_EDGES = frozenset(f"'{_PENDING}")
_ELISIONS = frozenset(ELISIONS.split())
_WORD = re.compile(r"\w+")
_TO_TURKIC = {"lower": str.maketrans({"I": "ı", "İ": "i"}), "upper": str.maketrans({"i": "İ"})}
_TURKIC = frozenset(["tr", "tur", "az", "aze", "crh", "gag", "turkish", "azerbaijani"])
_JOINERS = re.compile("[\u200c\u200d]+|\u180e")
_NON_JOINER, _MONGOLIAN_SEPARATOR = "\u200c", "\u180e"
# Scripts in which joiners have a visible effect, or had when the text was typed: Arabic to Mandaic, Indic scripts,
# Mongolian. Whole blocks, which include punctuation.
_JOINED = re.compile(
    "[\u0600-\u0dff\u0f00-\u109f\u1700-\u18af\u1a20-\u1aaf\u1b00-\u1c4f\ua840-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00010fff\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
_LETTERS = frozenset(["Lu", "Ll", "Lt", "Lo"])  # not Lm, which modify other letters: the Japanese ー, accents
_FILLERS = frozenset(f"\u115f\u1160{BLANK}")


class TextSection(Section):
    """Text normalization, applied to training targets, references and hypotheses alike.

    Invisible characters are always removed: NUL, zero-width spaces, soft hyphens, bidi marks. Joiners are kept where a
    script or an emoji needs them.
    """

    case: Literal["lower", "upper", "keep"] = "lower"
    """Letter case of targets and references; if a line's language is Turkish or similar, by its rules for I and İ."""

    punctuation: Literal["remove", "keep"] = "remove"
    """Whether punctuation and symbols (Unicode categories P and S) become spaces."""

    keep_characters: str = "'"
    """Punctuation that is kept when the rest is removed. Typographic apostrophes are treated as '; in pairs around
    words they are quotation marks, which are removed."""

    unicode_form: Literal["NFC", "NFKC"] = "NFKC"
    """Unicode normal form: NFKC also unifies ligatures, full-width forms and the like; ™ and spacing accents are
    treated as symbols in both."""


def normalize(text: str, rule: TextSection, language: str | None = None) -> str:
    """`text` normalized by `rule`, with white space collapsed to single spaces and stripped at the ends.

    `language` is the language tag of the text, such as tr or tr-TR, if known.
    """
    text = _BLANK.sub(" ", _LEFT_OUT.sub("", text))
    removes = rule.punctuation == "remove"
    has_apostrophes = removes and "'" in rule.keep_characters
    if has_apostrophes:
        text = _WEAK.sub(_PENDING, _STRONG.sub("'", text))
    if removes:  # before compatibility forms are folded: ™ would be letters
        text = text.translate(_symbols(rule.keep_characters, rule.unicode_form))
    text = folded(text, rule.unicode_form)
    if rule.case != "keep":
        # Changing case may decompose characters: Ϊ́ from ΐ.
        text = folded(_in_case(text, rule.case, language), rule.unicode_form)
    if removes:
        text = text.translate(_punctuation(rule.keep_characters))
        if has_apostrophes and not _EDGES.isdisjoint(text):
            text = _without_quotes(text)
        text = _LEFT_OUT.sub("", text)  # tags that followed a flag
    if _JOINERS.search(text):
        text = folded(_JOINERS.sub(lambda found: _joiner(text, *found.span()), text), rule.unicode_form)
    return " ".join(text.split())


def seen(text: str) -> str:
    """The visible part of `text`: without invisible characters and surrounding white space."""
    return _BLANK.sub("", _LEFT_OUT.sub("", text)).strip()


def has_letters(text: str) -> bool:
    """Whether `text` contains a letter of any script, not only digits, punctuation and symbols."""
    return any(unicodedata.category(character) in _LETTERS and character not in _FILLERS for character in text)


def folded(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """`text` in a normal form, except what NFKC would turn into other letters or numbers: ™, ´, 10²."""
    if text.isascii() or form == "NFC":
        return unicodedata.normalize(form, text)
    parts = _UNFOLDED.split(_NUMBERS_MEET.sub(_apart, text))
    parts[::2] = [unicodedata.normalize(form, part) for part in parts[::2]]
    parts[1::2] = [unicodedata.normalize("NFC", part) for part in parts[1::2]]
    return "".join(parts)


def unfolded() -> list[str]:
    """Symbols that NFKC would turn into letters, or into a space with an accent, which would change the text."""
    symbols = [
        c for c in map(chr, [*range(0xA8, 0xFFE4), *range(0x1F16A, 0x1F16D)]) if unicodedata.category(c)[0] == "S"
    ]
    return [
        c
        for c in symbols
        if (unicodedata.decomposition(c).startswith("<super>") and unicodedata.category(c) == "So")
        or unicodedata.normalize("NFKC", c).startswith(" ")
    ]


def _numbers() -> dict[str, str]:
    """Numbers that NFKC turns into digits, with the kind of their decomposition: superscript, fraction, circle."""
    found = (c for c in map(chr, range(0xB2, 0x3300)) if unicodedata.category(c) == "No")
    return {c: kind for c in found if (kind := unicodedata.decomposition(c).partition(" ")[0]).startswith("<")}


_UNFOLDED = re.compile(f"([{''.join(unfolded())}])")
_NUMBERS = _numbers()
NUMBERS = "".join(_NUMBERS)
"""Character class: numbers that NFKC turns into digits."""
RAISED = "".join(number for number, kind in _NUMBERS.items() if kind in ("<super>", "<sub>"))
"""Character class: superscript and subscript digits; adjacent ones are one number."""
_NUMBERS_MEET = re.compile(rf"(?<=[\d{NUMBERS}])[{NUMBERS}]|[{NUMBERS}](?=\d)")


def _apart(found: re.Match[str]) -> str:
    """Separates a number from adjacent digits by spaces: 10² must not become 102, nor 5½ 51⁄2."""
    before, text, after = found.string[: found.start()][-1:], found[0], found.string[found.end() :][:1]
    is_power = _NUMBERS[text] in ("<super>", "<sub>") and _NUMBERS.get(before) == _NUMBERS[text]
    is_first = before not in _NUMBERS and not before.isdecimal()
    return f"{'' if is_power or is_first else ' '}{text}{' ' if after.isdecimal() else ''}"


class _Spaces(dict[int, str | int]):
    """A table for `str.translate`, filled on demand: maps punctuation and symbols to a space."""

    def __init__(self, keep: str, form: Literal["NFC", "NFKC", None]) -> None:
        super().__init__()
        self._keep, self._form = keep, form

    def __missing__(self, number: int) -> str | int:
        character = chr(number)
        is_space = unicodedata.category(character)[0] in "PS" and character not in self._keep
        if is_space and self._form is not None:  # its normal form may be kept
            written = unicodedata.normalize(self._form, character)
            stays = all(each in self._keep for each in written) or any(map(_is_of_word, written))
            is_space = _UNFOLDED.match(character) is not None or not stays
        self[number] = " " if is_space else number
        return self[number]


@lru_cache(64)
def _symbols(keep: str, form: Literal["NFC", "NFKC"]) -> _Spaces:
    return _Spaces(keep, form)


@lru_cache(64)
def _punctuation(keep: str) -> _Spaces:
    found = _Spaces(keep, None)
    # Modifiers of removed symbols: variation selectors, the enclosing keycap.
    found.update(dict.fromkeys([*range(0x20D0, 0x2100), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)], ""))
    return found


def _in_case(text: str, case: Literal["lower", "upper"], language: str | None) -> str:
    if language is not None and re.split("[-_]", language.lower())[0] in _TURKIC:
        text = text.translate(_TO_TURKIC[case])
    if case == "upper":
        return text.upper()
    # lower() turns İ into i and a combining dot above.
    return text.lower().replace("i\u0307", "i")


def _without_quotes(text: str) -> str:
    """Keeps apostrophes in words and at their edges, but removes pairs, which are quotation marks.

    Other quotation marks are already removed from `text`. 'Hello,' they don't say -> Hello they don't say; the dogs'
    bone stays as it is.
    """
    found = list(text)
    opening: list[int] = []
    for place, character in enumerate(text):
        if character not in _EDGES:
            continue
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        found[place] = "'"
        if _is_of_word(before) and _is_of_word(after):
            continue
        if before in _EDGES or after in _EDGES:  # '' is a quotation mark
            found[place] = " "
        elif _is_of_word(after):
            word = _WORD.match(text, place + 1)
            is_elision = word is not None and word[0].casefold() in _ELISIONS
            if not is_elision:
                opening.append(place)
                found[place] = " " if character == _PENDING else "'"
        elif opening:
            found[opening.pop()] = found[place] = " "
        elif character == _PENDING or not _is_of_word(before):
            found[place] = " "
    return "".join(found)


def _joiner(text: str, start: int, end: int) -> str:
    """The joiner at text[start:end], or "" if it is not needed there."""
    joiner, before, after = text[start], text[start - 1 : start], text[end : end + 1]
    if joiner == _MONGOLIAN_SEPARATOR:
        return joiner if "\u1800" <= before <= "\u18af" else ""
    viramas = [bool(each) and unicodedata.combining(each) == 9 for each in (before, after)]
    joined = [bool(_JOINED.match(each)) and _is_of_word(each) for each in (before, after)]
    if joiner == _NON_JOINER:
        return joiner if viramas[0] or all(joined) else ""
    is_of_symbol = unicodedata.category(after or " ")[0] == "S" and before not in ("", " ")
    return joiner if any(viramas) or any(joined) or is_of_symbol else ""


def _is_of_word(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LMN"
