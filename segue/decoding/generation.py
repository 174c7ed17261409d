"""How are texts generated? Prompts are read in one pass, then one token at a time is drawn for each row.

The model is seen through `Steps`; rows of several prompts and samples are one batch, which rows leave when they end.

Shape letters: N rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from segue.decoding.sampling import SamplingSection, Scores, Tokens, draw, penalized, row_generator
from segue.errors import UserError, count_of


class Steps(Protocol):
    """A model with a cache of what it has read."""

    def begin(self, rows: Sequence[Sequence[int]], capacity: int) -> Scores:
        """Reads rows of tokens, none of them empty: (N, V) scores of each next token.

        The cache has room for `capacity` positions. It replaces what was read before.
        """
        ...

    def step(self, tokens: Tokens) -> Scores:
        """(N) newest tokens -> (N, V) scores of the next ones."""
        ...

    def select(self, rows: Tokens) -> None:
        """Keeps these rows, in this order; one may be repeated."""
        ...


class Limits(NamedTuple):
    """When a row ends."""

    context: int
    """Most positions that the model can read."""
    num_tokens: int
    """Most new tokens."""
    end: int
    """Token at which a row ends."""
    is_sliding: bool = False
    """Whether a row that fills the context goes on with the last half of it, instead of being refused."""


class Row(NamedTuple):
    """One sample of one prompt."""

    prompt: int
    sample: int


class Prompted(NamedTuple):
    """Texts that begin with the same tokens."""

    tokens: Sequence[int]
    num_tokens: int
    """Most new tokens of each."""
    generators: Sequence[np.random.Generator]
    """The random numbers of each text."""
    is_last: Callable[[int, int], bool]
    """Called with the number of a text and its next token: whether the text ends with it."""


def generate(
    steps: Steps,
    prompts: Sequence[Sequence[int]],
    section: SamplingSection,
    limits: Limits,
    is_last: Callable[[Row, int], bool],
    *,
    num_samples: int = 1,
    first_prompt: int = 0,
    first_sample: int = 0,
) -> None:
    """Calls `is_last` with each new token of each row, in order; the row ends if it returns True, or at a limit.

    The end token is not passed on. `first_prompt` and `first_sample` are the numbers of the first prompt and of its
    first sample, from which random numbers follow, so that batches of any size give the same texts. Raises a UserError
    for a prompt that does not fit.
    """
    if not prompts or limits.num_tokens < 1:
        return
    check(prompts, limits, first_prompt)

    def prompted(number: int) -> Prompted:
        rows = [Row(first_prompt + number, first_sample + sample) for sample in range(num_samples)]
        generators = [row_generator(section.seed, *row) for row in rows]
        return Prompted(
            prompts[number], limits.num_tokens, generators, lambda sample, token: is_last(rows[sample], token)
        )

    generate_together(steps, [prompted(number) for number in range(len(prompts))], section, limits)


def generate_together(steps: Steps, prompts: Sequence[Prompted], section: SamplingSection, limits: Limits) -> None:
    """Continues prompts, each as `generate` does; the number of new tokens is each one's own, and `section` has no say
    in the seed. Unless texts slide, the longest prompt and the largest number together have to fit into the context.
    """
    kept = [list(each.tokens) for each in prompts]
    if limits.is_sliding:
        kept = [_slid(tokens, limits.context) for tokens in kept]
    most = max(each.num_tokens for each in prompts)
    scores = steps.begin(kept, _capacity(kept, limits, most))
    rows = [Row(prompt, sample) for prompt, each in enumerate(prompts) for sample in range(len(each.generators))]
    places = np.array([row.prompt for row in rows])
    if len(rows) > len(prompts):
        steps.select(places)
        scores = scores[places]
    kept = [list(kept[place]) for place in places.tolist()]
    generators = [generator for each in prompts for generator in each.generators]
    used = np.zeros(scores.shape, bool) if section.repetition_penalty != 1 else None
    if used is not None:
        for seen, row in zip(used, rows, strict=True):
            seen[list(prompts[row.prompt].tokens)] = True
            if 0 <= limits.end < len(seen):  # it stands before each prompt, and says nothing about the text
                seen[limits.end] = False
    for number in range(most):
        if used is not None:
            scores = penalized(scores, used, section.repetition_penalty)
        drawn = draw(scores, section, generators)
        goes_on = []
        for place, token in enumerate(drawn.tolist()):
            prompt, sample = rows[place]
            if token == limits.end or prompts[prompt].is_last(sample, token):
                continue
            if number + 1 < prompts[prompt].num_tokens:
                goes_on.append(place)
                kept[place].append(token)
        if not goes_on:
            return
        if used is not None:
            used[np.arange(len(rows)), drawn] = True
        is_fewer = len(goes_on) < len(rows)
        if is_fewer:
            rows, kept = [rows[place] for place in goes_on], [kept[place] for place in goes_on]
            generators = [generators[place] for place in goes_on]
            used = None if used is None else used[goes_on]
        if limits.is_sliding and any(len(each) > limits.context for each in kept):
            # Only rows that are full begin anew; the cache is made for all.
            kept = [_slid(each, limits.context) for each in kept]
            scores = steps.begin(kept, _capacity(kept, limits, most - number - 1))
            continue
        if is_fewer:
            steps.select(np.array(goes_on))
        scores = steps.step(drawn[goes_on])


def check(prompts: Sequence[Sequence[int]], limits: Limits, first_prompt: int = 0) -> None:
    """Raises a UserError for a prompt that does not fit with its new tokens."""
    for number, prompt in enumerate(prompts):
        if len(prompt) + limits.num_tokens - 1 > limits.context and not limits.is_sliding:
            mend = "ask for fewer" if len(prompt) < limits.context else "shorten it"
            raise UserError(
                f"prompt {first_prompt + number + 1}: {count_of(len(prompt), 'token')} and "
                f"{limits.num_tokens:,} new ones are more than the model's context of {limits.context}; "
                f"{mend} (--slide goes on past it)"
            )


def _capacity(rows: Sequence[Sequence[int]], limits: Limits, num_new: int) -> int:
    """Positions that a cache needs: a row that fills the context begins anew."""
    sizes = [len(row) for row in rows]
    return max(sizes) + (min(num_new, limits.context - min(sizes) + 1) if limits.is_sliding else num_new)


def _slid(tokens: list[int], context: int) -> list[int]:
    """The tokens that fit into the context: all, or the last half of it."""
    return tokens if len(tokens) <= context else tokens[-max(1, context // 2) :]
