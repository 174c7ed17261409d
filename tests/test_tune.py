"""Does `segue tune` find settings with fewer errors, keep them beside the model, and is the model used with them?"""

import json
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile

import segue
from segue.cli import main
from segue.data.audio import properties
from segue.runtime.search_tuning import Development, Tuning, development
from tests.test_speech_search import arpa, recognizer, searching, spoken

REFERENCES = ["the cat sat", "the cat sat the cat", "cat"]
DOUBTS = {5: ("o", 0.6)}


def made_up() -> Development:
    return Development(
        [spoken(text, DOUBTS if len(text) > 5 else None) for text in REFERENCES],
        [np.zeros(0, np.float32)] * len(REFERENCES),
        REFERENCES,
        [None] * len(REFERENCES),
        3.0,
    )


def test_language_model_is_weighed(tmp_path: Path) -> None:
    ticks = count()
    tuning = Tuning(recognizer(spoken("")), made_up(), lambda: float(next(ticks)))
    trials = list(tuning.run(searching().with_language_model(arpa(tmp_path / "words.arpa"))))
    assert trials == tuning.trials
    assert len({trial.section for trial in trials}) == len(trials) > 20
    assert trials[0].section.kind == "greedy"
    assert trials[0].errors[0] == pytest.approx(2 / 9)
    assert tuning.best.errors == (0.0, 0.0)
    assert tuning.best.section.kind == "beam"
    assert tuning.best.section.beams == min(
        trial.section.beams
        for trial in trials
        if trial.errors == (0.0, 0.0) and (trial.section.weight, trial.section.word_bonus) == (0.5, 1.5)
    )


def test_greedy_search_stays_where_beams_gain_nothing() -> None:
    tuning = Tuning(
        recognizer(spoken("")), made_up()._replace(references=["the cot sat", "the cot sat the cat", "cat"]), float
    )
    list(tuning.run(searching()))
    assert tuning.best.section.kind == "greedy"


def test_trials_score_the_texts_that_one_gets(tmp_path: Path) -> None:
    """Words that only silence parts, in tuning, evaluation and transcripts."""
    scores = spoken("thecat")
    blanks = np.repeat(scores[6:7], 15, axis=0)  # 0.3 s
    model = recognizer(np.concatenate([scores[:6], blanks, scores[7:]]))
    sound = np.random.default_rng(0).normal(0, 0.1, 27 * 160).astype(np.float32)
    sound[6 * 160 : 21 * 160] *= 0.001
    soundfile.write(tmp_path / "x.wav", sound, 8000, subtype="FLOAT")
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "x.wav", "duration": len(sound) / 8000, "text": "the cat"}))
    assert model.transcribe(tmp_path / "x.wav").text == "the cat"
    assert model.evaluate(manifest)["word_error_rate"] == 0.0
    tuning = Tuning(model, development(model, manifest, 60.0), float)
    for kind in ("greedy", "beam"):
        assert tuning.try_(searching(kind=kind)).scores["word_error_rate"] == 0.0


@pytest.fixture
def model(exported_recognizer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_recognizer, tmp_path / "model"))


def test_tuned_model_searches_as_tuned(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arpa(tmp_path / "words.arpa", {"ab": 0.3, "cd": 0.3, "abcd": 0.2})
    assert main(["tune", str(model), str(corpus / "dev.jsonl"), "--language-model", str(words)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["kind", "beams", "weight", "word_bonus"]
    assert printed[1].split()[:2] == ["greedy", "-"]
    assert printed[-1].startswith(f"{model / 'search.json'}: written")
    values = json.loads((model / "search.json").read_text())
    found = segue.load(model)
    assert found.search.section.model_dump(exclude_none=True) == values
    assert (found.search.words is not None) == ("language_model" in values) == (model / "language_model.arpa").exists()
    assert printed[-2].split()[0] == values["kind"]


def test_options_replace_what_lies_beside(model: Path, corpus: Path, tmp_path: Path) -> None:
    manifest = corpus / "test.jsonl"
    line = json.loads(manifest.read_text().splitlines()[0])
    sound = corpus / line["audio_filepath"]
    words = arpa(tmp_path / "words.arpa", {"ab": 0.3, "cd": 0.3})
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("abc\n")
    asked = ["--beams", "4", "--language-model", str(words), "--phrases", str(phrases)]
    assert main(["transcribe", str(model), str(sound), *asked]) == 0
    assert main(["evaluate", str(model), str(manifest), *asked]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--phrases", "{tmp}/none.txt"], "none.txt: No such file"),
        (["--phrases", "{tmp}/strange.txt"], "strange.txt:2: 'xyz': the model has no 'x', 'y', 'z' in its alphabet"),
        (["--language-model", "{tmp}/strange.txt"], "not an ARPA file"),
        (["--language-model", "{tmp}/other.arpa"], "of other tokens: the speech model can spell 0 of its 2"),
        (["--beams", "1", "--phrases", "{tmp}/strange.txt"], "--beams 1 is greedy search"),
    ],
)
def test_mistakes_are_explained(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "strange.txt").write_text("ab\nxyz\n")
    arpa(tmp_path / "other.arpa", {"x": 0.3, "yz": 0.3})
    given = [word.format(tmp=tmp_path) for word in words]
    assert main(["transcribe", str(model), str(corpus / "test.jsonl"), *given]) == 2
    assert message in capsys.readouterr().err


def test_other_models_have_no_search(trained_translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained_translator
    assert main(["evaluate", str(path), "none.jsonl", "--beams", "4"]) == 2
    assert "for models that transcribe" in capsys.readouterr().err
    assert main(["tune", str(path), "none.jsonl"]) == 2
    assert "does not transcribe" in capsys.readouterr().err


def test_nothing_to_tune_on_is_refused(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "dev.jsonl"
    line = json.loads((corpus / "dev.jsonl").read_text().splitlines()[0])
    sound = corpus / line["audio_filepath"]
    manifest.write_text(
        json.dumps({**line, "audio_filepath": str(sound), "text": "?", "duration": properties(sound).seconds})
    )
    assert main(["tune", str(model), str(manifest)]) == 2
    assert "all references are empty" in capsys.readouterr().err
