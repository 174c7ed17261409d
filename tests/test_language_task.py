"""The task of language modeling: training, evaluation and generation of a model that counts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import segue
from segue import report, tasks, training
from segue.cli import main
from segue.data.documents import END
from segue.decoding.sampling import SamplingSection
from segue.engine.distributed.parallel import ALONE
from segue.errors import UserError
from segue.runtime.language_evaluation import _windows
from segue.runtime.language_model import LanguageModel
from segue.tasks.language_modeling import Recipe

GREEDY = SamplingSection(temperature=0)


@pytest.fixture(scope="module")
def model(trained_language_model: Path) -> LanguageModel:
    found: LanguageModel = segue.load(trained_language_model, "cpu")
    return found


def test_a_model_learns_to_count(model: LanguageModel) -> None:
    ((found,),) = model.generate("three four", tokens=40, sampling=GREEDY, is_sliding=True)
    assert found.text.startswith(" five six seven")


def test_evaluation_in_training_counts_every_token(trained_language_model: Path, texts: Path) -> None:
    """The loss is the mean over all development tokens and ends; bits per byte are of the texts."""
    last = json.loads((trained_language_model / "metrics.jsonl").read_text().splitlines()[-1])["dev"]
    documents = [json.loads(line)["text"] for line in (texts / "dev.jsonl").read_text().splitlines()]
    assert last["bytes"] == sum(map(len, documents))
    assert last["tokens"] == last["bytes"] + len(documents)
    assert last["bits_per_byte"] == pytest.approx(last["loss"] * last["tokens"] / last["bytes"] / math.log(2))


def test_scores_equal_those_of_single_documents(model: LanguageModel, texts: Path, tmp_path: Path) -> None:
    """Each document alone, as a whole, by the model itself."""
    documents = [json.loads(line)["text"] for line in (texts / "test.jsonl").read_text().splitlines()]
    documents = [each[: model.metadata.context - 1 - number % 20] for number, each in enumerate(documents)]
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    found = model.evaluate(path)
    nats, tokens = 0.0, 0
    for each in documents:
        row = [model.end, *model.tokenizer.encode(each), model.end]
        losses = model.backend.losses(np.array([row[:-1]]), np.array([row[1:]]))
        nats, tokens = nats + float(losses.sum()), tokens + len(row) - 1
    assert found["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / sum(map(len, documents)) / math.log(2), rel=1e-5)
    words = sum(len(each.strip().split(" ")) for each in documents)
    assert found["words"] == words
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / (words - 1)), rel=1e-5)
    assert found["intervals"]["loss"][0] < found["loss"] < found["intervals"]["loss"][1]


@pytest.mark.parametrize(
    ("size", "context", "stride"), [(1, 8, 2), (8, 8, 2), (9, 8, 2), (50, 8, 3), (50, 8, 8), (39, 8, 16)]
)
def test_windows_score_each_token_once(size: int, context: int, stride: int) -> None:
    tokens = list(range(1, size + 1))
    scored: list[int] = []
    for window in _windows(0, tokens, 0, context, stride):
        assert len(window.inputs) == len(window.targets) <= context
        assert window.inputs[1:] == window.targets[:-1]
        scored += window.targets[-window.num_scored :]
        if len(scored) > context:
            assert window.num_scored <= stride
    assert scored == [*tokens, 0]


def test_the_same_seed_gives_the_same_text(model: LanguageModel) -> None:
    """Whatever else is asked for at the same time."""
    section = SamplingSection(temperature=3.0, seed=4)
    prompts = ["one", "two three", "", "nine ten eleven"]
    together = model.generate(prompts, tokens=12, samples=2, sampling=section)
    again = model.generate(prompts[:1], tokens=12, samples=2, sampling=section)
    assert again[0] == together[0]
    assert together[0][0].text != together[0][1].text


def test_pieces_are_the_whole_text(model: LanguageModel) -> None:
    section = SamplingSection(temperature=1.0, seed=2)
    for stop in ((), (" six",), ("zzz", "e")):
        ((whole,),) = model.generate("four", tokens=20, stop=stop, sampling=section)
        pieces = list(model.stream("four", tokens=20, stop=stop, sampling=section))
        assert "".join(pieces) == whole.text
        assert not any(each in whole.text for each in stop)


def test_endings_are_told_apart(model: LanguageModel) -> None:
    prompt = "one two three four five"
    ((stopped,),) = model.generate(prompt, tokens=8, stop=[" six"], sampling=GREEDY)
    assert (stopped.text, stopped.ending) == ("", "stop")
    ((cut,),) = model.generate(prompt, tokens=3, sampling=GREEDY)
    assert (len(cut.tokens), cut.ending) == (3, "length")
    ended = [each for (each,) in model.generate(["one."] * 2, tokens=10, sampling=GREEDY)]
    assert {each.ending for each in ended} == {"end"}
    assert {each.text for each in ended} == {""}


def test_a_prompt_must_fit(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"prompt 2: .* more than the model's context of 32; .*--slide"):
        model.generate(["one", "two " * 20], tokens=5)
    with pytest.raises(UserError, match=r"prompt 1: outside the tokenizer's alphabet: 'Q'"):
        model.generate("Q")


def test_the_command_streams_and_prints_json(
    trained_language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(trained_language_model), "two three", "--tokens", "9", "--temperature", "0"]
    assert main(words) == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("two three four")
    assert main([*words, "--json"]) == 0
    assert "two three" + json.loads(capsys.readouterr().out)["text"] + "\n" == streamed
    (tmp_path / "prompts.txt").write_text("two three\nsix\n")
    words = ["generate", str(trained_language_model), "--prompts", str(tmp_path / "prompts.txt"), "--temperature", "0"]
    assert main([*words, "--tokens", "9", "--samples", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["prompt"], each["sample"]) for each in rows] == [
        *(("two three", 0), ("two three", 1)),
        *(("six", 0), ("six", 1)),
    ]
    assert "two three" + rows[0]["text"] + "\n" == streamed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", "1.5"], "--top-p 1.5: Input should be less than or equal to 1"),
        (["a", "--prompts", "b.txt"], "give PROMPT or --prompts"),
        (["one two", "--tokens", "100"], "--slide"),
    ],
)
def test_mistakes_are_explained(
    trained_language_model: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["generate", str(trained_language_model), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out  # nor the prompt


def test_training_goes_on_from_another_vocabulary(
    trained_language_model: Path, language_recipe: Path, texts: Path, tmp_path: Path
) -> None:
    """Characters that both know keep their rows."""
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev"):
        text = (texts / f"{split}.jsonl").read_text().replace("twelve", "zwölf")
        (data / f"{split}.jsonl").write_text(text)
    words = [f"data.root={data}", f"start.model={trained_language_model}", "start.tokenizer=recipe"]
    segue.train(language_recipe, tmp_path / "run", *words, "engine.steps=1", "optimizer.learning_rate=1e-9")
    before, after = (tasks.restore(each) for each in (trained_language_model, tmp_path / "run"))
    assert "ö" in after.tokenizer.tokens
    for token in ("n", "e", END):
        rows = [each.model.embedding.weight[each.tokenizer.tokens.index(token)] for each in (before, after)]
        assert torch.allclose(rows[0], rows[1], atol=1e-6)


def test_a_recipe_is_estimated_without_data(language_recipe: Path) -> None:
    found = tasks.estimate(language_recipe, 2, 8.0)
    section = Recipe.model_validate(training.read(language_recipe)[0].model_dump())
    assert found.parameters == sum(each.numel() for each in section.model.build(31).parameters())


def test_texts_are_tokenized_once(language_recipe: Path, texts: Path, tmp_path: Path) -> None:
    section, module = training.read(language_recipe)
    first = module.build_source(section, tmp_path / "a", ALONE)[1]
    (kept,) = {file.path.parent for file in first.files.values()}
    time = (kept / "train.bin").stat().st_mtime_ns
    second = module.build_source(section, tmp_path / "b", ALONE)[1]
    assert (kept / "train.bin").stat().st_mtime_ns == time
    assert second.fingerprint() == first.fingerprint()
    assert kept.is_relative_to(texts)


def test_a_report_shades_what_was_not_expected(model: LanguageModel, texts: Path, tmp_path: Path) -> None:
    """The pieces of a document are its text, and their losses are those of its tokens."""
    evaluation = model.evaluator.explain(texts / "test.jsonl")
    example = evaluation.examples[0]
    assert "".join(piece for piece, _ in example.pieces) == example.reference
    row = [model.end, *model.tokenizer.encode(example.reference)][: model.metadata.context]
    losses = model.backend.losses(np.array([row[:-1]]), np.array([row[1:]]))[0]
    assert [nats for _, nats in example.pieces[: len(losses)]] == pytest.approx(losses.tolist(), abs=1e-4)
    report.write(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="shaded"') >= 20
    assert "worst of 40" in page


def test_batches_of_any_size_give_the_same_texts(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """More samples than rows of a batch, too; `generate_each` gives the same one after the other."""
    section = SamplingSection(temperature=3.0)
    prompts = ["one", "two three", "four"]
    whole = model.generate(prompts, tokens=5, samples=5, sampling=section)
    assert list(model.generate_each(prompts, tokens=5, samples=5, sampling=section)) == whole
    monkeypatch.setattr(LanguageModel, "BATCH", 2)
    assert model.generate(prompts, tokens=5, samples=5, sampling=section) == whole
    assert len({each.text for found in whole for each in found}) > 10


def test_all_prompts_are_checked_before_the_first(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "BATCH", 1)
    monkeypatch.setattr(model, "backend", None)  # nothing is generated
    for bad, message in (
        ("two " * 20, "prompt 3: .*context"),
        ("\udc80", "prompt 3: not Unicode"),
        ("Q", "prompt 3: out"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate_each(["one", "two", bad], tokens=5)


def test_a_stop_may_be_one_string(model: LanguageModel) -> None:
    ((found,),) = model.generate("one two three", tokens=12, stop=" five", sampling=GREEDY)
    assert found.text == " four"


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"tokens": -1}, {"samples": 0}])
def test_numbers_are_above_0(model: LanguageModel, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="above 0"):
        model.generate("one", tokens=wrong.get("tokens", 5), samples=wrong.get("samples", 1))


def test_a_stride_has_its_bound(language_recipe: Path) -> None:
    with pytest.raises(UserError, match=r"stride 33 is more than model\.context \(32\)"):
        training.read(language_recipe, ["stride=33"])
