"""A step that was not finite can be taken again, alone: it is the same step, and it shows what was at fault."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segue import recipe, training
from segue.cli import main
from segue.engine.distributed.parallel import ALONE
from segue.engine.state import replay
from segue.engine.step import NotFiniteError, Outcome
from segue.engine.task import LOSS, Batch, Term
from segue.engine.trainer import Trainer

DROPOUT = ("model.dropout=0.2", "model.attention_dropout=0.1", "batch.tokens=40")


def built(path: Path, run: Path, *overrides: str) -> Trainer:
    section, module = training.read(path, ("engine.log_every=1", "engine.average_count=0", *overrides))
    run.mkdir()
    (run / "recipe.toml").write_text(recipe.dump(section))
    section, source = module.build_source(section, run, ALONE)
    trainer = training._trainer(section, source, module.build_task(section, source), run, ALONE)
    trainer._evaluate_and_keep = dict  # type: ignore[method-assign]
    return trainer


def keep(trainer: Trainer) -> Path:
    """A replay file of the step to come."""
    problem = NotFiniteError("loss", math.nan)
    mistake = replay.keep(
        trainer.run, trainer.step, trainer._state(), ["some_id"], trainer.source.fingerprint(), problem, ALONE
    )
    path = trainer.run / f"replay_step_{trainer.step + 1:08d}.safetensors"
    assert f"step {trainer.step + 1}: the loss is nan; " in str(mistake)
    assert str(mistake).endswith(f"examples is at fault: some_id (segue train --replay {path} takes it again)")
    return path


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("speech", ("batch.micro_batches=1",)),
        ("speech", ("batch.micro_batches=2", "engine.recompute=true")),
        ("translation", DROPOUT),
        ("translation", (*DROPOUT, "engine.precision=bfloat16")),
    ],
)
def test_a_replay_repeats_the_logged_step(
    tiny_recipe: Path, recipe: Path, tmp_path: Path, task: str, overrides: tuple[str, ...]
) -> None:
    path = tiny_recipe if task == "speech" else recipe
    trainer = built(path, tmp_path / "run", "engine.steps=3", *overrides)
    take_step, files = trainer._take_step, []

    def noted(batches: list[Batch], is_asked_to_stop: bool) -> tuple[Outcome, dict[str, Any]]:
        files.append(keep(trainer))
        return take_step(batches, is_asked_to_stop)

    trainer._take_step = noted  # type: ignore[method-assign]
    trainer.train()
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for file, record in zip(files, logged, strict=True):
        found = list(training.take_again(file))
        assert len(found) == trainer.micro_batches
        assert all(each.first_module is None and not each.examples for each in found)
        if len(found) == 1:
            assert found[0].loss == record["loss"]  # to the last digit
            assert found[0].gradient_norm == pytest.approx(record["gradient_norm"], rel=1e-6)
        else:
            assert sum(each.loss for each in found) == pytest.approx(record["loss"], rel=1e-6)


def test_the_command_replays_a_divergence(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows losses, ids and the module where it began."""
    run = tmp_path / "a run"
    overrides = ("optimizer.learning_rate=1e30", "batch.tokens=40", "engine.clip_norm=1.0")
    assert main(["train", str(recipe), "--out", str(run), *overrides]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    file = run / "replay_step_00000002.safetensors"
    assert said.startswith(
        "segue: step 2: the loss is nan; a lower optimizer.learning_rate or engine.clip_norm may help"
    )
    assert said.endswith(f"(segue train --replay '{file}' takes it again)")
    assert main(["train", "--replay", str(file)]) == 0
    out, err = capsys.readouterr()
    first, module, *examples = out.splitlines()
    ids = first.removeprefix("loss nan  gradient norm nan  ").split(", ")
    assert f"is at fault: {', '.join(ids)} (segue" in said
    assert module == "  first output that is not finite: encoder.0.attention_norm"  # 1e30, squared
    assert examples == [f"  {each} alone: loss nan" for each in ids]
    assert err == ""
    (run / "model").mkdir()
    assert main(["train", str(recipe), "--out", str(run), *overrides]) == 2
    again = f"segue train '{run}/recipe.toml' --from '{run}' --out '{run}_2' optimizer.learning_rate="
    assert f"(--out '{run}_2'; with its best weights: {again}" in capsys.readouterr().err


def test_faulty_module_and_examples_are_named(recipe: Path, tmp_path: Path) -> None:
    """The first module whose output is not finite."""
    trainer = built(recipe, tmp_path / "run", 'model.tied="none"', "batch.tokens=40", "batch.micro_batches=4")
    task: Any = trainer.task
    (token,) = task.vocabularies.source.encode("twelve")
    with torch.no_grad():
        trainer.model.source_embedding.weight[token, 3] = torch.nan  # type: ignore[union-attr,operator]
    found = list(training.take_again(keep(trainer)))
    sources = {pair.id: pair.source for pair in task.source.manifests["train"]}
    assert any(each.examples for each in found)
    for each in found:
        is_hit = any("twelve" in sources[name] for name in each.ids)
        assert math.isnan(each.loss) == is_hit
        assert each.first_module == ("source_embedding" if is_hit else None)
        at_fault = [name for name, loss in each.examples if math.isnan(loss)]
        assert at_fault == [name for name in each.ids if "twelve" in sources[name]]


def test_nonfinite_gradients_are_found(recipe: Path, tmp_path: Path) -> None:
    """Also behind a finite loss."""
    trainer = built(recipe, tmp_path / "run", "batch.tokens=40")
    file = keep(trainer)
    task, loss = trainer.task, trainer.task.loss

    def steep(model: Any, batch: Any, phase: str) -> Any:
        found = dict(loss(model, batch, phase))
        total = found[LOSS].total
        return found | {LOSS: Term(total + (0 * total).sqrt())}

    task.loss = steep  # type: ignore[method-assign]
    (found,) = replay.take_again(task, trainer.source, trainer.engine, 1, trainer.seed, file)
    assert math.isfinite(found.loss)
    assert not math.isfinite(found.gradient_norm)
    assert [name for name, _ in found.examples] == found.ids


@pytest.mark.parametrize("wrong", ["missing", "text", "weights", "alone", "of another model", "of other data"])
def test_a_wrong_file_is_one_clear_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    trainer = built(recipe, tmp_path / "run")
    file = keep(trainer)
    weights, metadata = load_file(file), {"segue_step": "0", "segue_data": trainer.source.fingerprint()}
    message = "not a replay file: "
    if wrong == "missing":
        file.unlink()
    elif wrong == "text":
        file.write_text("Dear all,")
    elif wrong == "weights":
        save_file(weights, file)
    elif wrong == "alone":
        file = file.rename(tmp_path / file.name)
        message = "no recipe.toml next to it; a replay file is read in its run directory\n"
    elif wrong == "of other data":
        save_file(weights, file, {**metadata, "segue_data": "train 36 cafe"})
        message = "the data changed since; put them back as they were to take this step again\n"
    else:
        weights["more"] = torch.zeros(1)
        save_file(weights, file, metadata)
        message = "of another model: more\n"
    assert main(["train", "--replay", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"segue: {file}: {message}")
    assert err.count("\n") == 1


def test_an_unwritable_replay_file_is_an_error(recipe: Path, tmp_path: Path) -> None:
    trainer = built(recipe, tmp_path / "run")
    file = keep(trainer)
    file.unlink()
    file.mkdir()  # something is in its place
    with pytest.raises(OSError, match="replay_step_00000001"):
        keep(trainer)


def test_skip_bad_works_for_a_replay(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = keep(built(recipe, tmp_path / "run"))
    given: list[Any] = []

    def take_again(*arguments: Any) -> list[Any]:
        given.append(arguments)
        return []

    monkeypatch.setattr(training, "take_again", take_again)
    assert main(["train", "--replay", str(file), "engine.threads=2", "--skip-bad"]) == 0
    assert given == [(file, ["engine.threads=2", "data.skip_bad=true"])]
