from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue import recipe
from segue.engine.distributed import parts
from segue.engine.optimizer import (
    AdamWSection,
    DepthRates,
    LARCSection,
    MuonSection,
    NovoGrad,
    NovoGradSection,
    OptimizerSection,
    Updater,
    hidden_matrices,
)
from segue.errors import UserError
from segue.models.transformer import Transformer, TransformerSection

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


def test_novograd_with_beta2_0_is_normalized_sgd() -> None:
    """SGD with momentum, of gradients that are divided by their norms."""
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


ADAMW = AdamWSection(kind="adamw", learning_rate=0.1, weight_decay=0.5)
NOVOGRAD = NovoGradSection(kind="novograd", learning_rate=0.1, betas=(0.95, 0.5), weight_decay=0.5)
MUON = MuonSection(kind="muon", learning_rate=0.1, adamw_learning_rate=0.01, weight_decay=0.5)
SECTIONS = pytest.mark.parametrize("section", [ADAMW, NOVOGRAD, MUON], ids=lambda section: section.kind)
RATES = (0.25, 1.0, 0.7, 0.4, 0.1)


class Model(nn.Module):
    """A tensor of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.convolution = nn.Conv1d(6, 6, 3, padding=1)
        self.layers = nn.ModuleList([nn.Linear(6, 11), nn.Linear(11, 6)])
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, 7)"""
        x = self.convolution(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        up, down = self.layers
        return self.head(self.norm(x + down(F.gelu(up(x)))))  # type: ignore[no-any-return]


def new_model() -> Model:
    torch.manual_seed(0)
    return Model()


def backward(model: nn.Module, step: int) -> None:
    torch.manual_seed(step)
    tokens = torch.randint(7, (2, 5))
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flip(1).flatten()).backward()  # type: ignore[no-untyped-call]


def learn(model: nn.Module, updater: Updater, steps: range) -> None:
    for step in steps:
        backward(model, step)
        updater.step(RATES[step], step)
        updater.clear()


def learn_plainly(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """The same with torch's optimizers."""
    peaks = [each.param_groups[0]["lr"] for each in optimizers]
    for step, rate in enumerate(RATES):
        backward(model, step)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad()


def assert_same_bits(model: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(model.named_parameters()), dict(other.named_parameters()), rtol=0, atol=0)


@SECTIONS
def test_weight_decay_skips_vectors_and_scalars(section: OptimizerSection) -> None:
    model = new_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Updater(section, model).step(1.0)
    for name, value in model.named_parameters():
        is_hidden = section.kind == "muon" and name in ("layers.0.weight", "layers.1.weight")
        rate = 0.01 if section.kind == "muon" and not is_hidden else 0.1
        expected = before[name] * (1 - rate * 0.5) if value.ndim > 1 else before[name]
        torch.testing.assert_close(value.detach(), expected, msg=name)


def test_adamw_has_the_bits_of_torchs() -> None:
    model, other = new_model(), new_model()
    learn(model, Updater(ADAMW, model), range(5))
    decayed = [parameter for parameter in other.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in other.parameters() if parameter.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    learn_plainly(other, [torch.optim.AdamW(groups, lr=0.1, fused=True)])
    assert_same_bits(model, other)


def test_muon_has_the_bits_of_torchs() -> None:
    """AdamW has what is no hidden matrix."""
    model, other = new_model(), new_model()
    learn(model, Updater(MUON, model), range(5))
    layers = [layer for layer in other.layers if isinstance(layer, nn.Linear)]
    rest = [
        *(layer.bias for layer in layers),
        *other.norm.parameters(),
        other.head.bias,
        other.convolution.bias,
    ]
    decayed = [other.embedding.weight, other.convolution.weight, other.head.weight]
    muon = torch.optim.Muon([layer.weight for layer in layers], lr=0.1, weight_decay=0.5)
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    learn_plainly(other, [muon, torch.optim.AdamW(groups, lr=0.01, fused=True)])
    assert_same_bits(model, other)


@pytest.mark.parametrize("tied", ["all", "none"])
def test_hidden_matrices_leave_out_embeddings(tied: Literal["all", "none"]) -> None:
    """Those of a Transformer are in its attention and its feed-forward layers."""
    sizes = {"width": 8, "feed_forward": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    # A vocabulary as large as a layer is wide: the head has the shape of a hidden matrix.
    model = Transformer(TransformerSection.model_validate({"kind": "transformer", "tied": tied, **sizes}), 8, 8)
    hidden = {id(weight) for weight in hidden_matrices(model)}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    assert len(found) == (4 + 2) + 2 * (8 + 2)
    others = {"target_embedding.weight"} if tied == "all" else {"target_embedding", "source_embedding", "head"}
    assert {name.removesuffix(".weight") for name in matrices - found} == {n.removesuffix(".weight") for n in others}


def test_muon_needs_hidden_matrices() -> None:
    with pytest.raises(UserError, match=r"optimizer\.kind: muon trains linear layers"):
        Updater(MUON, nn.Conv1d(2, 3, 1))


@SECTIONS
@pytest.mark.parametrize("mode", ["clip", "scale"])
def test_larc_is_the_formula_tensor_by_tensor(section: OptimizerSection, mode: Literal["clip", "scale"]) -> None:
    assert (LARCSection().epsilon, LARCSection().min_update) == (1e-7, 1e-7)
    larc = LARCSection(mode=mode, trust=0.02, epsilon=0.01)
    model, other = new_model(), new_model()
    nn.init.zeros_(model.head.bias)
    nn.init.zeros_(other.head.bias)
    updater, plain = Updater(section.model_copy(update={"larc": larc}), model), Updater(section, other)
    hidden = {id(weight) for weight in hidden_matrices(other)}
    factors = set()
    for step, share in enumerate(RATES):
        backward(model, step)
        other.load_state_dict(model.state_dict())
        backward(other, step)
        for parameter in other.parameters():
            assert parameter.grad is not None
            w, g = float(parameter.detach().norm()), float(parameter.grad.norm())
            rate = share * (0.01 if section.kind == "muon" and id(parameter) not in hidden else 0.1)
            # OpenSeq2Seq's optimizers.py, post_process_gradients.
            if mode == "clip":
                factor = min(max(0.02 * w / (rate * (g + 0.01)), 1e-7), 1.0)
            else:
                factor = max(0.02 * w / (g + 0.01), 1e-7)
            parameter.grad *= factor
            factors.add(factor)
        updater.step(share)
        plain.step(share)
        for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad)
        torch.testing.assert_close(updater.tensors(), plain.tensors())
        updater.clear()
        plain.clear()
    assert min(factors) == 1e-7  # of the bias that is zero
    assert len(factors) > 10
    assert mode == "scale" or max(factors) == 1.0


@SECTIONS
def test_a_frozen_parameter_stays_and_has_no_state(section: OptimizerSection) -> None:
    model = new_model()
    frozen = {"embedding.weight", "layers.0.weight", "norm.bias"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name not in frozen
    updater = Updater(section, model)
    learn(model, updater, range(2))
    for (name, parameter), before in zip(model.named_parameters(), new_model().parameters(), strict=True):
        assert torch.equal(parameter, before) == (name in frozen), name
    assert not frozen & {name.rpartition(".")[0] for name in updater.tensors()}
    assert not frozen & set(updater.names)
    assert len(updater.names) == len(updater.parameters)


@SECTIONS
def test_parameters_without_gradient_do_not_change(section: OptimizerSection) -> None:
    model = new_model()
    updater = Updater(section, model)
    updater.step(1.0)
    assert_same_bits(model, new_model())
    assert not any(tensor.any() for tensor in updater.tensors().values())


@SECTIONS
def test_a_fresh_updater_goes_on_from_saved_tensors(section: OptimizerSection) -> None:
    model, resumed = new_model(), new_model()
    updater, resumed_updater = Updater(section, model), Updater(section, resumed)
    assert updater.tensors().keys() == resumed_updater.tensors().keys()
    learn(model, updater, range(3))
    resumed.load_state_dict(model.state_dict())
    resumed_updater.load({name: tensor.clone() for name, tensor in updater.tensors().items()})
    learn(model, updater, range(3, 5))
    learn(resumed, resumed_updater, range(3, 5))
    assert_same_bits(model, resumed)


def test_foreign_optimizer_state_is_refused() -> None:
    """Of another optimizer, and of another model."""
    updater = Updater(ADAMW, new_model())
    with pytest.raises(UserError, match=r"not of this recipe's optimizer.*\nembedding\.weight\.average is missing"):
        updater.load(Updater(NOVOGRAD, new_model()).tensors())
    other = new_model()
    other.head = nn.Linear(6, 8)
    with pytest.raises(UserError, match=r"head\.weight\.average is of shape \(8, 6\), not \(7, 6\)"):
        updater.load(Updater(ADAMW, other).tensors())


class Recipe(recipe.Section):
    optimizer: OptimizerSection
    """Optimizer."""


def test_larc_is_a_table_of_any_optimizer() -> None:
    for section in (ADAMW, NOVOGRAD, MUON):
        for larc in (None, LARCSection(), LARCSection(mode="scale", trust=0.02)):
            given = Recipe(optimizer=section.model_copy(update={"larc": larc}))
            assert recipe.loads(recipe.dump(given), Recipe) == given


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kind=muno", "learning_rate=1"], "kinds: novograd, adamw, muon; did you mean 'muon'"),
        (["kind=muon", "learning_rate=1"], "optimizer.adamw_learning_rate: missing"),
        (["kind=adamw", "learning_rate=1", "larc.mode=lars"], "optimizer.larc.mode: should be 'clip' or 'scale'"),
        (["kind=adamw", "learning_rate=1", "larc.eta=0.1"], "optimizer.larc.eta: no such key"),
    ],
)
def test_a_wrong_optimizer_says_what_was_wanted(overrides: list[str], message: str) -> None:
    draft = recipe.from_overrides([f"optimizer.{each}" for each in overrides])
    with pytest.raises(recipe.RecipeError) as raised:
        recipe.validate(draft, Recipe)
    assert message in str(raised.value)


def test_depths_are_counted_from_the_output() -> None:
    depths = parts.depths(new_model())
    assert depths["layers.1.weight"] == depths["layers.1.bias"] == 1
    assert (depths["layers.0.weight"], depths["embedding.weight"]) == (2, 3)
    assert {depths[name] for name in ("head.weight", "norm.bias", "convolution.weight")} == {0}


@SECTIONS
def test_lower_layers_learn_slower(section: OptimizerSection) -> None:
    models = new_model(), new_model(), new_model()
    before, plain, slower = (dict(each.named_parameters()) for each in models)
    _, one, two = models
    learn(one, Updater(section, one), range(1))
    learn(two, Updater(section, two, DepthRates(ratio=0.5)), range(1))
    for name, depth in parts.depths(one).items():
        expected = (plain[name] - before[name]) * 0.5**depth
        torch.testing.assert_close(slower[name] - before[name], expected, rtol=1e-3, atol=1e-6)


@SECTIONS
def test_lower_layers_learn_later(section: OptimizerSection) -> None:
    model = new_model()
    updater = Updater(section, model, DepthRates(thaw_steps=2))
    depths = parts.depths(model)
    for step in range(5):
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        learn(model, updater, range(step, step + 1))
        learned = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert learned == {name for name, depth in depths.items() if step >= 2 * depth}
    lowest = [tensor for name, tensor in updater.tensors().items() if name.startswith("embedding.")]
    assert lowest
    assert not any(tensor.any() for tensor in lowest)


def test_thawing_begins_with_what_is_trained() -> None:
    model = new_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers.0"))
    lowest = model.get_parameter("layers.0.weight")
    before = lowest.clone()
    learn(model, Updater(ADAMW, model, DepthRates(ratio=0.1, thaw_steps=100)), range(1))
    assert not torch.equal(lowest, before)
