"""How do gradients become steps, and how large? Optimizers and schedules."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from segue.recipe import Section

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class NovoGradSection(Section):
    """NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286): gradients normalised per tensor, decoupled weight decay."""

    kind: Literal["novograd"]
    """NovoGrad."""
    learning_rate: Rate
    """Peak learning rate; the schedule scales it."""
    betas: tuple[Beta, Beta]
    """Momentum, and decay of the gradient norm's average. (0.95, 0) is what OpenSeq2Seq's Jasper really ran."""
    weight_decay: Decay = 0.0
    """Added to the normalised gradient, times the weight; not on biases and norms."""
    epsilon: Rate = 1e-8
    """Added to the gradient norm."""


class AdamWSection(Section):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"]
    """AdamW."""
    learning_rate: Rate
    """Peak learning rate; the schedule scales it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    weight_decay: Decay = 0.0
    """Decoupled; not on biases and norms."""
    epsilon: Rate = 1e-8
    """Added to the root of the second moment."""


OptimizerSection = Annotated[NovoGradSection | AdamWSection, Field(discriminator="kind")]

Steps = Annotated[int, Field(ge=0)]
FinalShare = Annotated[float, Field(ge=0, le=1)]


class PolynomialSection(Section):
    """(1 - progress) ** power, after a linear warm-up."""

    kind: Literal["polynomial"]
    """Polynomial decay."""
    power: Rate = 2.0
    """Exponent; OpenSeq2Seq's Jasper used 2."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""
    final_share: FinalShare = 0.0
    """Share of the peak rate that is left at the last step."""


class CosineSection(Section):
    """Half a cosine from the peak down (Loshchilov and Hutter 2017, arXiv:1608.03983), after a linear warm-up."""

    kind: Literal["cosine"]
    """Cosine decay."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""
    final_share: FinalShare = 0.0
    """Share of the peak rate that is left at the last step."""


class NoamSection(Section):
    """Linear warm-up, then step ** -0.5 (Vaswani et al. 2017, equation 3), with `learning_rate` at the peak."""

    kind: Literal["noam"]
    """Inverse square root."""
    warmup_steps: Annotated[int, Field(gt=0)]
    """Steps of linear growth; the peak is at their end."""


class ConstantSection(Section):
    """Always the same, after a linear warm-up."""

    kind: Literal["constant"]
    """Constant."""
    warmup_steps: Steps = 0
    """Steps of linear growth from 0."""


ScheduleSection = Annotated[
    PolynomialSection | CosineSection | NoamSection | ConstantSection, Field(discriminator="kind")
]


def rate_share(section: ScheduleSection, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `num_steps`."""
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


def build_optimizer(section: OptimizerSection, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a recipe. Tensors of one dimension (biases, norms) are not decayed."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": section.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": section.learning_rate, "betas": section.betas, "eps": section.epsilon}
    if isinstance(section, NovoGradSection):
        return NovoGrad(groups, **options)
    return torch.optim.AdamW(groups, **options, fused=True)


class NovoGrad(torch.optim.Optimizer):
    """For each tensor of weights w with gradient g (arXiv:1905.11286, algorithm 1, without gradient averaging):

    v = |g|^2 at first, then beta2 v + (1 - beta2) |g|^2;  m = beta1 m + g / (sqrt(v) + epsilon) + decay w;  w -= lr m
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every tensor that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            (beta1, beta2), norms = group["betas"], torch._foreach_norm(gradients)
            for weight, norm in zip(weights, norms, strict=True):
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                    state["squared_norm"] = norm.square()
                else:
                    state["squared_norm"].mul_(beta2).add_(norm.square(), alpha=1 - beta2)
            momenta: list[Tensor] = [self.state[w]["momentum"] for w in weights]
            divisors = [self.state[w]["squared_norm"].sqrt() + group["eps"] for w in weights]
            updates = torch._foreach_div(gradients, divisors)
            if group["weight_decay"]:
                torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(momenta, beta1)
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(weights, momenta, alpha=-group["lr"])
