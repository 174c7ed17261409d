import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import segue
from segue import recipe
from segue.data.batching import MicroBatch
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.data.vocabularies import Vocabularies
from segue.engine import prediction
from segue.engine.log import Log
from segue.engine.task import LOSS, Split
from segue.errors import UserError
from segue.models.transformer import Transformer
from segue.tasks.translation import (
    PairPrediction,
    Recipe,
    Translation,
    build_model,
    build_task,
    source_of,
)
from segue.tasks.translation.search import TorchSteps, search

RECIPE = """
task = "translation"
tokenizer = { kind = "characters", alphabet = " abcdefghijklmnopqrstuvwxyz" }
batch = { tokens = 1000 }
optimizer = { kind = "adamw", learning_rate = 1e-3 }
schedule = { kind = "cosine", warmup_steps = 1 }
engine = { steps = 1, device = "cpu", threads = 1, workers = 0 }

[model]
kind = "transformer"
width = 16
feed_forward = 24
heads = 2
encoder_layers = 1
decoder_layers = 1
"""
PADDING, BEGIN, END = 0, 1, 2
FIRST = 4  # the number of the first character, after <unk>; of several languages' models it is higher
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def section_of(folder: Path, *overrides: str) -> Recipe:
    (folder / "recipe.toml").write_text(RECIPE)
    return recipe.validate(recipe.read(folder / "recipe.toml", overrides), Recipe)


def write_lines(folder: Path, pairs: Sequence[tuple[str, str]], name: str = "x.jsonl", **keys: Any) -> Path:
    """A manifest of these pairs."""
    lines = [json.dumps({"source": source, "target": target, **keys}) + "\n" for source, target in pairs]
    (folder / name).write_text("".join(lines))
    return folder / name


def task_of(manifest: Path, *overrides: str, split: Split = "train", learnt_from: Path | None = None) -> Translation:
    """On data that were checked."""
    section = section_of(manifest.parent, *overrides)
    learned = Manifest(Pair, [learnt_from or manifest])
    vocabularies = Vocabularies.build(section.tokenizer, section.source_tokenizer, section.text, learned)
    source = source_of(section, vocabularies, {split: Manifest(Pair, [manifest], skip_bad=section.data.skip_bad)})
    source.check()
    return build_task(section, source)


def micro_batch(*indices: int, epoch: int = 0) -> MicroBatch:
    return MicroBatch(epoch, np.array(indices))


def random_model(task: Translation) -> Transformer:
    torch.manual_seed(0)
    model = task.build_model().eval()
    assert isinstance(model, Transformer)
    return model


def numbers(text: str, first: int = FIRST) -> list[int]:
    return [first + ALPHABET.index(character) for character in text]


PAIRS = [
    ("ab", "cd e"),
    ("a b c", "f"),
    ("hello there", "guten tag dort"),
    ("x", "yz"),
    ("so", "also so lang"),
    ("q", "r"),
]


# --- Batches and losses ---


def test_batches_pad_right_and_count_targets(tmp_path: Path) -> None:
    task = task_of(write_lines(tmp_path, PAIRS))
    batch = task.source.load("train", micro_batch(1, 0, 3))
    assert batch.source.tolist() == [
        [*numbers("a b c"), END],
        [*numbers("ab"), END, PADDING, PADDING, PADDING],
        [*numbers("x"), END, PADDING, PADDING, PADDING, PADDING],
    ]
    assert batch.source_lengths.tolist() == [6, 3, 2]
    assert batch.target.tolist() == [
        [BEGIN, *numbers("f"), END, PADDING, PADDING, PADDING],
        [BEGIN, *numbers("cd e"), END],
        [BEGIN, *numbers("yz"), END, PADDING, PADDING],
    ]
    assert batch.target_lengths.tolist() == [2, 5, 3]  # what is predicted: the tokens and the end
    assert task.counts(batch)["targets"] == batch.amount == 10
    assert batch.ids == ["x.jsonl:2", "x.jsonl:1", "x.jsonl:4"]
    assert (batch.sources, batch.references) == (["a b c", "ab", "x"], [("f",), ("cd e",), ("yz",)])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@torch.inference_mode()
def test_loss_is_the_sum_over_pairs(tmp_path: Path, smoothing: float) -> None:
    """Whatever the batch."""
    task = task_of(write_lines(tmp_path, PAIRS), f"label_smoothing={smoothing}")
    model = random_model(task)
    wanted, likelihoods = [], []
    for source, target in PAIRS:
        tokens, written = [*numbers(source), END], [BEGIN, *numbers(target), END]
        places = torch.arange(len(written) - 1)
        scores = model(torch.tensor([tokens]), torch.tensor([len(tokens)]), torch.tensor([written[:-1]]), places)
        labels = torch.tensor(written[1:])
        wanted.append(F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum").item())
        likelihoods.append(F.cross_entropy(scores, labels, reduction="sum").item())
    for indices in ([0, 1, 2, 3, 4, 5], [5, 2], [4]):
        batch = task.source.load("train", micro_batch(*indices))
        terms = task.loss(model, batch)
        assert terms[LOSS].total.item() == pytest.approx(sum(wanted[index] for index in indices), rel=1e-5)
        likelihood = terms["likelihood_loss"]
        assert likelihood.total.item() == pytest.approx(sum(likelihoods[index] for index in indices), rel=1e-5)
        assert (likelihood.weight, likelihood.per, terms[LOSS].per) == (0.0, "targets", "targets")
        assert task.counts(batch) == {"targets": sum(len(PAIRS[index][1]) + 1 for index in indices)}
        found = [prediction.loss for prediction in task.predict(model, batch)]
        assert found == pytest.approx([likelihoods[index] for index in indices], rel=1e-5)


def test_texts_are_normalized_first(tmp_path: Path) -> None:
    """Before they are cut and scored."""
    manifest = write_lines(tmp_path, [("  A\tB ", "C  d!")], alternatives=["D c", "c, D"])
    (as_it_is,) = task_of(manifest).source.load("train", micro_batch(0)).references
    assert as_it_is == ("C d!", "D c", "c, D")
    task = task_of(manifest, "text.case=lower", "text.punctuation=remove")
    batch = task.source.load("train", micro_batch(0))
    assert batch.source.tolist() == [[*numbers("a b"), END]]
    assert batch.target.tolist() == [[BEGIN, *numbers("c d"), END]]
    assert (batch.sources, batch.references) == (["a b"], [("c d", "d c", "c d")])


def test_unwritable_text_is_learned_as_unknown(tmp_path: Path) -> None:
    batch = task_of(write_lines(tmp_path, [("a日b", "本")])).source.load("train", micro_batch(0))
    assert batch.source.tolist() == [[*numbers("a"), 3, *numbers("b"), END]]
    assert batch.target.tolist() == [[BEGIN, 3, END]]


@torch.inference_mode()
def test_outputs_have_no_special_tokens(tmp_path: Path) -> None:
    """They keep to their limit."""
    task = task_of(write_lines(tmp_path, PAIRS), "search.longest_factor=1.5", "search.longest_extra=3")
    batch = task.source.load("train", micro_batch(*range(len(PAIRS))))
    for beams in (1, 3):
        model = random_model(task)
        section = task.recipe.search.model_copy(update={"beams": beams})
        steps = TorchSteps(model, batch.source, batch.source_lengths)
        found = search(steps, task.vocabularies, batch.source_lengths, section, num_best=beams)
        for (source, _), best in zip(PAIRS, found, strict=True):
            assert len(best) == beams
            for each in best:
                assert min(each.tokens, default=FIRST) >= FIRST
                assert len(each.tokens) <= int((len(source) + 1) * 1.5 + 3)


# --- Languages ---


def write_languages(folder: Path, *languages: str | None, name: str = "x.jsonl") -> Path:
    """A pair for each."""
    lines = []
    for language in languages:
        said = {} if language is None else {"target_language": language}
        lines.append(json.dumps({"source": "ab", "target": "cd", **said}) + "\n")
    (folder / name).write_text("".join(lines))
    return folder / name


def test_sources_begin_with_the_target_language(tmp_path: Path) -> None:
    """Where there are several."""
    task = task_of(write_languages(tmp_path, "fr", "de", "fr"))
    assert task.vocabularies.languages == ["de", "fr"]
    assert task.vocabularies.source.tokens[FIRST : FIRST + 2] == ["<2de>", "<2fr>"]
    batch = task.source.load("train", micro_batch(0, 1, 2))
    source = [*numbers("ab", FIRST + 2), END]
    assert batch.source.tolist() == [[FIRST + 1, *source], [FIRST, *source], [FIRST + 1, *source]]
    assert batch.target.tolist() == [[BEGIN, *numbers("cd", FIRST + 2), END]] * 3
    assert batch.target_languages == ["fr", "de", "fr"]


@pytest.mark.parametrize("languages", [("de", "de"), (None, None), ("de", None)])
def test_one_language_or_none_adds_no_token(tmp_path: Path, languages: tuple[str | None, ...]) -> None:
    task = task_of(write_languages(tmp_path, *languages))
    known = [language for language in dict.fromkeys(languages) if language]
    assert task.vocabularies.languages == known
    assert (
        task.source.load("train", micro_batch(0, 1)).source.tolist() == [[*numbers("ab", FIRST + len(known)), END]] * 2
    )


def test_unknown_target_languages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has those that the model can write."""
    learned = write_languages(tmp_path, "de", "fr")
    dev = write_languages(tmp_path, "de", "it", None, name="dev.jsonl")
    with pytest.raises(UserError) as raised:
        task_of(dev, split="dev", learnt_from=learned)
    assert str(raised.value).split("\n") == [
        f"{dev}:2: target_language: unknown target language 'it' (languages: de, fr)",
        f"{dev}:3: target_language: a target language is needed (languages: de, fr)",
        "(--skip-bad leaves such examples out and counts them)",
    ]
    task = task_of(dev, "data.skip_bad=true", split="dev", learnt_from=learned)
    assert [pair.target_language for pair in task.source.manifests["dev"]] == ["de"]
    assert task.source.manifests["dev"].num_skipped == 2
    assert "2 unusable examples left out" in capsys.readouterr().err


# --- Lengths ---


def test_too_long_training_pairs_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted."""
    pairs = [("a" * 5, "b"), ("a" * 6, "b"), ("a", "b" * 5), ("a", "b" * 6), ("a" * 9, "b" * 9), ("c", "d")]
    manifest = write_lines(tmp_path, pairs)
    task = task_of(manifest, "data.longest_tokens=5")
    assert [pair.source for pair in task.source.manifests["train"]] == ["a" * 5, "a", "c"]
    assert task.source.manifests["train"].num_skipped == 3
    assert "3 pairs longer than data.longest_tokens (5) left out" in capsys.readouterr().err
    assert task.source.plan("train").num_micro_batches == 3  # a bucket for each
    assert len(task_of(manifest, "data.longest_tokens=5", split="dev").source.manifests["dev"]) == len(pairs)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"x\.jsonl: no usable example"):
        task_of(write_lines(tmp_path, pairs[1:2]), "data.longest_tokens=5")


@pytest.mark.parametrize(("longest", "languages"), [(9, {}), (10, {"target_language": "de"})])
def test_a_budget_below_the_longest_pair_is_refused(tmp_path: Path, longest: int, languages: dict[str, str]) -> None:
    manifest = write_lines(tmp_path, [("a" * 8, "b"), ("a", "b" * 8), ("a", "b")], **languages)
    if languages:  # with a second one, the source has a token more
        with manifest.open("a") as file:
            file.write(json.dumps({"source": "a", "target": "b", "target_language": "fr"}) + "\n")
    message = rf"batch\.tokens: {longest - 1} cannot hold the longest pair: {longest} tokens"
    with pytest.raises(UserError, match=message):
        task_of(manifest, f"batch.tokens={longest - 1}")
    task = task_of(manifest, f"batch.tokens={longest}")
    sizes = []
    for number in range(task.source.plan("train").num_micro_batches):
        batch = task.source.load("train", task.source.plan("train").micro_batch(number))
        sizes += [batch.source.numel(), batch.target_lengths.max().item() * len(batch.ids)]
    assert max(sizes) == longest


def test_pairs_normalized_to_nothing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or left out and counted."""
    manifest = write_lines(tmp_path, [("a", "b"), ("a", "..."), ("?", "b")])
    with pytest.raises(UserError, match=r"x\.jsonl:2: target: nothing is left of '\.\.\.' after normalization"):
        task_of(manifest, "text.punctuation=remove")
    task = task_of(manifest, "text.punctuation=remove", "data.skip_bad=true")
    assert [pair.target for pair in task.source.manifests["train"]] == ["b"]
    assert "2 unusable examples left out" in capsys.readouterr().err


# --- Random cuts ---

WORDS = [("lower lowest newer", "newest wider widest"), ("low new wide", "slow snow wider"), ("newer", "lowest")] * 4


def test_random_cuts_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """But on seed, epoch and example alone."""
    bpe = ("tokenizer.kind=bpe", "tokenizer.size=40", "subwords.merge_dropout=0.4")
    manifest = write_lines(tmp_path, WORDS)
    task = task_of(manifest, *bpe)

    def row(task: Translation, *indices: int, epoch: int = 0, of: int = 0) -> tuple[list[int], list[int]]:
        batch = task.source.load("train", micro_batch(*indices, epoch=epoch))
        source, target = batch.source[of], batch.target[of]
        return source[: int(batch.source_lengths[of])].tolist(), target[: int(batch.target_lengths[of]) + 1].tolist()

    assert row(task, 4, 2, 0, of=1) == row(task, 2)
    assert row(task_of(manifest, *bpe), 2) == row(task, 2)
    assert len({str(row(task, 2, epoch=epoch)) for epoch in range(8)}) > 4
    assert row(task_of(manifest, *bpe, "seed=1"), 2) != row(task, 2)
    target = task.vocabularies.target
    for epoch in range(8):
        tokens = row(task, 0, epoch=epoch)
        assert tuple(map(target.decode, tokens)) == WORDS[0]
    dev = task_of(manifest, *bpe, split="dev")
    for index in range(3):
        batch = dev.source.load("dev", micro_batch(index))
        assert batch.source.tolist() == [[*target.encode(WORDS[index][0]), END]]


# --- Scores ---


def predicted(*texts: tuple[tuple[str, ...], str], loss: float = 3.0) -> list[PairPrediction]:
    return [PairPrediction("id", "source", None, references, said, loss, 2) for references, said in texts]


def test_scores_are_bleu_chrf_or_error_rates(tmp_path: Path) -> None:
    """Error rates are against the nearest reference."""
    predictions = predicted((("a b c d e", "x y z"), "a b c d e"), (("k l m n",), "k l m o"))
    manifest = write_lines(tmp_path, PAIRS)
    scores = task_of(manifest).score(predictions)
    assert set(scores) == {"bleu", "chrf", "sentences", "loss"}
    assert scores["sentences"] == 2
    assert scores["loss"] == 1.5

    scores = task_of(manifest, "metric=word_error_rate").score(predictions)
    assert scores["word_error_rate"] == 1 / 9
    assert scores["sentence_error_rate"] == 1 / 2
    with pytest.raises(UserError, match="nothing to score"):
        task_of(manifest).score([])


# --- Vocabularies ---


def test_chinese_is_scored_by_characters(tmp_path: Path) -> None:
    """The card says so."""
    manifest = write_lines(tmp_path, [("the weather is nice today", "今天天气很好")] * 2)
    alphabet = 'tokenizer={ kind = "characters", alphabet = "今天气很好" }'
    task = task_of(manifest, 'source_tokenizer={ kind = "words" }', "model.tied=target", alphabet, split="dev")
    task.source.manifests = dict.fromkeys(("train", "dev"), task.source.manifests["dev"])
    scores = task.score(predicted((("今天天气很好",), "今天天气真好"), (("我们去公园散步吧",), "我们去公园走走吧")))
    assert scores["bleu"] > 40
    folder = tmp_path / "model"
    task.save_assets(folder, scores)
    card = (folder / "README.md").read_text()
    assert f"which chose this state of the model: {scores['bleu']:.2f} (2 pairs" in card
    assert "- bleu signature: nrefs:1|case:mixed|eff:no|tok:zh|" in card


def test_each_language_is_scored_its_own_way(tmp_path: Path) -> None:
    write_languages(tmp_path, "de", "zh")
    task = task_of(tmp_path / "x.jsonl", split="dev")
    task.source.manifests = dict.fromkeys(("train", "dev"), task.source.manifests["dev"])
    rows = [("a b c d e", "a b c d e", "de"), ("今天天气很好", "今天天气真好", "zh")]
    found = [PairPrediction("id", "source", language, (right,), said, 3.0, 2) for right, said, language in rows]
    scores = task.score(found)
    assert scores["bleu_de"] == pytest.approx(100)
    assert 0 < scores["bleu_zh"] < 100
    assert scores["bleu"] == pytest.approx((scores["bleu_de"] + scores["bleu_zh"]) / 2)
    task.save_assets(tmp_path / "model", scores)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"mean bleu on dev.jsonl, which chose this state of the model: {scores['bleu']:.2f}" in card
    assert f"- bleu of zh: {scores['bleu_zh']:.2f}: nrefs:1|" in card


def test_two_tokenizers_cannot_tie_all_embeddings(tmp_path: Path) -> None:
    separate = 'source_tokenizer={ kind = "words" }'
    manifest = write_lines(tmp_path, PAIRS)
    message = 'model.tied: "all" needs one tokenizer for both sides; with source_tokenizer, use "target"'
    with pytest.raises(UserError, match=message):
        task_of(manifest, separate).build_model()
    for tied in ("target", "none"):
        task = task_of(manifest, separate, f"model.tied={tied}")
        model = random_model(task)
        assert model.source_embedding is not None
        assert len(task.vocabularies.source) == model.source_embedding.num_embeddings == FIRST + 9
        assert len(task.vocabularies.target) == model.target_embedding.num_embeddings == FIRST + 27
        batch = task.source.load("train", micro_batch(1))
        assert task.vocabularies.source.decode(batch.source[0].tolist()) == "a b c"
        assert task.loss(model, batch)[LOSS].total.isfinite()


def test_a_joint_tokenizer_learns_both_sides(tmp_path: Path) -> None:
    """It is saved once."""
    task = task_of(write_lines(tmp_path, PAIRS), "tokenizer.kind=words")
    vocabularies = task.vocabularies
    assert vocabularies.source is vocabularies.target
    assert {"hello", "guten"} <= set(vocabularies.source.tokens)
    vocabularies.save(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["tokenizer.json"]
    loaded = Vocabularies.load(tmp_path / "model")
    assert loaded.source is loaded.target
    assert loaded.source.tokens == vocabularies.source.tokens


def test_two_tokenizers_are_saved_and_loaded(tmp_path: Path) -> None:
    """Each for its side."""
    separate = ('source_tokenizer={ kind = "words" }', "model.tied=target")
    vocabularies = task_of(write_lines(tmp_path, PAIRS), *separate).vocabularies
    vocabularies.save(tmp_path / "model")
    loaded = Vocabularies.load(tmp_path / "model")
    assert loaded.source.tokens == vocabularies.source.tokens
    assert loaded.target.tokens == vocabularies.target.tokens != loaded.source.tokens


def test_an_earlier_recipes_tokenizer_is_not_used(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, PAIRS)
    separate = ('source_tokenizer={ kind = "words" }', "model.tied=target")
    task_of(manifest, *separate).vocabularies.save(tmp_path / "run")
    task_of(manifest).vocabularies.save(tmp_path / "run")
    loaded = Vocabularies.load(tmp_path / "run")
    assert loaded.source is loaded.target


def test_a_tokenizer_of_another_task_is_refused(tmp_path: Path) -> None:
    section = section_of(tmp_path)
    from segue.data import tokenizer as tokenizers

    tokenizers.build(section.tokenizer, []).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="it lacks the special token <pad>; it belongs to another task"):
        Vocabularies.load(tmp_path)


# --- Training ---


def records(run: Path) -> list[dict[str, Any]]:
    """The log's lines, without what depends on the clock."""
    clock = ("time", "rate", "data_wait", "memory_gb")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def test_a_model_learns_to_reverse_sentences(trained_translator: Path, pairs: Path) -> None:
    evaluations = [record["dev"] for record in records(trained_translator) if "dev" in record]
    assert len(evaluations) == 3
    for scores in evaluations:
        assert set(scores) == {"bleu", "chrf", "loss", "sentences"}
        assert scores["sentences"] == 60
    # Copying or writing the right words in a wrong order scores far less, as the first evaluation shows.
    assert evaluations[-1]["bleu"] > 90
    assert evaluations[-1]["loss"] < 0.2 < evaluations[0]["loss"]

    folder = trained_translator / "model"
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    vocabularies = Vocabularies.load(folder)
    model = build_model(section, vocabularies)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()
    source = source_of(section, vocabularies, {"dev": Manifest(Pair, [pairs / "test.jsonl"])})
    task = Translation(section, source, section.search)
    predictions, _ = prediction.predict(task, source, model, section.engine, torch.device("cpu"))
    right = [each.hypothesis == " ".join(each.source.split()[::-1]) for each in predictions]
    assert len(right) == 60
    assert sum(right) >= 54  # sentences that it never saw


def test_a_model_directory_is_complete(trained_translator: Path) -> None:
    folder = trained_translator / "model"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "model.safetensors", "recipe.toml", "tokenizer.json")
    }
    card = (folder / "README.md").read_text()
    assert "# Translation model" in card
    assert card.startswith("---\nlicense: unknown\nlibrary_name: segue\npipeline_tag: translation\n---\n")
    assert "- Trained on train.jsonl: " in card
    bleu = max(record["dev"]["bleu"] for record in records(trained_translator) if "dev" in record)
    assert f"- bleu on dev.jsonl, which chose this state of the model: {bleu:.2f} (60 pairs, one beam)." in card
    assert (folder / "tokenizer.json").read_bytes() == (trained_translator / "tokenizer.json").read_bytes()


# All that resuming could get wrong: random cuts, which change from epoch to epoch, dropout, averages.
RESUMED = (
    "tokenizer.kind=bpe",
    "tokenizer.size=60",
    "subwords.merge_dropout=0.2",
    "model.dropout=0.2",
    "model.attention_dropout=0.1",
    "batch.micro_batches=2",
    "batch.tokens=600",
    "schedule.warmup_steps=3",
    "engine.steps=12",
    "engine.log_every=1",
    "engine.evaluate_every=4",
    "engine.save_every=8",
    "engine.moving_average_decay=0.9",
    "engine.average_count=2",
    "search.longest_factor=0.5",  # of models that have learned nothing
    "search.longest_extra=1",
)


@pytest.fixture
def few_pairs(pairs: Path, tmp_path: Path) -> str:
    """The override for a folder in which an epoch has few steps."""
    folder = tmp_path / "few_pairs"
    folder.mkdir()
    for split, count in (("train", 240), ("dev", 12)):
        lines = (pairs / f"{split}.jsonl").read_text().splitlines(keepends=True)[:count]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return f"data.root={folder}"


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    reversal_recipe: Path, few_pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    segue.train(reversal_recipe, whole, *RESUMED, few_pairs)
    assert records(whole)[-1]["epoch"] > 1
    advance = Log.advance

    def advance_and_interrupt(log: Log, step: int) -> None:
        advance(log, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "advance", advance_and_interrupt)
        result = segue.train(reversal_recipe, run, *RESUMED, few_pairs)
    assert (result.step, result.signal) == (5, signal.SIGTERM)
    segue.train(reversal_recipe, run, *RESUMED, few_pairs, "engine.workers=2")  # the rest, read ahead
    assert records(run) == records(whole)
    checkpoint, wanted = (max((each / "checkpoints").glob("step_*")) for each in (run, whole))
    assert checkpoint.name == wanted.name == "step_00000012"
    (file,) = (path.name for path in wanted.glob("*.safetensors"))
    assert (checkpoint / file).read_bytes() == (wanted / file).read_bytes()
    for file in ("model.safetensors", "tokenizer.json", "README.md"):
        assert (run / "model" / file).read_bytes() == (whole / "model" / file).read_bytes(), file


def test_a_run_does_not_go_on_with_other_data(reversal_recipe: Path, few_pairs: str, tmp_path: Path) -> None:
    run, short = tmp_path / "run", ("engine.steps=2", few_pairs)
    segue.train(reversal_recipe, run, *short)
    train_file = Path(few_pairs.removeprefix("data.root=")) / "train.jsonl"
    content = train_file.read_text()
    train_file.write_text(content.replace("one", "six", 1))
    with pytest.raises(UserError, match="the data changed since step 2"):
        segue.train(reversal_recipe, run, *short)
    train_file.write_text(content)
    assert segue.train(reversal_recipe, run, *short).step == 2


def test_fingerprints_cover_pairs_and_their_order(tmp_path: Path) -> None:
    variants = [PAIRS, PAIRS[1:], [*PAIRS[1:], PAIRS[0]], [("ab", "cd f"), *PAIRS[1:]], [("ac", "cd e"), *PAIRS[1:]]]
    prints = [task_of(write_lines(tmp_path, variant)).source.fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert task_of(write_lines(elsewhere, PAIRS, "other name.jsonl")).source.fingerprint() == prints[0]


def test_two_tokenizers_train_to_a_model(reversal_recipe: Path, few_pairs: str, tmp_path: Path) -> None:
    """With an error rate as the metric."""
    run = tmp_path / "run"
    settings = ('source_tokenizer={ kind = "bpe", size = 60 }', "model.tied=target", "metric=word_error_rate")
    result = segue.train(reversal_recipe, run, *settings, few_pairs, "engine.steps=2")
    assert result.metric == "word_error_rate"
    (scores,) = [record["dev"] for record in records(run) if "dev" in record]
    assert {"word_error_rate", "sentence_error_rate", "loss"} < set(scores)
    assert result.best is not None
    assert result.best.score == scores["word_error_rate"]
    assert {path.name for path in (run / "model").iterdir()} == {
        *("README.md", "model.safetensors", "recipe.toml", "tokenizer.json", "source_tokenizer.json")
    }
    loaded = Vocabularies.load(run / "model")
    assert loaded.source.tokens != loaded.target.tokens
