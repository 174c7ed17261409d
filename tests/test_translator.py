"""A trained model in a user's hands: one that turns sentences of number words around."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segue
from segue import cli
from segue.data import tokenizer
from segue.data.tokenizer import WordsSection
from segue.errors import UserError

LINES = ["one two three", "", "seven seven eight two", "  ", "twelve one nine ten four"]


def backwards(line: str) -> str:
    return " ".join(line.split()[::-1])


@pytest.fixture(scope="module")
def translator(trained_translator: Path) -> Any:
    return segue.load(trained_translator)


@pytest.fixture
def copied(trained_translator: Path, tmp_path: Path) -> Path:
    """The model directory, to be changed."""
    return shutil.copytree(trained_translator / "model", tmp_path / "model")


def test_translations_keep_order_and_empty_texts(translator: Any) -> None:
    assert translator.translate(LINES) == [backwards(line) for line in LINES]
    assert translator.translate([]) == []


@pytest.mark.parametrize("text", ["-", " 12:30 ", "😀", ".", "...", "§ 5", "♪ ♪", "\u200b", "①"])
def test_a_text_without_letters_stays_as_it_is(translator: Any, text: str) -> None:
    first, last = LINES[0], LINES[2]
    assert translator.translate([first, text, last]) == [backwards(first), text, backwards(last)]
    assert list(translator.translate_lines([first, text], context=1))[1] == text
    assert translator.best(text, 3) == [(text, 0.0)]


def test_batching_changes_no_translation(translator: Any, pairs: Path) -> None:
    lines = [json.loads(line)["source"] for line in (pairs / "test.jsonl").read_text().splitlines()]
    together = translator.translate(lines)
    assert [translator.translate([line])[0] for line in lines] == together
    assert list(translator.translate_lines(lines, window=7)) == together


def test_lines_are_read_a_window_at_a_time(translator: Any) -> None:
    read: list[str] = []

    def source() -> Iterator[str]:
        for line in ["one two three"] * 10:
            read.append(line)
            yield line

    translated = translator.translate_lines(source(), window=3)
    assert next(translated) == "three two one"
    assert len(read) == 3


def test_a_long_line_is_translated_in_parts(copied: Path) -> None:
    """It loses nothing."""
    path = copied / "recipe.toml"
    path.write_text(path.read_text().replace("longest_tokens = 256", "longest_tokens = 6"))
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    result = segue.load(copied).translate([" ".join(words)])[0].split()
    assert sorted(result) == sorted(words)
    cut = result.index(words[0]) + 1  # a part ends with its first word
    assert result == words[:cut][::-1] + words[cut:][::-1]
    assert 0 < cut <= 6


def test_100000_characters_are_translated_whole(translator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    line = "one two three four " * 5264 + "x" * 16
    assert len(line) == 100_032
    pieces = translator._pieces(line)
    assert "".join(pieces) == line
    assert max(translator.vocabularies.source.num_tokens(pieces)) <= translator.metadata.longest_tokens
    assert translator.translate([line])[0]
    assert "not in the model's vocabulary (1)" in capsys.readouterr().err


def test_the_best_translations_come_best_first(translator: Any) -> None:
    found = translator.best("one two three", 4)
    assert found[0][0] == "three two one"
    assert len({text for text, _ in found}) == 4
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_context_is_read_and_its_output_continued(translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], Any]] = []
    search = translator.search

    def watched(texts: list[str], *rest: Any, **options: Any) -> Any:
        asked.append((list(texts), options.get("prefixes")))
        return search(texts, *rest, **options)

    monkeypatch.setattr(translator, "search", watched)
    lines = ["one two three", "", "four five six", "seven eight nine"]
    translations = list(translator.translate_lines(lines, context=1))
    encode, decode = translator.vocabularies.target.encode, translator.vocabularies.target.decode
    assert translations[:2] == ["three two one", ""]
    asked = [each for each in asked if each[0]]
    assert [texts for texts, _ in asked] == [
        ["one two three"],
        ["one two three four five six"],
        ["four five six seven eight nine"],
    ]
    assert asked[1][1] == [encode("three two one")]
    assert decode(asked[2][1][0]) == translations[2]


def test_context_that_is_too_long_is_shortened(copied: Path) -> None:
    path = copied / "recipe.toml"
    path.write_text(path.read_text().replace("longest_tokens = 256", "longest_tokens = 6"))
    model = segue.load(copied)
    lines = ["one two three", "four five six seven", "eight nine ten eleven"]
    assert list(model.translate_lines(lines, context=2)) == [backwards(line) for line in lines]
    assert list(model.translate_lines(lines[:1], context=1 << 70)) == [backwards(lines[0])]


def test_unknown_characters_are_warned_about(translator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    translator.translate(["one Zwei three", "one Drei"])
    assert "not in the model's vocabulary (2)" in capsys.readouterr().err


def test_a_tokenizer_of_other_weights_is_refused(copied: Path) -> None:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer.build(WordsSection(kind="words"), ["one two"], special).save(copied / "tokenizer.json")
    with pytest.raises(UserError, match=r"model.safetensors: these weights do not fit the recipe and tokenizer"):
        segue.load(copied)


def test_explanations_have_scores_and_attention(translator: Any, pairs: Path) -> None:
    """The scores of the evaluation, and attention on what was translated."""
    evaluation = translator.evaluator.explain(pairs / "test.jsonl")
    scores = translator.evaluate(pairs / "test.jsonl")
    assert evaluation.as_json() == scores
    assert scores["bleu"] > 90
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert len(evaluation.examples) == scores["sentences"] == 60
    assert len(evaluation.attention) == 5
    for each in evaluation.attention:
        [example] = [example for example in evaluation.examples if example.id == each.id]
        assert list(each.columns) == [*(example.source or "").split(), "</s>"]
        assert list(each.rows) == [*example.hypothesis.split(), "</s>"]
        assert each.weights.shape == (2 * 4, len(each.rows), len(each.columns))
        np.testing.assert_allclose(each.weights.sum(axis=2), 1, rtol=1e-5)


def test_the_command_line_translates_standard_input(
    trained_translator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(LINES).encode())))
    assert cli.main(["translate", str(trained_translator)]) == 0
    assert capsys.readouterr().out.split("\n") == [*(backwards(line) for line in LINES), ""]


def test_translating_goes_on_after_a_bad_file(
    trained_translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one two three\n")
    words = [str(tmp_path / "none.srt"), str(tmp_path / "a.txt"), "--to", "xx", "--beams", "2"]
    assert cli.main(["translate", str(trained_translator), *words]) == 2
    captured = capsys.readouterr()
    assert (tmp_path / "a.xx.txt").read_text() == "three two one\n"
    assert captured.out == f"{tmp_path / 'a.xx.txt'}\n"
    assert captured.err == f"segue: {tmp_path / 'none.srt'}: no such file\n"


def test_the_command_line_writes_a_report(trained_translator: Path, pairs: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    words = ["evaluate", str(trained_translator), str(pairs / "test.jsonl"), "--report", str(report)]
    assert cli.main(words) == 0
    page = report.read_text()
    assert "Attention" in page
    assert str(trained_translator) in page


def test_a_model_of_another_task_is_refused(trained_translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcribe", str(trained_translator), "x.wav"]) == 2
    assert "this model does not transcribe; it is for segue evaluate and segue translate" in capsys.readouterr().err
