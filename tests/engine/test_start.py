"""Fine-tuning begins with another model's weights: which of them, on any ranks, and what stays as it was."""

import fcntl
import json
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import sabotage
import torch
from ranks import KILLED, Start, assert_same_outcome, records, training
from sabotage import call
from safetensors.torch import load_file, save_file
from torch import nn

from segue import recipe as recipes
from segue import starting
from segue.cli import main
from segue.data import tokenizer
from segue.data.tokenizer import (
    UNKNOWN,
    BPESection,
    BytesSection,
    CharactersSection,
    TokenizerSection,
    WordsSection,
    origins,
)
from segue.data.vocabularies import BEGIN, END, PADDING
from segue.engine.state import start as begin
from segue.errors import UserError

SPECIAL = (PADDING, BEGIN, END, UNKNOWN)
TEXTS = ["the cat sat on the mat", "a cat and a hat", "what is that"]
OTHER_TOKENS = ("start.tokenizer=recipe", "tokenizer.kind=characters", "tokenizer.alphabet= efghilnorstuvwxXYZ")


def model_of(*widths: int) -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b)) for a, b in pairwise(widths)]
    return nn.Sequential(*layers)


def base_of(model: nn.Module, folder: Path, rows: dict[str, begin.Rows] | None = None) -> begin.Base:
    save_file(model.state_dict(), folder / "model.safetensors")
    return begin.Base(folder / "model.safetensors", lambda names: {name: name for name in names}, rows or {})


def test_what_fits_is_loaded_and_the_rest_is_named(tmp_path: Path) -> None:
    base, model = model_of(4, 6, 5), model_of(4, 6, 7, 3)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {each.name: each for each in begin.load(model, base_of(base, tmp_path), 0)}
    assert found.keys() == fresh.keys()
    for name, tensor in model.state_dict().items():
        is_same = name in base.state_dict() and base.state_dict()[name].shape == tensor.shape
        assert found[name].fate == ("loaded" if is_same else "new"), name
        assert torch.equal(tensor, base.state_dict()[name] if is_same else fresh[name])
    assert found["1.0.weight"].detail == "of shape (7, 6), the base's is (5, 6)"
    smaller = model_of(4, 6)
    left = [each.name for each in begin.load(smaller, base_of(base, tmp_path), 0) if each.fate == "left behind"]
    assert left == sorted(name for name in base.state_dict() if name.startswith("1."))


def test_a_base_without_fitting_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fits the recipe's model:\n  0.0.weight: of shape \(3, 2\), the base's is"):
        begin.load(model_of(2, 3), base_of(model_of(9, 9), tmp_path), 0)


def test_rows_are_kept_averaged_or_drawn(tmp_path: Path) -> None:
    base, model = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 2000))
    rows: list[tuple[int, ...]] = [(2,), (0, 1, 1), (3,), *[()] * 1997]
    (weight, bias) = begin.load(model, base_of(base, tmp_path, {"0.weight": rows, "0.bias": rows}), 7)
    assert weight.detail == bias.detail == "2 kept, 1 from a mean of others, 1,997 drawn (rows)"
    for name in ("0.weight", "0.bias"):
        old, new = base.get_parameter(name), model.get_parameter(name)
        assert torch.equal(new[0], old[2])
        torch.testing.assert_close(new[1], (old[0] + 2 * old[1]) / 3)
        assert torch.equal(new[2], old[3])
        torch.testing.assert_close(new[3:].mean(dim=0), old.mean(dim=0), atol=0.05, rtol=0)
        torch.testing.assert_close(new[3:].std(dim=0), old.std(dim=0), atol=0.05, rtol=0)


KINDS: dict[str, TokenizerSection] = {
    "characters": CharactersSection(kind="characters", alphabet=" acdehimnostuw"),
    "bytes": BytesSection(kind="bytes"),
    "bpe": BPESection(kind="bpe", size=40),
    "words": WordsSection(kind="words"),
}


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_new_tokens_are_spelled_in_old_tokens(new: str, old: str) -> None:
    before, now = (tokenizer.build(KINDS[kind], TEXTS, SPECIAL) for kind in (old, new))
    found = origins(now, before)
    assert len(found) == len(now)
    assert [found[number] for number in now.special.values()] == [(n,) for n in before.special.values()]
    for piece, numbers in zip(now.pieces, found, strict=True):
        assert not numbers or b"".join(before.pieces[number] for number in numbers) == piece
    if new == old:
        assert found == [(number,) for number in range(len(now))]
    if old == "bytes":
        assert all(found)
    if old == "characters" and new in ("bpe", "words"):  # their alphabet is that of the texts
        assert all(found)


def test_frozen_weights_do_not_change(
    tiny_recipe: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", tiny_recipe, "--from", trained, "--out", run, 'start.freeze=["encoder.blocks.0", "*.bias"]']
    words += ["engine.steps=4", "engine.average_count=2", "engine.evaluate_every=2", "batch.micro_batches=2"]
    assert main([str(word) for word in words]) == 0
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (trained, run))
    told = json.loads((run / "start.json").read_text())
    assert {each["fate"] for each in told["tensors"]} == {"loaded"}
    for name, tensor in after.items():
        is_frozen = name.startswith("encoder.blocks.0.") or name.endswith("bias")
        if is_frozen or tensor.ndim:  # of those that learn, counters of BatchNorm may be the same by chance
            assert torch.equal(tensor, before[name]) == is_frozen, name
    assert "statistics of 4 BatchNorm layers: 3 estimated anew, 1 kept as in the base" in capsys.readouterr().err
    assert f"Begun with the weights of {trained / 'model'}" in (run / "model" / "README.md").read_text()


def test_statistics_are_kept_while_weights_learn(
    tiny_recipe: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(name: str, *more: str) -> list[str]:
        return ["train", str(tiny_recipe), "--out", str(tmp_path / name), "start.statistics=keep", *more]

    short = ("engine.steps=4", "engine.average_count=2", "engine.evaluate_every=2", "batch.micro_batches=2")
    assert main(words("run", "--from", str(trained), *short)) == 0
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (trained, tmp_path / "run"))
    for name, tensor in after.items():
        is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, before[name]) == is_statistic, name
    assert "with its BatchNorm statistics" in (tmp_path / "run" / "model" / "README.md").read_text()
    capsys.readouterr()
    assert main(words("without")) == 2
    assert 'start: statistics: "keep" needs a base' in capsys.readouterr().err
    first = "{channels = 16, kernel = 7, stride = 2, has_residual = false}"
    assert main(words("other", "--from", str(trained), f"model.blocks=[{first}, {{channels = 20, kernel = 7}}]")) == 2
    assert "start.statistics: encoder.blocks.1.layers.0.1.running_mean: the base has none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shard", "tensor_parallel"),
    [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_spread_runs_start_with_the_same_weights(
    start: Start, recipe: Path, undisturbed: Path, tmp_path: Path, shard: int, tensor_parallel: int
) -> None:
    rehearsal = ('data.rehearsal=["dev.jsonl"]', "data.rehearsal_share=0.2")
    by_depth = ("start.depth_ratio=0.5", "start.thaw_steps=1")
    base = ("--from", undisturbed, "engine.steps=2", *OTHER_TOKENS, *rehearsal, *by_depth)
    for name, ranks, layout in (
        ("alone", 1, ()),
        ("spread", shard * tensor_parallel, (f"engine.shard={shard}", f"engine.tensor_parallel={tensor_parallel}")),
    ):
        assert set(start(ranks, [*training(recipe, tmp_path / name), *base, *layout]).end().statuses) == {0}
    alone, spread = (records(tmp_path / name) for name in ("alone", "spread"))
    assert len(alone) == 2
    for found, expected in zip(spread, alone, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    told = [json.loads((tmp_path / name / "start.json").read_text())["tensors"] for name in ("alone", "spread")]
    assert told[0] == told[1]
    assert {each["fate"] for each in told[0]} == {"loaded", "resized"}


@pytest.mark.slow
def test_a_run_goes_on_without_its_base(start: Start, recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(undisturbed / "model", base)
    rehearsal = ('data.rehearsal=["dev.jsonl"]', "data.rehearsal_share=0.2")
    freeze = ("--from", base, 'start.freeze=["encoder.0"]', "start.thaw_steps=4", *rehearsal)
    assert start(2, [*training(recipe, tmp_path / "whole"), *freeze]).end().statuses == [0, 0]
    kill = call(sabotage.at_step, 8, [0], call(sabotage.send_to_all, signal.SIGKILL))
    killed = start(2, [*training(recipe, tmp_path / "killed"), *freeze], kill).end()
    assert killed.statuses == [KILLED, KILLED]
    shutil.rmtree(base)
    assert start(2, [*training(recipe, tmp_path / "killed"), *freeze]).end().statuses == [0, 0]
    assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


def test_the_bases_recipe_is_the_default(
    corpus: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--from", str(trained), "engine.steps=2", "--out", str(tmp_path / "run")]
    assert main([*words, "engine.threads=1"]) == 2
    assert f"data.root is missing: segue train --from {trained} data.root=FOLDER" in capsys.readouterr().err
    assert main([*words, f"data.root={corpus}"]) == 0
    before, after = (recipes.read(run / "recipe.toml").values for run in (trained, tmp_path / "run"))
    assert after["optimizer"]["learning_rate"] == pytest.approx(0.3 * before["optimizer"]["learning_rate"])
    assert after["engine"]["steps"] == 2
    assert after["model"] == before["model"]
    assert after["start"]["model"] == str(trained)


@pytest.mark.parametrize(
    ("words", "share"),
    [((), 0.3), (("start.adapter.rank=4",), 1), (('start.tokenizer="recipe"',), 1), (("start.tokenizer=keep",), 0.3)],
)
def test_new_parts_learn_at_full_rates(trained: Path, words: tuple[str, ...], share: float) -> None:
    rate = recipes.read(trained / "recipe.toml").values["optimizer"]["learning_rate"]
    _, overrides = starting.own_recipe(str(trained), ["data.root=data", *words])
    assert f"optimizer.learning_rate={rate * share:.3g}" in overrides


def test_few_known_tokens_are_warned_about(
    tiny_recipe: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(tiny_recipe), "--from", str(trained), "--out", str(tmp_path / "run"), "engine.steps=1"]
    assert main([*words, "start.tokenizer=recipe", "tokenizer.alphabet= abcdefghijklm"]) == 0
    assert "the base knows few of these tokens or classes; head.output.weight: 9 drawn" in capsys.readouterr().err


def test_a_classifier_can_start_from_a_recognizer(
    class_recipes: dict[str, Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, recognizer = tmp_path / "run", recipes.read(trained / "recipe.toml").values
    words = ["train", str(class_recipes["sounds"]), "--from", str(trained), "--out", str(run), "engine.steps=1"]
    blocks = [
        "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in each.items()) + "}"
        for each in recognizer["model"]["blocks"]
    ]
    front_end = [f"features.{key}={json.dumps(value)}" for key, value in recognizer["features"].items()]
    assert main([*words, f"model.blocks=[{', '.join(blocks)}]", *front_end]) == 0, capsys.readouterr().err
    told = json.loads((run / "start.json").read_text())["tensors"]
    assert {each["fate"] for each in told if each["name"].startswith("encoder.")} == {"loaded"}
    assert {each["fate"] for each in told if each["name"].startswith("head.")} == {"new", "left behind"}
    words[words.index(str(run))] = str(tmp_path / "adapter")
    words += [f"model.blocks=[{', '.join(blocks)}]", *front_end, "start.adapter.rank=2"]
    assert main(words) == 2
    assert "start.adapter.learn=" in capsys.readouterr().err
    assert main([*words, 'start.adapter.learn=["head"]']) == 0
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    folder = recipes.read(class_recipes["sounds"]).values["data"]["root"]
    found = []
    for model in (tmp_path / "adapter", tmp_path / "merged"):
        assert main(["evaluate", str(model), f"{folder}/dev.jsonl", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert found[0] == found[1]


def test_unusable_bases_are_refused(
    tiny_recipe: Path,
    trained: Path,
    barely_trained_translator: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(base: object, *words: str) -> str:
        run = tmp_path / "run"
        assert main(["train", str(tiny_recipe), "--from", str(base), "--out", str(run), *words]) == 2
        return capsys.readouterr().err.strip()

    assert said(barely_trained_translator).endswith("is a model of translation; this recipe is of speech_recognition")
    assert "nothing: no such folder; a run, model or exported directory is wanted" in said(tmp_path / "nothing")
    assert "reads other input than this recipe (features.mel_bins: " in said(trained, "features.mel_bins=33")
    (tmp_path / "base").mkdir()
    shutil.copytree(trained / "model", tmp_path / "base" / "model")
    with (tmp_path / "base" / ".lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 on host")
        lock.flush()
        for base in (tmp_path / "base", tmp_path / "base" / "model"):
            assert "base/model: process 7 on host is training it, so it may change; wait, or start from a copy" in said(
                base
            )
    assert 'start.freeze: "encoder.block" is no part of this model; it has' in said(
        trained, 'start.freeze=["encoder.block"]'
    )
    assert "start.freeze: nothing is left to learn" in said(trained, 'start.freeze=["*"]')
