"""Which token sequences are likeliest under CTC scores? Prefix beam search, with knowledge of words beside the scores.

Connectionist temporal classification: Graves et al. 2006; the search: Hannun et al. 2014, arXiv:1408.2873, algorithm 1.
The probability of a sequence is the sum over all its alignments: those that end in a blank are kept apart from those
that end in the last token, since only after a blank is an equal token a new one. Pure Python and numpy.

Shape letters: T frames, V vocabulary (blank included), U tokens.
"""

from collections.abc import Sequence
from heapq import heapify, heappush, heapreplace, nlargest
from math import exp, inf, log1p
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.decoding.alignment import align
from segue.decoding.confidence import of_frames
from segue.decoding.emissions import Emission

LEAST_LOG_PROBABILITY = -9.0
"""Less likely tokens of a frame are not tried: e^-9 is 0.0001."""
MOST_TOKENS = 12
"""At most so many tokens of a frame are tried. On noisy scores of 29 tokens, more changed no word."""
_CLEANED_AFTER = 128  # frames


class Knowledge(Protocol):
    """What is known of texts beside the scores. States are values that depend on the tokens alone."""

    @property
    def start(self) -> Any:
        """The state before the first token."""
        ...

    @property
    def most(self) -> Sequence[float]:
        """The largest gain of each token; infinite if it is not known. What cannot enter the beam is not looked at."""
        ...

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """The state after a further token, and by how much the token raises the score, in nats."""
        ...

    def finish(self, state: Any) -> float:
        """By how much the end of the text raises the score."""
        ...


class Candidate(NamedTuple):
    """A sequence of tokens."""

    tokens: tuple[int, ...]
    log_probability: float
    """Natural logarithm of its probability under the scores: the sum over the alignments that the search kept."""
    score: float
    """The same, plus what is known of the text."""


class _Prefix:
    """A beginning of an output. Natural logarithms of sums over its alignments to the frames so far."""

    __slots__ = (
        "blank",
        "bonus",
        "children",
        "is_kept",
        "last",
        "new_blank",
        "new_last",
        "parent",
        "score",
        "state",
        "token",
    )

    def __init__(self, parent: "_Prefix | None", token: int, state: Any, bonus: float) -> None:
        self.parent, self.token, self.state, self.bonus = parent, token, state, bonus
        self.children: dict[int, _Prefix] = {}
        self.blank = self.last = self.new_blank = self.new_last = -inf
        self.score, self.is_kept = -inf, False


def search(
    log_probs: NDArray[np.float32],
    blank: int,
    beams: int,
    knowledge: Knowledge | None = None,
    *,
    least: float = LEAST_LOG_PROBABILITY,
    most_tokens: int = MOST_TOKENS,
) -> list[Candidate]:
    """(T, V) -> at most `beams` sequences, best first.

    Tokens below `least` in a frame, and all but its `most_tokens` likeliest ones, are not tried there; with -inf and V
    every token is, and with enough beams the probabilities are exact.
    """
    assert beams > 0
    root = _Prefix(None, -1, None if knowledge is None else knowledge.start, 0.0)
    root.blank, root.is_kept = 0.0, True
    beam, most = [root], [0.0] * log_probs.shape[1] if knowledge is None else knowledge.most
    for number, (blanks, tokens) in enumerate(_frames(log_probs, blank, least, most_tokens)):
        if not tokens:  # frames of which only the blank is left, in one step
            for prefix in beam:
                prefix.blank, prefix.last = _sum(prefix.blank, prefix.last) + blanks, -inf
            continue
        beam = _step(beam, blanks, tokens, beams, most, knowledge)
        if number % _CLEANED_AFTER == _CLEANED_AFTER - 1:
            _forget(beam)
    found = []
    for prefix in beam:
        probability = _sum(prefix.blank, prefix.last)
        end = 0.0 if knowledge is None else knowledge.finish(prefix.state)
        found.append(Candidate(_tokens(prefix), probability, probability + prefix.bonus + end))
    return sorted((each for each in found if each.score > -inf), key=lambda each: (-each.score, each.tokens))


def _step(
    beam: list[_Prefix],
    blank: float,
    tokens: list[tuple[int, float]],
    beams: int,
    most: Sequence[float],
    knowledge: Knowledge | None,
) -> list[_Prefix]:
    """The prefixes after a further frame: with a blank or the last token again, or with a new token.

    `beam` and `tokens` are sorted, best first, and so is the result.
    """
    of_token = dict(tokens)
    totals = []
    for prefix in beam:
        total = _sum(prefix.blank, prefix.last)
        totals.append(total)
        prefix.new_blank, prefix.new_last = total + blank, -inf
        probability = of_token.get(prefix.token)
        if probability is not None:
            prefix.new_last = prefix.last + probability
            parent = prefix.parent
            if parent is not None and parent.is_kept:  # what is one token longer may be in the beam already
                prefix.new_last = _sum(prefix.new_last, _reached(parent, prefix.token) + probability)
        prefix.score = _sum(prefix.new_blank, prefix.new_last) + prefix.bonus
    best = [prefix.score for prefix in beam]  # a heap: the scores of the best prefixes so far
    heapify(best)
    floor = best[0] if len(best) == beams else -inf
    fresh: list[_Prefix] = []
    for token, probability in tokens:
        gain_at_most = probability + most[token]
        for prefix, total in zip(beam, totals, strict=True):
            if total + prefix.bonus + gain_at_most <= floor:
                break  # those after it are worse
            # An equal token is a new one only after a blank.
            reached = (prefix.blank if token == prefix.token else total) + probability
            child = prefix.children.get(token)
            if child is None:
                if reached + prefix.bonus + most[token] <= floor:
                    continue
                state, gain = (None, 0.0) if knowledge is None else knowledge.extend(prefix.state, token)
                child = prefix.children[token] = _Prefix(prefix, token, state, prefix.bonus + gain)
            elif child.is_kept:
                continue
            score = reached + child.bonus
            if score > floor:
                child.new_blank, child.new_last, child.score = -inf, reached, score
                fresh.append(child)
                if len(best) < beams:
                    heappush(best, score)
                else:
                    heapreplace(best, score)
                if len(best) == beams:
                    floor = best[0]
    candidates = beam + fresh
    kept = nlargest(beams, candidates, key=attrgetter("score"))
    for prefix in beam:
        prefix.is_kept = False
    for prefix in kept:
        prefix.blank, prefix.last = prefix.new_blank, prefix.new_last
        prefix.is_kept = True
    return kept


def _reached(prefix: _Prefix, token: int) -> float:
    """The log-probability from which a further token goes on."""
    return prefix.blank if token == prefix.token else _sum(prefix.blank, prefix.last)


def _frames(
    log_probs: NDArray[np.float32], blank: int, least: float, most_tokens: int
) -> list[tuple[float, list[tuple[int, float]]]]:
    """The blank's log-probability in each frame, and the tokens to try there with theirs, likeliest first.

    Adjacent frames without such a token are one, with the sum of the blank's log-probabilities.
    """
    blanks = log_probs[:, blank].astype(np.float64)
    others = log_probs.astype(np.float64)
    others[:, blank] = -inf
    order = np.argsort(-others, axis=1, kind="stable")[:, :most_tokens]
    likeliest = np.take_along_axis(others, order, axis=1)
    numbers = ((likeliest >= least) & (likeliest > -inf)).sum(axis=1).tolist()
    found: list[tuple[float, list[tuple[int, float]]]] = []
    for frame, number in enumerate(numbers):
        if number:
            tokens = list(zip(order[frame, :number].tolist(), likeliest[frame, :number].tolist(), strict=True))
            found.append((float(blanks[frame]), tokens))
        elif found and not found[-1][1]:
            found[-1] = (found[-1][0] + float(blanks[frame]), [])
        else:
            found.append((float(blanks[frame]), []))
    return found


def _forget(beam: list[_Prefix]) -> None:
    """Drops the prefixes from which nothing in the beam comes, so that memory does not grow with the recording."""
    alive: set[_Prefix] = set()
    for prefix in beam:
        each: _Prefix | None = prefix
        while each is not None and each not in alive:
            alive.add(each)
            each = each.parent
    for prefix in alive:
        prefix.children = {token: child for token, child in prefix.children.items() if child in alive}


def _tokens(prefix: _Prefix) -> tuple[int, ...]:
    found: list[int] = []
    while prefix.parent is not None:
        found.append(prefix.token)
        prefix = prefix.parent
    return tuple(reversed(found))


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a if b == -inf else a + log1p(exp(b - a))


def placed(log_probs: NDArray[np.float32], tokens: Sequence[int], blank: int) -> list[Emission]:
    """(T, V), (U) -> the tokens with the frames of their most probable path (`alignment`).

    The confidence of a token is the largest one in its frames, as in greedy search, times the share of its probability
    in that of the frame's likeliest token: what is known of the text has no part in it.
    """
    path, sure, likeliest = align(log_probs, tokens, blank), of_frames(log_probs), log_probs.max(axis=1)
    return [
        Emission(
            int(token),
            start,
            end,
            float((sure[start:end] * np.exp(log_probs[start:end, token] - likeliest[start:end])).max()),
        )
        for token, start, end in zip(tokens, path.starts.tolist(), path.ends.tolist(), strict=True)
    ]
