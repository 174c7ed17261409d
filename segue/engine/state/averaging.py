"""Which weights are evaluated and shipped? Moving averages, averages of evaluated weights, new BatchNorm statistics."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.distributed.parallel import ALONE, World
from segue.engine.state import checkpoint
from segue.engine.state.checkpoint import Tensors
from segue.errors import warn


class MovingAverage:
    """Exponential moving average of weights and BatchNorm statistics (Polyak and Juditsky 1992).

    The decay is min(decay, (1 + step) / (10 + step)), so that early weights are forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: Tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the weights after `step` (from 1) to the average."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        both = [(parts.local(self.tensors[name]), parts.local(each)) for name, each in model.state_dict().items()]
        weights = [pair for pair in both if pair[1].is_floating_point()]
        counters = [pair for pair in both if not pair[1].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in weights], [value for _, value in weights], share)
        if counters:
            torch._foreach_copy_([mean for mean, _ in counters], [value for _, value in counters])


@contextmanager
def weights_of(model: nn.Module, tensors: Tensors | None) -> Iterator[None]:
    """Inside the block `model` has these weights, sharded as it is; after it its own again. None changes nothing."""
    if tensors is None:
        yield
        return
    state = model.state_dict()
    own = {name: parts.local(tensor).clone() for name, tensor in state.items()}
    _set(state, {name: parts.local(tensor) for name, tensor in tensors.items()})
    try:
        yield
    finally:
        _set(model.state_dict(), own)


@torch.no_grad()
def _set(state: Tensors, values: Tensors) -> None:
    """Copies this rank's parts."""
    assert state.keys() == values.keys()
    for name, value in values.items():
        parts.local(state[name]).copy_(value)


class Snapshot(NamedTuple):
    """A file with the weights of an evaluation."""

    step: int
    score: float
    sha256: str


class Snapshots:
    """The weights of the last or best `count` evaluations, on disk."""

    def __init__(self, folder: Path, count: int, by: str, direction: str, world: World = ALONE) -> None:
        self.folder = folder
        self._world = world
        self.count = count
        self.by = by
        self.direction = direction
        self.kept: list[Snapshot] = []

    def add(self, step: int, score: float, tensors: Tensors) -> None:
        """Writes these weights, which may be sharded, if they are among the last or best `count`. Collective."""
        others = [each for each in self.kept if each.step != step]
        found = sorted([*others, Snapshot(step, score, "")])
        if self.by == "best":
            sign = 1 if self.direction == "min" else -1
            found = sorted(found, key=lambda each: (sign * each.score, -each.step))[: self.count]
        else:
            found = found[-self.count :]

        def written() -> str:
            checkpoint.write_whole(self._path(step), tensors, self._world)
            return self._world.first(lambda: checkpoint.checksum_of(self._path(step)))

        # Only the new one has no checksum yet and is written.
        self.kept = [each if each.sha256 else each._replace(sha256=written()) for each in found]

    def drop_others(self, *states: Sequence[Sequence[Any]]) -> None:
        """Deletes files that neither `kept` nor any of these lists, from kept checkpoints, refers to."""
        if not self._world.is_first:
            return
        needed = {self._path(step) for state in (self.kept, *states) for step, *_ in state}
        for path in self.folder.glob("*.safetensors"):
            if path not in needed:
                path.unlink()

    def average(self, model: Tensors) -> Tensors | None:
        """The mean of the kept weights, sharded as those of the model: each rank reads and averages its own parts.

        Damaged files are skipped with a warning; None if none is left. Collective.
        """
        whole = self._world.first(lambda: [each for each in self.kept if self._is_whole(each)])
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(self._path(each.step), framework="pt")) for each in whole]
            return {name: _mean(files, name, tensor) for name, tensor in model.items()} if files else None

    def _is_whole(self, snapshot: Snapshot) -> bool:
        path = self._path(snapshot.step)
        if path.is_file() and checkpoint.checksum_of(path) == snapshot.sha256:
            return True
        warn(f"{path}: {'damaged' if path.is_file() else 'missing'}; left out of the average")
        return False

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.safetensors"


@torch.no_grad()
def _mean(files: Sequence[Any], name: str, tensor: Tensor) -> Tensor:
    """The mean of a tensor in several files, summed in float64; sharded like `tensor`."""
    total = torch.zeros_like(parts.local(tensor), dtype=torch.float64, device="cpu")
    for file in files:
        total += checkpoint.part_of(file, name, tensor)
    return parts.spread_like((total / len(files)).to(parts.local(tensor)), tensor)


@torch.no_grad()
def reestimate_batch_norms(model: nn.Module, forwards: Iterable[None]) -> None:
    """Sets BatchNorm's running statistics to their mean over some forward passes, run by iterating over `forwards`.

    The statistics of averaged weights are not the average of their statistics (Izmailov et al. 2018, section 3.2).
    """
    norms = parts.learning_batch_norms(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: cumulative mean
    for _ in forwards:
        pass
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
