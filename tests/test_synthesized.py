"""How texts become recordings of synthesized voices, as a corpus."""

from pathlib import Path

import pytest

from segue.data import audio
from segue.data.corpora import prepare
from segue.data.corpora.synthesized import VOICES
from segue.data.examples import Labeled, Utterance
from segue.data.manifest import Manifest
from segue.errors import UserError


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("left\n\nturn right\n")
    return path


def test_texts_are_said_by_voices_of_each_split(words: Path, tmp_path: Path) -> None:
    options = ["train=3", "dev=1", "test=2", "sample_rate_hz=8000"]
    written = prepare("synthesized", words, tmp_path / "out", options)
    assert [(each.path.stem, each.num_examples) for each in written] == [("train", 6), ("dev", 2), ("test", 4)]
    for each in written:
        found = list(Manifest(Utterance, [each.path]))
        assert [utterance.text for utterance in found] == ["left", "turn right"] * (len(found) // 2)
        assert {utterance.speaker for utterance in found} <= set(VOICES[each.path.stem])
        assert all(audio.properties(utterance.audio).sample_rate_hz == 8000 for utterance in found)
        assert all(0.2 < utterance.seconds < 2 for utterance in found)


def test_the_same_seed_gives_the_same_voices(words: Path, tmp_path: Path) -> None:
    """espeak-ng's samples differ a little."""
    voices = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = ["train=3", "dev=0", "test=0", f"seed={seed}"]
        written = prepare("synthesized", words, tmp_path / name, options)
        voices.append([utterance.speaker for utterance in Manifest(Utterance, [written[0].path])])
    assert voices[0] == voices[1] != voices[2]


def test_texts_can_be_classes(words: Path, tmp_path: Path) -> None:
    written = prepare("synthesized", words, tmp_path / "out", ["train=2", "dev=0", "test=0", "label=text"])
    assert [each.summary.split(",")[0] for each in written] == ["4 sounds of 2 classes"]
    assert [each.label for each in Manifest(Labeled, [written[0].path])] == ["left", "turn right"] * 2


def test_an_unknown_language_is_refused(words: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"words.txt:1: espeak-ng has no voice 'xx\+"):
        prepare("synthesized", words, tmp_path / "out", ["language=xx"])


def test_a_text_that_is_not_said_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("left\n...\n")
    with pytest.raises(UserError, match=r"words.txt:2: espeak-ng says nothing for '\.\.\.'"):
        prepare("synthesized", tmp_path / "words.txt", tmp_path / "out")
