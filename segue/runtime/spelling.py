"""How does a model spell a text that is known? Words as written, and the tokens in which the model says them."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from segue.data import scripts, sentences
from segue.data.text import TextSection, normalize, seen

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")


class Written(NamedTuple):
    """A word of a text, or in scripts without spaces a character with its marks."""

    word: str
    """As written, with its punctuation."""
    said: str
    """Normalized, as the model's training texts."""
    follows_space: bool
    """Whether there is a space before it in the text."""


def divided(text: str, rule: TextSection, language: str | None = None) -> list[list[Written]]:
    """The words of each sentence of a text.

    Sentences end with their punctuation, and with paragraphs; a paragraph without such punctuation is divided into its
    lines. What cannot be said, such as a dash, belongs to the word before it.
    """
    found = [list(_words(sentence, rule, language)) for sentence in _sentences(text)]
    return [words for words in found if words]


def _sentences(text: str) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(text.replace("\r\n", "\n").replace("\r", "\n")):
        inside = [each.strip() for each in sentences.split(paragraph)]
        yield from paragraph.splitlines() if len(inside) == 1 else inside


def _words(sentence: str, rule: TextSection, language: str | None) -> Iterator[Written]:
    parts = [part for part in _parts(sentence) if seen(part[0])]
    said = [normalize(text, rule, language) for text, _ in parts]
    # Quotation marks are only known in their context; if that has as many words, it says them.
    whole = normalize(sentence, rule, language).split()
    if len(whole) == sum(len(each.split()) for each in said):
        rest = iter(whole)
        said = [" ".join(next(rest) for _ in each.split()) for each in said]
    pending: Written | None = None
    for (text, follows_space), each in zip(parts, said, strict=True):
        if pending is not None and not each:
            pending = pending._replace(word=pending.word + " " * follows_space + text)
        elif pending is not None and not pending.said:  # signs before the first word
            pending = Written(pending.word + " " * follows_space + text, each, pending.follows_space)
        else:
            if pending is not None:
                yield pending
            pending = Written(text, each, follows_space)
    if pending is not None and pending.said:
        yield pending


def _parts(sentence: str) -> Iterator[tuple[str, bool]]:
    """What is between spaces; in scripts without spaces, single characters with what belongs to them."""
    for chunk in sentence.split():
        pending, follows_space, last = "", True, ""  # last: the last letter
        for character in chunk:
            is_letter = character.isalnum() and not (pending and scripts.extends(pending, character))
            if last and is_letter and (scripts.is_unspaced(character) or scripts.is_unspaced(last)):
                yield pending, follows_space
                pending, follows_space = "", False
            pending += character
            last = character if is_letter else last
        yield pending, follows_space


class Spelling:
    """Spells words in the pieces of a model: the fewest that give the text."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces` is the text of each token in UTF-8; a space begins those that begin words."""
        self._number_of = {piece: number for number, piece in reversed(list(enumerate(pieces))) if piece}
        self._longest = max(map(len, self._number_of), default=0)
        self.space = self._number_of.get(b" ")
        """The token that is only a space; None if there is none."""
        self._has_spaces = any(piece.startswith(b" ") for piece in self._number_of)
        self._known: dict[tuple[str, bool], list[int] | None] = {}

    def tokens(self, said: str, follows_space: bool) -> list[int] | None:
        """The tokens of a word, with those of the space before it; None if the model cannot spell it."""
        key = said, follows_space
        if key not in self._known:
            text = said if self._has_spaces else said.replace(" ", "")
            self._known[key] = self._spelled((" " * (follows_space and self._has_spaces) + text).encode())
        return self._known[key]

    def _spelled(self, text: bytes) -> list[int] | None:
        # fewest[n]: the number of pieces of text[n:], and the length of the first of them; longer ones first.
        fewest: list[tuple[int, int] | None] = [None] * len(text) + [(0, 0)]
        for start in range(len(text) - 1, -1, -1):
            for size in range(1, min(self._longest, len(text) - start) + 1):
                rest = fewest[start + size]
                if rest is not None and text[start : start + size] in self._number_of:
                    best = fewest[start]
                    if best is None or rest[0] + 1 <= best[0]:
                        fewest[start] = rest[0] + 1, size
        found: list[int] = []
        start = 0
        while start < len(text):
            first = fewest[start]
            if first is None:
                return None
            found.append(self._number_of[text[start : start + first[1]]])
            start += first[1]
        return found
