import gzip
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from segue.data.corpora import Written, prepare
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.errors import UserError, count_of

EN_DE = ("source_language=en", "target_language=de")
NO_SPLITS = ("dev_share=0", "test_share=0")


def write(path: Path, content: str | bytes) -> Path:
    """A file with its folders, packed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def pairs(written: Sequence[Written]) -> dict[str, list[tuple[str, str]]]:
    """The texts of each split, after a check of the counts."""
    found = {}
    for path, count, summary, _ in written:
        manifest = Manifest(Pair, [path])
        assert len(manifest) == count
        assert summary == count_of(count, "pair")
        found[path.stem] = [(pair.source, pair.target) for pair in manifest]
    return found


def refused(corpus: str, source: Path, *overrides: str) -> str:
    out = source.parent / "out"
    before = {path: path.read_bytes() for path in out.glob("*")}
    with pytest.raises(UserError) as raised:
        prepare(corpus, source, out, overrides)
    assert {path: path.read_bytes() for path in out.glob("*")} == before
    return str(raised.value)


# --- parallel ---


@pytest.mark.parametrize("dev", ["dev", "val", "valid"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_folder_of_parallel_texts_keeps_its_splits(tmp_path: Path, dev: str, packed: str) -> None:
    source = tmp_path / "corpus"
    for split in ("train", dev, "test", "test_2016"):
        write(source / f"{split}.en{packed}", f"{split} one\n{split} two\n")
        write(source / f"{split}.de", f"{split} eins\r\n{split} zwei")
    found = pairs(prepare("parallel", source, tmp_path / "out", EN_DE))
    wanted = {"train": "train", "dev": dev, "test": "test", "test_2016": "test_2016"}
    assert found == {
        split: [(f"{name} one", f"{name} eins"), (f"{name} two", f"{name} zwei")] for split, name in wanted.items()
    }
    [pair] = Manifest(Pair, [tmp_path / "out" / "train.jsonl"])[:1]
    assert (pair.source_language, pair.target_language) == ("en", "de")


def test_a_second_development_set_keeps_its_name(tmp_path: Path) -> None:
    for stem in ("dev", "valid"):
        write(tmp_path / "corpus" / f"{stem}.en", stem)
        write(tmp_path / "corpus" / f"{stem}.de", stem)
    found = pairs(prepare("parallel", tmp_path / "corpus", tmp_path / "out", EN_DE))
    assert found == {"dev": [("dev", "dev")], "valid": [("valid", "valid")]}


def test_pairs_stay_in_the_order_of_their_files(tmp_path: Path) -> None:
    """`segue doctor` could not see that lines were moved, if they were shuffled."""
    lines = [f"{number:03}" for number in range(60)]
    write(tmp_path / "x.tsv", "source\ttarget\n" + "".join(f"{each}\t{each}\n" for each in lines))
    found = pairs(prepare("tsv", tmp_path / "x.tsv", tmp_path / "out"))
    assert {split: len(each) for split, each in found.items()} == {"train": 48, "dev": 6, "test": 6}
    assert all(each == sorted(each) for each in found.values())


def test_equal_sources_stay_in_one_split(tmp_path: Path) -> None:
    sources = [f"sentence {number % 40}" for number in range(200)]
    write(tmp_path / "news.v1.en.gz", "".join(f"{source}\n" for source in sources))
    write(tmp_path / "news.v1.de", "".join(f"Satz {number}\n" for number in range(200)))
    overrides = (*EN_DE, "dev_share=0.11", "test_share=0.11")  # 22 of 200: between 4 and 5 sources
    found = pairs(prepare("parallel", tmp_path / "news.v1", tmp_path / "out", overrides))
    assert {split: len(lines) for split, lines in found.items()} == {"test": 25, "dev": 25, "train": 150}
    splits_of = Counter(source for lines in found.values() for source in {source for source, _ in lines})
    assert set(splits_of) == set(sources)
    assert set(splits_of.values()) == {1}
    assert found == pairs(prepare("parallel", tmp_path / "news.v1", tmp_path / "again", overrides))


@pytest.mark.parametrize(("english", "german"), [(3, 5), (5, 3), (0, 2)])
def test_files_of_unequal_length_are_refused(tmp_path: Path, english: int, german: int) -> None:
    """The message has both counts."""
    write(tmp_path / "x" / "train.en", "one\n" * english)
    write(tmp_path / "x" / "train.de.gz", "eins\n" * german)
    message = refused("parallel", tmp_path / "x", *EN_DE)
    assert message.startswith(f"{tmp_path}/x/train.en has {english} lines and {tmp_path}/x/train.de.gz has {german}: ")


def test_empty_and_non_utf8_lines_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or left out and counted."""
    write(tmp_path / "x" / "train.en", b"one\n\nthree\nfour\nfi\xe9\nsix\n \n")
    write(tmp_path / "x" / "train.de.gz", b"eins\nzwei\n \t\nvi\xc3\nf\xc3\xbcnf\nsechs\n\n")
    en, de = tmp_path / "x" / "train.en", tmp_path / "x" / "train.de.gz"
    assert refused("parallel", tmp_path / "x", *EN_DE).split("\n")[:-1] == [
        f"{en}:2: empty (also line 7)",
        f"{de}:3: empty",
        f"{de}:4: not UTF-8: unexpected end of data at byte 3",
        f"{en}:5: not UTF-8: unexpected end of data at byte 3",
    ]
    written = prepare("parallel", tmp_path / "x", tmp_path / "out", EN_DE, skip_bad=True)
    assert pairs(written) == {"train": [("one", "eins"), ("six", "sechs")]}
    assert "5 bad examples left out" in capsys.readouterr().err


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    write(tmp_path / "x.en", "\ufeffone\u2028more\x85\x0c\n")
    write(tmp_path / "x.de", "eins\rmehr\n")
    found = pairs(prepare("parallel", tmp_path / "x", tmp_path / "out", [*EN_DE, *NO_SPLITS]))
    assert found == {"train": [("one\u2028more\x85\x0c", "eins\rmehr")]}


def test_missing_languages_and_texts_are_named(tmp_path: Path) -> None:
    write(tmp_path / "x" / "train.en", "one\n")
    assert "source_language: missing; give source_language=en" in refused("parallel", tmp_path / "x")
    assert "target_language: missing" in refused("parallel", tmp_path / "x", "source_language=en")
    assert f"{tmp_path}/x/train.de: no such file, also not with .gz" in refused("parallel", tmp_path / "x", *EN_DE)
    assert "no train.fr, dev.fr (or val, valid) or test*.fr" in refused(
        "parallel", tmp_path / "x", "source_language=fr", "target_language=de"
    )
    assert "no such file or folder" in refused("parallel", tmp_path / "y", *EN_DE)
    write(tmp_path / "x" / "train.de.gz", "eins\n").write_bytes(b"not packed")
    assert f"{tmp_path}/x/train.de.gz: cannot read this file: " in refused("parallel", tmp_path / "x", *EN_DE)


# --- multi30k ---


def test_multi30k_has_a_line_for_each_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It keeps its test sets."""
    for split in ("train", "val", "test_2016_flickr", "test_2017_flickr"):
        for language in ("en", "de", "cs"):
            write(tmp_path / "raw" / f"{split}.{language}.gz", f"{language} of {split}\n")
    (tmp_path / "raw" / "test_2017_flickr.cs.gz").unlink()
    written = prepare("multi30k", tmp_path / "raw", tmp_path / "out", ['target_languages=["de", "cs"]'])
    assert pairs(written) == {
        "train": [("en of train", "de of train"), ("en of train", "cs of train")],
        "dev": [("en of val", "de of val"), ("en of val", "cs of val")],
        "test_2016_flickr": [("en of test_2016_flickr", f"{each} of test_2016_flickr") for each in ("de", "cs")],
        "test_2017_flickr": [("en of test_2017_flickr", "de of test_2017_flickr")],
    }
    assert [pair.target_language for pair in Manifest(Pair, [tmp_path / "out" / "dev.jsonl"])] == ["de", "cs"]
    assert "test_2017_flickr has no cs" in capsys.readouterr().err
    assert f"{tmp_path}/raw/train.fr: no such file" in refused(
        "multi30k", tmp_path / "raw", 'target_languages=["de", "fr"]'
    )


def real_data(name: str) -> Path:
    if "SEGUE_DATA" not in os.environ:
        pytest.skip("real texts: set SEGUE_DATA to their folder")
    folder = Path(os.environ["SEGUE_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"real texts: {folder} is not there")
    return folder


def test_the_real_multi30k_has_its_published_size(tmp_path: Path) -> None:
    found = pairs(prepare("multi30k", real_data("multi30k"), tmp_path / "out"))
    assert {split: len(lines) for split, lines in found.items()} == {
        "train": 29000,
        "dev": 1014,
        "test_2016_flickr": 1000,
    }
    assert found["test_2016_flickr"][0] == (
        "A man in an orange hat starring at something.",
        "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    )


# --- wmt14 ---

TRAINING = {
    "training/europarl-v7.de-en": [("one", "eins")],
    "training/commoncrawl.de-en": [("two", "zwei")],
    "more/deep/news-commentary-v9.de-en": [("three", "drei")],
}


@pytest.fixture
def wmt14(tmp_path: Path) -> Path:
    """The downloads, each unpacked where it came."""
    source = tmp_path / "wmt14"
    for stem, lines in TRAINING.items():
        for side, language in enumerate(("en", "de")):
            write(source / f"{stem}.{language}", "".join(f"{line[side]}\n" for line in lines))
    head = '<refset setid="newstest2013" srclang="any" trglang="de">\n<doc docid="1">\n<p>\n'
    for name, text in (
        ("dev/newstest2013-src.en.sgm", "Q&amp;A &lt;now&gt;"),
        ("dev/newstest2013-ref.de.sgm", "Fragen &#38; Antworten"),
        ("test/newstest2014-deen-src.en.sgm", "test"),
        ("test/newstest2014-deen-ref.de.sgm", "Prüfung"),
        ("test/newstest2014-deen-src.de.sgm", "original"),
        ("test/newstest2014-deen-ref.en.sgm", "translated"),
    ):
        write(source / name, f'{head}<seg id="1">{text}</seg>\n<seg id="2"> last\n line </seg>\n</p>\n</doc>\n')
    return source


def test_wmt14_joins_training_texts_and_reads_sgm(wmt14: Path, tmp_path: Path) -> None:
    assert pairs(prepare("wmt14", wmt14, tmp_path / "out")) == {
        "train": [("one", "eins"), ("two", "zwei"), ("three", "drei")],
        "dev": [("Q&A <now>", "Fragen & Antworten"), ("last line", "last line")],
        "test": [("test", "Prüfung"), ("last line", "last line")],
    }


def test_wmt14_can_be_reversed(wmt14: Path, tmp_path: Path) -> None:
    """With the test set of that direction."""
    write(wmt14 / "dev" / "newstest2013.en.gz", "plain\n")
    write(wmt14 / "dev" / "newstest2013.de", "schlicht\n")
    found = pairs(prepare("wmt14", wmt14, tmp_path / "out", ["source_language=de", "target_language=en"]))
    assert found["train"][0] == ("eins", "one")
    assert found["dev"] == [("schlicht", "plain")]
    assert found["test"][0] == ("original", "translated")


def test_wmt14_filters_training_pairs_only(wmt14: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be a translation is left out and counted."""
    english = ["", "one", "a b c d", "a b c", "w " * 6, " "]
    german = ["eins", "", "eins", "eins", "w " * 5, "\t"]
    write(wmt14 / "training" / "commoncrawl.de-en.en", "\n".join(english) + "\n")
    write(wmt14 / "training" / "commoncrawl.de-en.de", "\n".join(german) + "\n")
    write(wmt14 / "test" / "newstest2014.en", "a b c d\n")
    write(wmt14 / "test" / "newstest2014.de", "eins\n")
    found = pairs(prepare("wmt14", wmt14, tmp_path / "out", ["longest_words=5"]))
    assert found["train"] == [("one", "eins"), ("a b c", "eins"), ("three", "drei")]
    assert found["test"] == [("a b c d", "eins")]
    said = capsys.readouterr().err
    assert "3 without text on a side, 1 of more than 5 words, 1 of a ratio above 3.0" in said
    write(wmt14 / "test" / "newstest2014.de", "\n")
    assert f"{wmt14}/test/newstest2014.de:1: empty" in refused("wmt14", wmt14)


def test_wmt14_lists_what_it_looked_for(wmt14: Path, tmp_path: Path) -> None:
    (wmt14 / "training" / "commoncrawl.de-en.de").unlink()
    (wmt14 / "test" / "newstest2014-deen-ref.de.sgm").unlink()
    message = refused("wmt14", wmt14)
    assert "train: commoncrawl.de-en.en and commoncrawl.de-en.de, or commoncrawl.en-de.en" in message
    assert "newstest2014.en and newstest2014.de, or" in message
    assert "newstest2014-deen-src.en.sgm and newstest2014-deen-ref.de.sgm" in message
    assert "europarl" not in message
    assert "newstest2013" not in message
    found = refused("wmt14", wmt14, 'training=["europarl-v7"]')
    assert "commoncrawl" not in found


def test_wmt14_takes_only_one_joined_text(wmt14: Path, tmp_path: Path) -> None:
    for file in [file for file in wmt14.rglob("*.??") if file.name[:8] != "newstest"]:
        file.unlink()
    write(wmt14 / "train.en", "joined\n")
    write(wmt14 / "train.de", "verbunden\n")
    write(wmt14 / "train.de.gz", "verbunden\n")  # what it was unpacked from
    assert pairs(prepare("wmt14", wmt14, tmp_path / "out"))["train"] == [("joined", "verbunden")]
    write(wmt14 / "other" / "train.en", "joined\n")
    with pytest.raises(UserError, match="which of them"):
        prepare("wmt14", wmt14, tmp_path / "out")


# --- cmudict ---

DICTIONARY = """\
record R AH0 K AO1 R D
record(2) R EH1 K ER0 D
record(3) R IH0 K AO1 R D # as in tape
aalborg AO1 L B AO0 R G # place, danish
import IH0 M P AO1 R T
import(2) IH1 M P AO0 R T
"""


def dictionary(path: Path) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for pair in Manifest(Pair, [path]):
        found.setdefault(pair.source, []).append((pair.target, pair.alternatives))
    return found


def test_cmudict_merges_stress_variants(tmp_path: Path) -> None:
    """Each pronunciation that is left is learned."""
    write(tmp_path / "cmudict.dict", DICTIONARY)
    prepare("cmudict", tmp_path, tmp_path / "out", NO_SPLITS)
    first, second, third = "R AH K AO R D", "R EH K ER D", "R IH K AO R D"
    assert dictionary(tmp_path / "out" / "train.jsonl") == {
        "record": [(first, (second, third)), (second, (first, third)), (third, (first, second))],
        "aalborg": [("AO L B AO R G", ())],
        "import": [("IH M P AO R T", ())],
    }
    prepare("cmudict", tmp_path / "cmudict.dict", tmp_path / "out", [*NO_SPLITS, "keep_stress=true"])
    first, second = "IH0 M P AO1 R T", "IH1 M P AO0 R T"
    assert dictionary(tmp_path / "out" / "train.jsonl")["import"] == [(first, (second,)), (second, (first,))]


def test_cmudict_tests_each_word_once(tmp_path: Path) -> None:
    """With all its pronunciations."""
    write(tmp_path / "cmudict.dict", "".join(f"w{n} AH0\nw{n}(2) EY1\n" for n in range(10)))
    prepare("cmudict", tmp_path, tmp_path / "out", ["dev_share=0.2", "test_share=0.3"])
    found = {split: dictionary(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: len(words) for split, words in found.items()} == {"train": 5, "dev": 2, "test": 3}
    assert len({word for words in found.values() for word in words}) == 10
    for word in (*found["dev"].values(), *found["test"].values()):
        assert word == [("AH", ("EY",))]


def test_cmudict_names_lines_that_are_no_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "x" / "cmudict.dict", "one W AH1 N\n\ntwo\nthree th r iy\nfour F AO9 R\n")
    [said, _] = refused("cmudict", path.parent, *NO_SPLITS).split("\n")
    assert said.startswith(f"{path}:3: a word")
    assert said.endswith("(also lines 4, 5)")


@pytest.mark.slow
def test_the_real_cmudict_is_split_by_word(tmp_path: Path) -> None:
    written = prepare("cmudict", real_data("cmudict"), tmp_path / "out", ["keep_stress=true"])
    words = {each.path.stem: dictionary(each.path) for each in written}
    assert {split: len(found) for split, found in words.items()} == {"train": 113446, "dev": 6303, "test": 6303}
    assert not words["train"].keys() & (words["dev"].keys() | words["test"].keys())
    assert not words["dev"].keys() & words["test"].keys()
    ways = sum(1 + len(entries[0][1]) for found in words.values() for entries in found.values())
    assert ways == 135166 - 2  # as its SOURCE counts them, but two that stand there twice
    assert max(len(entries) for split in ("dev", "test") for entries in words[split].values()) == 1


# --- tables ---


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'source,target\n"a, b",eins\nc,zwei\n'),
        ("x.tsv", "id\ttgt\tsrc\n1\teins\ta, b\n2\tzwei\tc\n"),
        ("x.tsv.gz", "src\ttgt\na, b\teins\nc\tzwei\n"),
        ("x.csv.gz", '\ufeffsource,target\r\n"a, b",eins\r\nc,zwei\r\n'),
    ],
)
def test_tables_of_pairs_are_read(tmp_path: Path, name: str, content: str) -> None:
    found = pairs(prepare("csv", write(tmp_path / name, content), tmp_path / "out", NO_SPLITS))
    assert {split: sorted(lines) for split, lines in found.items()} == {"train": [("a, b", "eins"), ("c", "zwei")]}


def test_columns_and_languages_can_be_given(tmp_path: Path) -> None:
    table = write(tmp_path / "x" / "x.csv", "english,other,target_language\na,eins,\nb,deux,fr\n")
    assert "no column audio_filepath or" in refused("csv", table)
    message = refused("csv", table, "source=english")
    assert f"{table}:1: no column target or tgt; give target=NAME (columns, between commas: english, " in message
    overrides = ["source=english", "target=other", *EN_DE, *NO_SPLITS]
    prepare("csv", table, tmp_path / "out", overrides)
    found = {pair.source: pair for pair in Manifest(Pair, [tmp_path / "out" / "train.jsonl"])}
    assert (found["a"].source_language, found["a"].target_language) == ("en", "de")
    assert (found["b"].source_language, found["b"].target_language) == ("en", "fr")


def test_a_table_of_pairs_names_its_bad_rows(tmp_path: Path) -> None:
    table = write(tmp_path / "x" / "x.csv", "source,target\na,eins\n,zwei\nc\nd, \ne,fünf,sechs\n")
    assert refused("csv", table).split("\n")[:-1] == [
        f"{table}:3: source: empty",
        f"{table}:4: target: missing",
        f"{table}:5: target: empty",
        f"{table}:6: more columns than the header; quote texts that contain the separator",
    ]


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "x" / "x.tsv", "a house\tein Haus\na tree\tein Baum\n")
    message = refused("tsv", table)
    assert message.startswith(f"{table}:1: no column ")
    assert "; give audio=NAME, for text pairs source=NAME target=NAME, or a first line with names" in message
    assert message.endswith("(columns, between tabs: a house, ein Haus)")


def test_a_table_with_audio_is_speech(tmp_path: Path) -> None:
    """Whatever else it has."""
    table = write(tmp_path / "x" / "x.csv", "path,text,source,target\ngone.wav,a,b,c\n")
    assert f"{table}:2: no such file: {tmp_path}/x/gone.wav" in refused("csv", table)


def test_packed_tables_of_a_folder_keep_their_splits(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / "x" / f"{split}.tsv.gz", f"source\ttarget\n{split}\tb\n")
    found = pairs(prepare("tsv", tmp_path / "x", tmp_path / "out"))
    assert found == {"train": [("train", "b")], "dev": [("dev", "b")]}
