"""What a user does with a trained classifier: classify, evaluate, report, export; in PyTorch and without it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import segue
from segue import tasks
from segue.cli import main
from segue.data import audio
from segue.errors import UserError

RATE = 8000
KINDS = ["sounds", "texts"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(
    kind: str, traced_once: None, trained_classifiers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder. Not to be written to."""
    del traced_once
    folder = tmp_path_factory.mktemp("exported") / kind
    assert main(["export", str(trained_classifiers[kind]), "onnx", str(folder)]) == 0
    return folder


SOUNDS_FIRST = pytest.mark.parametrize("kind", ["sounds", pytest.param("texts", marks=pytest.mark.slow)], indirect=True)
"""For tests of exported models, whose graphs take seconds to trace."""


def tone(letter_hz: float, seconds: float = 0.3) -> audio.Samples:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * letter_hz * time)).astype(np.float32)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- segue classify ---


def test_bad_recordings_do_not_stop_the_rest(
    trained_classifiers: dict[str, Path], labeled_sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several recordings, each is named with its class."""
    model, file = str(trained_classifiers["sounds"]), labeled_sounds / "test_01.wav"
    assert main(["classify", model, str(file)]) == 0
    assert capsys.readouterr().out == "tone b\n"
    (tmp_path / "bad.wav").write_text("no audio")
    audio.write(tmp_path / "silent.wav", np.zeros(4000, np.float32), RATE)
    named = [str(tmp_path / "bad.wav"), str(tmp_path / "silent.wav"), str(file)]
    assert main(["classify", model, *named]) == 2
    said = capsys.readouterr()
    assert said.out == f"{file}\ttone b\n"
    assert "bad.wav: not audio" in said.err
    assert "silent.wav: silent: every sample is 0" in said.err


def test_top_classes_have_probabilities(
    trained_classifiers: dict[str, Path], labeled_sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of all classes add up to 1."""
    model, file = str(trained_classifiers["sounds"]), str(labeled_sounds / "test_02.wav")
    assert main(["classify", model, file, "--format", "json", "--top", "9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["audio"], found["label"]) == (file, "tone c")
    probabilities = [each["probability"] for each in found["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 4
    assert sum(probabilities) == pytest.approx(1, abs=1e-3)
    assert main(["classify", model, file, "--top", "2"]) == 0
    assert re.fullmatch(r"tone c\t[01]\.\d{4}\ttone [abd]\t0\.\d{4}\n", capsys.readouterr().out)


@pytest.mark.slow
def test_each_line_of_text_gets_one_answer(
    trained_classifiers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(trained_classifiers["texts"])
    (tmp_path / "lines.txt").write_text("one two three\n\ntwelve eleven ten\n")
    assert main(["classify", model, str(tmp_path / "lines.txt")]) == 0
    assert capsys.readouterr().out == "small\n\nlarge\n"
    assert main(["classify", model, str(tmp_path / "lines.txt"), "--format", "json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["text"], each["label"]) for each in answers] == [
        ("one two three", "small"),
        ("", None),
        ("twelve eleven ten", "large"),
    ]
    assert main(["classify", model, str(tmp_path / "gone.txt"), str(tmp_path / "lines.txt")]) == 2
    said = capsys.readouterr()
    assert said.out == "small\n\nlarge\n"
    assert "gone.txt: no such file" in said.err
    piped = [sys.executable, "-m", "segue", "classify", model]
    assert subprocess.run(piped, input="six\n", capture_output=True, text=True).stdout == "small\n"


def test_each_model_says_what_it_cannot_do(
    kind: str, trained_classifiers: dict[str, Path], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(trained_classifiers[kind]), "x.wav"]) == 2
    assert "this model does not transcribe; it is for segue evaluate and segue classify" in capsys.readouterr().err
    assert main(["classify", str(trained), "x.wav"]) == 2
    assert (
        "this model does not classify; it is for segue evaluate, segue transcribe and segue " in capsys.readouterr().err
    )
    if kind == "texts":
        assert main(["classify", str(trained_classifiers[kind]), "--channel", "left"]) == 2
        assert "--channel: this model classifies texts" in capsys.readouterr().err
        with pytest.raises(UserError, match="a text wanted"):
            segue.load(trained_classifiers[kind]).classify(np.zeros(100), 8000)


def test_samples_are_classified_as_their_file(trained_classifiers: dict[str, Path], labeled_sounds: Path) -> None:
    """Also at another rate."""
    model = segue.load(trained_classifiers["sounds"])
    file = labeled_sounds / "test_03.wav"
    of_file, of_samples = model.classify(file), model.classify(audio.read(file, RATE), RATE)
    assert of_file.ranked == of_samples.ranked
    assert of_file.label == "tone d"
    assert model.classify(audio.resample(audio.read(file, RATE), RATE, 44100), 44100).label == "tone d"


def test_long_recordings_average_their_windows(
    trained_classifiers: dict[str, Path],
) -> None:
    """Silent windows count nothing."""
    model = segue.load(trained_classifiers["sounds"])
    window, rest = tone(900, 24.0), tone(400, 6.0)
    found = dict(model.classify(np.concatenate([window, rest]), RATE).ranked)
    rows = np.stack([model.of_sounds([part])[0] for part in (window, rest)]).astype(np.float64)
    mean = np.exp(0.8 * rows[0] + 0.2 * rows[1])
    for number, label in enumerate(model.metadata.classes):
        assert found[label] == pytest.approx(mean[number] / mean.sum(), abs=1e-5)
    silence = np.zeros(len(window), np.float32)
    assert model.classify(np.concatenate([window, silence]), RATE).ranked == model.classify(window, RATE).ranked


def test_long_texts_are_the_mean_of_their_parts(trained_classifiers: dict[str, Path]) -> None:
    model = segue.load(trained_classifiers["texts"])
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    words = [*numbers, "one", "one", "one"]
    [found] = model.of_texts([" ".join(words)])
    rows = model.of_texts([" ".join(words[:7]), " ".join(words[7:])])  # 15 tokens, of which 12 fit
    mean = np.exp((7 * rows[0] + 8 * rows[1]) / 15)
    np.testing.assert_allclose(np.exp(found), mean / mean.sum(), atol=1e-5)


# --- segue evaluate ---


def test_evaluate_reports_examples_and_classes(
    kind: str, trained_classifiers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_classifiers[kind]
    manifest = Path(tasks.restore(run).recipe.data.root) / "test.jsonl"
    outputs = tmp_path / "outputs.jsonl"
    assert main(["evaluate", str(run), str(manifest), "--json", "--outputs", str(outputs)]) == 0
    scores, rows = json.loads(capsys.readouterr().out), lines_of(outputs)
    assert scores["accuracy"] == np.mean([row["hypothesis"] == row["reference"] for row in rows])
    assert scores[kind] == len(rows) == len(lines_of(manifest))
    assert [row["reference"] for row in rows] == [line["label"] for line in lines_of(manifest)]
    for row in rows:
        assert (row["probability"] > 0.5) <= (row["hypothesis"] == row["reference"])
    assert set(scores["labels"]) == set(tasks.restore(run).recipe.classes)
    assert main(["evaluate", str(run), str(manifest), "--against", str(run)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^accuracy +100\.00%", printed, re.MULTILINE)
    assert re.search(r"^label +examples +precision +recall +f1$", printed, re.MULTILINE)
    assert re.search(r"^accuracy +\+0\.00% .* the same$", printed, re.MULTILINE)


def test_unknown_test_classes_are_refused(
    kind: str, trained_classifiers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or left out and counted."""
    run = trained_classifiers[kind]
    root = shutil.copytree(tasks.restore(run).recipe.data.root, tmp_path / "data")
    lines = lines_of(root / "test.jsonl")
    lines[2]["label"] = "new"
    (root / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", str(run), str(root / "test.jsonl")]) == 2
    assert f"{root}/test.jsonl:3: label: 'new' is not a class of the model" in capsys.readouterr().err
    assert main(["evaluate", str(run), str(root / "test.jsonl"), "--json", "--skip-bad"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["skipped"], scores[kind]) == (1, len(lines) - 1)


def test_the_report_shows_class_confusions(kind: str, trained_classifiers: dict[str, Path], tmp_path: Path) -> None:
    run = trained_classifiers[kind]
    root = shutil.copytree(tasks.restore(run).recipe.data.root, tmp_path / "data")
    lines = lines_of(root / "test.jsonl")
    lines[0]["label"] = lines[1]["label"]  # a mistake
    (root / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", str(run), str(root / "test.jsonl"), "--report", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    right = lines[1]["label"]
    said = {"sounds": "tone a", "texts": "small"}[kind]
    assert f'title="{right}: {said} said 1 time"' in page
    assert f'title="{said}: {right} said 0 times"' in page
    assert "Probability of the reference by" in page
    assert "another word" not in page
    assert "The 1 worst of" in page
    assert (page.count("<audio") > 0) == (kind == "sounds")


# --- segue export ---


@SOUNDS_FIRST
def test_an_exported_classifier_is_the_same(kind: str, exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())
    assert (parity["task"], parity["metric"], parity["before"]) == ("classification", "accuracy", 1.0)
    assert parity["worst_difference"] < 1e-3
    assert parity["identical"] == 1
    assert "accuracy" in (exported / "README.md").read_text()


@SOUNDS_FIRST
def test_the_code_on_its_card_runs(kind: str, exported: Path, labeled_sounds: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / kind)
    shutil.copy(labeled_sounds / "test_01.wav", tmp_path / "sound.wav")
    card = (tmp_path / kind / "README.md").read_text().replace("a line of text", "one two")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code) == 2
    for each in code:
        done = subprocess.run([sys.executable, "-c", each], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.stdout.strip() == {"sounds": "tone b", "texts": "small"}[kind], done.stderr


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("sounds", "int8"), ("sounds", "float16"), pytest.param("texts", "float16", marks=pytest.mark.slow)],
    indirect=["kind"],
)
def test_smaller_weights_keep_the_accuracy(
    kind: str, weights: str, trained_classifiers: dict[str, Path], tmp_path: Path
) -> None:
    words = ["export", str(trained_classifiers[kind]), "onnx", str(tmp_path / "out"), "--quantize", weights]
    assert main([*words, "--max-metric-loss", "10"]) == 0
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["after"] >= 0.9
    assert parity["worst_difference"] > 1e-6
    if kind == "sounds":  # spectra span too many orders of magnitude for fewer bits
        weights_of = {each.name: each for each in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
        front_end = [each for name, each in weights_of.items() if name.startswith("front_end.")]
        assert front_end
        assert {each.data_type for each in front_end} == {onnx.TensorProto.FLOAT}


def test_weights_that_texts_do_not_have_are_refused(
    trained_classifiers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(trained_classifiers["texts"]), "onnx", str(tmp_path / "out"), "--quantize", "int8"]
    assert main(words) == 2
    assert "--quantize int8: onnx has no such weights for classifiers of texts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@SOUNDS_FIRST
def test_graphs_must_match_segue_json(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "out")
    facts = json.loads((folder / "segue.json").read_text())
    (folder / "segue.json").write_text(json.dumps({**facts, "classes": facts["classes"][::-1]}))
    with pytest.raises(UserError, match=r"model\.onnx: its metadata classes differs from segue\.json"):
        segue.load(folder)


@SOUNDS_FIRST
def test_an_exported_classifier_needs_no_torch(
    kind: str, exported: Path, labeled_sounds: Path, labeled_texts: Path
) -> None:
    root = {"sounds": labeled_sounds, "texts": labeled_texts}[kind]
    given = str(root / "test_01.wav") if kind == "sounds" else "one two"
    program = f"""
import sys
from pathlib import Path
for name in {["torch", "safetensors", "onnx", *(["tokenizers"] if kind == "sounds" else [])]}:
    sys.modules[name] = None
import segue
model = segue.load({str(exported)!r})
print(model.classify({given!r}).label, model.evaluate(Path({str(root)!r}) / "test.jsonl")["accuracy"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == [*{"sounds": "tone b", "texts": "small"}[kind].split(), "1.0"], done.stderr
