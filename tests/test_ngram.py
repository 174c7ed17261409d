"""Are n-gram models estimated and read correctly, and are files that are none refused?"""

import gzip
import json
from math import log
from pathlib import Path

import pytest

from segue.cli import main
from segue.data.corpora import ngram as estimation
from segue.data.text import TextSection
from segue.decoding.ngram import NGram
from segue.errors import UserError
from segue.recipe import from_overrides, validate

TEXTS = """\
The cat sat on the mat. The dog sat on the cat!
A dog saw the cat, and the cat saw a dog.
"""
ARPA = """\
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.5
-1.0\tTHE\t-0.25
-0.7\tCat\t-0.125
-0.9\t</s>

\\2-grams:
-0.2\t<s> THE
-0.3\tTHE Cat

\\end\\
"""


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("kaldingram")
    folder = tmp_path_factory.mktemp("ngram")
    (folder / "texts.txt").write_text(TEXTS * 3)
    found = estimation.estimate(folder / "texts.txt", folder / "words.arpa", estimation.Options())
    assert found == (9, 69, 9)
    return folder / "words.arpa"


def test_scores_are_those_of_kenlm(estimated: Path) -> None:
    pytest.importorskip("flashlight.lib.text")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    ours = NGram(estimated)
    numbers = Dictionary([*ours.words, "<unk>"])
    theirs = KenLM(str(estimated), numbers)
    for text in ("the cat sat", "dog the the mat", "a", "mat saw a dog and the cat sat on"):
        state, total = theirs.start(False), 0.0
        for word in text.split():
            state, score = theirs.score(state, numbers.get_index(word))
            total += score
        total += theirs.finish(state)[1]
        assert ours.log_probabilities([text]) == pytest.approx([total * log(10)], abs=1e-4)


def test_written_arpa_is_read(tmp_path: Path) -> None:
    path = tmp_path / "words.arpa.gz"
    path.write_bytes(gzip.compress(ARPA.encode()))
    model = NGram(path, str.lower)
    assert model.order == 2
    assert model.words == pytest.approx({"the": -log(10), "cat": -0.7 * log(10)})
    ten = log(10)
    # <s> the | the cat | cat </s> by way of the unigram
    assert model.log_probabilities(["the cat"]) == pytest.approx([(-0.2 - 0.3 - 0.125 - 0.9) * ten])
    # An unknown word: what follows it is scored without context.
    assert model.log_probabilities(["dog cat"], unknown=-5.0) == pytest.approx([-5 + (-0.7 - 0.125 - 0.9) * ten])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", r"1?: not an ARPA file: it has no line \\data\\"),
        (lambda text: text.replace("ngram 1=4\n", ""), "without unigrams"),
        (lambda text: text.replace("ngram 1=4", "ngram 1=0"), "without unigrams"),
        (lambda text: text.replace("ngram 2=2", "ngram 3=2"), "the orders 1, 3 leave gaps"),
        (lambda text: text.replace("ngram 2=2", "2 bigrams"), ":3: a line like 'ngram 1=1000' is expected"),
        (lambda text: text[:50], "cut off or damaged: 4 1-grams announced, 1 found"),
        (lambda text: text.replace("-0.3\tTHE Cat\n", ""), "cut off or damaged: 2 2-grams announced, 1 found"),
        (lambda text: text[: text.index("\n\\2-grams")], r"cut off: \\2-grams: is expected"),
        (lambda text: text[: text.rindex("Cat")], "cut off: it ends with"),
        (lambda text: text.replace("\\end\\", ""), r"cut off: it does not end with \\end\\"),
        (lambda text: text.replace("THE Cat", "THE Dog"), ":13: 'Dog' is no unigram"),
        (lambda text: text.replace("-0.7\tCat", "0.7\tCat"), ":8: a log-probability above 0"),
        (lambda text: text.replace("-0.7\tCat", "Cat"), ":8: no 1-gram"),
    ],
)
def test_damaged_arpa_is_refused(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    path = tmp_path / "words.arpa"
    path.write_text(change(ARPA))
    with pytest.raises(UserError, match=message) as found:
        NGram(path)
    assert str(found.value).startswith(f"{path}:")


def test_the_logarithm_of_nothing_is_finite(tmp_path: Path) -> None:
    """So that a text always has a score."""
    path = tmp_path / "a.arpa"
    path.write_text(ARPA.replace("-0.9\t</s>", "-inf\t</s>"))
    model = NGram(path)
    assert model.end(model.start) == pytest.approx((-99 - 0.5) * log(10))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.arpa", b"\xff\xfe\x00"),
        ("words.arpa.gz", ARPA.encode()),
        ("words.arpa.gz", gzip.compress(b"a" * 99)[:20]),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"not an ARPA file|cut off"):
        NGram(tmp_path / name)
    with pytest.raises(UserError, match="No such file"):
        NGram(tmp_path / "none.arpa")


def test_prepare_ngram_reads_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("kaldingram")
    texts = ["It's ONE.", "it's two"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = tmp_path / "lm" / "words.arpa"
    assert main(["prepare", "ngram", str(tmp_path / "train.jsonl"), str(out), "order=2", "text.case=upper"]) == 0
    assert f"{out}: 2 texts, 4 words, 3 different ones" in capsys.readouterr().out
    assert set(NGram(out).words) == {"IT'S", "ONE", "TWO"}
    assert main(["prepare", "ngram", str(tmp_path / "train.jsonl"), str(out), "order=2", "text.case=upper"]) == 0
    assert f"{out}: is replaced\n" in capsys.readouterr().err


def test_words_of_special_meaning_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("kaldingram")
    (tmp_path / "a.txt").write_text("one <unk> two </s> three\n")
    options = estimation.Options(order=1, text=TextSection(punctuation="keep"))
    assert estimation.estimate(tmp_path, tmp_path / "a.arpa", options).num_words == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.write_text("...\n"), "no words in it"),
        (lambda path: path.write_text(""), "empty"),
        (lambda path: path.mkdir(), "no texts in this folder"),
    ],
)
def test_no_texts_no_model(tmp_path: Path, make: object, message: str) -> None:
    pytest.importorskip("kaldingram")
    assert callable(make)
    make(tmp_path / "a.txt")
    with pytest.raises(UserError, match=message):
        estimation.estimate(tmp_path / "a.txt", tmp_path / "a.arpa", estimation.Options())
    assert not (tmp_path / "a.arpa").exists()


def test_strange_options_are_named() -> None:
    with pytest.raises(UserError, match="order"):
        validate(from_overrides(["order=9"]), estimation.Options)
