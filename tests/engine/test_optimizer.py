import pytest
import torch
from torch import Tensor, nn

from segue.engine.optimizer import (
    AdamWSection,
    ConstantSection,
    CosineSection,
    NoamSection,
    NovoGrad,
    NovoGradSection,
    OptimizerSection,
    PolynomialSection,
    ScheduleSection,
    build_optimizer,
    rate_share,
)

SHAPES = ((3, 4), (5,), (2, 3, 2))
EPSILON = 1e-8


def weights_and_gradients(num_steps: int) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Starting weights, and each step's gradients: of very unequal size; one tensor's is zero in the first step."""
    torch.manual_seed(0)
    weights = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    gradients = [
        [torch.randn(shape, dtype=torch.float64) * 10.0 ** (step - n) for n, shape in enumerate(SHAPES)]
        for step in range(num_steps)
    ]
    gradients[0][1].zero_()
    return weights, gradients


def run_novograd(rates: list[float], betas: tuple[float, float], decay: float) -> list[Tensor]:
    weights, gradients = weights_and_gradients(len(rates))
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = NovoGrad(parameters, lr=0.0, betas=betas, eps=EPSILON, weight_decay=decay)
    for rate, of_step in zip(rates, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_novograd_is_the_formula_tensor_by_tensor() -> None:
    rates, (beta1, beta2), decay = [0.1, 0.3, 0.2, 0.1, 0.05], (0.9, 0.3), 0.01
    weights, gradients = weights_and_gradients(len(rates))
    for number, w in enumerate(weights):
        v, m = 0.0, torch.zeros_like(w)
        for step, rate in enumerate(rates):
            g = gradients[step][number]
            squared = float((g * g).sum())
            v = squared if step == 0 else beta2 * v + (1 - beta2) * squared
            m = beta1 * m + g / (v**0.5 + EPSILON) + decay * w
            w = w - rate * m
        weights[number] = w
    found = run_novograd(rates, (beta1, beta2), decay)
    torch.testing.assert_close(found, weights, rtol=1e-12, atol=1e-12)


def test_novograd_without_second_beta_is_momentum_on_normalised_gradients() -> None:
    rates, decay = [0.1, 0.3, 0.2, 0.1], 0.01
    weights, gradients = weights_and_gradients(len(rates))
    parameters = [nn.Parameter(weight) for weight in weights]
    momentum = torch.optim.SGD(parameters, lr=1.0, momentum=0.95, weight_decay=decay)
    for rate, of_step in zip(rates, gradients, strict=True):
        momentum.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = gradient / (gradient.norm() + EPSILON)
        momentum.step()
    found = run_novograd(rates, (0.95, 0.0), decay)
    torch.testing.assert_close(found, [p.detach() for p in parameters], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "section",
    [
        AdamWSection(kind="adamw", learning_rate=0.1, weight_decay=0.5),
        NovoGradSection(kind="novograd", learning_rate=0.1, betas=(0.95, 0.0), weight_decay=0.5),
    ],
    ids=lambda section: section.kind,
)
def test_only_tensors_of_two_dimensions_or_more_are_decayed(section: OptimizerSection) -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.BatchNorm1d(3), nn.Linear(3, 4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(section, model).step()
    for name, value in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if value.ndim > 1 else before[name]
        torch.testing.assert_close(value.detach(), expected, msg=name)


POLYNOMIAL = PolynomialSection(kind="polynomial", power=2.0, warmup_steps=4, final_share=0.1)
COSINE = CosineSection(kind="cosine", warmup_steps=4, final_share=0.2)


@pytest.mark.parametrize(
    ("section", "shares"),
    [
        # Warm-up over steps 0 to 3; then from the peak down over steps 4 to 12, halfway at 8.
        (POLYNOMIAL, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 8: 0.1 + 0.9 * 0.5**2, 10: 0.1 + 0.9 * 0.25**2, 12: 0.1}),
        (COSINE, {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.2 + 0.4 * (1 + 0.5**0.5), 8: 0.6, 12: 0.2, 15: 0.2}),
        (NoamSection(kind="noam", warmup_steps=4), {0: 0.25, 2: 0.75, 3: 1.0, 15: 0.5, 63: 0.25}),
        (ConstantSection(kind="constant", warmup_steps=4), {0: 0.25, 3: 1.0, 4: 1.0, 11: 1.0}),
        (ConstantSection(kind="constant"), {0: 1.0}),
        (CosineSection(kind="cosine"), {0: 1.0, 6: 0.5, 12: 0.0}),
    ],
)
def test_a_schedule_has_these_values(section: ScheduleSection, shares: dict[int, float]) -> None:
    assert {step: rate_share(section, step, 12) for step in shares} == pytest.approx(shares)
