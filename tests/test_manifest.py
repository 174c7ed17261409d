import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest, parse_manifest, write_manifest
from segue.errors import UserError


def line(audio: str = "a.wav", **keys: Any) -> str:
    return json.dumps({"audio_filepath": audio, "duration": 1.5, "text": "hello"} | keys) + "\n"


@given(
    texts=st.lists(st.text(), min_size=1, max_size=5),
    seconds=st.floats(1e-3, 1e5),
    offset=st.floats(0, 1e4),
    speaker=st.none() | st.text(),
    language=st.none() | st.text(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back(
    tmp_path: Path, texts: list[str], seconds: float, offset: float, speaker: str | None, language: str | None
) -> None:
    path = tmp_path / "lists" / "train.jsonl"
    written = [
        Utterance("", tmp_path / f"{number}.wav", round(seconds, 6), text, offset, speaker, language)
        for number, text in enumerate(texts)
    ]
    assert write_manifest(path, written) == len(texts)
    read = Manifest(Utterance, [path])
    assert len(read) == len(texts)
    for before, after in zip(written, read, strict=True):
        assert after.audio.resolve() == before.audio
        assert (after.seconds, after.text, after.offset_seconds) == (before.seconds, before.text, before.offset_seconds)
        assert (after.speaker, after.language) == (before.speaker, before.language)
    assert read.sizes.tolist() == [utterance.seconds for utterance in written]


def test_a_folder_of_manifest_and_audio_can_move(tmp_path: Path) -> None:
    (tmp_path / "old" / "clips").mkdir(parents=True)
    (tmp_path / "old" / "clips" / "a.wav").touch()
    write_manifest(tmp_path / "old" / "x.jsonl", [Utterance("", tmp_path / "old" / "clips" / "a.wav", 1.0, "a")])
    before = Manifest(Utterance, [tmp_path / "old" / "x.jsonl"])
    shutil.move(tmp_path / "old", tmp_path / "new")
    after = Manifest(Utterance, [tmp_path / "new" / "x.jsonl"])
    assert after[0].audio.is_file()
    assert after[0].id == before[0].id
    assert after.checksum() == before.checksum()


def test_a_write_that_fails_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_manifest(path, [Utterance("", tmp_path / "a.wav", 1.0, "old")])

    def utterances() -> Iterator[Utterance]:
        yield Utterance("", tmp_path / "a.wav", 1.0, "new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, utterances())
    assert Manifest(Utterance, [path])[0].text == "old"


BAD_LINES = {
    "nonsense": "not JSON",
    "[1]": "not a JSON object",
    '{"audio_filepath": "a.wav", "duration": 1.5': "not JSON",
    '{"duration": 1, "text": ""}': "lacks the key 'audio_filepath'",
    '{"audio_filepath": "a.wav", "text": ""}': "lacks the key 'duration'",
    '{"audio_filepath": "a.wav", "duration": 1}': "lacks the key 'text'",
    line(audio_filepath=3): "audio_filepath: a path wanted, got 3",
    line(duration="1.5"): 'duration: seconds wanted, got "1.5"',
    line(duration=True): "duration: seconds wanted, got true",
    line(duration=None): "duration: seconds wanted, got null",
    line(duration=0): "duration: seconds above 0 wanted, got 0.0",
    line(duration=float("nan")): "duration: seconds above 0 wanted, got nan",
    line(duration=float("inf")): "duration: seconds above 0 wanted, got inf",
    line(offset=-1): "offset: seconds from 0 wanted, got -1.0",
    line(text=None): "text: a text wanted, got null",
    line(text="\ud83d"): "text: lone surrogate: '\\ud83d'",
    line(speaker="\ud83d"): "speaker: lone surrogate",
    line(id=["a"]): 'id: a text or a number wanted, got ["a"]',
    line(lang={}): "lang: a text or a number wanted, got {}",
    line(audio_filepath="\ud83d.wav"): "audio_filepath: a path wanted",
    line(audio_filepath="a\0.wav"): "audio_filepath: a path wanted",
    line(audio_filepath=""): "audio_filepath: a path wanted",
    line(duration=10**400): "duration: seconds above 0 wanted, got inf",
    '{"text": "a", "text": "b"}': "not JSON: the key 'text' appears twice",
    '{"source": "a", "target": "b"}': "lacks the key 'audio_filepath' (keys: 'source', 'target')",
    '{"a":' * 100_000: "not JSON that can be read: too many brackets",
    line(text=["a"]): 'text: a text wanted, got ["a"]',
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n" + line() + bad.strip() + "\n")
    with pytest.raises(UserError) as raised:
        Manifest(Utterance, [path])
    assert f"{path}:3: {BAD_LINES[bad]}" in str(raised.value)
    good, problem = parse_manifest(path, Utterance)
    assert isinstance(good, Utterance)
    assert isinstance(problem, UserError)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(f"[{line()}]")
    with pytest.raises(UserError, match=r"x\.json: one JSON array, where each line should be an object; `jq -c"):
        Manifest(Utterance, [tmp_path / "x.json"])
    (tmp_path / "x.csv").write_text("audio,text\na.wav,one\n")
    with pytest.raises(UserError, match=r"x\.csv: a table or a text, where a manifest.* `segue prepare csv"):
        Manifest(Utterance, [tmp_path / "x.csv"])
    with pytest.raises(UserError, match="a file is wanted, not a folder"):
        Manifest(Utterance, [tmp_path])
    (tmp_path / "x.jsonl").write_text(line())
    with pytest.raises(UserError, match=r"x\.jsonl: recordings with their texts .*, where pairs of texts"):
        Manifest(Pair, [tmp_path / "x.jsonl"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_manifest_may_be_as_windows_writes_it(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes((line("a.wav") + line("b.wav")).replace("\n", end).encode(encoding))
    assert [utterance.audio.name for utterance in Manifest(Utterance, [path])] == ["a.wav", "b.wav"]


def test_a_file_name_that_is_not_utf8_reads_back(tmp_path: Path) -> None:
    audio = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_manifest(tmp_path / "x.jsonl", [Utterance("", audio, 1.0, "café")])
    [found] = Manifest(Utterance, [tmp_path / "x.jsonl"])
    assert found.audio == audio
    assert found.id == "caf\\xe9.wav"


def test_bad_bytes_are_named_with_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line().encode() + b'{"audio_filepath": "\xff.wav", "duration": 1, "text": ""}')
    with pytest.raises(UserError, match=r"x\.jsonl:2: not UTF-8"):
        Manifest(Utterance, [path])


def test_skip_bad_counts_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([line("a.wav"), *BAD_LINES, line("b.wav")]))
    manifest = Manifest(Utterance, [path], skip_bad=True)
    assert [utterance.audio.name for utterance in manifest] == ["a.wav", "b.wav"]
    assert manifest.num_skipped == len(BAD_LINES)
    assert f"{len(BAD_LINES)} bad manifest lines left out" in capsys.readouterr().err


def test_ids_are_unique_across_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line(id=1) + line(id="x"))
    (tmp_path / "b.jsonl").write_text(line(id="y") + line(id="x"))
    with pytest.raises(UserError) as raised:
        Manifest(Utterance, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert f"{tmp_path / 'b.jsonl'}:2: id: 'x' is already in {tmp_path / 'a.jsonl'}:2" in str(raised.value)


@pytest.mark.parametrize("keys", [{}, {"lang": "id"}, {"id": None}])
def test_repeated_audio_without_id_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any]
) -> None:
    """A warning says so."""
    path = tmp_path / "x.jsonl"
    path.write_text(2 * line(**keys))
    assert [utterance.id for utterance in Manifest(Utterance, [path])] == ["a.wav", "a.wav"]
    assert ": 1 line repeats " in capsys.readouterr().err


def test_segments_of_one_file_have_different_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line() + line(offset=1.5) + line(offset=3))
    assert [utterance.id for utterance in Manifest(Utterance, [path])] == ["a.wav", "a.wav@1.5", "a.wav@3.0"]
    assert capsys.readouterr().err == ""


def test_left_out_examples_change_the_checksum(tmp_path: Path) -> None:
    """They are counted."""
    path = tmp_path / "x.jsonl"
    path.write_text("".join(line(f"{number}.wav", duration=number + 1) for number in range(4)))
    manifest = Manifest(Utterance, [path])
    before = manifest.checksum()
    manifest.without([1, 2])
    assert [utterance.audio.name for utterance in manifest[:]] == ["0.wav", "3.wav"]
    assert manifest[-1].origin == f"{path}:4"
    assert manifest.sizes.tolist() == [1.0, 4.0]
    assert manifest.num_skipped == 2
    assert manifest.checksum() != before


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_manifest_without_examples_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError, match="no examples in it"):
        Manifest(Utterance, [tmp_path / "x.jsonl"])


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl: cannot read this manifest: No such file"):
        Manifest(Utterance, [tmp_path / "x.jsonl"])


def test_a_packed_manifest_is_read_as_its_content_is(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(("\n" + line() + line("b.wav")).encode()))
    (tmp_path / "x.jsonl").write_text("\n" + line() + line("b.wav"))
    packed, plain = (Manifest(Utterance, [tmp_path / name]) for name in ("x.jsonl.gz", "x.jsonl"))
    assert [utterance.audio for utterance in packed] == [utterance.audio for utterance in plain]
    assert packed[1].origin == f"{tmp_path / 'x.jsonl.gz'}:3"
    assert packed.checksum() == plain.checksum()
    write_manifest(tmp_path / "y.jsonl.gz", plain)
    again = Manifest(Utterance, [tmp_path / "y.jsonl.gz"])
    assert [utterance.audio for utterance in again] == [utterance.audio for utterance in plain]


PACKED = gzip.compress(b"{}" * 99)


@pytest.mark.parametrize("content", [b"plain", PACKED[:-9], PACKED[:10] + b"\xff" * 30])
def test_a_damaged_packed_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.jsonl\.gz: cannot read this manifest: \w"):
        Manifest(Utterance, [tmp_path / "x.jsonl.gz"])
