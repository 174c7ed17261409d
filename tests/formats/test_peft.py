"""Adapters in PEFT's files, both ways: the real peft loads ours, and we load what it saves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import segue
from segue import formats, tasks
from segue.cli import main
from segue.tasks.translation import Trained

from .conftest import PAPER

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Model has .tie_word:UserWarning"
)  # peft and transformers, of each other

LINES = ["one two three four", "five six seven", "three three one nine eight"]


@pytest.fixture(scope="module")
def base(paper_translator: Path) -> Path:
    return paper_translator


@pytest.fixture(scope="module")
def base_hf(base: Path) -> Path:
    formats.export(base, "huggingface", base.with_name("base_hf"), max_metric_loss=5)
    return base.with_name("base_hf")


def scores(trained: Trained, rows: Sequence[Sequence[int]]) -> Tensor:
    """(B, V): of the token after the first one."""
    found = []
    for row in rows:
        source, begin = torch.tensor([row]), torch.tensor([[trained.vocabularies.begin]])
        with torch.inference_mode():
            found.append(trained.model(source, torch.tensor([len(row)]), begin, torch.tensor([0]))[0])
    return torch.stack(found)


def their_scores(model: Any, rows: Sequence[Sequence[int]], begin: int) -> Tensor:
    with torch.inference_mode():
        return torch.stack(
            [
                model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[begin]])).logits[0, 0]
                for row in rows
            ]
        )


def rows_of(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(line).input_ids for line in LINES]


@pytest.mark.slow
def test_peft_loads_what_is_exported(reversal_recipe: Path, base: Path, base_hf: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    learn = 'start.adapter.learn=["decoder.1.feed_forward_norm", "encoder.0.attention.query.bias"]'
    adapter = ("start.adapter.rank=3", "start.adapter.alpha=5", learn, f"start.model={base}")
    segue.train(reversal_recipe, run, *PAPER, *adapter, "engine.steps=20", "optimizer.learning_rate=0.02")
    formats.export(run, "peft", out)
    rows = rows_of(base_hf)
    plain = AutoModelForSeq2SeqLM.from_pretrained(base_hf).eval()
    ours = tasks.restore(run)
    before = their_scores(plain, rows, ours.vocabularies.begin)
    theirs = their_scores(peft.PeftModel.from_pretrained(plain, str(out)).eval(), rows, ours.vocabularies.begin)
    torch.testing.assert_close(theirs, scores(ours, rows), atol=1e-4, rtol=1e-4)
    assert (theirs - before).abs().max() > 0.1, "an adapter that changes nothing proves nothing"


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"modules_to_save": ["decoder.layers.1.fc2"]}])
def test_what_peft_saves_is_imported(base: Path, base_hf: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_pretrained(base_hf).eval()
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=7, target_modules=["q_proj", "fc1"], **settings)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
            assert "lora" in name or "modules_to_save" in name
    adapted.eval().save_pretrained(str(saved))
    assert main(["import", str(saved), str(out), "--base", str(base)]) == 0
    ours = tasks.restore(out)
    rows = rows_of(base_hf)
    torch.testing.assert_close(
        scores(ours, rows), their_scores(adapted, rows, ours.vocabularies.begin), atol=1e-4, rtol=1e-4
    )
    assert main(["merge", str(out), str(tmp_path / "merged")]) == 0
    torch.testing.assert_close(scores(tasks.restore(tmp_path / "merged"), rows), scores(ours, rows))


def saved_adapter(base_hf: Path, folder: Path, **changes: Any) -> Path:
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q_proj"])
    peft.get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(base_hf), config).save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "adapter_config.json: use_dora: true cannot be imported, only false"),
        ({"peft_type": "IA3"}, "peft_type: 'IA3' cannot be imported, only 'LORA'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern: "),
        ({"r": 5}, "has shape (2, 32), the base says (5, 32)"),
        ({"r": None}, "adapter_config.json: r: missing"),
    ],
)
def test_other_adapters_are_refused(
    base: Path, base_hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    source = saved_adapter(base_hf, tmp_path / "saved", **changes)
    assert main(["import", str(source), str(tmp_path / "out"), "--base", str(base)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_needs_its_base(
    base: Path, base_hf: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = saved_adapter(base_hf, tmp_path / "saved"), tmp_path / "out"
    assert main(["import", str(source), str(out)]) == 2
    assert f"{source}: an adapter: segue import {source} {out} --base MODEL" in capsys.readouterr().err
    assert main(["import", str(source), str(out), "--base", str(trained)]) == 2
    assert "PEFT's adapters are known for translators" in capsys.readouterr().err
    assert main(["import", str(base_hf), str(out), "--base", str(base)]) == 2
    assert f"--base: {base_hf} is no adapter of PEFT's" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none"), str(out), "--base", str(base)]) == 2
    assert f"{tmp_path / 'none'}: no such file or folder" in capsys.readouterr().err


def test_a_trained_output_layer_is_refused(
    reversal_recipe: Path, base: Path, base_hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT would save the embedding, and leave the output layer that is tied to it."""
    adapter = ("start.adapter.rank=3", 'start.adapter.learn=["target_embedding"]', f"start.model={base}")
    segue.train(reversal_recipe, tmp_path / "run", *PAPER, *adapter, "engine.steps=2")
    assert main(["export", str(tmp_path / "run"), "peft", str(tmp_path / "out")]) == 2
    assert "target_embedding.weight is trained, too, and is the output layer" in capsys.readouterr().err
    model = AutoModelForSeq2SeqLM.from_pretrained(base_hf)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"], modules_to_save=["shared"])
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "saved"))
    assert main(["import", str(tmp_path / "saved"), str(tmp_path / "imported"), "--base", str(base)]) == 2
    assert "embeddings that are the output layer as well cannot be imported" in capsys.readouterr().err


def test_a_whole_model_is_no_adapter(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(base), "peft", str(tmp_path / "out")]) == 2
    assert "no adapter, as PEFT holds; export it to huggingface" in capsys.readouterr().err
