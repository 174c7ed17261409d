import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pysubs2
import pytest
import soundfile

from segue import recipe, tasks, training
from segue.cli import main
from segue.commands import COMMANDS
from segue.data import audio, corpora


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Segue = Callable[..., Outcome]


@pytest.fixture
def segue(capsys: pytest.CaptureFixture[str]) -> Segue:
    """Runs one command line in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return run


def in_new_process(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def assert_mistake(outcome: Outcome, message: str) -> None:
    """Status 2 and one message on standard error; nothing on standard output, where a program reads results."""
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("segue: ")
    assert message in outcome.err
    assert outcome.err.count("segue: ") == 1
    assert "Traceback" not in outcome.err


# --- standard streams ---


def test_closed_streams_do_not_mix_outputs() -> None:
    """A closed standard output is named; without standard error, no message goes to standard output."""

    def run(closed: str) -> subprocess.CompletedProcess[str]:
        command = f"'{sys.executable}' -m segue recipes show nothing {closed}"
        return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)

    finished = run(">&-")
    assert (finished.returncode, finished.stderr) == (
        2,
        "segue: standard output is closed; send it to a file, or to /dev/null\n",
    )
    finished = run("2>&-")
    assert (finished.returncode, finished.stdout) == (2, "")


# --- help ---


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(segue: Segue, name: str) -> None:
    outcome = segue(name, "--help")
    assert outcome.status == 0
    assert f"example:\n  segue {name} " in outcome.out


def test_help_imports_nothing_heavy() -> None:
    """It lists the commands."""
    program = """
import sys
from segue.cli import main
from segue.commands import COMMANDS
for words in (["--help"], *([name, "--help"] for name in COMMANDS)):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
print(*sys.modules, file=sys.stderr)
"""
    finished = in_new_process(program)
    assert finished.returncode == 0, finished.stderr
    assert all(f"\n  {name} " in finished.stdout for name in COMMANDS)
    heavy = {"torch", "numpy", "pydantic", "tokenizers", "soundfile", "jiwer", "tqdm"}
    assert heavy.isdisjoint(finished.stderr.split())


# --- mistakes ---


@pytest.mark.parametrize(
    ("line", "wrong_line", "message"),
    [
        ("clip_norm = 5.0", "clip_nrom = 5.0", "engine.clip_nrom: no such key (did you mean 'clip_norm'?)"),
        ("clip_norm = 5.0", 'clip_norm = "five"', 'engine.clip_norm: should be float, not "five"'),
        (
            'device = "cpu"',
            'device = "tpu"',
            "engine.device: should be 'auto' or 'cpu' or 'cuda' or 'mps', not \"tpu\"",
        ),
        ("betas = [0.95, 0.5]", "betas = [0.95, 1.5]", "optimizer.betas.1: should be less than 1, not 1.5"),
    ],
)
def test_recipe_mistakes_name_file_line_and_key(
    segue: Segue, tiny_recipe: Path, tmp_path: Path, line: str, wrong_line: str, message: str
) -> None:
    text = tiny_recipe.read_text()
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(line, wrong_line))
    number = text.splitlines().index(line) + 1
    assert_mistake(segue("train", path, "--out", tmp_path / "run"), f"{path}:{number}: {message}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': ", "train.jsonl:3: not JSON: "),
        ('{"audio_filepath": "train_02.wav", "duration": 1.0}', "train.jsonl:3: lacks the key 'text'"),
        (
            '{"audio_filepath": "no.wav", "duration": 1.0, "text": "abc"}',
            "train.jsonl:3: audio_filepath: no such file: ",
        ),
        (
            None,
            "train.jsonl: no such manifest (the folder has dev.jsonl, test.jsonl: data.train names ",
        ),
    ],
)
def test_manifest_mistakes_name_line_and_key(
    segue: Segue, tiny_recipe: Path, corpus: Path, tmp_path: Path, line: str | None, message: str
) -> None:
    for path in corpus.iterdir():
        (tmp_path / path.name).symlink_to(path)
    lines = (corpus / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").unlink()
    if line is not None:
        (tmp_path / "train.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]))
    outcome = segue("train", tiny_recipe, f"data.root={tmp_path}", "--out", tmp_path / "run")
    assert_mistake(outcome, f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train digits_jaspr", "digits_jaspr: no such file, and no such recipe (did you mean 'digits_jasper'?)"),
        ("trian {recipe}", "no such command: 'trian' (did you mean 'train'?)"),
        ("--fly", "--fly: no such option; a command comes first: segue COMMAND ... (segue --help)"),
        ("fly", "no such command: 'fly' (commands: quickstart, "),
        ("train", "RECIPE is missing: segue train RECIPE (segue recipes list)"),
        ("train engine.steps=140", "RECIPE is missing: segue train RECIPE (segue recipes list)"),
        ("train --replay {recipe}", "{recipe}: not a replay file: "),
        ("train {recipe} engine.stpes=3", "command line: engine.stpes: no such key (did you mean 'steps'?)"),
        ("train {recipe} steps", "command line: steps: should be key=value, like "),
        ("train {recipe} optimizer.lr=3", "command line: optimizer.lr: no such key (did you mean 'learning_rate'?)"),
        ("train {recipe} lr=3", "command line: lr: no such key (did you mean 'optimizer.learning_rate'?)"),
        ("train {recipe} engine.epochs=3", "engine.epochs: no such key (did you mean 'steps', as in \"20 epochs\"?)"),
        ("train {recipe} batch.batch_size=8", "(did you mean 'seconds', in seconds instead of examples?)"),
        (
            "train {recipe} engine.steps=many",
            'should be a number of steps, "auto", or a number of epochs as in "20 epoch',
        ),
        (
            "train {recipe} --lr 1e-3",
            "--lr: no such option of train; the recipe has a key for it: optimizer.learning_rate=1e-3",
        ),
        ("train --lr=1e-3 {recipe}", "the recipe has a key for it: optimizer.learning_rate=1e-3"),
        (
            "train {recipe} --epochs 20",
            "--epochs: no such option of train; the recipe has a key for it: engine.steps=20epochs",
        ),
        ("train {recipe} --batch-size 8", "the recipe's key is batch.seconds: seconds in a batch, not examples"),
        (
            "train {recipe} --engine.steps 8",
            "--engine.steps: no such option of train; the recipe has a key for it: engine.steps=8",
        ),
        (
            "train {recipe} --fast",
            "--fast: no such option of train (segue train --help); recipe keys follow the recipe: ",
        ),
        (
            "train {recipe} data.root=nowhere --out {trained}",
            "nowhere: no such folder; data.root=nowhere should name what ",
        ),
        ("train {recipe} data.root={recipe} --out {trained}", "{recipe}: not a folder; data.root="),
        ("train {recipe} --out {corpus}", "{corpus}: not empty, and no run directory; give another --out"),
        ("evaluate {corpus} {corpus}/test.jsonl", "{corpus}: not a run, model or exported directory"),
        ("evaluate {trained} {corpus}/no.jsonl", "{corpus}/no.jsonl: cannot read this manifest"),
        ("transcribe {trained} a.wav b.wav --format srt", "--format srt with several recordings needs --out DIR"),
        ("prepare csv {corpus}/no.csv {corpus}", "{corpus}/no.csv: no such file or folder"),
        ("prepare libri {corpus} {corpus}", "no such corpus: 'libri' (corpora: fsdd, "),
        ("recipes show", "a recipe is missing: segue recipes show NAME"),
        ("recipes list more", "'more': one argument too many for segue recipes list"),
        ("recipes copy a b c", "'c': one argument too many for segue recipes copy"),
        ("train {recipe} --out {recipe}", "--out {recipe}: a file; the name of a folder is wanted"),
        ("train --from nowhere", "nowhere: no such folder; a run, model or exported directory is wanted"),
        ("evaluate {recipe} {corpus}/test.jsonl", "{recipe}: a file; a run, model or exported directory is wanted"),
        ("transcribe {trained}/model/recipe.toml x.wav", "recipe.toml: a file; give its folder: {trained}/model"),
        ("import {trained}/model new", "{trained}/model: a model of Segue already; all commands take it as it is"),
        ("report {trained}/model", "{trained}/model: a model, not a run directory, which has metrics.jsonl"),
        ("serve {trained} --keys {corpus}/test_00.wav", "test_00.wav: a sound or video file, where a plain text in "),
        ("align {trained} x.wav {corpus}/test_00.wav", "test_00.wav: a sound or video file, where a plain text in "),
        ("recipes schema", "a task is missing: segue recipes schema TASK (tasks: speech_recognition, "),
        ("recipes schema speech", "no such task: 'speech' (tasks: speech_recognition"),
    ],
)
def test_command_line_mistakes_are_one_message(
    segue: Segue, tiny_recipe: Path, corpus: Path, trained: Path, words: str, message: str
) -> None:
    places = {"recipe": tiny_recipe, "corpus": corpus, "trained": trained}
    assert_mistake(segue(*words.format(**places).split()), message.format(**places))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("transcribe m x.wav --device tpu", "--device: should be one of 'auto', 'cpu', 'cuda', 'mps', not 'tpu'"),
        ("transcribe m x.wav --names Ann,Ann", "--names: should be different names, like Ann,Ben, not 'Ann,Ann'"),
        ("transcribe m x.wav --speakers 0", "--speakers: should be a whole number above 0, or auto, not '0'"),
        ("transcribe m x.wav --channel both", "--channel: should be left, right, mix or a number from 1, not 'both'"),
        ("estimate r --memory nan", "--memory: should be a number above 0, not 'nan'"),
        ("estimate r --memory 8x", "--memory: should be a number above 0, not '8x'"),
        ("transcribe m x.wav --names", "--names: its value is missing"),
        ("transcribe m x.wav --channels=2", "--channels: takes no value, but is given '2'"),
        ("transcribe m", "AUDIO is missing, for example: segue transcribe runs/digits "),
        ("transcribe", "MODEL and AUDIO are missing, for example: segue transcribe runs/digits "),
        ("transcribe m --jsonn", "--jsonn: no such option of transcribe"),
        ("estimate r", "--memory is missing, for example: segue estimate "),
        ("merge a b c", "'c': one argument too many for merge"),
        ("transcribe m x.wav --fly", "--fly: no such option of transcribe (segue transcribe --help)"),
        ("transcribe m x.wav --fromat=srt", "--fromat: no such option of transcribe (did you mean --format?)"),
    ],
)
def test_wrong_options_are_one_line(segue: Segue, words: str, message: str) -> None:
    """It says what to type."""
    outcome = segue(*words.split())
    assert_mistake(outcome, message)
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith(f"(segue {words.split()[0]} --help)\n" if "did you mean" not in message else "?)\n")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["recipe.toml"],
            "incomplete: it has recipe.toml, but not model.safetensors or adapter.safetensors; copy the ",
        ),
        (["recipe.toml", "checkpoints"], "no model in it yet; training writes one at its first evaluation"),
        (["recipe.toml", ".lock"], "no model in it yet; training writes one at its first evaluation"),
        (["model.safetensors"], "incomplete: it has model.safetensors, but not recipe.toml; copy the whole folder"),
        (["model.onnx"], "incomplete: it has model.onnx, but not segue.json; copy the whole folder"),
        (["config.json", "model.safetensors"], "a model of another toolkit; import it first: segue import "),
        ([], "not a run, model or exported directory (it has no recipe.toml and no segue.json)"),
    ],
)
def test_half_copied_models_say_what_is_missing(segue: Segue, tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert_mistake(segue("transcribe", tmp_path, "x.wav"), f"{tmp_path}: {message}")


def test_help_of_prepare_names_all_corpora(segue: Segue) -> None:
    said = set(segue("prepare", "--help").out.replace(",", " ").replace(";", " ").split())
    assert set(corpora.CORPORA) <= said


def test_another_recipes_run_is_refused(segue: Segue, tiny_recipe: Path, trained: Path) -> None:
    """It is left as it is."""
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    outcome = segue("train", tiny_recipe, "--out", trained)
    assert_mistake(outcome, f"{trained}: belongs to another recipe. It differs in\n")
    *differing, advice = outcome.err.splitlines()[1:]
    differences = {line.strip() for line in differing}
    assert advice == (
        "It is finished, at step 120; what a run learns cannot change once it has begun. "
        f"--out {trained}_2 begins a new one; with the weights of this one: segue train {trained}/recipe.toml "
        f"--from {trained} --out {trained}_2 augmentation.joined_utterances=2 "
        "augmentation.noise_probability=0.5 engine.steps=30"
    )
    assert differences == {
        "engine.steps: 120 -> 30",
        "augmentation.joined_utterances: 1 -> 2",
        "augmentation.noise_probability: 0.0 -> 0.5",
    }
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", ["features.mel_bins=20", "start.model=base"])
def test_no_useless_start_is_proposed(segue: Segue, tiny_recipe: Path, trained: Path, change: str) -> None:
    """A model that reads other features is no base, and there is only one base."""
    base = trained if change.startswith("start.") else ""
    outcome = segue("train", tiny_recipe, "--out", trained, change.replace("=base", f"={base}"))
    assert f"  {change.partition('=')[0]}: " in outcome.err
    assert outcome.err.endswith(f"--out {trained}_2 begins a new one\n")


def test_another_tasks_run_is_refused(segue: Segue, reversal_recipe: Path, trained: Path) -> None:
    outcome = segue("train", reversal_recipe, "--out", trained)
    assert "  task: speech_recognition -> translation\n" in outcome.err
    assert outcome.err.endswith(f"--out {trained}_2 begins a new one\n")


def test_a_run_without_a_model_is_no_base(segue: Segue, tiny_recipe: Path, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "my run")
    shutil.rmtree(run / "model")
    assert segue("train", tiny_recipe, "--out", run).err.endswith(f"--out '{run}_2' begins a new one\n")


def test_two_trainings_never_share_a_run_directory(segue: Segue, tiny_recipe: Path, tmp_path: Path) -> None:
    lock = training._lock(tmp_path)  # as a training does
    outcome = segue("train", tiny_recipe, "--out", tmp_path)
    lock.close()
    assert_mistake(outcome, f"{tmp_path}: process {os.getpid()} on {socket.gethostname()} is training there")


def test_without_torch_it_says_what_to_install(tiny_recipe: Path, corpus: Path, trained: Path, tmp_path: Path) -> None:
    """Preparing data works."""
    program = """
import sys
from segue.cli import main

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.exit(main())
"""
    for words in (
        ("train", tiny_recipe, "--out", tmp_path / "run"),
        ("evaluate", trained, corpus / "test.jsonl"),
        ("transcribe", trained, corpus / "test_00.wav"),
    ):
        finished = in_new_process(program, *words)
        outcome = Outcome(finished.returncode, finished.stdout, finished.stderr)
        assert_mistake(outcome, "this needs the package torch: pip install 'segue[train]'")
    finished = in_new_process(program, "prepare", "nemo", corpus, tmp_path / "prepared")
    assert finished.returncode == 0, finished.stderr


# --- commands ---


def texts_of(corpus: Path, split: str) -> dict[Path, str]:
    lines = [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]
    return {corpus / line["audio_filepath"]: line["text"] for line in lines}


def test_a_table_is_prepared_trained_and_scored(segue: Segue, tiny_recipe: Path, corpus: Path, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        rows = [f"{path},{text}\n" for path, text in texts_of(corpus, split).items()]
        (tmp_path / f"{split}.csv").write_text("".join(["path,sentence\n", *rows]))
    manifests, run = tmp_path / "manifests", tmp_path / "run"

    outcome = segue("prepare", "csv", tmp_path, manifests)
    assert outcome.status == 0, outcome
    assert f"{manifests}/train.jsonl: 36 utterances, " in outcome.out

    words = ("train", tiny_recipe, f"data.root={manifests}", "engine.steps=2", "--out", run)
    outcome = segue(*words)
    assert outcome.status == 0, outcome
    assert outcome.out.startswith(f"{run}/model: word_error_rate ")
    assert segue(*words).out == outcome.out  # nothing is left to do

    outcome = segue("evaluate", run, manifests / "test.jsonl", "--json")
    assert outcome.status == 0, outcome
    scores = json.loads(outcome.out)
    assert scores["utterances"] == 8
    assert scores["word_error_rate"] == (
        (scores["substitutions"] + scores["insertions"] + scores["deletions"]) / scores["words"]
    )


def test_a_trained_model_has_low_error_rates(segue: Segue, corpus: Path, trained: Path) -> None:
    scores = json.loads(segue("evaluate", trained / "model", corpus / "test.jsonl", "--json").out)
    assert scores["word_error_rate"] < 0.2
    assert scores["utterances"] == 8
    assert scores["skipped"] == 0
    whole = json.loads(segue("evaluate", trained, corpus / "test.jsonl", "--as-transcribe", "--json").out)
    assert whole["alone_word_error_rate"] == scores["word_error_rate"]
    assert (whole["recordings"], whole["utterances"], whole["words"]) == (2, 8, scores["words"])  # of two speakers
    outcome = segue("evaluate", trained, corpus / "test.jsonl")
    assert f"word error rate {scores['word_error_rate']:.2%}".split() == outcome.out.splitlines()[0].split()[:4]
    outcome = segue("transcribe", trained, *texts_of(corpus, "test"))
    right = [f"{path}\t{text}" for path, text in texts_of(corpus, "test").items()]
    assert sum(a == b for a, b in zip(outcome.out.splitlines(), right, strict=True)) >= 6


def test_transcripts_have_words_and_times(segue: Segue, corpus: Path, trained: Path) -> None:
    """In every format."""
    path, text = next((path, text) for path, text in texts_of(corpus, "train").items() if " " in text)
    assert segue("transcribe", trained, path).out == f"{text}\n"

    transcript = json.loads(segue("transcribe", trained, path, "--format", "json").out)
    assert transcript["audio"] == str(path)
    assert transcript["duration"] == pytest.approx(0.08 * len(text), abs=0.001)
    assert transcript["text"] == text
    assert [word["word"] for word in transcript["words"]] == text.split()
    for word in transcript["words"]:
        start = 0.08 * text.index(word["word"])  # a tone lasts 80 ms
        assert word["start"] == pytest.approx(start, abs=0.08)
        assert word["end"] == pytest.approx(start + 0.08 * len(word["word"]), abs=0.08)
        assert 0.5 < word["confidence"] <= 1

    for form in ("srt", "vtt"):
        written = segue("transcribe", trained, path, "--format", form).out
        (cue,) = pysubs2.SSAFile.from_string(written, format_=form)
        assert cue.text == text
        assert 0 <= cue.start <= round(1000 * transcript["words"][0]["start"])
        assert round(1000 * transcript["words"][-1]["end"]) <= cue.end <= round(1000 * transcript["duration"])
    (segment,) = transcript["segments"]
    assert (segment["id"], segment["text"]) == (0, text)
    assert (segment["start"], segment["end"]) == (transcript["words"][0]["start"], transcript["words"][-1]["end"])


@pytest.mark.parametrize(("form", "suffix"), [("text", "txt"), ("json", "json"), ("srt", "srt"), ("vtt", "vtt")])
def test_transcripts_can_go_to_files(
    segue: Segue, corpus: Path, trained: Path, tmp_path: Path, form: str, suffix: str
) -> None:
    paths = [corpus / "test_00.wav", corpus / "test_01.wav"]
    outcome = segue("transcribe", trained, *paths, "--format", form, "--out", tmp_path / "out")
    written = [tmp_path / "out" / f"{path.stem}.{suffix}" for path in paths]
    assert (outcome.status, outcome.out.splitlines()) == (0, [str(target) for target in written])
    for path, target in zip(paths, written, strict=True):
        assert target.read_text() == segue("transcribe", trained, path, "--format", form).out


def test_unreadable_recordings_do_not_stop_others(segue: Segue, corpus: Path, trained: Path, tmp_path: Path) -> None:
    missing, text_file = tmp_path / "missing.wav", tmp_path / "letter.wav"
    text_file.write_text("Dear all, this is no audio.")
    good = [corpus / "test_00.wav", corpus / "test_01.wav"]
    outcome = segue("transcribe", trained, missing, good[0], text_file, good[1])
    assert outcome.status == 2
    assert [line.split("\t")[0] for line in outcome.out.splitlines()] == list(map(str, good))
    of_missing, of_text_file = outcome.err.splitlines()
    assert of_missing == f"segue: {missing}: cannot read this audio file: No such file or directory"
    assert of_text_file.startswith(f"segue: {text_file}: not audio that can be read")
    assert of_text_file.endswith(": it is a text file")


def test_recordings_of_one_name_do_not_collide(segue: Segue, corpus: Path, trained: Path, tmp_path: Path) -> None:
    texts = {}
    for folder, (path, text) in zip(("d1", "d2"), texts_of(corpus, "train").items(), strict=False):
        (tmp_path / folder).mkdir()
        shutil.copy(path, tmp_path / folder / "rec.wav")
        texts[folder] = text
    outcome = segue("transcribe", trained, tmp_path / "d1" / "rec.wav", tmp_path / "d2", "--out", tmp_path / "o")
    assert outcome.status == 0, outcome
    assert {folder: (tmp_path / "o" / folder / "rec.txt").read_text().strip() for folder in texts} == texts


def test_a_channel_is_taken_where_two_differ(segue: Segue, corpus: Path, trained: Path, tmp_path: Path) -> None:
    (one, text), (other, other_text), *_ = texts_of(corpus, "train").items()
    left, right = (audio.read(path, 8000) for path in (one, other))
    columns, _ = audio.padded([left, np.concatenate([np.zeros_like(left), right])])  # one after the other
    soundfile.write(tmp_path / "x.wav", columns.T, 8000)
    assert_mistake(
        segue("transcribe", trained, tmp_path / "x.wav"), "say which to use: --channel left, --channel right"
    )
    for channel, wanted in (("left", text), ("2", other_text)):
        outcome = segue("transcribe", trained, tmp_path / "x.wav", "--channel", channel)
        # The tiny model knows no pauses: it may lose a space beside them.
        assert outcome.out.replace(" ", "") == wanted.replace(" ", "") + "\n"
    soundfile.write(tmp_path / "y.wav", np.stack([left, -left], axis=1), 8000)
    outcome = segue("transcribe", trained, tmp_path / "y.wav")
    assert (outcome.status, outcome.out) == (0, f"{text}\n")
    assert "y.wav: its channels cancel each other (opposite phase); only channel 1 is used" in outcome.err


def test_names_and_texts_need_no_utf8_locale(corpus: Path, exported_recognizer: Path, tmp_path: Path) -> None:
    path, text = next(iter(texts_of(corpus, "train").items()))
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    shutil.copy(path, name)
    odd = tmp_path / "é.wav"
    shutil.copy(path, odd)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"}
    command = [sys.executable, "-m", "segue", "transcribe", str(exported_recognizer), name, str(odd), "-"]
    finished = subprocess.run(command, capture_output=True, input=path.read_bytes(), env=environment, timeout=100)
    assert finished.returncode == 0, finished
    rows = [os.fsencode(name), os.fsencode(odd), b"-"]
    assert finished.stdout == b"".join(row + b"\t" + text.encode() + b"\n" for row in rows)


def test_lower_sample_rates_give_one_warning(segue: Segue, trained: Path, corpus: Path, tmp_path: Path) -> None:
    samples = audio.read(next(iter(texts_of(corpus, "train"))), 4000)
    for name in ("x.wav", "y.wav"):
        audio.write(tmp_path / name, samples, 4000)
    outcome = segue("transcribe", trained, tmp_path)
    assert outcome.status == 0
    assert outcome.err.count("sampled at 4000 Hz, the model was trained at 8000 Hz") == 1


@pytest.mark.parametrize(
    "words",
    [
        "translate m --context -1",
        "translate m --reading-speed nan",
        "translate m --reading-speed 0",
        "translate m --beams 0",
        "transcribe m x.wav --channel 0",
        "transcribe m x.wav --channel both",
        "estimate r --memory nan",
        "estimate r --memory -1",
        "estimate r --memory 8 --flops inf",
        "export m onnx o --max-metric-loss nan",
    ],
)
def test_invalid_numbers_are_refused(segue: Segue, words: str) -> None:
    *_, option, value = words.split()
    assert_mistake(segue(*words.split()), f"segue: {option}: should be ")
    assert f", not {value!r} (segue " in segue(*words.split()).err


# --- recipes ---


def recipe_in(text: str) -> recipe.Section:
    name = tomllib.loads(text)["task"]
    return recipe.loads(text, tasks.recipe_type(name))


@pytest.mark.parametrize("name", recipe.shipped())
def test_shown_recipes_load_back_equal(segue: Segue, name: str) -> None:
    shown = segue("recipes", "show", name)
    assert shown.status == 0, shown
    draft = recipe.read(recipe.shipped()[name])
    assert recipe_in(shown.out) == recipe.validate(draft, tasks.module_of(draft).Recipe)


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_copied_recipe_stands_on_its_own(segue: Segue, tmp_path: Path, name: str) -> None:
    outcome = segue("recipes", "copy", name, tmp_path)
    assert outcome == (0, f"{tmp_path / name}.toml\n", "")
    assert segue("recipes", "show", tmp_path / f"{name}.toml").out == segue("recipes", "show", name).out
    assert_mistake(segue("recipes", "copy", name, tmp_path), f"{tmp_path / name}.toml: exists already")


def test_shown_recipes_include_overrides(segue: Segue) -> None:
    shown: Any = recipe_in(segue("recipes", "show", "digits_jasper", "engine.steps=7", "seed=3").out)
    assert (shown.engine.steps, shown.seed) == (7, 3)


def test_shipped_recipes_are_listed_and_valid(segue: Segue) -> None:
    listed = segue("recipes", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == list(recipe.shipped())
    assert all(len(line.split()) > 3 for line in listed)  # with what it is for
    for path in recipe.shipped().values():
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if "extends" not in values:
            schema = json.loads(segue("recipes", "schema", values["task"]).out)
            jsonschema.validate(values, schema)


def test_a_run_can_go_on_with_skip_bad(segue: Segue, tiny_recipe: Path, tmp_path: Path) -> None:
    words = ("train", tiny_recipe, "--out", tmp_path / "run", "engine.steps=2", "engine.save_every=1")
    assert segue(*words).status == 0
    assert segue(*words, "--skip-bad").status == 0


@pytest.mark.slow
def test_a_learning_rate_is_found_without_a_run(
    segue: Segue, reversal_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", reversal_recipe, "--find-learning-rate", "batch.tokens=60")
    outcome = segue(*words)
    assert (outcome.status, outcome.err) == (0, "")
    heading, *table, last = outcome.out.splitlines()
    assert heading.split() == ["rate", "loss", "smoothed"]
    rows = [[float(number) for number in line.split()] for line in table]
    assert all(len(row) == 3 for row in rows)
    assert 50 < len(rows) <= 100
    rates = [rate for rate, _, _ in rows]
    assert rates == sorted(rates)
    assert rates[0] == 1e-6
    name, _, found = last.partition("=")
    assert name == "optimizer.learning_rate"
    assert any(float(found) == pytest.approx(rate, rel=0.05) for rate in rates)  # printed with two digits
    assert list(tmp_path.iterdir()) == []


def test_train_starts_a_process_per_gpu(segue: Segue, reversal_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def execv(program: str, words: list[str]) -> None:
        assert program == sys.executable
        started.append(words)
        raise SystemExit  # another program is in its place

    words = ["train", str(reversal_recipe), "engine.steps=3", "--out", "run"]
    monkeypatch.setattr(training, "num_processes", lambda path, overrides: 3)
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["segue", *words])
    assert segue(*words) == (0, "", "")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "segue"]
    assert started == [[sys.executable, *start, *words]]
