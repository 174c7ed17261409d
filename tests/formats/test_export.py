"""The road out: every target with a model that was trained here, its card's code as users run it, and mistakes."""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_file
import pytest
import torch
import transformers
from onnx import numpy_helper

import segue
from segue import formats, recipe, tasks
from segue.cli import main
from segue.data import audio
from segue.errors import UserError
from segue.parity import Parity
from segue.runtime import exported as runtime
from segue.tasks.speech_recognition import comparison

from .conftest import PAPER

Case = tuple[str, str | None]

SPEECH: list[Case] = [("onnx", None), ("onnx", "int8"), ("sherpa-onnx", None)]
SLOW_SPEECH: list[Case] = [("onnx", "float16"), ("sherpa-onnx", "int8")]
TEXT: list[Case] = [("onnx", None), ("ctranslate2", None), ("ctranslate2", "int8")]
SLOW_TEXT: list[Case] = [("onnx", "float16")]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def label(case: Case) -> str:
    return "-".join(filter(None, case))


def all_of(cases: list[Case], slow: list[Case]) -> list[Any]:
    """Parameters of a fixture."""
    marked = [pytest.param(case, id=label(case)) for case in cases]
    return [*marked, *(pytest.param(case, id=label(case), marks=pytest.mark.slow) for case in slow)]


@pytest.fixture(scope="module", params=all_of(SPEECH, SLOW_SPEECH))
def speech(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, quantize = request.param
    return exported(trained, target, quantize, tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def onnx(exported_recognizer: Path) -> Path:
    return exported_recognizer


@pytest.fixture(scope="module", params=all_of(TEXT, SLOW_TEXT))
def text(request: pytest.FixtureRequest, trained_translator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, quantize = request.param
    return exported(trained_translator, target, quantize, tmp_path_factory.mktemp("text"))


def exported(run: Path, target: str, quantize: str | None, folder: Path) -> Path:
    """By the command line, a few points of a tiny model's WER permitted."""
    options = ["--max-metric-loss", "5", *(["--quantize", quantize] if quantize else [])]
    assert main(["export", str(run), target, str(folder / "out"), *options]) == 0
    assert [path.name for path in folder.iterdir()] == ["out"], "something was left beside it"
    return folder / "out"


def contents(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


# --- What is written ---


def test_a_speech_model_says_what_it_is(speech: Path, corpus: Path) -> None:
    facts = contents(speech, "segue.json")
    assert (facts["task"], facts["sample_rate_hz"], facts["feature_dim"]) == ("speech_recognition", 8000, 16)
    parity = contents(speech, "parity.json")
    assert parity["examples"] == [str(corpus / "test.jsonl")]
    assert parity["count"] == 8
    assert parity["before"] <= 0.2, "a model that knows nothing proves nothing"
    assert parity["target"] == facts["target"]
    assert parity["weights"] == facts["weights"]
    if parity["weights"] == "float32":
        assert parity["worst_difference"] < 1e-3
        assert parity["identical"] == 1
        assert parity["differing"] == []
    else:
        assert parity["worst_difference"] > 1e-5


def test_a_translator_says_what_it_is(text: Path, pairs: Path) -> None:
    facts = contents(text, "segue.json")
    assert facts["task"] == "translation"
    assert facts["search"]["beams"] == 5
    parity = contents(text, "parity.json")
    assert parity["examples"] == [str(pairs / "test.jsonl")]
    assert parity["count"] == 60
    assert parity["before"] > 80
    if parity["weights"] == "float32":
        assert parity["worst_difference"] < 1e-3
        assert parity["identical"] >= 0.98
    if parity["weights"] == "int8":
        least = parity["least"]
        assert least["name"] == "CT2_FORCE_CPU_ISA=GENERIC"
        assert least["identical"] >= 0.95
        assert parity["loss"] == pytest.approx(parity["before"] - min(parity["after"], least["after"]))
        assert f"| on the least | {least['name']}: " in (text / "README.md").read_text()
    else:
        assert parity["least"] is None
    assert f"| instructions | {parity['instructions']} |" in (text / "README.md").read_text()


def test_the_code_on_a_card_runs(speech: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(speech, tmp_path / "out")
    shutil.copy(corpus / "test_01.wav", tmp_path / "speech.wav")
    [wanted] = [
        json.loads(line)["text"] for line in (corpus / "test.jsonl").read_text().splitlines() if "test_01" in line
    ]
    outputs = list(outputs_of_code(tmp_path / "out" / "README.md", tmp_path))
    assert outputs, "a card without code"
    assert set(outputs) == {wanted}


def test_the_code_on_a_translator_s_card_runs(text: Path, tmp_path: Path) -> None:
    card = (text / "README.md").read_text()
    assert "a line of text" in card
    shutil.copytree(text, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text(card.replace("a line of text", "one two three four"))
    outputs = list(outputs_of_code(tmp_path / "out" / "README.md", tmp_path))
    assert outputs, "a card without code"
    assert {output.strip("[]'") for output in outputs} == {"four three two one"}


def outputs_of_code(card: Path, folder: Path) -> Iterator[str]:
    for code in CODE.findall(card.read_text()):
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        yield done.stdout.strip()


@pytest.mark.slow
def test_the_code_on_a_model_directory_s_card_runs(trained: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(trained / "model")
    shutil.copy(corpus / "test_01.wav", tmp_path / "speech.wav")
    [output] = outputs_of_code(trained / "model" / "README.md", tmp_path)
    assert output == segue.load(trained).transcribe(corpus / "test_01.wav").text


def test_edited_cards_keep_their_edits(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "model", tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    text = card.read_text().replace("license: unknown", "license: mit").replace("\n## Use", "Ours.\n\n## Use")
    card.write_text(f"{text}\n## Training data\n\nTones.\n")
    formats.export(tmp_path / "model", "onnx", tmp_path / "out")
    found = (tmp_path / "out" / "README.md").read_text()
    assert found.startswith("---\nlicense: mit\n")
    assert "Ours.\n" in found
    assert "\n## Training data\n\nTones.\n" in found
    assert found.count("## Use") == 1
    assert 'segue.load("out")' in found
    assert 'segue.load("model")' not in found
    assert "| word error rate |" in found


@pytest.mark.slow
def test_huggingface_takes_the_papers_transformer(
    reversal_recipe: Path, trained_translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others are refused, and targets that take them are named."""
    run = tmp_path / "run"
    segue.train(reversal_recipe, run, *PAPER, "engine.steps=300")
    found = formats.export(run, "huggingface", tmp_path / "out")
    assert found.before > 60, "a model that knows nothing proves nothing"
    assert found.runtime == f"transformers {transformers.__version__}"
    card = (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "README.md").write_text(card.replace("a line of text", "one two three four"))
    [output] = outputs_of_code(tmp_path / "out" / "README.md", tmp_path)
    assert output == segue.load(run).translate(["one two three four"])[0]
    message = refused(trained_translator, "huggingface", tmp_path / "other", capsys=capsys)
    assert 'model.positions = "rotary" would have to be "sinusoidal"' in message
    assert "export to ctranslate2 or onnx instead" in message
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_adapter_is_exported_merged(pairs: Path, trained_translator: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    adapter = ("start.adapter.rank=4", "start.adapter.alpha=16")
    words = ["train", "--from", str(trained_translator), f"data.root={pairs}", *adapter, "--out", str(run)]
    assert main([*words, "engine.steps=2"]) == 0
    before, after = (recipe.read(each / "recipe.toml").values for each in (trained_translator, run))
    assert after["optimizer"] == before["optimizer"]  # full fine-tuning has a lower rate
    assert main(["export", str(run), "ctranslate2", str(tmp_path / "out")]) == 0
    [ours] = segue.load(tmp_path / "out").translate(["one two three"])
    assert ours == segue.load(run).translate(["one two three"])[0]


# --- What runs it here ---


def test_exports_transcribe_and_evaluate(
    trained: Path, onnx: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They take samples of any rate, type and number of channels."""
    ours, theirs = segue.load(trained), segue.load(onnx, threads=1)
    for path in sorted(corpus.glob("test_*.wav")):
        expected = ours.transcribe(path)
        found = theirs.transcribe(path)
        assert (found.text, found.duration) == (expected.text, expected.duration)
        assert [word[:3] for word in found.words] == [word[:3] for word in expected.words]
        samples = audio.read(path, 8000)
        stereo = np.stack([samples, samples], axis=1)
        whole = (samples * 32767).astype(np.int16)
        with pytest.raises(UserError, match="transpose it"):
            theirs.transcribe(stereo.T, 8000)
        upsampled = audio.resample(samples, 8000, 44100)
        for given, rate in ((samples, 8000), (stereo, 8000), (whole, 8000), (upsampled, 44100)):
            assert theirs.transcribe(given, rate).text == expected.text
    assert theirs.transcribe(np.zeros(8000, np.float32), 8000).text == ""
    with pytest.raises(UserError, match="samples: holds no audio"):
        theirs.transcribe(np.zeros(0, np.float32), 8000)
    with pytest.raises(UserError, match="samples need their rate"):
        theirs.transcribe(np.zeros(8000, np.float32))
    wrong_rates: list[Any] = [0, -8000, float("nan"), 10**9, "8000"]
    for wrong in wrong_rates:
        with pytest.raises(UserError, match="sample_rate_hz: a number from 1000 to 1000000 wanted"):
            theirs.transcribe(np.ones(8000, np.float32), wrong)
    assert theirs.transcribe(samples.tolist(), 8000).text == expected.text
    capsys.readouterr()
    assert main(["evaluate", str(onnx), str(corpus / "test.jsonl"), "--json"]) == 0
    found, expected = json.loads(capsys.readouterr().out), ours.evaluate(corpus / "test.jsonl")
    assert found.pop("calibration_error") == pytest.approx(expected.pop("calibration_error"), abs=1e-4)
    assert found == expected


def test_sixteen_threads_share_a_model(
    onnx: Path, trained_translator: Path, corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    formats.export(trained_translator, "ctranslate2", tmp_path / "text")
    recognizer, translator = segue.load(onnx), segue.load(tmp_path / "text")
    recordings = sorted(corpus.glob("t*_*.wav"))
    texts = [json.loads(line)["source"] for line in (pairs / "test.jsonl").read_text().splitlines()]
    heard = [recognizer.transcribe(path) for path in recordings]
    written = translator.translate(texts)
    assert len(set(written)) > 50
    with ThreadPoolExecutor(16) as pool:
        again = pool.map(recognizer.transcribe, recordings * 3)
        translations = pool.map(translator.translate, [texts[n : n + 3] for n in range(0, len(texts), 3)] * 3)
        assert list(again) == heard * 3
        assert [text for part in translations for text in part] == written * 3


EXTRAS = "torch safetensors tensorboard onnx onnxscript sherpa_onnx transformers jiwer rapidfuzz sacrebleu"
WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from segue.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("command", ["transcribe", "translate"])
def test_exported_models_run_where_torch_is_not(
    command: str, trained: Path, trained_translator: Path, onnx: Path, corpus: Path, tmp_path: Path
) -> None:
    run, model, given = trained, onnx, corpus / "test_01.wav"
    absent = EXTRAS if command == "translate" else f"{EXTRAS} tokenizers ctranslate2"
    if command == "translate":
        run, model, given = trained_translator, tmp_path / "out", tmp_path / "film.srt"
        given.write_text("1\n00:00:01,000 --> 00:00:04,000\none two three four\n")
        formats.export(run, "ctranslate2", model)
    done, refused = (
        subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, absent, command, str(each), str(given)],
            capture_output=True,
            text=True,
        )
        for each in (model, run)
    )
    assert done.returncode == 0, done.stderr
    if command == "transcribe":
        assert done.stdout.strip() == segue.load(run).transcribe(given).text
    else:
        assert "four three two one" in Path(done.stdout.strip()).read_text()
    assert refused.returncode == 2
    assert "pip install 'segue[train]'" in refused.stderr


@pytest.mark.parametrize(
    ("task", "target", "ours"), [("speech_recognition", "sherpa-onnx", "onnx"), ("translation", "onnx", "ctranslate2")]
)
def test_exports_for_other_programs_are_refused(
    task: str, target: str, ours: str, trained: Path, trained_translator: Path, tmp_path: Path
) -> None:
    run = trained if task == "speech_recognition" else trained_translator
    runtime.save(tmp_path, target, tasks.restore(run).metadata())
    with pytest.raises(UserError, match=f"{tmp_path}: an export for {target}, .* export to {ours} to use it here"):
        segue.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not written by `segue export`"),
        ("[]", "not written by `segue export`"),
        ('{"target": "onnx"}', "'task'"),
        ('{"target": "onnx", "task": "cooking"}', "'cooking'"),
        ('{"target": "onnx", "task": "speech_recognition", "sample_rate_hz": -1}', "sample_rate_hz: "),
    ],
)
def test_a_segue_json_that_is_wrong_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "segue.json").write_text(content)
    with pytest.raises(UserError) as mistake:
        segue.load(tmp_path)
    assert str(mistake.value).startswith(f"{tmp_path / 'segue.json'}: ")
    assert message in str(mistake.value)


def test_a_graph_that_is_cut_off_is_named(onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(onnx, tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.onnx: not an ONNX file, or one that is cut off"):
        segue.load(tmp_path / "out")
    with pytest.raises(UserError, match="threads: a number above 0 wanted, got 0"):
        segue.load(tmp_path / "out", threads=0)
    with pytest.raises(UserError, match="exported models run on the CPU"):
        segue.load(tmp_path / "out", device="cuda")


# --- What is refused ---


def refused(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_mistakes_get_one_line(
    trained: Path, trained_translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    speech, text = (trained, "onnx", out), (trained_translator, "ctranslate2", out)
    known = "(targets for speech_recognition: onnx, sherpa-onnx, triton)"
    assert refused(trained, "tflite", out, capsys=capsys) == f"segue: tflite: no such target {known}\n"
    assert f"ctranslate2: not for speech_recognition {known}" in refused(trained, "ctranslate2", out, capsys=capsys)
    assert (
        "sherpa-onnx: not for translation (targets for translation: onnx, ctranslate2, huggingface, peft)"
        in refused(trained_translator, "sherpa-onnx", out, capsys=capsys)
    )
    assert "--quantize int8: onnx has no such weights for translation (it has: float16)" in refused(
        trained_translator, "onnx", out, "--quantize", "int8", capsys=capsys
    )
    assert "--calibration: only eight-bit speech models" in refused(*text, "--calibration", out, capsys=capsys)
    assert "not a run, model or exported directory" in refused(tmp_path, "onnx", out, capsys=capsys)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert f"{empty}: no examples in it" in refused(*speech, "--examples", empty, capsys=capsys)
    assert f"{empty}: no examples in it" in refused(
        *speech, "--quantize", "int8", "--calibration", empty, capsys=capsys
    )
    assert not out.exists()


def test_an_exported_model_is_not_exported_again(
    onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refused(onnx, "onnx", tmp_path / "out", capsys=capsys)
    assert f"{onnx}: an exported model; the run or model directory that it came from is needed here" in found
    for points in ("nan", "-1", "inf"):
        assert main(["export", str(onnx), "onnx", str(tmp_path / "out"), f"--max-metric-loss={points}"]) == 2
        assert "number of points from 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokens", ["a", "b"], r"model\.onnx: its metadata tokens differs from segue\.json"),
        ("tokens", ["a", [300]], r"segue\.json: .*tokens\.1"),
        ("sample_rate_hz", 16000, r"model\.onnx: its metadata sample_rate_hz differs"),
        ("samples_per_frame", 10**8, r"model\.onnx: its metadata samples_per_frame differs"),
    ],
)
def test_metadata_of_another_model_is_refused(key: str, value: Any, message: str, onnx: Path, tmp_path: Path) -> None:
    shutil.copytree(onnx, tmp_path / "out")
    facts = contents(tmp_path / "out", "segue.json") | {key: value}
    (tmp_path / "out" / "segue.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        segue.load(tmp_path / "out")


def test_a_foreign_vocabulary_is_refused(trained_translator: Path, tmp_path: Path) -> None:
    formats.export(trained_translator, "ctranslate2", tmp_path / "out")
    path = tmp_path / "out" / "shared_vocabulary.json"
    *special, first, second = json.loads(path.read_text())
    path.write_text(json.dumps([*special, second, first]))
    with pytest.raises(UserError, match=r"out: its vocabularies are not those of its tokenizer\.json"):
        segue.load(tmp_path / "out")


def test_bad_examples_are_named_or_left_out(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is no audio; one is too short for a frame, which sherpa-onnx itself cannot hear."""
    lines = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()[:3]]
    (tmp_path / "bad.wav").write_text("no audio")
    audio.write(tmp_path / "short.wav", np.full(20, 0.1, np.float32), 8000)
    lines = [line | {"audio_filepath": str(corpus / line["audio_filepath"])} for line in lines]
    lines += [{"audio_filepath": f"{name}.wav", "duration": 0.0025, "text": "a"} for name in ("short", "bad")]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = (trained, "sherpa-onnx", tmp_path / "out", "--examples", examples, "--max-metric-loss", 100)
    assert f"{examples}:5: {tmp_path / 'bad.wav'}: not audio" in refused(*words, capsys=capsys)
    assert main(["export", *map(str, words), "--skip-bad"]) == 0
    assert contents(tmp_path / "out", "parity.json")["count"] == 4


def test_exports_follow_links_despite_leftovers(trained_translator: Path, tmp_path: Path) -> None:
    """Leftovers of an export that was killed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / ".partial_new_real_1").mkdir()
    (tmp_path / ".partial_old_real_1").mkdir()
    for _ in range(2):
        formats.export(trained_translator, "ctranslate2", tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real", "segue.json")["target"] == "ctranslate2"


def test_a_late_export_does_not_overwrite_another(
    trained_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.formats import ctranslate2

    def late(*given: Any) -> None:
        ctranslate2._write(*given)
        (tmp_path / "out").mkdir()

    monkeypatch.setattr(ctranslate2, "TEXT", ctranslate2.TEXT._replace(write=late))
    with pytest.raises(UserError, match="exists already"):
        formats.export(trained_translator, "ctranslate2", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_only_exports_are_overwritten(
    trained_translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --force; any other folder stays."""
    out, words = tmp_path / "out", (trained_translator, "ctranslate2", tmp_path / "out")
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    for force in ((), ("--force",)):
        assert "exists already, and is not an exported model, which" in refused(*words, *force, capsys=capsys)
    assert (out / "diary.txt").is_file()
    (out / "diary.txt").unlink()
    assert "exists already; --force replaces it" in refused(*words, capsys=capsys)
    for _ in range(2):  # into an empty folder, then over an export
        formats.export(*words, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert contents(out, "segue.json")["target"] == "ctranslate2"


def test_without_data_export_asks_for_examples(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "model", tmp_path / "model")
    recipe = tmp_path / "model" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(corpus), "/nowhere"))
    found = refused(tmp_path / "model", "onnx", tmp_path / "out", capsys=capsys)
    assert "neither test*.jsonl nor dev.jsonl in /nowhere" in found
    assert "give --examples MANIFEST" in found
    examples = corpus / "dev.jsonl"
    found_parity = formats.export(
        tmp_path / "model", "onnx", tmp_path / "out", weights="int8", examples=examples, max_metric_loss=5
    )
    assert found_parity.examples == [str(examples)]


def test_missing_and_broken_models_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(trained / "recipe.toml", half)
    assert "half: incomplete: it has recipe.toml, but not model.safetensors or adapter.safetensors" in refused(
        half, "onnx", tmp_path / "out", capsys=capsys
    )
    (half / "checkpoints").mkdir()
    assert "no model in it yet" in refused(half, "onnx", tmp_path / "out", capsys=capsys)
    capsys.readouterr()
    shutil.copytree(trained / "model", half / "model")
    (half / "metrics.jsonl").write_text('{"step": 8, "loss": 2.0}\n{"step": 10, "loss": 1.5}\n')
    formats.export(half, "onnx", tmp_path / "early")
    assert f"warning: {half}: has taken 10 of 120 steps" in capsys.readouterr().err
    shutil.copytree(trained / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert str(weights) in refused(tmp_path / "model", "onnx", tmp_path / "out", capsys=capsys)


def test_exports_that_differ_are_not_written(
    trained: Path, trained_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.formats import ctranslate2, onnx

    def wrong_graph(given: Any, folder: Path, weights: str) -> None:
        onnx._write_speech(given, folder, weights)
        graph = onnx_file.load(folder / "model.onnx")
        for tensor in graph.graph.initializer:
            if tensor.name.endswith(".weight"):
                tensor.CopyFrom(numpy_helper.from_array(1.2 * numpy_helper.to_array(tensor), tensor.name))
        onnx_file.save(graph, folder / "model.onnx")

    def wrong_weights(given: Any, *others: Any) -> None:
        ctranslate2._write(given._replace(model=_disturbed(given.model)), *others)

    monkeypatch.setattr(onnx, "SPEECH", onnx.SPEECH._replace(write=wrong_graph))
    monkeypatch.setattr(ctranslate2, "TEXT", ctranslate2.TEXT._replace(write=wrong_weights))
    with pytest.raises(UserError, match=r"not written: scores differ by up to .* \(bound 0\.01\)"):
        formats.export(trained, "onnx", tmp_path / "speech")
    with pytest.raises(UserError, match=r"not written: "):
        formats.export(trained_translator, "ctranslate2", tmp_path / "text")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"not written: bleu: 0\.00 points lost \(--max-metric-loss -1\)"):
        formats.export(trained_translator, "ctranslate2", tmp_path / "text", weights="float16", max_metric_loss=-1)
    assert list(tmp_path.iterdir()) == []


def test_exports_with_nan_scores_are_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.formats import onnx

    real = onnx.SPEECH.run

    def hear(*given: Any) -> Any:
        ear = real(*given)

        def strange(waveforms: Any) -> Any:
            texts, scores = ear(waveforms)
            return texts, lambda: [np.where(row < -1, np.nan, row) for row in scores()]

        return strange

    monkeypatch.setattr(onnx, "SPEECH", onnx.SPEECH._replace(run=hear))
    with pytest.raises(UserError, match="some scores are not numbers"):
        formats.export(trained, "onnx", tmp_path / "out")


def _disturbed(model: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
    return other


def test_layers_go_back_to_float_for_the_metric(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first tries are said to have lost much: one layer, then two stay in float."""
    real, losses = comparison.compare, iter([9.0, 4.0, 0.1])

    def found(*arguments: Any, **options: Any) -> Parity:
        return Parity(**{**vars(real(*arguments, **options)), "loss": next(losses)})

    monkeypatch.setattr(comparison, "compare", found)
    formats.export(trained, "onnx", tmp_path / "out", weights="int8")
    kept = contents(tmp_path / "out", "parity.json")["layers_in_float"]
    assert len(kept) == 2
    assert contents(tmp_path / "out", "segue.json")["layers_in_float"] == kept
    assert "9.00 points lost; once more with 1 of " in capsys.readouterr().err


def test_tasks_restore_what_was_trained(trained: Path) -> None:
    restored = tasks.restore(trained)
    assert restored.metadata().parameters == sum(parameter.numel() for parameter in restored.model.parameters())
