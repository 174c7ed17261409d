import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest, parse_manifest, write_manifest
from segue.data.text import seen
from segue.errors import UserError


def line(**keys: Any) -> str:
    return json.dumps({"source": "a house", "target": "ein Haus"} | keys) + "\n"


filled = st.text(min_size=1).filter(seen)


@given(
    texts=st.lists(st.tuples(filled, filled, st.lists(filled).map(tuple)), min_size=1, max_size=5),
    languages=st.tuples(st.none() | st.text(), st.none() | st.text()),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_that_are_written_read_back(
    tmp_path: Path, texts: list[tuple[str, str, tuple[str, ...]]], languages: tuple[str | None, str | None]
) -> None:
    path = tmp_path / "x.jsonl"
    assert write_manifest(path, [Pair("", *each, *languages) for each in texts]) == len(texts)
    read = Manifest(Pair, [path])
    assert [(each.source, each.target, each.alternatives) for each in read] == texts
    assert {(each.source_language, each.target_language) for each in read} == {languages}
    assert read.sizes.tolist() == [max(len(source), len(target)) for source, target, _ in texts]


BAD_LINES = {
    '{"target": "b"}': "lacks the key 'source'",
    '{"source": "a"}': "lacks the key 'target'",
    line(source=1): "source: a text wanted, got 1",
    line(target=None): "target: a text wanted, got null",
    line(source=" \t"): "source: empty",
    line(target=""): "target: empty",
    line(alternatives="c"): 'alternatives: a list of texts wanted, got "c"',
    line(alternatives=["c", 1]): 'alternatives: a list of texts wanted, got ["c", 1]',
    line(alternatives=["c", " "]): "alternatives: empty",
    line(source="half \ud83d"): "source: lone surrogate: '\\ud83d'",
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_pair_is_named_with_file_line_and_key(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n" + line() + bad.strip() + "\n")
    with pytest.raises(UserError) as raised:
        Manifest(Pair, [path])
    assert f"{path}:3: {BAD_LINES[bad]}" in str(raised.value)
    good, problem = parse_manifest(path, Pair)
    assert isinstance(good, Pair)
    assert isinstance(problem, UserError)


def test_skip_bad_counts_bad_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([line(), *BAD_LINES, line(source="b")]))
    manifest = Manifest(Pair, [path], skip_bad=True)
    assert [pair.source for pair in manifest] == ["a house", "b"]
    assert manifest.num_skipped == len(BAD_LINES)
    assert f"{len(BAD_LINES)} bad manifest lines left out" in capsys.readouterr().err


def test_a_line_that_is_not_utf8_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line().encode() + line(source="caf?").encode().replace(b"?", b"\xe9") + line().encode())
    with pytest.raises(UserError) as raised:
        Manifest(Pair, [path])
    assert str(raised.value).startswith(f"{path}:2: not UTF-8\n")
    assert len(Manifest(Pair, [path], skip_bad=True)) == 2


def test_a_pair_without_an_id_has_its_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text(line() + "\n" + line() + line(id=7))
    assert [pair.id for pair in Manifest(Pair, [tmp_path / "x.jsonl"])] == ["x.jsonl:1", "x.jsonl:3", "7"]
    assert capsys.readouterr().err == ""  # equal pairs repeat nothing that one has to know of


def test_an_id_stands_for_one_pair(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(line(id="a") + line() + line(id="a"))
    with pytest.raises(UserError, match=r"x\.jsonl:3: id: 'a' is already in .*x\.jsonl:1"):
        Manifest(Pair, [tmp_path / "x.jsonl"])


def test_a_manifest_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "speech.jsonl", [Utterance("", tmp_path / "a.wav", 1.0, "a")])
    write_manifest(tmp_path / "pairs.jsonl", [Pair("", "a", "b")])
    with pytest.raises(UserError, match=r"speech\.jsonl: recordings with .*, where pairs of texts"):
        Manifest(Pair, [tmp_path / "speech.jsonl"])
    with pytest.raises(UserError, match=r"pairs\.jsonl: pairs of texts .*, where recordings with"):
        Manifest(Utterance, [tmp_path / "pairs.jsonl"])
