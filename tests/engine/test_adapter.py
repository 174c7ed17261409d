"""LoRA: thin matrices beside the base's weights learn, on any ranks; only they are saved."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import sabotage
import torch
from ranks import KILLED, Start, assert_same_outcome, records, training
from sabotage import call
from safetensors.torch import load_file
from torch import nn

from segue import tasks
from segue.cli import main
from segue.errors import UserError
from segue.layers import lora

ADAPTED = ("start.adapter.rank=4", "start.adapter.alpha=16")


def randomized(layer: lora.LowRankLinear | lora.LowRankConv1d) -> None:
    nn.init.normal_(layer.lora_b)


def test_a_linear_layer_and_its_merged_twin_agree() -> None:
    layer = lora.LowRankLinear(nn.Linear(6, 5), 2, 0.5)
    randomized(layer)
    plain, x = nn.Linear(6, 5), torch.randn(3, 4, 6)
    plain.weight.data = lora.merged(layer.weight, layer.lora_a, layer.lora_b, 0.5).detach()
    plain.bias.data = layer.bias.detach()
    torch.testing.assert_close(layer(x), plain(x))
    expected = nn.functional.linear(x, layer.weight + 0.5 * layer.lora_b @ layer.lora_a, layer.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("settings", [(3, 1, 1, 1), (5, 2, 2, 1), (5, 1, 4, 2), (1, 1, 0, 1)])
def test_a_convolution_and_its_merged_twin_agree(settings: tuple[int, int, int, int]) -> None:
    convolution = nn.Conv1d(6, 5, *settings, bias=False)
    layer = lora.LowRankConv1d(convolution, 2, 3.0)
    randomized(layer)
    convolution.weight.data = lora.merged(layer.weight, layer.lora_a, layer.lora_b, 3.0).detach()
    x = torch.randn(2, 6, 17)
    torch.testing.assert_close(layer(x), convolution(x))


def test_only_chosen_layers_are_adapted() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(4, 4, 3, groups=4), nn.Sequential(nn.Conv1d(4, 2, 1)), nn.ReLU())
    assert lora.adapt(model, lambda name: True, 2, 1.0) == ["0", "2.0"]
    assert type(model[1]) is nn.Conv1d
    assert lora.adapt(nn.Sequential(nn.Linear(3, 3)), lambda name: name != "0", 2, 1.0) == []


@pytest.mark.parametrize("task", ["speech", pytest.param("translation", marks=pytest.mark.slow)])
def test_only_the_adapter_is_saved_and_merges_exactly(
    request: pytest.FixtureRequest,
    task: str,
    tiny_recipe: Path,
    reversal_recipe: Path,
    corpus: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, name, data = {
        "speech": (tiny_recipe, "trained", corpus),
        "translation": (reversal_recipe, "trained_translator", pairs),
    }[task]
    base: Path = request.getfixturevalue(name)
    run, out = tmp_path / "run", tmp_path / "merged"
    steps = ("engine.steps=6", "engine.evaluate_every=3", "engine.average_count=2")
    assert main([str(word) for word in ("train", recipe, "--from", base, "--out", run, *ADAPTED, *steps)]) == 0
    assert not (run / "model" / "model.safetensors").exists()
    own, before = load_file(run / "model" / "adapter.safetensors"), load_file(base / "model" / "model.safetensors")
    assert own
    assert all(map(lora.is_of_adapter, own))
    assert any(tensor.abs().max() > 0 for name, tensor in own.items() if name.endswith(lora.B))
    assert main(["merge", str(run), str(out)]) == 0
    merged = load_file(out / "model.safetensors")
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, before[name]) == (f"{name.removesuffix('.weight')}.{lora.A}" not in own), name
    capsys.readouterr()
    name = "word_error_rate" if task == "speech" else "bleu"
    for model in (run, out):  # what the training found with the matrices beside the weights
        assert main(["evaluate", str(model), str(data / "dev.jsonl"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found[name] == pytest.approx(records(run)[-1]["averaged"][name], abs=1e-6)


@pytest.fixture(scope="module")
def alone(start: Start, recipe: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that one rank has trained. Not to be written to."""
    run = tmp_path_factory.mktemp("adapter") / "alone"
    assert start(1, [*training(recipe, run), *based(undisturbed)]).end().statuses == [0]
    assert len(records(run)) == 4
    return run


def based(base: Path) -> list[object]:
    return ["--from", base, "engine.steps=4", *ADAPTED]


@pytest.mark.parametrize(
    ("data_parallel", "shard", "tensor_parallel"),
    [
        pytest.param(2, 1, 1, id="2 copies"),
        pytest.param(1, 1, 2, id="2 tensor-parallel", marks=pytest.mark.slow),
        pytest.param(1, 2, 2, id="2 shards x 2 tensor-parallel", marks=pytest.mark.slow),
    ],
)
def test_any_layout_trains_the_same_adapter(
    start: Start,
    recipe: Path,
    undisturbed: Path,
    alone: Path,
    tmp_path: Path,
    data_parallel: int,
    shard: int,
    tensor_parallel: int,
) -> None:
    layout = (f"data_parallel={data_parallel}", f"shard={shard}", f"tensor_parallel={tensor_parallel}")
    words = [*training(recipe, tmp_path / "run"), *based(undisturbed), *(f"engine.{each}" for each in layout)]
    ended = start(data_parallel * shard * tensor_parallel, words).end()
    assert set(ended.statuses) == {0}, ended.lines
    for found, expected in zip(records(tmp_path / "run"), records(alone), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
    ours, theirs = (load_file(run / "model" / "adapter.safetensors") for run in (tmp_path / "run", alone))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "ranks", "tolerance"),
    [
        (("engine.recompute=true",), 1, 1e-5),
        (("engine.precision=float16",), 1, 2e-3),
        pytest.param(("engine.precision=bfloat16", "engine.shard=2"), 2, 1e-2, marks=pytest.mark.slow),
        pytest.param(("engine.offload=true", "engine.shard=2"), 2, 1e-5, marks=pytest.mark.slow),
        pytest.param(("engine.compile=true",), 1, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_any_setting_trains_the_same_adapter(
    start: Start,
    recipe: Path,
    undisturbed: Path,
    alone: Path,
    tmp_path: Path,
    settings: Sequence[str],
    ranks: int,
    tolerance: float,
) -> None:
    run = tmp_path / "run"
    ended = start(ranks, [*training(recipe, run), *based(undisturbed), *settings]).end()
    assert set(ended.statuses) == {0}, ended.lines
    for ours, theirs in zip(records(run), records(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
    weights = [load_file(each / "model" / "adapter.safetensors") for each in (run, alone)]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.slow
def test_a_killed_adapter_run_resumes_exactly(start: Start, recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    words = ("--from", undisturbed, *ADAPTED)
    assert start(2, [*training(recipe, tmp_path / "whole"), *words]).end().statuses == [0, 0]
    kill = call(sabotage.at_step, 8, [0], call(sabotage.send_to_all, signal.SIGKILL))
    assert start(2, [*training(recipe, tmp_path / "killed"), *words], kill).end().statuses == [KILLED, KILLED]
    assert start(2, [*training(recipe, tmp_path / "killed"), *words]).end().statuses == [0, 0]
    assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


def test_an_adapter_names_its_missing_base(
    reversal_recipe: Path, barely_trained_translator: Path, tmp_path: Path
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(barely_trained_translator / "model", base)
    words = ["train", str(reversal_recipe), "--from", str(base), "--out", str(run), *ADAPTED, "engine.steps=2"]
    assert main(words) == 0
    content = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="an adapter of other weights than"):
        tasks.load(run)
    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"an adapter of .*base, which is not there; put the base back, or correct"):
        tasks.load(run)


def test_mistakes_with_adapters_are_one_line(
    reversal_recipe: Path, barely_trained_translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        command = ["train", str(reversal_recipe), "--out", str(tmp_path / "run"), "engine.steps=2", *words]
        assert main(command) == 2
        return capsys.readouterr().err

    based = ("--from", str(barely_trained_translator), *ADAPTED)
    assert "adapter: it needs a base" in said(*ADAPTED)
    assert "start.adapter.learn names exceptions" in said(*based, 'start.freeze=["encoder"]')
    assert 'start.adapter.parts: "nothing" is no part of this model' in said(*based, 'start.adapter.parts=["nothing"]')
    other = ("start.tokenizer=recipe", "tokenizer.kind=characters", "tokenizer.alphabet=auto")
    assert "not as in the base, and have to be trained: start.adapter.learn='[" in said(*based, *other)
    assert main(["merge", str(barely_trained_translator), str(tmp_path / "out")]) == 2
    assert "no adapter; it is a model already" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    memory = []
    for overrides in ((), ("start.model=base", *ADAPTED)):
        words = ["estimate", "multi30k_transformer", "--memory", "80", "--json", "tokenizer.size=500", *overrides]
        assert main(words) == 0
        memory.append(json.loads(capsys.readouterr().out))
    assert memory[0] != memory[1]
