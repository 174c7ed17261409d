"""`segue evaluate` on the tiny models: outputs, intervals, groups, and what cannot be scored."""

import json
from pathlib import Path
from typing import Any

import pytest

import segue
from segue.cli import main


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewritten(corpus: Path, target: Path, **changes: Any) -> Path:
    """The test manifest with other values; None leaves a key out."""
    found = []
    for line in lines(corpus / "test.jsonl"):
        line["audio_filepath"] = str(corpus / line["audio_filepath"])
        found.append({key: value for key, value in {**line, **changes}.items() if value is not None})
    target.write_text("".join(json.dumps(line) + "\n" for line in found))
    return target


def test_every_utterance_is_written_with_its_scores(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, outputs = corpus / "test.jsonl", tmp_path / "new" / "outputs.jsonl"
    assert main(["evaluate", str(trained), str(manifest), "--json", "--outputs", str(outputs)]) == 0
    scores, rows = json.loads(capsys.readouterr().out), lines(outputs)
    expected = lines(manifest)
    assert [row["id"] for row in rows] == [line["audio_filepath"] for line in expected]  # the manifest's order
    assert [row["reference"] for row in rows] == [line["text"] for line in expected]
    assert [row["speaker"] for row in rows] == [line["speaker"] for line in expected]
    assert [row["seconds"] for row in rows] == pytest.approx([line["duration"] for line in expected])
    errors = sum(row["word_error_rate"] * len(row["reference"].split()) for row in rows)
    assert errors == pytest.approx(scores["word_error_rate"] * scores["words"])
    assert [row["hypothesis"] == row["reference"] for row in rows] == [row["word_error_rate"] == 0 for row in rows]
    assert "1,000 draws of 2 speakers; few speakers: rough" in scores["interval_note"]
    assert scores["intervals"] == {} or min(scores["intervals"]["character_error_rate"]) >= 0
    assert sum(each["utterances"] for each in scores["speakers"].values()) == scores["utterances"] == 8
    assert main(["evaluate", str(trained), str(manifest)]) == 0
    printed = capsys.readouterr().out
    assert "\nspeaker    " in printed
    assert "\nspeaker_1  " in printed


def test_outputs_have_source_and_reference(trained_translator: Path, pairs: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.jsonl"
    assert main(["evaluate", str(trained_translator), str(pairs / "test.jsonl"), "--outputs", str(outputs)]) == 0
    rows = lines(outputs)
    assert [(row["source"], row["reference"]) for row in rows] == [
        (line["source"], line["target"]) for line in lines(pairs / "test.jsonl")
    ]
    assert {"id", "hypothesis", "bleu", "chrf", "ter", "source_tokens"} < set(rows[0])


def test_without_speakers_utterances_are_drawn(trained: Path, corpus: Path, tmp_path: Path) -> None:
    scores = segue.load(trained).evaluate(rewritten(corpus, tmp_path / "x.jsonl", speaker=None))
    assert "speakers" not in scores
    assert "8 utterances; speakers are not known" in scores["interval_note"]


def test_one_utterance_has_no_interval(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = rewritten(corpus, tmp_path / "x.jsonl")
    manifest.write_text(manifest.read_text().partition("\n")[0] + "\n")
    assert main(["evaluate", str(trained), str(manifest), "--report", str(tmp_path / "x.html")]) == 0
    assert "no 95 % intervals: they need two utterances or more" in capsys.readouterr().out


def test_references_that_hold_nothing_are_said(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = rewritten(corpus, tmp_path / "x.jsonl", text="?!")
    assert main(["evaluate", str(trained), str(manifest)]) == 2
    assert capsys.readouterr().err == (
        f"segue: {manifest}: nothing to score: all references are empty after normalization\n"
    )
    with manifest.open("a") as file:
        file.write((rewritten(corpus, tmp_path / "y.jsonl")).read_text())
    assert (
        segue.load(trained).evaluate(manifest)["words"] == segue.load(trained).evaluate(tmp_path / "y.jsonl")["words"]
    )
    assert "empty after normalization: 8 of 16 references" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{manifest} --outputs {folder}", "--outputs {folder}: a folder; the name of a file is wanted"),
        ("{manifest} --outputs {manifest}", "--outputs {manifest}: is read by this command too; give another name"),
        ("{manifest} --outputs x.html --report x.html", "--outputs x.html: is written by this command too"),
        ("{manifest} --outputs {manifest}/x.jsonl", "--outputs {manifest}/x.jsonl: its folder cannot be made: "),
        ("{empty} --json", "{empty}: no examples in it"),
    ],
)
def test_unusable_paths_are_refused_at_once(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    places = {"manifest": corpus / "test.jsonl", "folder": tmp_path, "empty": tmp_path / "empty.jsonl"}
    places["empty"].touch()
    assert main(["evaluate", str(trained), *words.format(**places).split()]) == 2
    assert capsys.readouterr().err.startswith(f"segue: {message.format(**places)}")
    assert (corpus / "test.jsonl").read_text().count("\n") == 8


def test_chinese_is_scored_by_characters(
    trained_translator: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "zh.jsonl"
    rows = [{**line, "target": f"今天天气很好{number}"} for number, line in enumerate(lines(pairs / "test.jsonl"))]
    manifest.write_text("".join(json.dumps({key: row[key] for key in ("source", "target")}) + "\n" for row in rows))
    assert main(["evaluate", str(trained_translator), str(manifest), "--json"]) == 0
    assert "|tok:zh|" in json.loads(capsys.readouterr().out)["bleu_signature"]


def test_a_worse_model_differs(
    trained: Path, tiny_recipe: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segue.train(tiny_recipe, tmp_path / "hasty", "engine.steps=2")
    words = ["evaluate", str(trained), str(corpus / "test.jsonl"), "--against", str(tmp_path / "hasty")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["against"]
    assert found["model"] == str(tmp_path / "hasty")
    difference = found["differences"]["character_error_rate"]
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1] < 0
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{100 * difference['value']:+.2f}%" in said[-1]
    assert said[-1].endswith("better")


def test_a_model_is_the_same_as_itself(trained: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), str(corpus / "test.jsonl"), "--against", str(trained)]) == 0
    assert capsys.readouterr().out.count("]  the same\n") == 2


def test_models_of_other_examples_are_not_compared(
    trained: Path, trained_translator: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained), str(corpus / "test.jsonl"), "--against", str(trained_translator)]
    assert main(words) == 2
    assert f"--against {trained_translator}: a model of another task than {trained}" in capsys.readouterr().err


def test_one_example_shows_no_difference(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.loads((corpus / "test.jsonl").read_text().splitlines()[0])
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({**line, "audio_filepath": str(corpus / line["audio_filepath"])}) + "\n")
    assert main(["evaluate", str(trained), str(path), "--against", str(trained)]) == 0
    assert f"compared with {trained}: too few examples to say whether a difference is" in capsys.readouterr().out


def test_several_manifests_are_scored_one_by_one(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(corpus / f"{split}.jsonl") for split in ("dev", "test")]
    alone = []
    for path in paths:
        assert main(["evaluate", str(trained), path, "--json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
    assert main(["evaluate", str(trained), *paths, "--json", "--against", str(trained)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == paths
    for path, expected in zip(paths, alone, strict=True):
        differences = found[path].pop("against")["differences"]
        assert found[path] == expected
        assert differences["word_error_rate"]["value"] == 0
    assert main(["evaluate", str(trained), *paths]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(".jsonl:")] == [
        f"{path}:" for path in paths
    ]
    assert main(["evaluate", str(trained), *paths, "--report", str(tmp_path / "x.html")]) == 2
    assert "--report, --outputs: they are of one manifest" in capsys.readouterr().err
