"""Are the texts what they should be? Damaged characters, markup, digits; and what the tokenizer does not see."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data.examples import Labeled, Pair, Utterance
from segue.data.source import Seen
from segue.data.text import TextSection, normalize
from segue.diagnosis import Level, Symptom
from segue.doctor.looking import Split, Tallies, Tally, cut, hashed, joined, names

_PLAIN = TextSection(case="lower", punctuation="remove", unicode_form="NFKC")
"""How texts are compared with each other, whatever the recipe."""

_ODD = re.compile(r"[\ufffd\x00-\x08\x0b-\x1f\x7f-\x9f\ue000-\uf8ff<&@/]|[^\W\d_]\.[^\W\d_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
_ADDRESS = re.compile(r"https?://|\bwww\.\w|\b[\w.+-]+@[\w-]+\.\w", re.IGNORECASE)
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
# UTF-8 of a letter or quotation mark, each byte of which was read as a character of Windows-1252.
_MISREAD = re.compile("[\u00c2-\u00c5\u00ce-\u00d1\u00e2][^\x00-\x7f]{1,2}")
_RIGHT = re.compile("[\u00a0-\u017f\u0370-\u04ff\u2010-\u2044\u20ac\u2122]")
_MIXED = re.compile(
    "[^\\W\\d_]*(?:[A-Za-z\u00c0-\u024f][\u0400-\u052f]|[\u0400-\u052f][A-Za-z\u00c0-\u024f]|"
    # Greek letters that look like Latin ones.
    "[A-Za-z][ΑΒΕΖΗΙΚΜΝΟΡΤΥΧορυ]|[ΑΒΕΖΗΙΚΜΝΟΡΤΥΧορυ][A-Za-z])[^\\W\\d_]*"  # noqa: RUF001
)
_SPOKEN = re.compile(r"[%‰&+=@#€$£¥°§]")

KINDS: dict[str, tuple[Level, str, str]] = {
    "replaced": (
        "warning",
        "replacement characters (U+FFFD): the text was read in a wrong encoding",
        "read the original in its own encoding; `segue prepare` finds out which it is",
    ),
    "misread": (
        "warning",
        "UTF-8 that was read as Windows-1252 (Ã© for é)",
        "read the original as UTF-8, or repair: text.encode('cp1252').decode()",
    ),
    "control": ("warning", "control characters, or private ones without a meaning", "remove them"),
    "markup": ("warning", "markup: tags or entities", "remove tags, and write &amp; as &"),
    "address": (
        "warning",
        "web or e-mail addresses",
        "write them as they are spoken, or leave these lines out",
    ),
    "mixed": (
        "warning",
        "letters of two scripts in a word: some of them only look like the right ones",
        "write the word in one script",
    ),
    "digits": (
        "warning",
        "digits: what is spoken are words, and several of them fit a number",
        "write numbers as they are spoken",
    ),
    "symbols": (
        "warning",
        "symbols that are spoken, but that the normalization of texts removes",
        "write them as words (percent, and, plus)",
    ),
    "empty": ("warning", "nothing is left of the text after normalization", "correct the text, or leave the line out"),
    "unknown": (
        "warning",
        "characters or words that no token covers: the model can neither read nor write them",
        "a tokenizer that is learned from these texts, or texts without them",
    ),
    "case": (
        "note",
        "capital letters, which normalization removes: the model writes none",
        'text.case="keep" keeps them',
    ),
    "punctuation": (
        "note",
        "punctuation or symbols, which normalization removes: the model writes none",
        'text.punctuation="keep" keeps them',
    ),
}


class Texts(NamedTuple):
    """What is seen in a chunk."""

    tally: Tally
    unknown: Counter[str]
    """Characters or words that no token covers, with the number of texts."""
    rows: NDArray[np.uint64]
    """(examples, 2): hashes of the text (the source), and of what belongs to it (target, or class)."""


class TextCheck:
    """Reads every text once."""

    def __init__(self, seen: Callable[[Any], Sequence[Seen]] | None, is_open: bool) -> None:
        """`seen` is that of the recipe's reader, if there is a recipe; `is_open`: its alphabet is that of the texts."""
        self._seen, self._is_open = seen, is_open
        self.tallies = Tallies()
        self.unknown = Counter[str]()
        self.rows: dict[str, list[NDArray[np.uint64]]] = {}
        self.totals = Counter[str]()

    def look(self, indices: Sequence[int], examples: Sequence[Any]) -> Texts:
        """Bad texts by kind, unknown characters, hashes."""
        tally, unknown = Tally(), Counter[str]()
        rows = np.zeros((len(examples), 2), np.uint64)
        for row, index, example in zip(rows, indices, examples, strict=True):
            found = dict[str, str]()
            for text in written(example):
                found |= odd(text)
            if isinstance(example, Utterance):
                self._of_speech(example, found)
            else:  # texts may have addresses; speech is not written so
                found.pop("address", None)
            for each in self._seen(example) if self._seen is not None else ():
                _against_tokenizer(each, found, unknown)
            for kind, detail in found.items():
                tally.add(kind, index, detail)
            row[:] = _hashes(example)
        return Texts(tally, unknown, rows)

    def _of_speech(self, example: Utterance, found: dict[str, str]) -> None:
        if self._is_open and any(map(str.isdecimal, example.text)):
            found["digits"] = cut(example.text)
        symbols = _SPOKEN.findall(example.text)
        for each in self._seen(example) if symbols and self._seen is not None else ():
            if any(symbol not in each.normalized for symbol in symbols):
                found["symbols"] = cut(example.text)

    def gather(self, split: Split, seen: Texts) -> None:
        """Adds what was seen in a chunk."""
        self.tallies.merge(split, seen.tally)
        self.unknown.update(seen.unknown)
        if len(self.unknown) > 20_000:  # words: bounded
            self.unknown = Counter(dict(self.unknown.most_common(10_000)))
        self.rows.setdefault(split.name, []).append(seen.rows)
        self.totals[split.name] += len(seen.rows)

    def of(self, split: str) -> NDArray[np.uint64]:
        """(examples, 2) hashes of a split."""
        return joined(self.rows.get(split, ()), np.uint64).reshape(-1, 2)

    def symptoms(self) -> Iterator[Symptom]:
        """The findings."""
        total = self.totals.total()
        for kind in self.tallies.kinds():
            level, what, mend = KINDS[kind]
            if kind == "unknown":
                what = f"{what}: {names(dict(self.unknown))}"
            yield Symptom(level, "texts", what, mend, self.tallies.count(kind), total, self.tallies.samples(kind))


def written(example: Utterance | Pair | Labeled) -> tuple[str, ...]:
    """The texts of an example as they are in the manifest, without labels."""
    return (example.source, example.target) if isinstance(example, Pair) else (example.text,)


def odd(text: str) -> dict[str, str]:
    """Kinds of oddities in a text, each with the place to show."""
    found = dict[str, str]()
    if not text.isascii():
        if "\ufffd" in text:
            found["replaced"] = _around(text, text.index("\ufffd"))
        misread = next((each.start() for each in _MISREAD.finditer(text) if is_misread(each[0])), None)
        if misread is not None:
            found["misread"] = _around(text, misread)
        if (match := _MIXED.search(text)) is not None:
            found["mixed"] = f"{match[0]}: {_scripts(match[0])}"
    if _ODD.search(text) is None:
        return found
    for kind, pattern in (("control", _CONTROL), ("markup", _MARKUP), ("address", _ADDRESS)):
        if (match := pattern.search(text)) is not None:
            found[kind] = _around(text, match.start())
    return found


def is_misread(text: str) -> bool:
    """Whether the text begins with UTF-8 of one character whose bytes were read as Windows-1252."""
    data = b""
    for character in text:
        try:
            data += character.encode("cp1252")
        except UnicodeEncodeError:
            if character > "\xff":
                return False
            data += character.encode("latin-1")
        try:
            return _RIGHT.match(data.decode()) is not None
        except UnicodeDecodeError:
            continue
    return False


def _against_tokenizer(text: Seen, found: dict[str, str], unknown: Counter[str]) -> None:
    if not text.normalized:
        found["empty"] = f"{text.key}: {cut(text.written)!r}"
        return
    strange = text.tokenizer.unknown_characters(text.normalized)
    if strange:
        unknown.update(strange)
        found["unknown"] = f"{' '.join(map(repr, strange[:5]))} in: {cut(text.written)}"
    if len(text.normalized) == len(text.written) and text.normalized == text.written:
        return
    if text.written.lower() != text.written and text.normalized.lower() == text.normalized:
        found["case"] = cut(text.written)
    kept = set(text.normalized)
    if any(unicodedata.category(each)[0] in "PS" and each not in kept for each in set(text.written)):
        found["punctuation"] = cut(text.written)


def _hashes(example: Utterance | Pair | Labeled) -> tuple[int, int]:
    if isinstance(example, Pair):
        return hashed(_compared(example.source)), hashed(_compared(example.target))
    label = example.label if isinstance(example, Labeled) else ""
    return hashed(_compared(example.text)), hashed(label)


def _compared(text: str) -> str:
    """The text as it is compared with others; itself, where nothing else would be left."""
    return normalize(text, _PLAIN) or text


def _around(text: str, place: int) -> str:
    start = max(0, place - 40)
    return ("…" if start else "") + cut(text[start:], 100)


def _scripts(word: str) -> str:
    """The letters of each script: `LATIN abc, CYRILLIC д`."""
    of = dict[str, str]()
    for letter in word:
        script = unicodedata.name(letter, "?").partition(" ")[0]
        of[script] = of.get(script, "") + letter
    return ", ".join(f"{script} {letters}" for script, letters in of.items())
