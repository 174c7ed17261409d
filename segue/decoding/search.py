"""What are the settings and results of a search? Types shared by all runtimes, without torch."""

from typing import Annotated, NamedTuple

from pydantic import Field

from segue.recipe import Section


class SearchSection(Section):
    """Beam search."""

    beams: Annotated[int, Field(gt=0)] = 5
    """Number of beams; 1 is greedy search."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of the length by which a hypothesis's log-probability is divided; 0 favors short outputs."""
    longest_factor: Annotated[float, Field(gt=0)] = 2.0
    """An output has at most this many times the tokens of its source..."""
    longest_extra: Annotated[int, Field(ge=0)] = 10
    """... plus this many."""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No n-gram of this length may occur twice in an output; 0: no restriction."""


class Hypothesis(NamedTuple):
    """One output."""

    tokens: list[int]
    """Tokens without the end token."""
    score: float
    """Log-probability / length ** alpha"""
    log_probability: float
    """Of the tokens and the end token, in nats."""
    is_complete: bool
    """Whether it reached its end token within the permitted length."""
