"""How does a language model of words take part in a search over tokens? As `Knowledge` (`decoding/prefix_beam.py`).

A word counts when it ends. Until then it counts as the likeliest word that begins like it, after the words before it
(as in Collobert et al. 2016, arXiv:1609.03193, but there without these), or as an unknown word if there is none: so a
beam compares beginnings of words with whole ones. No word counts less than an unknown one.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import inf
from typing import Any

from segue.decoding.ngram import Context, NGram
from segue.decoding.prefix_beam import Knowledge

CONTEXTS = 1000
"""Contexts whose words are kept by their beginnings."""

State = tuple[Context, bytes, float]
"""The words before, the word that has begun, and by how much that raised the score."""


class WordKnowledge:
    """An n-gram model, a bonus a word, and a score for words that the model does not know. It is thread-safe."""

    def __init__(
        self, model: NGram, pieces: Sequence[bytes], *, weight: float, word_bonus: float, unknown_score: float
    ) -> None:
        """`pieces` is the text of each token. The log-probabilities of the model count `weight` times; the score of an
        unknown word is in nats and not weighted."""
        self.model, self._pieces = model, pieces
        self._weight, self._bonus, self._unknown = weight, word_bonus, unknown_score
        self._begins = _beginnings(model.words.items())
        self._begins_after = lru_cache(CONTEXTS)(lambda context: _beginnings(model.following(context)))
        self.start: State = (model.start, b"", 0.0)
        within = max(0.0, word_bonus)  # inside a word a further letter gains nothing; its first one gains the bonus
        self.most = [inf if b" " in piece else within for piece in pieces]

    def extend(self, state: State, token: int) -> tuple[State, float]:
        """See `Knowledge`."""
        context, word, before = state
        piece = self._pieces[token]
        gain = -before
        if b" " in piece:
            first, *others = piece.split(b" ")
            word += first
            for other in others:
                if word:
                    context, more = self._ended(context, word)
                    gain += more
                word = other
        else:
            word += piece
        ahead = 0.0
        if word:
            known = self._likeliest(context, word)
            ahead = self._bonus + (self._unknown if known is None else max(self._unknown, self._weight * known))
        return (context, word, ahead), gain + ahead

    def finish(self, state: State) -> float:
        """See `Knowledge`."""
        context, word, before = state
        gain = -before
        if word:
            context, more = self._ended(context, word)
            gain += more
        return gain + self._weight * self.model.end(context)

    def _likeliest(self, context: Context, beginning: bytes) -> float | None:
        """The log-probability after a context of the likeliest word that begins so; None if there is no such word.

        It may be more, but not above 0: a word that was seen after the context counts there and, if it is likelier so,
        without it.
        """
        alone = self._begins.get(beginning)
        if alone is None:
            return None
        found, less = -inf, 0.0
        while context:
            found = max(found, less + self._begins_after(context).get(beginning, -inf))
            more, context = self.model.shortened(context)
            less += more
        return min(0.0, max(found, less + alone))  # back-off weights may be above 0

    def _ended(self, context: Context, word: bytes) -> tuple[Context, float]:
        probability, after = self.model.score(context, word.decode(errors="replace"))
        known = self._unknown if probability is None else max(self._unknown, self._weight * probability)
        return after, self._bonus + known


def _beginnings(words: Iterable[tuple[str, float]]) -> dict[bytes, float]:
    """The log-probability of the likeliest word for each beginning of a word."""
    found: dict[bytes, float] = {}
    for word, probability in words:
        text = word.encode()
        for size in range(1, len(text) + 1):
            if probability > found.get(text[:size], -inf):
                found[text[:size]] = probability
    return found


class Together:
    """Several kinds of knowledge at once."""

    def __init__(self, parts: Sequence[Knowledge]) -> None:
        self._parts = parts
        self.start: Any = tuple(part.start for part in parts)
        self.most = [sum(each) for each in zip(*(part.most for part in parts), strict=True)]

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """See `Knowledge`."""
        found = [part.extend(each, token) for part, each in zip(self._parts, state, strict=True)]
        return tuple(each for each, _ in found), sum(gain for _, gain in found)

    def finish(self, state: Any) -> float:
        """See `Knowledge`."""
        return sum(part.finish(each) for part, each in zip(self._parts, state, strict=True))
