"""How do a few layers stand for many? Of equal layers in a row four are rehearsed, and one is repeated.

A layer between layers like it does what its neighbor does. That is checked, not taken for granted: two neighbors must
have done the same, byte for byte, or all layers are to be rehearsed.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from segue.engine.distributed import parts

Kind = Literal["activations", "passing", "copies", "gradients"]
"""Kept by the forward pass; scores, loss, gradients of activations, what is recomputed; weights in the format that is
computed in; gradients of weights."""

REHEARSED = 4
"""The first, two that must agree, and the last."""


class UnequalError(Exception):
    """Layers that look alike do not do the same."""


class Event(NamedTuple):
    """A storage that comes or goes."""

    number: int
    """The storage's."""
    kind: Kind
    size: int
    """Bytes; below 0 when it goes."""


class Mark(NamedTuple):
    """A moment of a pass."""

    place: int
    """Of the next event."""
    operations: float
    """So far."""


class Run:
    """Equal layers in a row. While it is noted, all but four pass on what they are given."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.rehearsed, self.skipped = [*layers[:3], layers[-1]], layers[3:-1]
        self.repeated = layers[2]
        """It stands for those that are skipped."""
        self._ends: list[Mark] = []
        """Of the layers' forward passes, first layer first."""
        self._starts: list[Mark] = []
        """Of their backward passes, last layer first."""

    def note(self, now: Callable[[], Mark]) -> list[Any]:
        """Notes the next forward and backward pass; returns the handles of its hooks."""
        self._ends, self._starts = [], []

        def start(gradient: Tensor) -> None:
            del gradient
            self._starts.append(now())

        def end(layer: nn.Module, inputs: Any, output: Any) -> None:
            del layer
            if not isinstance(output, Tensor) or output.shape != inputs[0].shape or not output.requires_grad:
                raise UnequalError  # could not be skipped
            self._ends.append(now())
            output.register_hook(start)  # type: ignore[no-untyped-call]

        for layer in self.skipped:
            layer.forward = _pass_on
        return [layer.register_forward_hook(end) for layer in self.rehearsed]

    def spans(self) -> list[tuple[Mark, Mark, Mark]]:
        """Forward and backward pass of the two in the middle: where the first of them begins, the next, and its end."""
        if not len(self._ends) == len(self._starts) == REHEARSED:
            raise UnequalError  # used twice, or not at all
        (_, *backward), (*forward, _) = self._starts, self._ends
        return [tuple(forward), tuple(backward)]  # type: ignore[list-item]

    def holds(self, place: int) -> bool:
        """Whether that is among its layers: after the first one's forward pass, or before its backward pass."""
        return any(marks[0].place <= place < marks[-1].place for marks in (self._ends, self._starts))


def runs(model: nn.Module) -> list[Run]:
    """The model's runs of equal layers that are long enough to skip some."""
    equal = [list(layers) for stack in parts.stacks(model) for _, layers in groupby(stack, key=_look)]
    return [Run(layers) for layers in equal if len(layers) > REHEARSED]


def repeat(events: list[Event], operations: float, noted: list[Run]) -> tuple[list[Event], float]:
    """A pass as it had been with all layers."""
    found = list(events)
    ends = {event.number: place for place, event in enumerate(events)}  # where a storage goes
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
        for begin, end in (forward[1:], backward[:2]):  # of the layer that is repeated
            copies.append((begin.place, end.place, skipped))
            for event in events[begin.place : end.place]:
                place = ends[event.number]
                if not run.holds(place):  # goes later, together with those of all other layers
                    found[place] = event._replace(size=-event.size * (1 + skipped))
    for begin_place, end_place, times in sorted(copies, reverse=True):
        found[end_place:end_place] = found[begin_place:end_place] * times
    if sum(event.size for event in found) != sum(event.size for event in events):
        raise UnequalError  # what comes in a layer goes somewhere
    return found, operations


def _course(events: list[Event]) -> list[list[tuple[Kind, int]]]:
    """What came and went; what went at once has no order."""
    return [
        sorted((kind, size) for _, kind, size in some) if goes else [(kind, size) for _, kind, size in some]
        for goes, some in groupby(events, key=lambda event: event.size < 0)
    ]


def _look(layer: nn.Module) -> str:
    """What tells a layer from its neighbors: its parts, their settings, their shapes."""
    modules = [
        (name, type(module), {key: value for key, value in vars(module).items() if not key.startswith("_")})
        for name, module in layer.named_modules()
    ]
    return repr((modules, [(name, each.shape, each.requires_grad) for name, each in layer.named_parameters()]))


def _pass_on(x: Tensor, *others: Any, **more: Any) -> Tensor:
    del others, more
    return x
