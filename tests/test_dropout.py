import math

import pytest
import torch

from segue.layers.dropout import LEVELS, Dropout


@pytest.mark.parametrize("probability", [0.0001, 0.1, 0.15, 0.5, 0.9])
def test_dropout_keeps_rate_and_expectation(probability: float) -> None:
    torch.manual_seed(0)
    num = 2_000_000
    found = Dropout(probability)(torch.ones(num))
    zeros = int((found == 0).sum())
    error = math.sqrt(num * probability * (1 - probability))
    assert abs(zeros - num * probability) < 4 * error + num / LEVELS
    assert torch.equal(found.unique(), torch.tensor([0.0, found.max()]))
    assert found.max().item() == pytest.approx(1 / (1 - probability), rel=1e-3)
    assert found.double().mean().item() == pytest.approx(1.0, abs=4 * error / num / (1 - probability))


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(4000, 9)) == 0).double()  # 9: rows begin at every part of a random number
    covariance = torch.corrcoef(dropped.T)
    assert (covariance - torch.eye(9)).abs().max() < 4 / math.sqrt(4000)
    neighbors = torch.corrcoef(torch.stack([dropped.flatten()[:-4], dropped.flatten()[4:]]))[0, 1]
    assert abs(neighbors) < 4 / math.sqrt(dropped.numel())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 5), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_dropped_has_no_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.full(shape, 3.0, dtype=dtype, requires_grad=True)
    found = Dropout(0.25)(x)
    found.sum().backward()
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert x.grad is not None
    torch.testing.assert_close(found, 3 * x.grad)


def test_a_seed_repeats_dropout_also_of_views() -> None:
    dropout, x = Dropout(0.3), torch.randn(6, 7)
    torch.manual_seed(2)
    first = dropout(x)
    torch.manual_seed(2)
    again = dropout(x.T.contiguous().T)
    assert torch.equal(first, again)
    assert not torch.equal(dropout(x), first)


def test_no_dropout_in_evaluation_or_at_rate_0() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
