"""What does "auto" in a recipe come to? Rules by which the amount of data decides; each is a pure function of it."""

import math
from typing import Any

MOST_EPOCHS = 100.0
FEWEST_STEPS = 1000
NUM_EVALUATIONS = 20
SAVED_AT_LEAST_EVERY = 1000
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 1000

MERGES_PER_CUBE_ROOT, MOST_MERGES = 50.0, 32_000


def epochs(amount: float, few: float) -> float:
    """How often to learn from `amount` of data: 100 times up to `few`, then less by the cube root.

    46 times for ten times as much, 22 times for a hundred times as much. Multi30k's 29,000 pairs get 33 epochs, with
    which `multi30k_transformer` reached its score; LibriSpeech's 960 hours get 10.
    """
    return MOST_EPOCHS * min(1.0, math.cbrt(few / amount))


def num_steps(epochs: float, steps_an_epoch: float) -> int:
    """Steps of a run: so many epochs, and at least 1,000 steps, which even a few recordings need."""
    return max(FEWEST_STEPS, round(epochs * steps_an_epoch))


def evaluate_every(num_steps: int) -> int:
    """Steps between evaluations: 20 in a run."""
    return -(-num_steps // NUM_EVALUATIONS)


def save_every(num_steps: int) -> int:
    """Steps between checkpoints: as between evaluations, but never more than 1,000."""
    return min(evaluate_every(num_steps), SAVED_AT_LEAST_EVERY)


def width_multiplier(amount: float, much: float) -> int:
    """How wide a model should be: twice its size from `much` data on, four times from ten times as much on."""
    return 1 if amount < much else 2 if amount < 10 * much else 4


def widened(section: Any, amount: float, much: float) -> Any:
    """The section of a model with what its `width_multiplier` comes to."""
    if section.width_multiplier != "auto":
        return section
    return section.model_copy(update={"width_multiplier": width_multiplier(amount, much)})


def held_out_share(num_examples: int) -> float:
    """Share of the training examples that are held out where there are no development data: a tenth, 1,000 at most."""
    return min(HELD_OUT_SHARE, MOST_HELD_OUT / num_examples)


def num_merges(num_characters: int) -> int:
    """Subwords to learn beside the single characters: 50 times the cube root of the characters of the texts.

    8,000 for Multi30k's 3.5 million characters, where 8,000 were found to be better than 4,000; 32,000 at most, as is
    usual for millions of sentences.
    """
    return min(MOST_MERGES, round(MERGES_PER_CUBE_ROOT * math.cbrt(num_characters)))
