"""How is a simulation of many equal layers kept short? Four layers of a run are executed, and one of them is repeated.

A layer between equal layers is assumed to behave like its neighbor. This is checked: two neighbors must have allocated
and freed the same, byte for byte; otherwise all layers have to be simulated.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from segue.engine.distributed import parts

Kind = Literal["activations", "passing", "copies", "gradients"]
"""Saved by the forward pass; temporary (scores, loss, gradients of activations, recomputed activations); weights cast
to the compute format; gradients of weights."""

SIMULATED = 4
"""The first layer, two that must agree, and the last."""


class UnequalError(Exception):
    """Layers that look equal do not behave equally."""


class Event(NamedTuple):
    """Allocation or release of a storage."""

    number: int
    """Number of the storage."""
    kind: Kind
    size: int
    """Bytes; negative for a release."""


class Mark(NamedTuple):
    """A point in time of a pass."""

    place: int
    """Position of the next event."""
    operations: float
    """Floating-point operations so far."""


class Run:
    """Consecutive equal layers. While a pass is recorded, all but four are replaced by the identity."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.simulated, self.skipped = [*layers[:3], layers[-1]], layers[3:-1]
        self.repeated = layers[2]
        """The layer that represents the skipped ones."""
        self._ends: list[Mark] = []
        """Ends of the layers' forward passes, first layer first."""
        self._starts: list[Mark] = []
        """Starts of their backward passes, last layer first."""

    def note(self, now: Callable[[], Mark]) -> list[Any]:
        """Records the next forward and backward pass; returns the handles of its hooks."""
        self._ends, self._starts = [], []

        def start(gradient: Tensor) -> None:
            del gradient
            self._starts.append(now())

        def end(layer: nn.Module, inputs: Any, output: Any) -> None:
            del layer
            if not isinstance(output, Tensor) or output.shape != inputs[0].shape or not output.requires_grad:
                raise UnequalError  # cannot be replaced by the identity
            self._ends.append(now())
            output.register_hook(start)  # type: ignore[no-untyped-call]

        for layer in self.skipped:
            layer.forward = _pass_on
        return [layer.register_forward_hook(end) for layer in self.simulated]

    def spans(self) -> list[tuple[Mark, Mark, Mark]]:
        """For forward and backward pass: the starts of the two middle layers, and the end of the second one."""
        if not len(self._ends) == len(self._starts) == SIMULATED:
            raise UnequalError  # a layer was called twice, or not at all
        (_, *backward), (*forward, _) = self._starts, self._ends
        return [tuple(forward), tuple(backward)]  # type: ignore[list-item]

    def holds(self, place: int) -> bool:
        """Whether an event lies within the run: after the first layer's forward pass, or before its backward pass."""
        return any(marks[0].place <= place < marks[-1].place for marks in (self._ends, self._starts))


def runs(model: nn.Module) -> list[Run]:
    """The model's runs of equal layers that are long enough to skip layers."""
    equal = [list(layers) for stack in parts.stacks(model) for _, layers in groupby(stack, key=_look)]
    return [Run(layers) for layers in equal if len(layers) > SIMULATED]


def repeat(events: list[Event], operations: float, noted: list[Run]) -> tuple[list[Event], float]:
    """Events and operations of a pass with all layers, from those of a pass with skipped layers.

    Raises UnequalError if the two middle layers of a run differ.
    """
    found = list(events)
    ends = {event.number: place for place, event in enumerate(events)}  # where a storage is released
    copies: list[tuple[int, int, int]] = []
    for run in noted:
        skipped = len(run.skipped)
        forward, backward = run.spans()
        for first, second, end in (forward, backward):
            ones, others = events[first.place : second.place], events[second.place : end.place]
            counted = end.operations - second.operations
            if _course(ones) != _course(others) or second.operations - first.operations != counted:
                raise UnequalError
            operations += skipped * counted
        for begin, end in (forward[1:], backward[:2]):  # the layer that is repeated
            copies.append((begin.place, end.place, skipped))
            for event in events[begin.place : end.place]:
                place = ends[event.number]
                if not run.holds(place):  # released after the run, together with those of all other layers
                    found[place] = event._replace(size=-event.size * (1 + skipped))
    for begin_place, end_place, times in sorted(copies, reverse=True):
        found[end_place:end_place] = found[begin_place:end_place] * times
    if sum(event.size for event in found) != sum(event.size for event in events):
        raise UnequalError  # every allocation in a layer must have its release
    return found, operations


def _course(events: list[Event]) -> list[list[tuple[Kind, int]]]:
    """Allocations and releases in a comparable form: the order of consecutive releases does not matter."""
    return [
        sorted((kind, size) for _, kind, size in some) if goes else [(kind, size) for _, kind, size in some]
        for goes, some in groupby(events, key=lambda event: event.size < 0)
    ]


def _look(layer: nn.Module) -> str:
    """A description by which layers are compared: submodules, their settings, shapes of parameters."""
    modules = [
        (name, type(module), {key: value for key, value in vars(module).items() if not key.startswith("_")})
        for name, module in layer.named_modules()
    ]
    return repr((modules, [(name, each.shape, each.requires_grad) for name, each in layer.named_parameters()]))


def _pass_on(x: Tensor, *others: Any, **more: Any) -> Tensor:
    del others, more
    return x
