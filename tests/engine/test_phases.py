"""Steps of several phases: they are what a person would write, on any ranks, and each phase has state of its own."""

import json
import math
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import adversaries
import pytest
import sabotage
import torch
from adversaries import AN_EPOCH, DISCRIMINATOR, EMPTY, GENERATOR, MICRO_BATCHES, Adversaries, Numbers, Source, Task
from ranks import KILLED, Ended, Start, assert_same_outcome, records
from sabotage import Call, call
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from segue.engine.distributed.parallel import ALONE
from segue.engine.optimizer import NovoGrad
from segue.engine.state import replay
from segue.engine.step import NotFiniteError, mixed
from segue.engine.task import Term
from segue.engine.trainer import Trainer

PHASES = ("generator", "discriminator")


def train(start: Start, ranks: int, run: Path, *calls: Call, **engine: object) -> Ended:
    settings = {"moving_average_decay": 0.9, **engine}
    return start(ranks, [run, json.dumps(settings)], *calls, program="adversaries").end()


def batches_of(step: int) -> Iterator[tuple[int, Numbers]]:
    """Place in the step and content of each micro-batch that is not empty."""
    source = Source()
    for place in range(MICRO_BATCHES):
        number = step * MICRO_BATCHES + place
        if number % AN_EPOCH != EMPTY:
            yield place, source.load("train", source.micro_batch(number))


def of_trainer(training: Trainer, steps: Iterable[int]) -> list[tuple[dict[str, float], dict[str, Tensor]]]:
    """After each step, its numbers and the model."""
    found = []
    source, plan = training.source, training.source.plan("train")
    for step in steps:
        numbers = range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES)
        _, record = training._take_step([source.load("train", plan.micro_batch(n)) for n in numbers], False)
        found.append((record, {name: tensor.clone() for name, tensor in training.model.state_dict().items()}))
    return found


def by_hand(steps: int) -> list[tuple[dict[str, float], dict[str, Tensor]]]:
    """The same in torch: of each phase a loop over micro-batches, each of which starts from the same statistics."""
    torch.manual_seed(0)
    model = Adversaries().train()
    weights, others = ([p for p in model.generator.parameters() if (p.ndim > 1) == is_it] for is_it in (True, False))
    groups = [{"params": weights, "weight_decay": GENERATOR.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizers = [
        torch.optim.AdamW(groups, lr=0.0, betas=GENERATOR.betas, eps=GENERATOR.epsilon),
        NovoGrad(model.discriminator.parameters(), lr=0.0, betas=DISCRIMINATOR.betas, eps=DISCRIMINATOR.epsilon),
    ]
    rates = [
        [GENERATOR.learning_rate * share for share in (1, 1, (1 + math.cos(math.pi / 5)) / 2)],
        [DISCRIMINATOR.learning_rate * share for share in (1 / 4, 2 / 4, 3 / 4)],
    ]
    statistics = [tensor for name, tensor in model.named_buffers() if "running" in name]
    found = list[tuple[dict[str, float], dict[str, Tensor]]]()
    for step in range(steps):
        examples = sum(len(batch.ids) for _, batch in batches_of(step))
        values = sum(int(batch.sizes.sum()) for _, batch in batches_of(step))
        numbers = dict[str, float]()
        for phase, name in enumerate(PHASES):
            before, after, total = [each.clone() for each in statistics], [], 0.0
            for place, (_, _, noise, real, sizes) in batches_of(step):
                torch._foreach_copy_(statistics, before)
                torch.manual_seed(mixed(0, step, place, 1) if phase else mixed(0, step, place))
                made = model.generator(noise)
                if name == "generator":
                    adversarial = softplus(-model.discriminator(made)).sum() / examples
                    loss = adversarial + 0.5 * ((made - real).square().sum(dim=1) * sizes).sum() / values
                else:
                    scores = model.discriminator(made.detach()).squeeze(1)
                    loss = 0.25 * (softplus(scores) * sizes).sum() / values
                    loss = loss + softplus(-model.discriminator(real)).sum() / examples
                loss.backward()
                total += loss.item()
                after.append([each.clone() for each in statistics])
            torch._foreach_copy_(statistics, [torch.stack(each).mean(dim=0) for each in zip(*after, strict=True)])
            norm = nn.utils.clip_grad_norm_(model.get_submodule(name).parameters(), 0.5)
            for group in optimizers[phase].param_groups:
                group["lr"] = rates[phase][step]
            optimizers[phase].step()
            model.zero_grad()
            numbers |= {f"{name}_loss": total, f"{name}_gradient_norm": norm.item()}
        numbers["loss"] = sum(numbers[f"{name}_loss"] for name in PHASES)
        found.append((numbers, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
    return found


def test_two_phase_steps_equal_a_plain_loop(tmp_path: Path) -> None:
    for (record, model), (numbers, expected) in zip(
        of_trainer(adversaries.trainer(tmp_path), range(3)), by_hand(3), strict=True
    ):
        assert {name: record[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
        torch.testing.assert_close(model, expected, rtol=1e-5, atol=1e-6)


def test_a_term_of_weight_0_is_only_logged(tmp_path: Path) -> None:
    loud = Task()
    loud.watched = 1e30
    plain, shouted = (
        of_trainer(adversaries.trainer(tmp_path / str(task.watched), task=task), range(2)) for task in (Task(), loud)
    )
    for (record, model), (other_record, other_model) in zip(plain, shouted, strict=True):
        assert other_record["generator_watched"] == pytest.approx(1e30 * record["generator_watched"])
        assert other_record["generator_loss"] == record["generator_loss"]
        assert all(torch.equal(model[name], other_model[name]) for name in model)
    record = plain[0][0]
    assert record["generator_loss"] == pytest.approx(
        record["generator_adversarial"] + 0.5 * record["generator_distance"], rel=1e-6
    )
    assert record["discriminator_loss"] == pytest.approx(
        0.25 * record["discriminator_made"] + record["discriminator_real"], rel=1e-6
    )


@pytest.fixture(scope="module")
def alone(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert train(start, 1, run).statuses == [0]
    return run


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_takes_the_same_steps(start: Start, alone: Path, tmp_path: Path, ranks: int) -> None:
    assert train(start, ranks, tmp_path / "run").statuses == [0] * ranks
    for record, expected in zip(records(tmp_path / "run"), records(alone), strict=True):
        assert {"generator_adversarial", "discriminator_made", "discriminator_learning_rate"} < set(record)
        assert record.pop("unit") == expected.pop("unit")
        assert record.pop("dev", {}) == pytest.approx(expected.pop("dev", {}), rel=1e-4)
        assert record == pytest.approx(expected, rel=1e-4)
    model, expected_model = (load_file(run / "model" / "model.safetensors") for run in (tmp_path / "run", alone))
    torch.testing.assert_close(model, expected_model, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_killed_and_stopped_runs_end_the_same(start: Start, tmp_path: Path) -> None:
    """As an undisturbed one."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(start, 2, whole).statuses == [0, 0]
    kill = call(sabotage.at_step, 3, [0], call(sabotage.send_to_all, signal.SIGKILL))
    assert train(start, 2, run, kill).statuses == [KILLED, KILLED]
    stop = call(sabotage.at_step, 4, [1], call(sabotage.send, signal.SIGTERM))
    assert train(start, 2, run, stop).statuses == [128 + signal.SIGTERM] * 2
    assert max((run / "checkpoints").iterdir()).name == "step_00000005"
    assert train(start, 2, run).statuses == [0, 0]
    (run / "checkpoints" / "step_00000005").rename(tmp_path / "of_the_signal")
    (whole / "checkpoints" / "step_00000004").rename(tmp_path / "not_in_the_other")
    assert_same_outcome(run, whole)


def test_each_phase_has_its_own_loss_scale(tmp_path: Path) -> None:
    """Where one overflows, the other still takes its step."""
    task, calls = Task(), []
    loss = task.loss

    def spoilt(model: nn.Module, batch: Numbers, phase: str) -> dict[str, Term]:
        terms = loss(model, batch, phase)
        calls.append(phase)
        if len(calls) == 3 * 2 + 2:  # in the generator's phase of step 2
            assert phase == "generator"
            terms["distance"] = terms["distance"]._replace(total=terms["distance"].total * 1e8)
        return terms

    task.loss = spoilt  # type: ignore[method-assign]
    training = adversaries.trainer(tmp_path, task=task, precision="float16", steps=3)
    states, taken = [], []
    for step in range(2):
        ((record, _),) = of_trainer(training, [step])
        taken.append(record)
        state = {f"{of}.{name}": each for of, part in training._state().items() for name, each in part.items()}
        states.append({name: each.clone() for name, each in state.items()})
    before, after = states
    for name, tensor in before.items():
        if "running" in name or "num_batches" in name:
            continue  # the other phase runs both parts
        assert torch.equal(tensor, after[name]) == ("generator." in name), name
    assert taken[1]["is_skipped"]
    assert {name for name in taken[1] if name.endswith("loss")} == {"discriminator_loss"}
    scales = [2.0**13, 2.0**14]
    assert [work.scale.value for work in training.steps.works if work.scale] == scales
    training.train()
    assert {name: records(tmp_path)[-1][f"{name}_loss_scale"] for name in PHASES} == dict(
        zip(PHASES, scales, strict=True)
    )
    again = adversaries.trainer(tmp_path, precision="float16", steps=3)
    assert [work.scale.value for work in again.steps.works if work.scale] == scales
    assert (again.step, again._num_overflows) == (3, 1)


def test_two_phase_steps_can_be_replayed(tmp_path: Path) -> None:
    task = Task()  # hardly learns: the second phase sees the weights before the step, as a replay has them
    task.phases = tuple(
        each._replace(optimizer=each.optimizer.model_copy(update={"learning_rate": 1e-30})) for each in task.phases
    )
    training, problem = adversaries.trainer(tmp_path, task=task), NotFiniteError("discriminator_loss", math.nan)
    replay.keep(tmp_path, 0, training._state(), ["5"], "numbers", problem, ALONE)
    ((record, _),) = of_trainer(training, [0])
    (file,) = tmp_path.glob("replay_*")
    found = list(replay.take_again(task, training.source, training.engine, MICRO_BATCHES, 0, file))
    assert [each.ids for each in found] == [batch.ids for _, batch in batches_of(0)]
    assert sum(each.loss for each in found) == pytest.approx(record["loss"], rel=1e-6)


def test_a_step_with_one_count_of_zero_is_taken(tmp_path: Path) -> None:
    class Uncounted(Task):
        def counts(self, batch: Numbers) -> dict[str, float]:
            return {**super().counts(batch), "values": 0.0}

    training = adversaries.trainer(tmp_path, task=Uncounted())
    outcome = training.steps.take([batch for _, batch in batches_of(0)], 0, 1.0, 1.0)
    assert not outcome.is_empty
    assert outcome.is_updated
    assert outcome.loss > 0


@pytest.mark.parametrize("how", ["shard", "tensor_parallel"])
def test_a_model_of_several_phases_is_not_sharded(start: Start, tmp_path: Path, how: str) -> None:
    settings: dict[str, Any] = {how: 2}
    ended = train(start, 2, tmp_path / "run", **settings)
    assert ended.statuses == [2, 2]
    assert ended.lines == [
        "segue: engine.shard, engine.tensor_parallel: a model that learns in several phases is not sharded"
    ]
