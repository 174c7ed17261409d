"""How are gradients turned into updates? Optimizers for whole tensors and for tensors that are sharded over ranks."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from segue.engine.distributed import parts
from segue.errors import UserError, some_of
from segue.recipe import Section

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Group = dict[str, Any]


class LARCSection(Section):
    """Scales each tensor's gradient by its weights' norm (You et al. 2017, arXiv:1708.03888), as in OpenSeq2Seq.

    Designed for SGD with momentum: NovoGrad, AdamW and Muon already normalize gradients themselves.
    """

    mode: Literal["clip", "scale"] = "clip"
    """"clip" only lowers the learning rate of a tensor; "scale" (LARS) can also raise it."""
    trust: Rate = 1e-3
    """Eta: learning rate times norm of the gradient, relative to the norm of the weights."""
    min_update: Rate = 1e-7
    """Smallest factor applied to a gradient; all-zero tensors get it and hardly change."""
    epsilon: Rate = 1e-7
    """Added to the gradient norm."""


class NovoGradSection(Section):
    """NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286): gradients normalized per tensor, decoupled weight decay."""

    kind: Literal["novograd"]
    """NovoGrad."""
    learning_rate: Rate
    """Peak learning rate; the schedule scales it."""
    betas: tuple[Beta, Beta]
    """Momentum, and decay of the gradient norm's average. OpenSeq2Seq's Jasper effectively used (0.95, 0)."""
    weight_decay: Decay = 0.0
    """Times the weights, added to the normalized gradient; not for biases and norms."""
    epsilon: Rate = 1e-8
    """Added to the gradient norm."""
    larc: LARCSection | None = None
    """Layer-wise scaling of gradients (LARC); off without this table."""


class AdamWSection(Section):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"]
    """AdamW."""
    learning_rate: Rate
    """Peak learning rate; the schedule scales it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    weight_decay: Decay = 0.0
    """Decoupled weight decay; not for biases and norms."""
    epsilon: Rate = 1e-8
    """Added to the root of the second moment."""
    larc: LARCSection | None = None
    """Layer-wise scaling of gradients (LARC); off without this table."""


class MuonSection(Section):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for hidden matrices, AdamW for the rest.

    Hidden matrices are the weights of linear layers in a model's stacks of layers. Embeddings, output head,
    convolutions, norms and biases are the rest.
    """

    kind: Literal["muon"]
    """Muon."""
    learning_rate: Rate
    """Peak learning rate of the hidden matrices; the schedule scales it."""
    momentum: Beta = 0.95
    """Decay of the gradient's average."""
    adamw_learning_rate: Rate
    """Peak learning rate of the rest; the schedule scales it."""
    adamw_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    adamw_epsilon: Rate = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Decay = 0.0
    """Decoupled weight decay; not for biases and norms."""
    larc: LARCSection | None = None
    """Layer-wise scaling of gradients (LARC); off without this table."""


OptimizerSection = Annotated[NovoGradSection | AdamWSection | MuonSection, Field(discriminator="kind")]


class DepthRates(NamedTuple):
    """How much slower the lower layers of a model learn, and how much later (Howard and Ruder 2018, arXiv:1801.06146).

    Depths are those of `parts.depths`, counted from the highest parameters that are trained.
    """

    ratio: float = 1.0
    """Learning rate of a layer / that of the layer above it."""
    thaw_steps: int = 0
    """Steps until the next lower layer begins to learn."""

    def share(self, depth: int, step: int) -> float:
        """Learning rate at `step` (from 0), as a fraction of the highest layer's."""
        return self.ratio**depth if step >= depth * self.thaw_steps else 0.0


class Updater:
    """Applies a recipe's optimizer to a model's trainable parameters.

    `step` is collective: every rank that holds a part of the model calls it, with gradients for the same parameters.
    """

    def __init__(self, section: OptimizerSection, model: nn.Module, by_depth: DepthRates | None = None) -> None:
        """`model` is already distributed. Raises a UserError if Muon finds no hidden matrices in it."""
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        self.names, self.parameters = list(trained), list(trained.values())
        self._larc, self._by_depth = section.larc, by_depth or DepthRates()
        depths = parts.depths(model) if by_depth else dict.fromkeys(trained, 0)
        highest = min(depths[name] for name in trained)
        self._optimizers = _optimizers(section, model, [(trained[name], depths[name] - highest) for name in trained])
        states = {id(tensor): state for each in self._optimizers for tensor, state in each.state.items()}
        self._states: list[dict[str, Tensor]] = [states[id(parameter)] for parameter in self.parameters]

    def local_groups(self, step: int = 0) -> list["LocalGroup"]:
        """This rank's parts of weights, gradients and state, for `step`; call it after the backward pass.

        Without those of layers that do not learn yet at step `step`.
        """
        groups = (group for optimizer in self._optimizers for group in optimizer.local_groups())
        return [each for each in groups if self._by_depth.share(each.group["depth"], step)]

    @torch.no_grad()
    def step(self, rate: float, step: int = 0, groups: Sequence["LocalGroup"] | None = None) -> None:
        """Takes step `step` (from 0) at `rate` times the peak learning rate. LARC scales the gradients in place.

        `groups` is the result of `local_groups`, if the caller has it: computing it again would leave a GPU idle.
        """
        for each in self.local_groups(step) if groups is None else groups:
            each.group["lr"] = each.group["peak"] * rate * self._by_depth.share(each.group["depth"], step)
            if self._larc is not None:
                _limit(self._larc, each)
            each.optimizer.update(each)

    def clear(self) -> None:
        """Sets all gradients to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state as "{parameter}.{key}", complete before the first step; tensors share the optimizer's memory.

        State of a parameter's shape is sharded like the parameter; scalars are the same on every rank.
        """
        return {
            f"{name}.{key}": parts.spread_like(value, parameter) if value.ndim else value
            for name, parameter, state in zip(self.names, self.parameters, self._states, strict=True)
            for key, value in state.items()
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copies the result of `tensors` back. Raises a UserError if names or shapes do not match."""
        own = self.tensors()
        wrong = [f"{name} is missing" for name in own if name not in tensors]
        for name, tensor in tensors.items():
            if name not in own:
                wrong.append(f"{name} is not part of it")
            elif tensor.shape != own[name].shape:
                wrong.append(f"{name} is of shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
        if wrong:
            raise UserError(f"the saved state is not of this recipe's optimizer and model:\n{some_of(wrong, 3)}")
        for name, tensor in tensors.items():
            parts.local(own[name]).copy_(parts.local(tensor))


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of the nn.Linear modules inside nn.ModuleLists, so without embeddings and output head."""
    modules = [module for unit in parts.units(model) for module in unit.modules()]
    return [module.weight for module in modules if isinstance(module, nn.Linear)]


Placed = tuple[nn.Parameter, int]
"""A parameter and its depth."""


def _optimizers(section: OptimizerSection, model: nn.Module, trained: list[Placed]) -> list["_Optimizer"]:
    """Optimizers for all trainable parameters, at their peak learning rates."""
    rate, decay = section.learning_rate, section.weight_decay
    if isinstance(section, NovoGradSection):
        return [NovoGrad(_groups(trained, decay), lr=rate, betas=section.betas, eps=section.epsilon)]
    if isinstance(section, AdamWSection):
        return [AdamW(_groups(trained, decay), lr=rate, betas=section.betas, eps=section.epsilon)]
    hidden = {id(weight) for weight in hidden_matrices(model)}
    matrices = [each for each in trained if id(each[0]) in hidden]
    others = [each for each in trained if id(each[0]) not in hidden]
    if not matrices:
        raise UserError("optimizer.kind: muon trains linear layers in stacks, and this model has none; try adamw")
    found: list[_Optimizer] = [Muon(_groups(matrices, decay), lr=rate, momentum=section.momentum)]
    if others:
        rate, betas = section.adamw_learning_rate, section.adamw_betas
        found.append(AdamW(_groups(others, decay), lr=rate, betas=betas, eps=section.adamw_epsilon))
    return found


def _groups(trained: list[Placed], decay: float) -> list[Group]:
    """Parameter groups by depth, with and without weight decay: one-dimensional tensors (biases, norms) have none."""
    groups: dict[tuple[int, bool], Group] = {}
    for tensor, depth in trained:
        has_decay = tensor.ndim > 1
        fresh: Group = {"params": [], "depth": depth, "weight_decay": decay if has_decay else 0.0}
        groups.setdefault((depth, has_decay), fresh)["params"].append(tensor)
    return list(groups.values())


class LocalGroup(NamedTuple):
    """This rank's parts of the tensors of a parameter group that have gradients."""

    optimizer: "_Optimizer"
    group: Group
    tensors: list[Tensor]
    weights: list[Tensor]
    """This rank's parts of the tensors."""
    gradients: list[Tensor]
    """This rank's parts of the gradients, sharded as the tensors are."""
    states: list[dict[str, Tensor]]

    def state(self, key: str) -> list[Tensor]:
        """The state `key` of each tensor."""
        return [state[key] for state in self.states]


def _limit(section: LARCSection, local: LocalGroup) -> None:
    """LARC: multiplies each gradient g of weights w, in place, by trust |w| / (|g| + epsilon), at least min_update.

    In mode "clip" this factor is divided by the learning rate and is at most 1.
    """
    norms = parts.whole_norms([*local.weights, *local.gradients], [*local.tensors, *local.tensors])
    of_weights, of_gradients = norms.chunk(2)
    if section.mode == "clip":
        factors = section.trust * of_weights / (local.group["lr"] * (of_gradients + section.epsilon))
        factors = factors.clamp(section.min_update, 1.0)
    else:
        factors = (section.trust * of_weights / (of_gradients + section.epsilon)).clamp(section.min_update)
    torch._foreach_mul_(local.gradients, factors.unbind())


class _Optimizer(torch.optim.Optimizer):
    """Base class: updates this rank's parts of tensors that may be sharded."""

    def __init__(self, params: Any, like_weights: Sequence[str], numbers: Sequence[str], **options: Any) -> None:
        """Allocates all state as zeros, so that a checkpoint can be read in place.

        `like_weights` names state of each weight's shape, `numbers` scalar state.
        """
        super().__init__(params, options)
        for group in self.param_groups:
            group["peak"] = group["lr"]
            for tensor in group["params"]:
                part = parts.local(tensor)
                self.state[tensor] = {key: part.new_zeros(()) for key in numbers}
                self.state[tensor] |= {key: torch.zeros_like(part) for key in like_weights}

    def local_groups(self) -> list[LocalGroup]:
        """The input of `update` for each group in which any tensor has a gradient."""
        found = []
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if tensors:
                states = [self.state[tensor] for tensor in tensors]
                found.append(
                    LocalGroup(self, group, tensors, [*map(parts.local, tensors)], _gradients(tensors), states)
                )
        return found

    def update(self, local: LocalGroup) -> None:
        """Updates weights and state in place; called under no_grad."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every tensor that has a gradient."""
        assert closure is None
        for local in self.local_groups():
            self.update(local)


class NovoGrad(_Optimizer):
    """For each tensor of weights w with gradient g (arXiv:1905.11286, algorithm 1, without gradient averaging):

    v = |g|^2 at first, then beta2 v + (1 - beta2) |g|^2;  m = beta1 m + g / (sqrt(v) + epsilon) + decay w;  w -= lr m
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0):
        state = ("momentum",), ("step", "squared_norm")
        super().__init__(params, *state, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, local: LocalGroup) -> None:
        """See the class docstring."""
        group, momenta, steps, averages = local.group, *map(local.state, ("momentum", "step", "squared_norm"))
        beta1, beta2 = group["betas"]
        squares = parts.whole_norms(local.gradients, local.tensors).square()
        is_first = torch.stack(steps) == 0
        torch._foreach_mul_(averages, beta2)
        torch._foreach_add_(averages, squares.unbind(), alpha=1 - beta2)
        squares = torch.where(is_first, squares, torch.stack(averages))
        torch._foreach_copy_(averages, squares.unbind())
        torch._foreach_add_(steps, 1)
        updates = torch._foreach_div(local.gradients, (squares.sqrt() + group["eps"]).unbind())
        if group["weight_decay"]:
            torch._foreach_add_(updates, local.weights, alpha=group["weight_decay"])
        torch._foreach_mul_(momenta, beta1)
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(local.weights, momenta, alpha=-group["lr"])


class AdamW(_Optimizer):
    """torch's fused AdamW, applied to this rank's parts of tensors."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0):
        state = ("average", "squared_average"), ("step",)
        super().__init__(params, *state, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, local: LocalGroup) -> None:
        """Calls torch's functional AdamW."""
        adamw(
            local.weights,
            local.gradients,
            local.state("average"),
            local.state("squared_average"),
            [],
            local.state("step"),
            fused=True,
            amsgrad=False,
            beta1=local.group["betas"][0],
            beta2=local.group["betas"][1],
            lr=local.group["lr"],
            weight_decay=local.group["weight_decay"],
            eps=local.group["eps"],
            maximize=False,
        )


class Muon(_Optimizer):
    """For each weight matrix w with gradient g, as torch.optim.Muon with Nesterov momentum:

    m = beta m + (1 - beta) g;  u = orthogonal(beta m + (1 - beta) g);  w -= lr (decay w + s u)

    where s is sqrt(max(1, rows / columns)). A sharded matrix is gathered to be orthogonalized.
    """

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float = 0.0):
        super().__init__(params, ("momentum",), (), lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, local: LocalGroup) -> None:
        """See the class docstring."""
        rate, beta = local.group["lr"], local.group["momentum"]
        each = zip(local.tensors, local.weights, local.gradients, local.state("momentum"), strict=True)
        for tensor, weight, gradient, momentum in each:
            momentum.lerp_(gradient, 1 - beta)
            update = parts.spread_like(gradient.lerp(momentum, beta), tensor)
            update = parts.own_part(_orthogonal(parts.whole(update)), tensor)
            rows, columns = tensor.shape
            weight.mul_(1 - rate * local.group["weight_decay"])
            weight.add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))


def _orthogonal(matrix: Tensor) -> Tensor:
    """(rows, columns) -> the same, bfloat16, with singular values near 1: five Newton-Schulz iterations.

    X -> a X + b (X X') X + c (X X')^2 X, with the coefficients of Jordan et al. 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    x = x.T if is_tall else x  # X X' is then the smaller product
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def _gradients(tensors: list[Tensor]) -> list[Tensor]:
    """This rank's parts of the gradients, summed over tensor-parallel ranks where they are still pending sums.

    FSDP has done that; without it, those of an adapter's whole matrix before a split one are pending (Partial).
    """
    for tensor in tensors:
        if (
            isinstance(tensor, DTensor)
            and isinstance(tensor.grad, DTensor)
            and tensor.grad.placements != tensor.placements
        ):
            tensor.grad = tensor.grad.redistribute(placements=tensor.placements)
    return [parts.local(tensor.grad) for tensor in tensors if tensor.grad is not None]
