import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.layers import loss
from segue.layers.loss import cross_entropy

VOCABULARY = 37


def random_rows(num_rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scores as wild as those of a model at work, and targets, first and last token among them."""
    torch.manual_seed(0)
    targets = torch.randint(VOCABULARY, (num_rows,))
    targets[:1], targets[-1:] = 0, VOCABULARY - 1
    return (4 * torch.randn(num_rows, VOCABULARY) - 30).to(dtype).requires_grad_(), targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 20])  # less than a chunk, one, a little more, several
def test_losses_and_gradients_are_torch_s(
    num_rows: int, smoothing: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "ROWS", 8)
    logits, targets = random_rows(num_rows, dtype)
    weights = torch.rand(num_rows)  # so that each row's gradient has a size of its own
    exact = logits.detach().double().requires_grad_()
    found, likelihood = cross_entropy(logits, targets, smoothing)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert found.dtype == likelihood.dtype == torch.float32
    assert not likelihood.requires_grad
    assert logits.grad is not None
    assert logits.grad.dtype == dtype

    wanted = F.cross_entropy(exact, targets, label_smoothing=smoothing, reduction="none")
    (wanted * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(likelihood.double(), F.cross_entropy(exact, targets, reduction="none"))
    tolerance = 1e-6 if dtype == torch.float32 else 2**-8  # what one rounding to bfloat16 costs
    torch.testing.assert_close(logits.grad.double(), exact.grad, atol=1e-6, rtol=tolerance)


def test_several_chunks_have_torchs_losses() -> None:
    """With chunks as large as they ship."""
    logits, targets = random_rows(2 * loss.ROWS + 1, torch.float32)
    wanted = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
    found, _ = cross_entropy(logits, targets, 0.1)
    torch.testing.assert_close(found, wanted)


def test_only_scores_with_gradient_are_overwritten() -> None:
    logits, targets = random_rows(5, torch.float32)
    before = logits.detach().clone()
    cross_entropy(logits.detach(), targets)
    assert torch.equal(logits, before)
    cross_entropy(logits, targets)
    assert not torch.equal(logits, before)


def test_a_second_backward_pass_is_an_error() -> None:
    logits, targets = random_rows(5, torch.float32)
    found, _ = cross_entropy(logits * 1, targets)
    found.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()  # type: ignore[no-untyped-call]


def test_overwriting_needed_scores_is_an_error() -> None:
    logits, targets = random_rows(5, torch.float32)
    found, _ = cross_entropy(logits.tanh(), targets)  # its gradient is made from its output
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()  # type: ignore[no-untyped-call]


def test_no_targets_cost_nothing() -> None:
    logits = torch.zeros(0, VOCABULARY, requires_grad=True)
    found, likelihood = cross_entropy(logits, torch.zeros(0, dtype=torch.int64), 0.1)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.shape == likelihood.shape == (0,)
    assert logits.grad is not None


def test_huge_scores_have_a_finite_loss() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e30, 0.0, 1e30]], requires_grad=True)
    found, _ = cross_entropy(logits, torch.tensor([0, 1]))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.tolist() == [0.0, pytest.approx(1e30)]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [0.0, -1.0, 1.0]]
