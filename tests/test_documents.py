import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from segue.data import document_files, tokenizer
from segue.data.document_files import Document, cuts, read
from segue.data.documents import Corpus, DocumentsSection
from segue.data.tokenizer import ByteBPESection, BytesSection, WordsSection
from segue.errors import UserError, gathered

LINES = ["The cat's hat is  old.", "It is 12 o'clock ,\tshe said.", "Ünïcode 日本語 🙂!"]
SAMPLE = "The cat's  hat\n\nis old, it isn't 12 o'clock.\nshe'll said\tso "
TOKENIZERS = [
    tokenizer.build(ByteBPESection(kind="byte_bpe", size=300), [SAMPLE] * 3),
    tokenizer.build(BytesSection(kind="bytes"), []),
    tokenizer.build(WordsSection(kind="words"), [], [tokenizer.UNKNOWN]),
]


def section(root: Path, **values: Any) -> DocumentsSection:
    return DocumentsSection(root=str(root), **values)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def json_lines(texts: Iterable[Any], key: str = "text") -> str:
    return "".join(json.dumps({key: text}) + "\n" for text in texts)


def texts(found: Iterable[Document | UserError]) -> list[str]:
    return [each.text if isinstance(each, Document) else f"error: {each}" for each in found]


def by_split(corpus: Corpus) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "dev": []}
    for split, document in corpus.read():
        found[split].append(document.text)
    return found


# --- Cuts ---


@given(st.text(st.sampled_from(list(" \n\t\r\u00a0\u2028\x1cab'sé1½,.日🙂")), max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_pieces_have_the_tokens_of_the_whole_text(text: str, size: int) -> None:
    pieces = list(cuts(text, size))
    assert "".join(pieces) == text
    for each in TOKENIZERS:
        assert [n for piece in pieces for n in each.encode(piece)] == each.encode(text)


def test_pieces_are_little_longer_than_asked_for() -> None:
    assert {len(piece) for piece in cuts("word " * 1000, 101)} == {104, 105, 66}


def test_a_text_without_a_safe_place_is_one_piece() -> None:
    assert list(cuts("日本語" * 100, 10)) == ["日本語" * 100]
    assert list(cuts("a  b\n\nc " * 5, 2)) == ["a  b\n\nc"] + [" a  b\n\nc"] * 3 + [" a  b\n\nc "]


@pytest.mark.parametrize("size", [3, 10, 50, 1000])
def test_the_parts_of_a_long_file_are_its_text(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "_PART_CHARACTERS", size)
    monkeypatch.setattr(document_files, "_CHUNK_BYTES", 7)  # also in the middle of characters
    text = "\r\n".join(LINES) + "\n\n" + "\n".join(LINES) + " \n"
    parts = [part for part in read(write(tmp_path / "a.txt", text), "file", "text") if isinstance(part, Document)]
    assert "".join(part.text for part in parts) == text
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (len(parts) > 1) == (size < 100)
    for each in TOKENIZERS:
        assert [n for part in parts for n in each.encode(part.text)] == each.encode(text)


# --- Formats ---


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.json"])
def test_formats_give_the_same_texts(name: str, packed: str, tmp_path: Path) -> None:
    content = (json_lines(LINES) if "json" in name else "".join(f"{line}\n" for line in LINES)).encode()
    if packed == ".gz":
        content = gzip.compress(content[:20]) + gzip.compress(content[20:])
    if packed == ".zst":
        content = zstandard.compress(content[:20]) + zstandard.compress(content[20:])
    path, sizes = write(tmp_path / f"{name}{packed}", content), list[int]()
    found = list(read(path, "line", "text", sizes.append))
    assert found == [Document(line, f"{path}:{number}") for number, line in enumerate(LINES, 1)]
    assert sum(sizes) == len(content)


def test_parquet_files_are_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2, 3, 4], "content": [*LINES, None]}), path)
    *good, bad = read(path, "file", "content")
    assert good == [Document(line, f"{path}:{number}") for number, line in enumerate(LINES, 1)]
    assert str(bad).startswith(f"{path}:4: content: should be a text, not null")
    [missing] = texts(read(path, "file", "text"))
    assert "the key 'text' is missing (there are: id, content)" in missing
    [damaged] = texts(read(write(tmp_path / "b.parquet", path.read_bytes()[:50]), "file", "text"))
    assert "b.parquet: cannot read this parquet file" in damaged


@pytest.mark.parametrize(("name", "package"), [("a.txt.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(document_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{package}: pip install 'segue\[corpora\]'"):
        list(read(write(tmp_path / name, b"x"), "file", "text"))


def test_documents_of_a_text_are_the_file_paragraphs_or_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone\r\n two \r\n \r\n\n\nthree\n\tfour\n\n")
    assert texts(read(path, "file", "text")) == ["one\r\n two \r\n \r\n\n\nthree\n\tfour\n\n"]
    assert list(read(path, "paragraph", "text")) == [
        Document("one\r\n two ", f"{path}:1"),
        Document("three\n\tfour", f"{path}:6"),
    ]
    assert texts(read(path, "line", "text")) == ["one", " two ", "three", "\tfour"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.jsonl: empty: no text in it"),
        ("\n \n", "a.jsonl: empty: no text in it"),
        ('{"text": "a"}\n{"text": \n', "a.jsonl:2: not JSON"),
        ('[{"text": "a"}]', "a.jsonl: one JSON array"),
        ('"a"', "a.jsonl:1: not a JSON object"),
        ('{"content": "a", "id": 3}', "a.jsonl:1: the key 'text' is missing (there are: content, id); data.text_key"),
        ('{"text": 5}', "a.jsonl:1: text: should be a text, not int"),
        ('{"text": null}', "a.jsonl:1: text: should be a text, not null"),
        ('{"text": "\\n"}', "a.jsonl:1: text: no text in it"),
        ('{"text": "ab\\ud800"}', "a.jsonl:1: text: half a character (a lone surrogate) at character 2"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "a.jsonl:2: not UTF-8: invalid start byte at byte 24 of the file"),
        ("[" * 100_000, "a.jsonl: one JSON array"),
        ('{"a":' * 100_000, "a.jsonl:1: not JSON that can be read"),
    ],
)
def test_mistakes_are_named_with_their_place(content: str | bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", content)
    with pytest.raises(UserError) as caught:
        by_split(Corpus(section(tmp_path, train=("a.jsonl",))))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "--skip-bad" in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_the_byte_that_is_not_utf_8_is_named(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "_CHUNK_BYTES", chunk)
    path = write(tmp_path / "a.txt", "日本語 good ".encode() + b"\xe6\x97bad")
    *_, problem = texts(read(path, "file", "text"))
    assert f"{path}: not UTF-8: invalid continuation byte at byte 15" in problem
    path = write(tmp_path / "b.txt", "日本語 good ".encode() + b"\xe6\x97")
    *_, problem = texts(read(path, "file", "text"))
    assert f"{path}: not UTF-8: unexpected end of data at byte 15" in problem


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_packed_files_that_are_cut_off_are_refused(name: str, suffix: str, tmp_path: Path) -> None:
    content = json_lines(str(number**7) for number in range(3000)).encode()
    content = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    *_, problem = texts(read(write(tmp_path / f"{name}{suffix}", content[:-9]), "file", "text"))
    assert f"{name}{suffix}: cannot read this text: the file is cut off" in problem
    *_, problem = texts(read(write(tmp_path / f"{name}{suffix}", b"not packed"), "file", "text"))
    assert f"{name}{suffix}: cannot read this text" in problem


def test_bad_documents_are_left_out_and_counted_on_request(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json_lines(["one", 5, "two"]))
    write(tmp_path / "b.txt", b"good words here \xff and the rest")
    write(tmp_path / "c.txt", "")
    write(tmp_path / "dev.txt", "for development")
    corpus = Corpus(section(tmp_path, train=("a.jsonl", "b.txt", "c.txt"), skip_bad=True))
    assert by_split(corpus) == {"train": ["one", "two"], "dev": ["for development"]}
    assert len(corpus.problems) == 3


# --- Files ---


def test_folders_and_patterns_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.jsonl", "b/c/3.txt.gz", "a.txt", "b/.hidden.txt", "tokens/x/train.json"):
        write(tmp_path / name, "")
    for name in ("b/picture.png", "b/other.png", "b/README"):
        write(tmp_path / name, "")
    with gathered() as warned:
        found = Corpus(section(tmp_path, train=("b", "*.txt", "a.txt"))).files
    assert [str(path.relative_to(tmp_path)) for path in found.train] == [
        "b/1.jsonl",
        "b/2.txt",
        "b/c/3.txt.gz",
        "a.txt",
    ]
    [(message, _)] = warned
    assert message.startswith("3 files that are no texts by their names left out: .png (2), no suffix (1); texts:")
    with gathered():
        assert len(Corpus(section(tmp_path, train=(".",))).files.train) == 4
        assert len(Corpus(section(tmp_path, train=("*",))).files.train) == 4
        assert len(Corpus(section(tmp_path, train=("**/*.txt",))).files.train) == 2
        assert len(Corpus(section(tmp_path, train=("**/*.json*",))).files.train) == 1


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (("a.png",), "auto", "a.png: data.train: not a text by its name; texts: .txt"),
        (("x.txt",), "auto", "x.txt: data.train: no such file or folder; the folder has a.png, a.txt, empty"),
        (("*.tsv",), "auto", "*.tsv: data.train: no file matches this pattern; the folder has"),
        (("empty",), "auto", "empty: data.train: no text in it; texts: .txt"),
        (("a.txt",), ("a.txt",), "a.txt: both in data.train and in data.dev"),
        (("a.txt",), ("no.txt",), "no.txt: data.dev: no such file or folder"),
    ],
)
def test_files_that_cannot_be_used_are_named(train: Any, dev: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.png", "")
    write(tmp_path / "a.txt", "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        Corpus(section(tmp_path, train=train, dev=dev))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder; data\.root"):
        Corpus(section(tmp_path / "none"))


def test_tokens_cannot_stand_beside_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "a.idx", "")
    with pytest.raises(UserError, match=r"data.train: a file of tokens \(.idx\) has to be the only entry"):
        Corpus(section(tmp_path, train=("a.txt", "a.idx")))


@pytest.mark.parametrize("there", [[], ["valid.txt"], ["dev.txt", "valid.txt"], ["valid.txt", "dev.jsonl"]])
def test_auto_finds_development_texts(there: list[str], tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "a b c\n" * 100)
    for name in there:
        write(tmp_path / name, "text")
    expected = (min(there),) if there else "held_out"
    assert Corpus(section(tmp_path, train=("train.txt",))).section.dev == expected
    if there == ["valid.txt"]:
        assert Corpus(section(tmp_path, train=("train.txt", "valid.txt"))).section.dev == "held_out"
        assert Corpus(section(tmp_path, train=("*.txt",))).files.dev == [tmp_path / "valid.txt"]
        assert Corpus(section(tmp_path, train=("*.txt",))).files.train == [tmp_path / "train.txt"]


# --- Documents of a corpus ---


def test_repeated_documents_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl", json_lines(["a b", "a  b\n", "c", "in dev", "ab", "c"]))
    write(tmp_path / "dev.jsonl", json_lines(["in dev", " in dev", "other"]))
    corpus = Corpus(section(tmp_path))
    for _ in range(2):
        assert by_split(corpus) == {"train": ["a b", "c", "ab"], "dev": ["in dev", "other"]}
        assert corpus.num_duplicates == {"train": 3, "dev": 1}
    monkeypatch.setattr(document_files, "_PART_CHARACTERS", 10)
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "a long text that is the same")
    assert len(by_split(Corpus(section(tmp_path, train=("a.txt", "b.txt"))))["train"]) == 6


def test_the_held_out_documents_stay_where_they_are_when_others_come(tmp_path: Path) -> None:
    many = [f"text number {number}" for number in range(2000)]
    write(tmp_path / "train.jsonl", json_lines(many[500:1000]))
    few = by_split(Corpus(section(tmp_path)))
    write(tmp_path / "train.jsonl", json_lines(reversed(many)))
    all_of_them = by_split(Corpus(section(tmp_path)))
    assert set(few["train"]) <= set(all_of_them["train"])
    assert set(few["dev"]) <= set(all_of_them["dev"])
    assert sorted(all_of_them["train"] + all_of_them["dev"]) == sorted(many)
    assert 60 < len(all_of_them["dev"]) < 140  # 100, with a deviation of 10
    assert len(by_split(Corpus(section(tmp_path, held_out_share=0.5)))["dev"]) > 900


@pytest.mark.parametrize("part", [30, 500, 1_000_000])
def test_the_end_of_each_document_is_held_out_if_they_are_few(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_files, "_PART_CHARACTERS", part)
    monkeypatch.setattr(document_files, "_CHUNK_BYTES", 64)
    long = [f"line {number:03} of {name}\n" for name in "ab" for number in range(200)]
    write(tmp_path / "a.txt", "".join(long[:200]))
    write(tmp_path / "b.txt", "".join(long[200:]))
    write(tmp_path / "c.txt", "word " * 100)
    write(tmp_path / "d.txt", "indivisible")
    found = list(Corpus(section(tmp_path, train=("*.txt",))).read())
    whole, train, dev = dict[str, str](), dict[str, str](), dict[str, str]()
    for split, document in found:
        whole[document.origin[-5:]] = whole.get(document.origin[-5:], "") + document.text
        kept = train if split == "train" else dev
        kept[document.origin[-5:]] = kept.get(document.origin[-5:], "") + document.text
    assert whole == {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert train["a.txt"].endswith("\n")
    assert dev["a.txt"].startswith("line 191 of a\n")
    assert dev["b.txt"].startswith("line 191 of b\n")
    assert 15 < len(dev["c.txt"]) <= 25
    assert "d.txt" not in dev
    for split in ("train", "dev"):
        parts = [document for name, document in found if name == split]
        firsts, lasts = [each.is_first for each in parts], [each.is_last for each in parts]
        assert firsts == [True, *lasts[:-1]]
        assert lasts[-1]


def test_a_corpus_without_documents_for_both_parts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "indivisible")
    with pytest.raises(UserError, match="no development text; too little to hold some out"):
        by_split(Corpus(section(tmp_path, train=("train.txt",))))


def test_a_sample_has_about_the_size_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.txt", "".join(f"{number} is a number\n" for number in range(50_000)))
    write(tmp_path / "dev.txt", "x")
    corpus = Corpus(section(tmp_path, train=("train.txt",)))
    assert "".join(corpus.sample()) == (tmp_path / "train.txt").read_text()
    monkeypatch.setattr("segue.data.documents._SAMPLE_PIECE", 1000)
    first, again = list(corpus.sample(200_000)), list(corpus.sample(200_000))
    assert first == again != list(corpus.sample(200_000, seed=1))
    assert 150_000 < sum(map(len, first)) < 250_000


def test_the_checksum_changes_with_texts_and_how_they_are_read(tmp_path: Path) -> None:
    def checksum(root: str = "a", **values: Any) -> str:
        return Corpus(section(tmp_path / root, train=("train.txt",), **values)).checksum()

    for folder in ("a", "b"):
        write(tmp_path / folder / "train.txt", "one\n\ntwo\n")
    assert checksum() == checksum("b")
    others = [checksum(split="line"), checksum(text_key="content"), checksum(held_out_share=0.1)]
    write(tmp_path / "a" / "train.txt", "one\n\ntwo!")
    others.append(checksum())
    assert len({checksum("b"), *others}) == 5
