"""Do the sides of pairs belong together? Lengths, languages, copies, lines that were moved.

Languages are compared by their trigrams: which of the manifests' own languages does a text look like? Each text is left
out of the counts that it is compared with (naive Bayes; Cavnar and Trenkle 1994 did so with frequent n-grams).
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data.examples import Pair
from segue.diagnosis import Level, Symptom
from segue.doctor.looking import Split, Tallies, Tally, cut, joined

NUM_TRIGRAMS = 1 << 16
MOST_LANGUAGES = 100
"""Texts of further languages are not compared with others."""
LEAST_TRIGRAMS, LEAST_PAIRS = 15, 200
"""Languages of shorter texts, and of fewer pairs, are not told apart."""
MARGIN = 0.5
"""A text is of another language if each of its trigrams is on average exp(0.5) times as likely in that one."""
MOST_DEVIATIONS, LEAST_FACTOR, LEAST_CHARACTERS = 6.0, 3.0, 20
"""Ratios of lengths so many deviations and so many times from the median are outliers, if one side is so long."""
WINDOW = 40
"""Lines whose lengths are correlated at a time."""
LEAST_CORRELATION, LEAST_GAIN = 0.6, 0.4
"""Lines were moved if the correlation of the lengths is so high at a shift by one, and so much higher than without."""
COPIED_SHARE = 0.001
"""Share of copied sources that is usual: names, titles."""

COLUMNS: Any = [("source", "i4"), ("target", "i4"), ("language", "i2")]

KINDS: dict[str, tuple[Level, str, str]] = {
    "ratio": (
        "warning",
        "one side is far longer than the lengths of the other pairs suggest: they may not belong together",
        "correct or remove these pairs",
    ),
    "language": (
        "warning",
        "a side that looks like another language than the rest of its side",
        "remove pairs that are not translated, and exchange sides that are",
    ),
    "script": (
        "warning",
        "a side in another script than the rest of its side",
        "remove pairs that are not translated, and exchange sides that are",
    ),
    "copied": (
        "warning",
        "the target is a copy of the source",
        "remove pairs that were not translated",
    ),
}


class Lengths(NamedTuple):
    """What is seen in a chunk."""

    rows: NDArray[Any]
    """COLUMNS"""
    counts: dict[str, NDArray[np.int32]]
    """Trigrams by language."""
    scripts: dict[str, Counter[str]]
    """Scripts of the texts by language."""
    copied: Tally


class PairCheck:
    """Measures every pair, and learns what each language looks like."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Split, list[NDArray[Any]]]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self.scripts: dict[str, Counter[str]] = {}
        self.tallies = Tallies()

    def look(self, indices: Sequence[int], examples: Sequence[Pair]) -> Lengths:
        """Lengths, trigrams, scripts, copies."""
        rows = np.zeros(len(examples), COLUMNS)
        found, scripts, copied = dict[str, list[NDArray[np.int64]]](), dict[str, Counter[str]](), Tally()
        for row, index, pair in zip(rows, indices, examples, strict=True):
            row["source"], row["target"] = len(pair.source), len(pair.target)
            row["language"] = hash_of_language(pair.target_language)
            if pair.source.casefold().split() == pair.target.casefold().split() and len(pair.source.split()) > 2:
                copied.add("copied", index)
            for language, text in sides(pair):
                if language not in found and len(found) >= MOST_LANGUAGES:
                    continue
                found.setdefault(language, []).append(trigrams(text))
                scripts.setdefault(language, Counter()).update(filter(None, [script_of(text)]))
        counts = {
            language: np.bincount(np.concatenate(each), minlength=NUM_TRIGRAMS).astype(np.int32)
            for language, each in found.items()
        }
        return Lengths(rows, counts, scripts, copied)

    def gather(self, split: Split, seen: Lengths) -> None:
        """Adds what was seen in a chunk."""
        self.rows.setdefault(split.name, (split, []))[1].append(seen.rows)
        for language, counts in seen.counts.items():
            if language not in self.counts and len(self.counts) >= MOST_LANGUAGES:
                continue
            self.counts[language] = self.counts.get(language, np.zeros(NUM_TRIGRAMS, np.int64)) + counts
        for language, scripts in seen.scripts.items():
            self.scripts.setdefault(language, Counter()).update(scripts)
        self.tallies.merge(split, seen.copied)

    def symptoms(self) -> Iterator[Symptom]:
        """The findings."""
        total = 0
        for split, parts in self.rows.values():
            table = joined(parts, COLUMNS)
            total += len(table)
            self.tallies.merge(split, _ratios(table))
            yield from _moved(split, table)
        for kind in self.tallies.kinds():
            level, what, mend = KINDS[kind]
            count = self.tallies.count(kind)
            if kind == "copied" and count < COPIED_SHARE * total:
                level = "note"
            yield Symptom(level, "pairs", what, mend, count, total, self.tallies.samples(kind))


class LanguageCheck:
    """Compares every text with the languages that `PairCheck` has learned."""

    def __init__(self, learned: PairCheck) -> None:
        self._scripts = {
            language: counts.most_common(1)[0][0] for language, counts in learned.scripts.items() if counts
        }
        is_enough = sum(sum(map(len, parts)) for _, parts in learned.rows.values()) >= LEAST_PAIRS
        self._counts = learned.counts if is_enough else {}
        self._logs = {language: np.log(counts + 0.5) for language, counts in self._counts.items()}
        self._sums = {language: float(counts.sum()) for language, counts in self._counts.items()}
        self.tallies = Tallies()
        self.total = 0

    def look(self, indices: Sequence[int], examples: Sequence[Pair]) -> Tally:
        """Sides of other languages or scripts."""
        tally = Tally()
        for index, pair in zip(indices, examples, strict=True):
            found: dict[str, list[str]] = {}
            for side, (language, text) in zip(("source", "target"), sides(pair), strict=True):
                script = script_of(text)
                if script and script != self._scripts.get(language, script):
                    said = f"{side}: {script} instead of {self._scripts[language]}: {cut(text)}"
                    found.setdefault("script", []).append(said)
                elif (other := self._looks_like(language, text)) is not None:
                    found.setdefault("language", []).append(f"{side}: like {other}: {cut(text)}")
            for kind, details in found.items():
                tally.add(kind, index, "; ".join(details))
        return tally

    def _looks_like(self, language: str, text: str) -> str | None:
        """Another of the languages that the text looks like; None if its own fits as well."""
        found = trigrams(text)
        if len(found) < LEAST_TRIGRAMS or language not in self._counts:
            return None
        # Leave the text itself out of the counts of its own language.
        _, places, own = np.unique(found, return_inverse=True, return_counts=True)
        left = np.maximum(self._counts[language][found] - own[places], 0)
        score = float(np.log(left + 0.5).mean()) - np.log(self._sums[language] - len(found) + NUM_TRIGRAMS / 2)
        for other, logs in self._logs.items():
            size = np.log(self._sums[other] + NUM_TRIGRAMS / 2)
            if other != language and float(logs[found].mean()) - size > score + MARGIN:
                return other
        return None

    def gather(self, split: Split, seen: Tally) -> None:
        """Adds what was seen in a chunk."""
        self.tallies.merge(split, seen)
        self.total = max(self.total, sum(len(each.examples) for each, _ in self.tallies.of.values()))

    def symptoms(self) -> Iterator[Symptom]:
        """The findings."""
        for kind in self.tallies.kinds():
            level, what, mend = KINDS[kind]
            count = self.tallies.count(kind)
            yield Symptom(level, "pairs", what, mend, count, self.total, self.tallies.samples(kind))


def sides(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    """(language, text) of source and target; a language that is not named is that of the side."""
    source = f"the source ({pair.source_language})" if pair.source_language else "the source"
    target = f"the target ({pair.target_language})" if pair.target_language else "the target"
    return (source, pair.source), (target, pair.target)


def trigrams(text: str) -> NDArray[np.int64]:
    """Numbers below NUM_TRIGRAMS of all three letters in a row, with spaces around: (characters,)."""
    codes = np.frombuffer(f" {text.lower()} ".encode("utf-32-le", errors="replace"), np.uint32).astype(np.int64)
    mixed = (codes[:-2] * 0x9E3779B1 + codes[1:-1] * 0x85EBCA6B + codes[2:] * 0xC2B2AE35) >> 7
    return mixed % NUM_TRIGRAMS


def script_of(text: str) -> str:
    """The script of most letters; "" without letters, or if no script has two thirds of them."""
    counts = Counter(map(_script, text))
    counts.pop("", None)
    if not counts:
        return ""
    name, count = counts.most_common(1)[0]
    return name if count > 3 and 3 * count >= 2 * counts.total() else ""


@lru_cache(1 << 16)
def _script(character: str) -> str:
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").partition(" ")[0]
    return "HAN AND KANA" if name in ("CJK", "HIRAGANA", "KATAKANA") else name


def hash_of_language(language: str | None) -> int:
    """A small number for a language."""
    return sum(ord(letter) * (n + 1) for n, letter in enumerate(language or "")) % 32768


def _ratios(table: NDArray[Any]) -> Tally:
    """Pairs with unusual ratios of lengths, compared with others of the same language."""
    tally, logs = Tally(), np.log(table["target"] / table["source"])
    for language in np.unique(table["language"]):
        places = np.flatnonzero(table["language"] == language)
        if len(places) < LEAST_CHARACTERS:
            continue
        away = logs[places] - np.median(logs[places])
        deviation = 1.4826 * np.median(np.abs(away)) + 0.05
        is_far = (np.abs(away) > MOST_DEVIATIONS * deviation) & (np.abs(away) > np.log(LEAST_FACTOR))
        is_long = np.maximum(table["source"], table["target"])[places] >= LEAST_CHARACTERS
        for place in places[is_far & is_long].tolist():
            tally.add("ratio", place)
    return tally


def _moved(split: Split, table: NDArray[Any]) -> Iterator[Symptom]:
    """Runs of lines whose targets fit the line above or below better."""
    logs = [np.log(table[side].astype(np.float64)) for side in ("source", "target")]
    for shift, where in ((1, "after"), (-1, "before")):
        moved = [place for place, is_moved in _windows(logs[0], logs[1], shift) if is_moved]
        runs = [list(run) for _, run in groupby(enumerate(moved), key=lambda each: each[1] // (WINDOW // 2) - each[0])]
        for run in runs:
            first, last = run[0][1], min(run[-1][1] + WINDOW, len(table)) - 1
            start, end = split.examples[first].origin, split.examples[last].origin.rpartition(":")[2]
            yield Symptom(
                "error",
                "pairs",
                f"{start} to line {end}: targets were moved by a line: the lengths fit the source of the line {where}",
                "a line was lost on one side above; align the texts again from there",
                last - first + 1,
                len(table),
            )


def _windows(source: NDArray[np.float64], target: NDArray[np.float64], shift: int) -> Iterator[tuple[int, bool]]:
    """(start, whether it was moved by `shift`) of windows that overlap by half."""
    for start in range(0, len(source) - WINDOW, WINDOW // 2):
        a, b = source[start : start + WINDOW], target[start : start + WINDOW]
        own = _correlation(a, b)
        other = _correlation(a[:-1], b[1:]) if shift < 0 else _correlation(a[1:], b[:-1])
        yield start, other > LEAST_CORRELATION and other > own + LEAST_GAIN


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-6 else 0.0
