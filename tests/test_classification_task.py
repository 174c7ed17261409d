"""Classification while it is learned: batches, losses, what cannot be learned from, runs."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segue
from segue import recipe, tasks
from segue.cli import main
from segue.data.batching import MicroBatch
from segue.data.examples import Labeled
from segue.data.manifest import Manifest, write_manifest
from segue.engine.distributed.parallel import ALONE
from segue.engine.log import Log
from segue.engine.task import LOSS
from segue.errors import UserError
from segue.tasks import classification
from segue.tasks.classification import Classifying, ClassPrediction, Recipe

KINDS = ["sounds", "texts"]


def section_of(path: Path, *overrides: str) -> Recipe:
    return recipe.validate(recipe.read(path, overrides), Recipe)


def task_of(path: Path, run: Path, *overrides: str) -> Classifying:
    """On data that were checked."""
    section, source = classification.build_source(section_of(path, *overrides), run, ALONE)
    return classification.build_task(section, source)


def micro_batch(*indices: int, epoch: int = 0) -> MicroBatch:
    return MicroBatch(epoch, np.array(indices))


def random_model(task: Classifying) -> nn.Module:
    torch.manual_seed(0)
    model = task.build_model().eval()
    for module in model.modules():  # means and variances as after some training
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def alone(inputs: Tensor, lengths: Tensor, row: int) -> tuple[Tensor, Tensor]:
    return inputs[row : row + 1, : int(lengths[row])], lengths[row : row + 1]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(kind: str, class_recipes: dict[str, Path]) -> Path:
    return class_recipes[kind]


@pytest.fixture
def data(path: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be written to."""
    return shutil.copytree(section_of(path).data.root, tmp_path / "data")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- Batches and losses ---


@torch.inference_mode()
def test_padding_changes_no_score(path: Path, tmp_path: Path) -> None:
    task = task_of(path, tmp_path / "run")
    model = random_model(task)
    batch = task.source.load("dev", micro_batch(*range(8)))
    inputs, lengths = batch.inputs[:2]
    assert len(set(lengths.tolist())) > 1
    scores = model(inputs, lengths)
    for row in range(len(lengths)):
        torch.testing.assert_close(scores[row], model(*alone(inputs, lengths, row))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_sum_over_examples(path: Path, tmp_path: Path, smoothing: float) -> None:
    """Whatever the batch."""
    task = task_of(path, tmp_path / "run", f"label_smoothing={smoothing}")
    model = random_model(task)
    whole = task.source.load("dev", micro_batch(*range(8)))
    wanted, likelihoods = [], []
    for row, target in enumerate(whole.targets):
        scores = model(*alone(*whole.inputs[:2], row))
        wanted.append(F.cross_entropy(scores, target[None], label_smoothing=smoothing).item())
        likelihoods.append(F.cross_entropy(scores, target[None]).item())
    for rows in ([*range(8)], [7, 2], [4]):
        batch = task.source.load("dev", micro_batch(*rows))
        terms = task.loss(model, batch)
        assert task.counts(batch) == {"targets": len(rows)}
        assert terms[LOSS].total.item() == pytest.approx(sum(wanted[row] for row in rows), rel=1e-4)
        assert terms["likelihood_loss"].weight == 0
        found = [each.loss for each in task.predict(model, batch)]
        assert found == pytest.approx([likelihoods[row] for row in rows], rel=1e-4)


def test_each_sound_is_used_once_per_epoch(
    class_recipes: dict[str, Path], labeled_sounds: Path, tmp_path: Path
) -> None:
    """None is noise alone."""
    task = task_of(class_recipes["sounds"], tmp_path / "run")
    label_of = {line["audio_filepath"]: line["label"] for line in lines_of(labeled_sounds / "train.jsonl")}
    plan = task.source.plan("train")
    used = Counter[str]()
    lengths: set[int] = set()
    for number in range(2 * plan.num_micro_batches):
        batch = task.source.load("train", plan.micro_batch(number))
        used.update(batch.ids)
        lengths.update(batch.inputs.lengths.tolist())
        assert [task.classes[target] for target in batch.targets] == [label_of[each] for each in batch.ids]
    assert used == dict.fromkeys(label_of, 2)
    assert len(lengths) > len(label_of)  # pauses and speeds of two epochs


def test_scores_follow_the_requested_metric(path: Path, tmp_path: Path) -> None:
    predictions = [ClassPrediction("", right, said, 0.5) for right, said in ("aa", "ab", "aa", "bb")]
    task = task_of(path, tmp_path / "run", "metric=macro_f1")
    assert task.best_metric == ("macro_f1", "max")
    scores = task.score(predictions)
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["loss"] == 0.5
    with pytest.raises(UserError, match="nothing to score"):
        task.score([])


# --- What cannot be learned from ---


def test_bad_lines_are_named_with_file_line_and_key(kind: str, path: Path, data: Path, tmp_path: Path) -> None:
    good = lines_of(data / "train.jsonl")
    other = {"text": "one two"} if kind == "sounds" else {"audio_filepath": "a.wav", "duration": 1.0}
    without = {key: value for key, value in good[1].items() if key != "label"}
    for bad, message in (
        (without, "lacks the key 'label'"),
        ({**good[1], "label": " "}, "label: empty"),
        ({**good[1], "label": None}, "label: a text or a whole number wanted, got null"),
        ({**good[1], "label": True}, "label: a text or a whole number wanted, got true"),
        ({"label": "x", **other}, f"{'audio_filepath' if kind == 'sounds' else 'text'}: "),
        ({"label": "x"}, "lacks the key 'text'"),
    ):
        write_lines(data / "train.jsonl", [good[0], bad, *good[2:]])
        with pytest.raises(UserError) as raised:
            task_of(path, tmp_path / "run", f"data.root={data}")
        assert f"{data}/train.jsonl:2: {message}" in str(raised.value)


def test_unknown_dev_classes_are_refused(
    path: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or left out and counted."""
    lines = lines_of(data / "dev.jsonl")
    write_lines(data / "dev.jsonl", [lines[0], {**lines[1], "label": "new"}, *lines[2:]])
    with pytest.raises(UserError) as raised:
        task_of(path, tmp_path / "run", f"data.root={data}")
    message = f"{data}/dev.jsonl:2: label: 'new' is not a class of the model (classes: "
    assert str(raised.value).startswith(message)
    task = task_of(path, tmp_path / "run", f"data.root={data}", "data.skip_bad=true")
    assert len(task.source.manifests["dev"]) == len(lines) - 1
    assert "1 unusable example left out" in capsys.readouterr().err


def test_a_single_class_is_refused(path: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class of one example is warned about."""
    lines = lines_of(data / "train.jsonl")
    write_lines(data / "train.jsonl", [*lines, {**lines[0], "label": "rare", "id": "x"}])
    task_of(path, tmp_path / "run", f"data.root={data}")
    warned = f"{data}/train.jsonl:{len(lines) + 1}: label: the only training example of 'rare'"
    assert warned in capsys.readouterr().err
    write_lines(data / "train.jsonl", [line for line in lines if line["label"] == lines[0]["label"]])
    with pytest.raises(UserError, match=r"train\.jsonl: label: all have '.*'; at least two classes are needed"):
        task_of(path, tmp_path / "run", f"data.root={data}")


def test_recipe_classes_keep_their_order(class_recipes: dict[str, Path], tmp_path: Path) -> None:
    path = class_recipes["texts"]
    task = task_of(path, tmp_path / "run")
    assert task.recipe.classes == task.classes == ("large", "small")
    task = task_of(path, tmp_path / "other", 'classes=["small", "large", "huge"]')
    assert task.classes == ("small", "large", "huge")
    assert task.source.load("dev", micro_batch(0, 1)).targets.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"train\.jsonl:2: label: 'large' is not a class"):
        task_of(path, tmp_path / "third", 'classes=["small", "huge"]')


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("sounds", "tokenizer.kind=words", "tokenizer: model.kind jasper classifies sounds, which have none"),
        ("sounds", "augmentation.joined_utterances=2", "joined sounds would not have a single class"),
        ("sounds", "batch.tokens=100", "batch.seconds: needed for sounds, without batch.tokens"),
        ("sounds", 'classes=["a", "a"]', "classes: a class is listed twice"),
        ("texts", "features.mel_bins=16", "features: model.kind transformer classifies texts, which have none"),
    ],
)
def test_mismatched_recipe_parts_are_refused(
    class_recipes: dict[str, Path], kind: str, override: str, message: str
) -> None:
    with pytest.raises(UserError) as raised:
        section_of(class_recipes[kind], override)
    assert message in str(raised.value)


def test_labels_are_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a", "label": 7}\n{"text": "b", "label": " two words ", "id": "i"}\n')
    read = list(Manifest(Labeled, [tmp_path / "x.jsonl"]))
    assert [(each.id, each.label, each.text) for each in read] == [("x.jsonl:1", "7", "a"), ("i", "two words", "b")]
    write_manifest(tmp_path / "y.jsonl", read)
    assert lines_of(tmp_path / "y.jsonl")[1] == {"id": "i", "text": "b", "label": "two words"}


# --- Runs ---


def records(run: Path) -> list[dict[str, Any]]:
    """The log's lines, without what depends on the clock."""
    clock = ("time", "rate", "data_wait", "memory_gb")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines_of(run / "metrics.jsonl")]


def test_models_learn_and_cards_list_classes(kind: str, trained_classifiers: dict[str, Path], tmp_path: Path) -> None:
    run = trained_classifiers[kind]
    evaluations = [record["dev"] for record in records(run) if "dev" in record]
    assert max(scores["accuracy"] for scores in evaluations) == 1
    assert set(evaluations[0]) == {"accuracy", "macro_f1", "loss", kind}
    card = (run / "model" / "README.md").read_text()
    pipeline = {"sounds": "audio-classification", "texts": "text-classification"}[kind]
    assert f"pipeline_tag: {pipeline}\n" in card
    assert ", ".join(tasks.restore(run).recipe.classes) in card
    assert "- Accuracy on dev.jsonl, which chose this state of the model: 100.00%" in card


@pytest.mark.parametrize("kind", ["sounds", pytest.param("texts", marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("engine.steps=12", "engine.evaluate_every=6", "engine.log_every=1")
    segue.train(path, tmp_path / "whole", *short)
    advance = Log.advance

    def advance_and_interrupt(log: Log, step: int) -> None:
        advance(log, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "advance", advance_and_interrupt)
        assert segue.train(path, tmp_path / "run", *short).step == 5
    segue.train(path, tmp_path / "run", *short)
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    ours, wanted = (tmp_path / name / "model" / "model.safetensors" for name in ("run", "whole"))
    assert ours.read_bytes() == wanted.read_bytes()


def test_estimate_needs_no_data(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(path), "--memory", "8", "data.root=nowhere"]) == 0
    said = capsys.readouterr().out
    assert "10 classes, since nowhere/train.jsonl does not exist" in said
    assert {"sounds": "1 sound of 4.00 s", "texts": "17 texts of 11 tokens"}[kind] in said


def test_a_base_with_other_input_is_refused(
    class_recipes: dict[str, Path],
    trained_classifiers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", str(class_recipes["sounds"]), "--from", str(trained_classifiers["texts"])]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "reads other input than this recipe (features); set the recipe's features" in capsys.readouterr().err
