import json
import os
import pickle
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.data import document_files, token_files, tokenizing
from segue.data import tokenizer as tokenizers
from segue.data.document_files import Document
from segue.data.documents import END, Corpus, DocumentsSection
from segue.data.manifests import Split
from segue.data.token_files import TokenFile, Writer
from segue.data.tokenizer import ByteBPESection, BytesSection, CharactersSection, Tokenizer, WordsSection
from segue.errors import UserError, gathered
from segue.files import PARTIAL

TEXTS = [f"text {number}\n\nhas  the number {number**3}, and\tan end 🙂" for number in range(200)]
BPE = tokenizers.build(ByteBPESection(kind="byte_bpe", size=400), TEXTS, [END])
BYTES = tokenizers.build(BytesSection(kind="bytes"), [], [END])


def corpus(root: Path, texts: list[str] = TEXTS, **values: Any) -> Corpus:
    root.mkdir(exist_ok=True)
    (root / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Corpus(DocumentsSection(root=str(root), **values))


def build(found: Corpus, tokenizer: Tokenizer = BPE, folder: str = "run") -> dict[Split, TokenFile]:
    return tokenizing.build(found, tokenizer, 0, Path(found.section.root) / folder)


def documents(file: TokenFile) -> list[list[int]]:
    return [part.tolist() for part in np.split(file.tokens, file.document_starts[1:])]


def foreign(index: Path, rows: list[list[int]], vocabulary: int = 300) -> Path:
    with Writer(index, vocabulary, 0) as writer:
        for row in rows:
            writer.add(np.array(row, np.int32), is_last=True)
        writer.close()
    return index


# --- Layout ---


@pytest.mark.parametrize(("vocabulary", "code", "kind"), [(65_499, 8, "H"), (65_500, 4, "i")])
def test_the_layout_is_megatrons(vocabulary: int, code: int, kind: str, tmp_path: Path) -> None:
    foreign(tmp_path / "a.idx", [[5, 6, 7], [], [8]], vocabulary)
    size = struct.calcsize(kind)
    assert (tmp_path / "a.bin").read_bytes() == struct.pack(f"<7{kind}", 5, 6, 7, 0, 0, 8, 0)
    header = b"MMIDIDX\0\0" + struct.pack("<Q", 1) + bytes([code]) + struct.pack("<QQ", 3, 4)
    places = struct.pack("<3i", 4, 1, 2) + struct.pack("<3q", 0, 4 * size, 5 * size) + struct.pack("<4q", 0, 1, 2, 3)
    assert (tmp_path / "a.idx").read_bytes() == header + places


def test_a_document_may_have_several_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(struct.pack("<6q", 1, 2, 0, 3, 4, 0))
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 5, 3, 3)
    places = struct.pack("<3i3q3q", 2, 1, 3, 0, 16, 24, 0, 2, 3)
    (tmp_path / "a.idx").write_bytes(header + places)
    assert documents(TokenFile(tmp_path / "a.idx")) == [[1, 2, 0], [3, 4, 0]]


def test_a_token_file_travels_without_its_tokens(tmp_path: Path) -> None:
    file = TokenFile(foreign(tmp_path / "a.idx", [list(range(1, 250))] * 100)).part(100, 700)
    before = documents(file)
    content = pickle.dumps(file)
    assert len(content) < 1000
    assert documents(pickle.loads(content)) == before
    assert (len(file), file.num_documents, file.document_starts.tolist()) == (600, 2, [150, 400])
    assert not file.tokens.flags.writeable


# --- Building ---


@pytest.mark.parametrize("tokenizer", [BPE, BYTES])
def test_token_files_hold_the_texts(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "_PIECE_CHARACTERS", 10)
    monkeypatch.setattr(tokenizing, "_BATCH_CHARACTERS", 100)
    monkeypatch.setattr(token_files, "_BLOCK_DOCUMENTS", 7)
    found = corpus(tmp_path)
    expected: dict[Split, list[str]] = {"train": [], "dev": []}
    for split, document in found.read():
        expected[split].append(document.text)
    for split, file in build(found, tokenizer).items():
        assert documents(file) == [[*tokenizer.encode(text), 0] for text in expected[split]]
        assert "".join(tokenizer.decode_exactly(file.tokens.tolist())) == "".join(expected[split])
        assert file.facts is not None
        assert file.num_tokens == file.facts.num_tokens
        assert file.num_documents == file.facts.num_documents == len(expected[split]) > 0
        assert file.num_bytes == sum(len(text.encode()) for text in expected[split])
        assert file.num_words == sum(len(text.strip().split(" ")) for text in expected[split])


def test_a_long_document_in_parts_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "_PART_CHARACTERS", 50)
    monkeypatch.setattr(document_files, "_CHUNK_BYTES", 16)
    text = "".join(f"line {number} of it\n" for number in range(100))
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "dev.txt").write_text(text + "more")
    files = build(Corpus(DocumentsSection(root=str(tmp_path), train=("train.txt",))))
    assert documents(files["train"]) == [[*BPE.encode(text), 0]]
    assert files["train"].num_words == len(text.strip().split(" "))


@given(st.lists(st.text(st.sampled_from(" \n\tab"), max_size=6), min_size=1, max_size=5))
def test_words_are_counted_as_megatron_does(parts: list[str]) -> None:
    count = tokenizing._TextCount()
    text = "".join(parts)
    for number, part in enumerate(parts):
        count.add(Document(part, "", number == 0, number == len(parts) - 1))
    assert count.num_words == (len(text.strip().split(" ")) if text.strip() else 0)


def test_token_files_are_used_again_until_something_changes(tmp_path: Path) -> None:
    first = build(corpus(tmp_path))["train"]
    written = first.path.stat().st_mtime_ns
    again = build(corpus(tmp_path))["train"]
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    others = [
        build(corpus(tmp_path), BYTES),
        build(corpus(tmp_path, held_out_share=0.1)),
        build(corpus(tmp_path, [*TEXTS[1:], "new"])),
    ]
    paths = {first.path, *(files["train"].path for files in others)}
    assert len(paths) == 4
    assert len({first.checksum, *(files["train"].checksum for files in others)}) == 4


def test_a_token_file_that_has_lost_a_part_is_made_again(tmp_path: Path) -> None:
    first = build(corpus(tmp_path))
    content = first["dev"].path.with_suffix(".bin").read_bytes()
    first["dev"].path.with_suffix(".json").unlink()
    first["dev"].path.with_suffix(".bin").write_bytes(b"")
    assert build(corpus(tmp_path))["dev"].path.with_suffix(".bin").read_bytes() == content


def test_damaged_tokens_of_texts_may_be_deleted(tmp_path: Path) -> None:
    first = build(corpus(tmp_path))["train"]
    path = first.path.with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train\.bin: cut off: .*; or delete .*made anew from the texts"):
        build(corpus(tmp_path))


def test_a_folder_that_may_not_be_written_to_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = corpus(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    files = tokenizing.build(found, BPE, 0, tmp_path / "run")
    assert files["train"].path.is_relative_to(tmp_path / "run" / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    found = corpus(tmp_path, [*TEXTS, TEXTS[0], " "], skip_bad=True)
    with gathered() as warned:
        files = build(found)
    assert [message.partition("\n")[0] for message, _ in warned] == [
        "1 document left out:",
        "1 document that repeats another one left out",
    ]
    facts = files["train"].facts
    assert facts is not None
    assert (facts.num_duplicates + found.num_duplicates["dev"], facts.num_skipped) == (1, 1)


def test_a_character_outside_the_alphabet_is_named_with_its_place(tmp_path: Path) -> None:
    letters = tokenizers.build(CharactersSection(kind="characters", alphabet=" abc"), [], [END])
    words = tokenizers.build(WordsSection(kind="words"), ["a b c ca"], [END])
    texts = ["ab c" + " a" * number for number in range(80)]
    with pytest.raises(UserError, match=r"train.jsonl:71: outside the tokenizer's alphabet: 'x'"):
        build(corpus(tmp_path, [*texts[:70], "a x", *texts[70:]]), letters)
    with pytest.raises(UserError, match=r"train.jsonl:1: outside the tokenizer's alphabet: 'ab'"):
        build(corpus(tmp_path, texts), words)
    assert not list((tmp_path / "tokens").glob(f"{PARTIAL}*"))


SLOWED = """
import sys, time
from pathlib import Path
from segue.data import tokenizing
from segue.data.documents import Corpus, DocumentsSection
from segue.data.tokenizer import Tokenizer

add, count = tokenizing.Writer.add, 0

def slowly(self, tokens, is_last):
    global count
    add(self, tokens, is_last)
    self._file.flush()
    count += 1
    if count == 20:
        print("begun", flush=True)
        time.sleep(float(sys.argv[3]))

tokenizing.Writer.add = slowly
root = Path(sys.argv[1])
found = tokenizing.build(Corpus(DocumentsSection(root=str(root))), Tokenizer.load(Path(sys.argv[2])), 0, root / "run")
print(found["train"].path, flush=True)
"""


def start(root: Path, seconds: float) -> "subprocess.Popen[str]":
    BPE.save(root / "tokenizer.json")
    words = [sys.executable, "-c", SLOWED, str(root), str(root / "tokenizer.json"), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def contents(files: dict[Split, TokenFile]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files["train"].path.parent.iterdir()}


def test_after_a_killed_process_the_next_one_builds_all(tmp_path: Path) -> None:
    found = corpus(tmp_path / "killed")
    process = start(tmp_path / "killed", 60)
    [left] = (tmp_path / "killed" / "tokens").glob(f"{PARTIAL}*")
    assert (left / "train.bin").stat().st_size > 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    files = build(found)
    assert not left.exists()
    assert contents(files) == contents(build(corpus(tmp_path / "clean")))


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    found = corpus(tmp_path)
    process = start(tmp_path, 1.0)
    files = build(found)
    written, _ = process.communicate()
    assert written.strip() == str(files["train"].path)
    assert sum(map(len, documents(files["train"]))) == files["train"].num_tokens


# --- Token files of others ---


def test_tokens_of_others_are_used_as_they_are(tmp_path: Path) -> None:
    rows = [[number % 200 + 1] * 5 for number in range(100)]
    index = foreign(tmp_path / "a.idx", rows)
    found = Corpus(DocumentsSection(root=str(tmp_path), train=("a.idx",), dev="held_out"))
    files = build(found)
    assert documents(files["train"]) == [[*row, 0] for row in rows[:95]]
    assert documents(files["dev"]) == [[*row, 0] for row in rows[95:]]
    assert files["train"].path == index
    assert files["train"].num_bytes is None
    assert not (tmp_path / "tokens").exists()
    with pytest.raises(UserError, match="tokens, from which no tokenizer can be learned"):
        found.texts("train")


def test_tokens_and_texts_may_be_parts_of_a_corpus(tmp_path: Path) -> None:
    foreign(tmp_path / "a.idx", [[1, 2, 3]])
    (tmp_path / "dev.txt").write_text("ab")
    files = build(Corpus(DocumentsSection(root=str(tmp_path), train=("a.idx",))), BYTES)
    assert documents(files["train"]) == [[1, 2, 3, 0]]
    assert documents(files["dev"]) == [[98, 99, 0]]


def damaged(folder: Path, name: str, change: Any) -> Path:
    index = foreign(folder / "a.idx", [[1, 2, 3], [4]])
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return index


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.idx", lambda content: b"x" + content[1:], "a.idx: not an index of tokens in Megatron's layout"),
        ("a.idx", lambda content: content[:20], "a.idx: not an index of tokens in Megatron's layout"),
        ("a.idx", lambda content: content[:9] + b"\2" + content[10:], "a.idx: version 2 of Megatron's layout"),
        ("a.idx", lambda content: content[:17] + b"\7" + content[18:], "a.idx: type 7 of tokens; known: 1, 2, 3"),
        ("a.idx", lambda content: content[:-1], "a.idx: cut off: 81 bytes are too few for 2 sequences"),
        ("a.bin", lambda content: content[:-1], "a.bin: cut off: 11 bytes, where a.idx has 6 tokens of 2"),
        ("a.bin", lambda content: content + b"\0\0", "a.bin: too long: 14 bytes, where a.idx has 6 tokens of 2"),
    ],
)
def test_damaged_token_files_are_refused(name: str, change: Any, message: str, tmp_path: Path) -> None:
    index = damaged(tmp_path, name, change)
    with pytest.raises(UserError) as caught:
        TokenFile(index)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_missing_bin_is_named(tmp_path: Path) -> None:
    index = foreign(tmp_path / "a.idx", [[1]])
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin: cannot read these tokens: No such file"):
        TokenFile(index)


def test_tokens_of_another_vocabulary_or_tokenizer_are_refused(tmp_path: Path) -> None:
    file = TokenFile(foreign(tmp_path / "a.idx", [[1, 2, 299], [4]]))
    file.check(300, 0, "")
    with pytest.raises(UserError, match="token 299 is outside the vocabulary of 299"):
        file.check(299, 0, "")
    with gathered() as warned:
        file.check(300, 5, "")
    assert "without the end token (5) at the end: 2 of 2 documents" in warned[0].message
    own = build(corpus(tmp_path))["train"]
    own.path.rename(own.path.with_name("b.idx"))
    for suffix in (".bin", ".json"):
        own.path.with_suffix(suffix).rename(own.path.with_name(f"b{suffix}"))
    section = DocumentsSection(root=str(own.path.parent), train=("b.idx",))
    assert build(Corpus(section), BPE)["dev"].num_tokens > 0
    with pytest.raises(UserError, match=r"b.idx: of another tokenizer than the model's"):
        build(Corpus(section), BYTES)


def test_tokens_of_a_killed_process_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL}x").mkdir()
    index = foreign(tmp_path / f"{PARTIAL}x" / "train.idx", [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="not complete: the process that wrote it has stopped"):
        build(Corpus(DocumentsSection(root=str(index.parent), train=("train.idx",))))


def test_another_file_of_the_name_is_no_sidecar(tmp_path: Path) -> None:
    index = foreign(tmp_path / "a.idx", [[1, 2, 3]])
    for text in ('{"text": "a"}\n{"text": "b"}\n', '{"text": "a"}', "[1]", "x" * 20_000):
        index.with_suffix(".json").write_text(text)
        assert TokenFile(index).facts is None


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "add", full)
    with pytest.raises(UserError, match=r"cannot write these tokens: No space left on device; data\.tokens can be"):
        build(corpus(tmp_path))
    assert not list((tmp_path / "tokens").glob(f"{PARTIAL}*"))
