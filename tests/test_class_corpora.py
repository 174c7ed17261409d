"""How corpora become manifests of classes: folders, tables, digits, languages; and how classes are divided."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from segue.cli import main
from segue.data import audio
from segue.data.corpora import Written, prepare
from segue.data.corpora.splits import SplitOptions, divide
from segue.data.examples import Labeled, Utterance
from segue.data.manifest import Manifest
from segue.errors import UserError


def record(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 4000).astype(np.float32), 8000)
    return path


def labels(written: list[Written]) -> dict[str, Counter[str]]:
    """Of each split, after a check that the lines are read and their sound is there."""
    found = {}
    for path, count, *_ in written:
        examples = list(Manifest(Labeled, [path]))
        assert len(examples) == count
        assert all(each.sound is None or each.sound.audio.is_file() for each in examples)
        found[path.stem] = Counter(each.label for each in examples)
    return found


def test_folders_are_classes_each_split_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label, count in (("bark", 10), ("meow", 20), ("rare", 1)):
        for number in range(count):
            record(tmp_path / "animals" / label / f"{number:02d}.wav")
    (tmp_path / "animals" / "bark" / "notes.txt").write_text("no recording")
    written = prepare("folders", tmp_path / "animals", tmp_path / "out")
    found = labels(written)
    assert found["test"] == {"bark": 1, "meow": 2}
    assert found["dev"] == {"bark": 1, "meow": 2}
    assert found["train"] == {"bark": 8, "meow": 16, "rare": 1}
    assert written[-1].summary.startswith("25 sounds of 3 classes, ")
    said = capsys.readouterr().err
    assert "1 file that is not a recording left out" in said
    assert "1 example of class 'rare' is too few to reserve one for test" in said


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        for label in "ab":
            record(tmp_path / "given" / split / label / "deeper" / "1.wav")
    assert labels(prepare("folders", tmp_path / "given", tmp_path / "out")) == {
        "train": {"a": 1, "b": 1},
        "dev": {"a": 1, "b": 1},
    }
    (tmp_path / "given" / "train" / "empty").mkdir()
    with pytest.raises(UserError, match=r"train/empty: no recording in it"):
        prepare("folders", tmp_path / "given", tmp_path / "out")
    with pytest.raises(UserError, match=r"deeper: no folder in it; there should be one per class"):
        prepare("folders", tmp_path / "given" / "dev" / "a" / "deeper", tmp_path / "out")


def test_tables_have_a_column_of_classes(tmp_path: Path) -> None:
    """Tables of texts, and of recordings."""
    record(tmp_path / "a.wav")
    (tmp_path / "sounds.csv").write_text("file,animal,text\na.wav, dog ,woof\na.wav,cat,meow\n")
    keep = ("dev_share=0", "test_share=0")
    assert labels(prepare("csv", tmp_path / "sounds.csv", tmp_path / "out", ("label=animal", *keep))) == {
        "train": {"dog": 1, "cat": 1}
    }
    (tmp_path / "texts.csv").write_text("Sentence,Mood,split\nso nice,good,train\nso bad,bad,dev\n")
    assert labels(prepare("csv", tmp_path / "texts.csv", tmp_path / "out", ("label=mood",))) == {
        "train": {"good": 1},
        "dev": {"bad": 1},
    }
    (tmp_path / "texts.csv").write_text("text,mood\nso nice,\n,bad\n")
    with pytest.raises(UserError) as raised:
        prepare("csv", tmp_path / "texts.csv", tmp_path / "out", ("label=mood",))
    assert f"{tmp_path}/texts.csv:2: mood: empty" in str(raised.value)
    assert f"{tmp_path}/texts.csv:3: text: empty" in str(raised.value)
    with pytest.raises(UserError, match=r"texts\.csv:1: no column colour; give label=NAME"):
        prepare("csv", tmp_path / "texts.csv", tmp_path / "out", ("label=colour",))


def test_fsdd_digits_are_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the official test set."""
    for digit in (0, 7):
        for index in range(12):
            record(tmp_path / "digits" / f"{digit}_ann_{index}.wav")
    assert main(["prepare", "fsdd", str(tmp_path / "digits"), str(tmp_path / "out"), "label=digit"]) == 0
    assert capsys.readouterr().out.endswith(f"segue train digits_sounds data.root={tmp_path / 'out'}\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    test = list(Manifest(Labeled, [tmp_path / "out" / "test.jsonl"]))
    assert Counter(each.label for each in test) == {"zero": 5, "seven": 5}
    assert {each.speaker for each in test} == {"ann"}


def test_multi30k_captions_have_language_classes(tmp_path: Path) -> None:
    for stem in ("train", "val", "test_2016_flickr"):
        for language, text in (("en", "a dog\ntwo dogs\n"), ("de", "ein Hund\nzwei Hunde\n")):
            (tmp_path / f"{stem}.{language}").write_text(text)
    found = labels(prepare("multi30k", tmp_path, tmp_path / "out", ("label=language",)))
    assert found == {split: {"en": 2, "de": 2} for split in ("train", "dev", "test_2016_flickr")}


def sounds(labeled: Sequence[tuple[str, str | None]]) -> list[tuple[str, Labeled]]:
    return [
        ("", Labeled.of(Utterance("", Path(f"{number}.wav"), 1.0, label, speaker=speaker)))
        for number, (label, speaker) in enumerate(labeled)
    ]


def test_speakers_are_apart_if_classes_allow_it() -> None:
    """Only where every class is still learned."""
    apart = [(label, f"speaker {number % 10}") for number in range(100) for label in "ab"]
    of_split: dict[str, set[str | None]] = {}
    for split, each in divide(sounds(apart), SplitOptions()):
        assert isinstance(each, Labeled)
        of_split.setdefault(split, set()).add(each.speaker)
    assert not of_split["train"] & of_split["dev"]
    own = [(f"speaker {number % 10}", f"speaker {number % 10}") for number in range(100)]
    divided = list(divide(sounds(own), SplitOptions()))
    for split in ("train", "dev", "test"):
        assert len({each.label for name, each in divided if name == split and isinstance(each, Labeled)}) == 10


def test_equal_texts_stay_together() -> None:
    examples = [("", Labeled("", label, text=f"text {number // 3}")) for number in range(90) for label in "ab"]
    splits: dict[tuple[str, str], set[str]] = {}
    for split, each in divide(examples, SplitOptions()):
        assert isinstance(each, Labeled)
        splits.setdefault((each.label, each.text), set()).add(split)
    assert {len(each) for each in splits.values()} == {1}
