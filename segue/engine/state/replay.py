"""What went wrong in a step? A step with non-finite values is saved to a file, from which it can be repeated alone."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segue import recipe
from segue.engine import precision
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.loading import moved
from segue.engine.settings import EngineSection
from segue.engine.state.checkpoint import Tensors, write_whole
from segue.engine.step import NotFiniteError, mixed, objective
from segue.engine.task import Source, Task, Term
from segue.errors import UserError, some_of
from segue.files import free

_SHOWN_IDS = 20
_STEP, _DATA = "segue_step", "segue_data"


def keep(
    run: Path,
    step: int,
    state: dict[str, Tensors],
    ids: Sequence[str],
    data: str,
    problem: NotFiniteError,
    world: World,
) -> UserError | SystemExit:
    """Writes the weights before step `step` (from 0); returns the error to raise, which names file and examples.

    `data` is the source's fingerprint. Collective, since weights may be sharded.
    """
    path = run / f"replay_step_{step + 1:08d}.safetensors"
    write_whole(path, state["model"], world, {_STEP: json.dumps(step), _DATA: data})
    new = free(run)
    best = ""
    if (run / "model").is_dir():
        changed = recipe.read(run / "recipe.toml").values["optimizer"]["learning_rate"] / 3
        words = ["segue", "train", str(run / "recipe.toml"), "--from", str(run), "--out", str(new)]
        best = f"; with its best weights: {shlex.join(words)} optimizer.learning_rate={changed:.2g}"
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return world.told_once(
        UserError(
            f"step {step + 1}: {problem}; a lower optimizer.learning_rate or engine.clip_norm may help (--out "
            f"{shlex.quote(str(new))}{best}), or one of these examples is at fault: {', '.join(ids[:_SHOWN_IDS])}{more}"
            f" ({shlex.join(['segue', 'train', '--replay', str(path)])} takes it again)"
        )
    )


def step_and_data(path: Path) -> tuple[int, str]:
    """The step (from 0) of a replay file and the fingerprint of its data. Raises a UserError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return int(json.loads(metadata[_STEP])), metadata[_DATA]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a replay file: {error}") from None


class Finding(NamedTuple):
    """The result of one micro-batch of the step."""

    ids: list[str]
    loss: float
    """Contribution to the loss of the step, which is normalized by the step's counts."""
    gradient_norm: float
    first_module: str | None
    """The first module, in the order of the forward pass, whose output was not finite."""
    examples: list[tuple[str, float]]
    """If the loss or gradient is not finite: id and loss of each example computed alone."""


def take_again(
    task: Task,
    source: Source,
    engine: EngineSection,
    micro_batches: int,
    seed: int,
    path: Path,
) -> Iterator[Finding]:
    """Repeats forward and backward pass of the step in a replay file, one micro-batch after the other.

    Raises a UserError if the data or the model changed.
    """
    step, data = step_and_data(path)
    if data != source.fingerprint():
        raise UserError(f"{path}: the data changed since; put them back as they were to take this step again")
    device = choose_device(engine.device)
    precision.set_matmul(engine.matmul)
    torch.set_num_threads(engine.threads or torch.get_num_threads())
    model = blueprint(task.build_model)
    make_room(model, device)
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    shapes, own = ({name: each.shape for name, each in state.items()} for state in (weights, model.state_dict()))
    if shapes != own:
        names = sorted({name for name, _ in shapes.items() ^ own.items()})
        raise UserError(f"{path}: of another model: {some_of(names, 3)}")
    plan = source.plan("train")
    planned = [plan.micro_batch(step * micro_batches + number) for number in range(micro_batches)]
    batches = [moved(source.load("train", each), device) for each in planned]
    of_each = [task.counts(batch) for batch in batches]
    counts = {name: sum(counts[name] for counts in of_each) for name in of_each[0]}
    model.train()
    for number, batch in enumerate(batches):
        if not batch.ids:
            continue
        model.load_state_dict(weights)  # restores BatchNorm statistics: each micro-batch starts from the step before
        suspects: list[str] = []
        handles = [
            module.register_forward_hook(_noting(name, suspects))
            for name, module in model.named_modules()
            if not list(module.children())
        ]
        value = 0.0
        for place, phase in enumerate(task.phases):  # each with the weights before the step
            torch.manual_seed(mixed(seed, step, number, *([place] if place else [])))
            with precision.autocast(engine.precision, device):
                terms = task.loss(model, batch, phase.name)
            objective(terms, counts).backward()  # type: ignore[no-untyped-call]
            value += _mean(terms, counts)
        for handle in handles:
            handle.remove()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
        model.zero_grad()
        is_finite = math.isfinite(value) and norm < float("inf")
        examples = [] if is_finite else list(_alone(task, source, model, planned[number], engine, device))
        yield Finding(batch.ids, value, norm, suspects[0] if suspects else None, examples)


def _mean(terms: Mapping[str, Term], counts: Mapping[str, float]) -> float:
    """Weighted sum of the terms, each divided by its count, as a step logs it."""
    weighted = (term for term in terms.values() if term.weight)
    return sum(term.weight * (term.total.item() / (counts[term.per] or 1.0)) for term in weighted)


def _alone(
    task: Task, source: Source, model: nn.Module, planned: Any, engine: EngineSection, device: torch.device
) -> Iterator[tuple[str, float]]:
    with torch.no_grad():
        for index in range(len(planned.indices)):
            batch = moved(source.load("train", planned._replace(indices=planned.indices[index : index + 1])), device)
            if batch.ids:
                undivided = dict.fromkeys(task.counts(batch), 1.0)
                with precision.autocast(engine.precision, device):
                    losses = [_mean(task.loss(model, batch, phase.name), undivided) for phase in task.phases]
                yield batch.ids[0], sum(losses)


def _noting(name: str, suspects: list[str]) -> Any:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        tensors = output if isinstance(output, tuple) else (output,)
        if any(isinstance(each, Tensor) and not bool(each.isfinite().all()) for each in tensors):
            suspects.append(name)

    return note
