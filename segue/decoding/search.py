"""What is searched for, and what is found? The words of every search; no torch, so that serving can speak them."""

from typing import Annotated, NamedTuple

from pydantic import Field

from segue.recipe import Section


class SearchSection(Section):
    """How the best output is looked for."""

    beams: Annotated[int, Field(gt=0)] = 5
    """Hypotheses that are followed at once; 1 is greedy search."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by; 0 favors short outputs."""
    longest_factor: Annotated[float, Field(gt=0)] = 2.0
    """An output is at the most this many times as long as its source..."""
    longest_extra: Annotated[int, Field(ge=0)] = 10
    """... plus so many tokens."""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No n-gram of this length stands twice in an output; 0 permits all."""


class Hypothesis(NamedTuple):
    """One output."""

    tokens: list[int]
    """Without the end token."""
    score: float
    """Log-probability / length ** alpha"""
    log_probability: float
    """Of the tokens and the end token; in nats."""
    is_complete: bool
    """Whether it came to its end token within the permitted length."""
