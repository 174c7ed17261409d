"""How does the learning rate change over time? Schedules."""

import math
from typing import Annotated, Literal

from pydantic import Field

from segue.recipe import Section

Power = Annotated[float, Field(gt=0)]
Steps = Annotated[int, Field(ge=0)]
FinalShare = Annotated[float, Field(ge=0, le=1)]


class PolynomialSection(Section):
    """(1 - progress) ** power, after a linear warm-up."""

    kind: Literal["polynomial"]
    """Polynomial decay."""
    power: Power = 2.0
    """Exponent; OpenSeq2Seq's Jasper used 2."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""
    final_share: FinalShare = 0.0
    """Learning rate at the last step, as a fraction of the peak."""


class CosineSection(Section):
    """Half a cosine from the peak down (Loshchilov and Hutter 2017, arXiv:1608.03983), after a linear warm-up."""

    kind: Literal["cosine"]
    """Cosine decay."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""
    final_share: FinalShare = 0.0
    """Learning rate at the last step, as a fraction of the peak."""


class NoamSection(Section):
    """Linear warm-up, then step ** -0.5 (Vaswani et al. 2017, equation 3), with `learning_rate` at the peak."""

    kind: Literal["noam"]
    """Inverse square root."""
    warmup_steps: Annotated[int, Field(gt=0)]
    """Steps of linear growth; the peak is the last of them."""


class ConstantSection(Section):
    """A constant rate, after a linear warm-up."""

    kind: Literal["constant"]
    """Constant."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""


ScheduleSection = Annotated[
    PolynomialSection | CosineSection | NoamSection | ConstantSection, Field(discriminator="kind")
]


def rate_share(section: ScheduleSection, step: int, num_steps: int) -> float:
    """Learning rate at `step` (from 0) of `num_steps`, as a fraction of the peak."""
    warmup = section.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if isinstance(section, ConstantSection):
        return 1.0
    if isinstance(section, NoamSection):
        return math.sqrt(warmup / (step + 1))
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    if isinstance(section, CosineSection):
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share = (1 - progress) ** section.power
    return section.final_share + (1 - section.final_share) * share
