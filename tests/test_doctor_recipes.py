"""What the doctor finds in recipes: what training would stop at, and whether a batch is learned by heart."""

import json
import re
import shutil
from pathlib import Path

import pytest

from segue import doctor
from segue.cli import main
from segue.diagnosis import Diagnosis, Symptom
from segue.doctor import steps
from segue.errors import UserError

from .test_doctor import change, serious


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TIMED_SECONDS", 0.2)


@pytest.fixture
def speech(corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(corpus, tmp_path / "speech")


def alone(recipe: Path, folder: Path, *overrides: str) -> Diagnosis:
    """Without a batch."""
    return doctor.of_recipe(recipe, [f"data.root={folder}", *overrides], has_batch=False)


@pytest.mark.parametrize("name", ["speech", "translation", "sounds", "texts"])
def test_clean_recipes_are_advisable(
    name: str, tiny_recipe: Path, reversal_recipe: Path, class_recipes: dict[str, Path]
) -> None:
    """Of every task; a few of its examples are learned by heart."""
    recipes = {"speech": tiny_recipe, "translation": reversal_recipe, **class_recipes}
    found = doctor.of_recipe(recipes[name])
    assert [each for each in serious(found) if "is a copy" not in each] == []  # "one two one" backwards
    assert found.is_advisable
    assert {"memory", "speed", "time", "by heart"} <= set(found.facts)
    assert float(re.findall(r"to ([\d.]+) in", found.facts["by heart"])[0]) <= steps.LEARNED


def test_what_training_stops_at_is_listed(speech: Path, tiny_recipe: Path) -> None:
    """All of it, by kind."""
    for number in (3, 4, 5):
        change(speech, number, text="ab zz")
    change(speech, 6, text="abcdabcdabcdabcdabcdabcdabcdabcd")
    (speech / "train_07.wav").unlink()
    change(speech, 2, "dev", text="")
    with (speech / "dev.jsonl").open("a") as file:
        file.write("no JSON\n")
    found = alone(tiny_recipe, speech)
    errors = {each.what: each.num_affected for each in found.symptoms if each.level == "error"}
    assert errors == {
        "text: outside the tokenizer's alphabet: …": 3,
        "text: CTC needs … frames for … tokens, but … s at speed … give …": 1,
        "audio_filepath: no such file: …": 1,
        "not JSON: Expecting value: line … column … (char 0)": 1,
    }
    assert any("alphabet=auto" in each.mend for each in found.symptoms)
    assert any("nothing is left of the text" in each for each in serious(found))
    assert not found.is_advisable


def test_a_manifest_without_examples_is_listed_once(speech: Path, tiny_recipe: Path) -> None:
    (speech / "train.jsonl").write_text(9 * '{"audio": "a.wav"}\n')
    found = alone(tiny_recipe, speech).symptoms
    assert [each.num_affected for each in found if each.what.startswith("lacks the key")] == [9]


def test_bad_examples_that_are_skipped_are_warnings(speech: Path, tiny_recipe: Path) -> None:
    (speech / "train_07.wav").unlink()
    found = alone(tiny_recipe, speech, "data.skip_bad=true")
    assert found.is_advisable
    assert any(each.startswith("warning manifests: audio_filepath: no such file") for each in serious(found))


def test_unknown_characters_of_dev_are_counted(speech: Path, tiny_recipe: Path) -> None:
    change(speech, 2, "dev", text="aé éb")
    change(speech, 3, "dev", text="éü")
    [found] = [each for each in alone(tiny_recipe, speech).symptoms if "no token covers" in each.what]
    assert found.what.endswith("é 2, ü 1")
    assert (found.num_affected, found.num_examined) == (2, 52)


def test_normalized_texts_are_compared(speech: Path, tiny_recipe: Path) -> None:
    change(speech, 3, text="Ab, c")
    change(speech, 4, text="ab % c")
    found = alone(tiny_recipe, speech)
    assert [each for each in serious(found) if "texts" in each] == [
        "warning texts: symbols that are spoken, but that the normalization of texts removes"
    ]
    said = [each.what for each in found.symptoms if each.level == "note"]
    assert any(each.startswith("capital letters") for each in said)
    assert any(each.startswith("punctuation") for each in said)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_learned_tokenizers_are_examined(speech: Path, tiny_recipe: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "learned.toml"
    text = tiny_recipe.read_text().replace('kind = "characters"\nalphabet = " abcd"', f'kind = "{kind}"\nsize = 8')
    path.write_text(text)
    change(speech, 3, text="a1")
    assert [each for each in serious(alone(path, speech)) if "digits" in each]


def test_other_manifests_are_one_line(
    pairs: Path, tiny_recipe: Path, class_recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, needed in {tiny_recipe: "recordings with their texts", class_recipes["texts"]: "texts with"}.items():
        assert main(["train", str(recipe), f"data.root={pairs}", "--skip-bad"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"segue: {pairs / 'train.jsonl'}: pairs of texts (source, target), where ")
        assert needed in said
        assert "skip-bad" not in said
        assert said.count("\n") == 1


def test_texts_for_a_sound_classifier_are_one_line(
    labeled_texts: Path, class_recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(class_recipes["sounds"]), f"data.root={labeled_texts}"]) == 2
    said = capsys.readouterr().err
    assert "texts with classes (text, label), where recordings with classes" in said
    assert said.count("\n") == 1


def test_other_manifests_are_an_error_of_the_doctor(pairs: Path, tiny_recipe: Path) -> None:
    found = alone(tiny_recipe, pairs)
    assert next(each for each in serious(found) if each.startswith("error")).startswith("error manifests: ")
    assert "a batch, as long as the data cannot be used" in found.unseen


@pytest.mark.slow
def test_a_recipe_that_cannot_learn_is_found(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate of almost 0."""
    monkeypatch.setattr(steps, "HEART_SECONDS", 4.0)
    monkeypatch.setattr(steps, "LEAST_STEPS", 30)
    found = doctor.of_recipe(tiny_recipe, ["optimizer.learning_rate=1e-9"])
    assert "not learned by heart" in next(each.what for each in found.symptoms if each.level == "error")


def test_a_budget_beyond_memory_is_found(tiny_recipe: Path) -> None:
    found = doctor.of_recipe(tiny_recipe, ["batch.seconds=1e6"])
    assert any("needs about" in each.what for each in found.symptoms if each.level == "error")


def test_an_open_budget_is_tried_small(tiny_recipe: Path) -> None:
    found = doctor.of_recipe(tiny_recipe, ["batch.seconds=auto"])
    assert '"auto"' in found.facts["batch"]
    assert "an epoch" in found.facts["time"]


def test_a_model_names_wrong_transcripts(trained: Path, speech: Path, tiny_recipe: Path) -> None:
    change(speech, 3, text="dddd")
    found = doctor.of_recipe(tiny_recipe, [f"data.root={speech}"], has_batch=False, model=trained)
    [worst] = [each for each in found.symptoms if each.about == "model"]
    assert worst.samples[0].where == f"{speech / 'train.jsonl'}:4"
    assert "'dddd' is written" in worst.samples[0].text
    assert worst.samples[0].audio is not None
    assert worst.num_examined == 36


def test_a_translator_can_disagree(trained_translator: Path, pairs: Path) -> None:
    assert of_model(trained_translator, pairs / "dev.jsonl").num_examined == 60


@pytest.mark.slow
def test_a_classifier_can_disagree(trained_classifiers: dict[str, Path], labeled_sounds: Path) -> None:
    assert of_model(trained_classifiers["sounds"], labeled_sounds / "dev.jsonl").num_examined == 8


def of_model(model: Path, manifest: Path) -> Symptom:
    """What a model disagrees with most."""
    found = doctor.of_manifests([manifest], model=model)
    [worst] = [each for each in found.symptoms if each.about == "model"]
    assert all(str(manifest) in each.where for each in worst.samples)
    return worst


def test_mistakes_in_recipes_are_the_users(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tiny_recipe), "engine.stpes=3"]) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err
    assert main(["doctor", str(tiny_recipe), f"data.root={tmp_path / 'none'}"]) == 2
    with pytest.raises(UserError, match="cannot read this manifest"):
        doctor.of_manifests([tmp_path / "none.jsonl"])


def test_the_report_escapes_what_it_shows(speech: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    change(speech, 3, "test", text="</p><script>alert(1)</script>")
    page = tmp_path / "page.html"
    words = ["doctor", str(tiny_recipe), f"data.root={speech}", "--no-batch", "--report", str(page), "--json"]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text


def test_fine_tuning_is_examined_as_trained(trained: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the base's recipe, its tokens, and a batch that starts from its weights."""
    words = ["doctor", "--from", str(trained), f"data.root={corpus}", "engine.threads=1"]
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert "start.json" not in said.err
    assert "by heart" in json.loads(said.out)["facts"]
    assert main(["doctor", str(corpus / "train.jsonl"), "--from", str(trained)]) == 2
    assert "--from: for a recipe, but" in capsys.readouterr().err


def test_texts_of_a_language_model_are_read_and_tried(language_recipe: Path) -> None:
    found = doctor.of_recipe(language_recipe)
    assert "tokens of train" in found.facts["examined"]
    assert found.facts["by heart"].startswith("the loss of 4 training examples fell")
    assert not [each for each in found.symptoms if each.level == "error"]
