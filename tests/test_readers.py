"""Whatever a user's file holds, every reader reads it or names it in a UserError: no other exception gets out."""

import json
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue import recipe, translate_files
from segue.data.augmentation import AugmentationSection
from segue.data.corpora import CORPORA, prepare
from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest, write_manifest
from segue.data.text import TextSection, normalize
from segue.data.tokenizer import BPESection, BytesSection, Tokenizer, build
from segue.data.vocabularies import Vocabularies
from segue.errors import UserError
from segue.runtime import exported

fuzz = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
MARKS = st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\x1f\x8b", b"PK\x03\x04"])
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('\0\r\n\t,;|"=\u2028\ufeff'), max_size=60)
BYTES = st.builds(bytes.__add__, MARKS, st.binary(max_size=80) | TEXTS.map(str.encode))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def with_keys(*names: str) -> st.SearchStrategy[bytes]:
    """A JSON object that has most of the keys that a reader looks for, with anything in them."""
    values = st.fixed_dictionaries({}, optional=dict.fromkeys(names, JSON))
    return values.map(lambda each: json.dumps(each).encode())


UTTERANCE = with_keys("audio_filepath", "duration", "text", "offset", "id", "speaker", "lang")
PAIR = with_keys("source", "target", "alternatives", "id", "source_language", "target_language")
LINES = st.lists(UTTERANCE | PAIR | BYTES, max_size=4).map(b"\n".join)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", [Utterance, Pair])
@given(content=LINES)
@fuzz
def test_a_manifest_is_read_or_named(tmp_path: Path, kind: Any, content: bytes) -> None:
    path = written(tmp_path, "x.jsonl", content)
    try:
        found = Manifest(kind, [path])
    except UserError as problem:
        assert str(path) in str(problem)  # noqa: PT017
        return
    for example in found:  # what was read can be normalized and written
        for text in (example.text,) if isinstance(example, Utterance) else (example.source, example.target):
            normalize(text, TextSection()).encode()
    assert write_manifest(tmp_path / "y.jsonl", found) == len(found)
    assert [each.id for each in Manifest(kind, [tmp_path / "y.jsonl"]) if each.has_id] == [
        each.id for each in found if each.has_id
    ]


def table_of(*columns: str) -> st.SearchStrategy[bytes]:
    """A header of usual names, then rows of anything."""
    cells = st.text(st.characters(codec="utf-8") | st.sampled_from('"\r\n,;\t'), max_size=6)
    rows = st.lists(st.lists(cells, max_size=len(columns) + 1), max_size=3)
    return st.builds(
        lambda found, separator, end, encoding: end.join(separator.join(row) for row in [columns, *found]).encode(
            encoding, errors="replace"
        ),
        rows,
        st.sampled_from(",;\t|"),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]),
    )


TABLES = BYTES | table_of("audio", "text", "speaker", "split") | table_of("source", "target", "id", "source")
FILES: dict[str, tuple[str, ...]] = {
    "fsdd": ("x.wav",),
    "ljspeech": ("metadata.csv",),
    "librispeech": ("dev-clean/1/2/1-2.trans.txt",),
    "kaldi": ("text", "wav.scp", "segments", "utt2spk"),
    "multi30k": ("train.en", "train.de", "val.en", "val.de"),
    "parallel": ("train.en", "train.de", "test.en.gz", "test.de"),
    "wmt14": ("train.en", "train.de", "newstest2013.en", "newstest2013.de", "newstest2014.en", "newstest2014.de"),
    "cmudict": ("cmudict.dict",),
    "nemo": ("train.json",),
    "csv": ("train.csv",),
    "tsv": ("train.tsv",),
    "folders": ("yes/1.wav", "no/1.wav"),
    "jsb": ("jsb-chorales-quarter.json",),
    "midi": ("1.mid", "2.midi"),
    "written": ("texts.txt",),
    "ngram": ("texts.txt",),
    "synthesized": ("texts.txt",),
}


@pytest.mark.parametrize("corpus", CORPORA)
@given(data=st.data(), skip_bad=st.booleans())
@fuzz
def test_a_corpus_is_read_or_named(tmp_path: Path, corpus: str, data: st.DataObject, skip_bad: bool) -> None:
    kind = {"csv": TABLES, "tsv": TABLES, "nemo": LINES, "jsb": LINES | BYTES}.get(
        corpus, BYTES | TEXTS.map(str.encode)
    )
    for name in FILES[corpus]:
        path = tmp_path / corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.draw(kind))
    (tmp_path / corpus / "a.wav").touch()
    overrides = ["source_language=en", "target_language=de"] if corpus == "parallel" else []
    with suppress(UserError):
        prepare(corpus, tmp_path / corpus, tmp_path / "out", overrides, skip_bad=skip_bad)


@given(BYTES)
@fuzz
def test_a_stream_is_read_or_its_line_named(content: bytes) -> None:
    try:
        found = list(translate_files.lines(BytesIO(content), "input"))
    except UserError as problem:
        assert str(problem).startswith("input:")  # noqa: PT017
        return
    for line in found:
        line.encode()


def changed(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value with one part of it replaced by anything, or left out."""
    if isinstance(value, dict) and value:
        return st.sampled_from(sorted(value)).flatmap(
            lambda key: (
                st.just({name: each for name, each in value.items() if name != key})
                | changed(value[key]).map(lambda inner: value | {key: inner})
            )
        )
    return JSON


TOKENIZERS = [
    json.loads(build(section, ["a b", "ba"], ["<s>", "<unk>"]).to_json())
    for section in (BytesSection(kind="bytes"), BPESection(kind="bpe", size=10))
]


@given(data=st.data())
@fuzz
def test_a_tokenizer_is_read_or_named(tmp_path: Path, data: st.DataObject) -> None:
    damaged = st.sampled_from(TOKENIZERS).flatmap(changed).map(lambda each: json.dumps(each).encode())
    content = data.draw(BYTES | damaged)
    path = written(tmp_path, "tokenizer.json", content)
    for read in (Tokenizer.load, lambda path: Vocabularies.load(path.parent)):
        try:
            read(path)
        except UserError as problem:
            assert "tokenizer" in str(problem)  # noqa: PT017


class _Recipe(recipe.Section):
    task: str
    text: TextSection = TextSection()
    augmentation: AugmentationSection = AugmentationSection()


TOML = st.lists(
    st.sampled_from(['task = "x"', "[text]", 'case = "lower"', "[augmentation]", "speeds = [1]", 'extends = "x.toml"'])
    | TEXTS,
    max_size=5,
).map(lambda lines: "\n".join(lines).encode(errors="replace"))


DEEP = st.just(b"a = " + b"[" * 100_000)


@given(content=TOML | BYTES | DEEP, override=TEXTS | st.text(st.characters(exclude_categories=[])))
@fuzz
def test_a_recipe_is_read_or_named(tmp_path: Path, content: bytes, override: str) -> None:
    path = written(tmp_path, "x.toml", content)
    for overrides in ([], [f"task={override}"], [override]):
        with suppress(UserError):
            recipe.validate(recipe.read(path, overrides), _Recipe)


FACTS: dict[str, Any] = {
    "target": "onnx",
    "task": "speech_recognition",
    "sample_rate_hz": 8000,
    "feature_dim": 16,
    "tokens": ["a", [195]],
    "samples_per_frame": 80,
    "text": {"case": "lower"},
    "parameters": 1,
}


@given(content=BYTES | changed(FACTS).map(lambda each: json.dumps(each).encode()) | st.just(b"[" * 100_000))
@fuzz
def test_a_segue_json_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("segue.runtime.onnx.OnnxBackend", lambda *_: None)
    written(tmp_path, "segue.json", content)
    with suppress(UserError):
        exported.load(tmp_path)
