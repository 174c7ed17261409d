"""How is "auto" in a recipe resolved? Each value is a pure function of the amount of training data."""

import math
from typing import Any

MOST_EPOCHS = 100.0
FEWEST_STEPS = 1000
NUM_EVALUATIONS = 20
SAVED_AT_LEAST_EVERY = 1000
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 1000

MERGES_PER_CUBE_ROOT, MOST_MERGES = 50.0, 32_000


def epochs(amount: float, few: float) -> float:
    """Epochs for `amount` of data: 100 up to `few`, then decreasing with the cube root of the amount.

    46 epochs for ten times `few`, 22 for a hundred times. Multi30k's 29,000 pairs get 33 epochs, with which
    `multi30k_transformer` reached its score; LibriSpeech's 960 hours get 10.
    """
    return MOST_EPOCHS * min(1.0, math.cbrt(few / amount))


def num_steps(epochs: float, steps_an_epoch: float) -> int:
    """Steps of a run of `epochs` epochs, at least 1,000, which even a few recordings need."""
    return max(FEWEST_STEPS, round(epochs * steps_an_epoch))


def evaluate_every(num_steps: int) -> int:
    """Steps between evaluations: 20 in a run."""
    return -(-num_steps // NUM_EVALUATIONS)


def save_every(num_steps: int) -> int:
    """Steps between checkpoints: as between evaluations, but never more than 1,000."""
    return min(evaluate_every(num_steps), SAVED_AT_LEAST_EVERY)


def width_multiplier(amount: float, much: float) -> int:
    """Multiplier of a model's width: 2 from `much` data on, 4 from ten times as much on, else 1."""
    return 1 if amount < much else 2 if amount < 10 * much else 4


def widened(section: Any, amount: float, much: float) -> Any:
    """A model's section with its `width_multiplier` resolved."""
    if section.width_multiplier != "auto":
        return section
    return section.model_copy(update={"width_multiplier": width_multiplier(amount, much)})


def held_out_share(num_examples: int) -> float:
    """Fraction of training examples to hold out if there are no development data: a tenth, at most 1,000 examples."""
    return min(HELD_OUT_SHARE, MOST_HELD_OUT / num_examples)


def num_merges(num_characters: int) -> int:
    """Subwords to learn in addition to single characters: 50 times the cube root of the number of characters.

    8,000 for Multi30k's 3.5 million characters, where 8,000 were found to be better than 4,000; 32,000 at most, as is
    usual for millions of sentences.
    """
    return min(MOST_MERGES, round(MERGES_PER_CUBE_ROOT * math.cbrt(num_characters)))
