import io
import os
from pathlib import Path

import pytest

from segue.cli import main
from segue.errors import UserError
from segue.transcribe_files import local, recordings, targets


def touched(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")
    return paths


def refuse(path: Path) -> None:
    with local(path) as file:
        raise UserError(f"{file}: it is {file.read_text()}")


def test_folders_are_walked_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left out is said."""
    paths = touched(tmp_path, "b/2.WAV", "b/10.mp3", "b/deep/1.m4a", "b/notes.txt", "b/.hidden.wav", "a.flac")
    assert recordings([tmp_path / "b", tmp_path / "a.flac"]) == [paths[1], paths[0], paths[2], paths[5]]
    assert f"1 file that is not a recording left out:\n{paths[3]}" in capsys.readouterr().err
    touched(tmp_path, "c/notes.txt")
    with pytest.raises(UserError, match="c: a folder without recordings"):
        recordings([tmp_path / "c"])


def test_no_two_recordings_share_a_transcript(tmp_path: Path) -> None:
    out = tmp_path / "o"
    for names, wanted in (
        (["rec.wav", "b.wav"], ["rec.txt", "b.txt"]),
        (["d1/rec.wav", "d2/rec.wav", "d1/b.wav"], ["d1/rec.txt", "d2/rec.txt", "b.txt"]),
        (["d/rec.wav", "d/rec.mp3"], ["rec.wav.txt", "rec.mp3.txt"]),
        (["d1/rec.wav", "d1/rec.mp3", "d2/REC.wav"], ["d1/rec.wav.txt", "d1/rec.mp3.txt", "d2/REC.txt"]),
        (["d1/a.b.wav", "d1/a.c.wav"], ["a.b.txt", "a.c.txt"]),
    ):
        assert targets([tmp_path / name for name in names], out, "txt") == [out / name for name in wanted]
    assert targets([Path("-")], out, "srt") == [out / "standard_input.srt"]


def test_recordings_of_one_name_are_named_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets([tmp_path / f"d{number}/a.wav" for number in range(3)], tmp_path / "o", "txt")
    result = tmp_path / "o" / "d0" / "a.txt"
    wanted = f"d0/a.wav: another recording has the same name; its result is {result}; so it is with 2 more\n"
    assert capsys.readouterr().err.endswith(wanted)


def test_parts_of_a_recording_are_numbered(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("d1/a.wav", "b.wav", "d1/a.wav", "d2/a.wav")]
    wanted = ["d1/a_0001.srt", "b.srt", "d1/a_0002.srt", "d2/a.srt"]
    assert targets(paths, tmp_path / "o", "srt") == [tmp_path / "o" / name for name in wanted]
    with pytest.raises(UserError, match="the result of two recordings"):
        targets([Path("a.wav"), Path("a.wav"), Path("a_0001.wav")], tmp_path, "srt")


def test_names_differing_only_in_case_are_refused(tmp_path: Path) -> None:
    """A file system may take them for the same."""
    with pytest.raises(UserError, match="the result of two recordings"):
        targets([tmp_path / "rec.wav", tmp_path / "REC.wav"], tmp_path / "o", "txt")


def test_a_result_never_replaces_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"talk\.json: is to be read"):
        targets([tmp_path / "talk.wav"], tmp_path, "json", read=[tmp_path / "talk.json"])
    (recording,) = touched(tmp_path, "sound.txt")
    with pytest.raises(UserError, match=r"sound\.txt: is to be read"):
        targets([recording], tmp_path, "txt")


def test_replaced_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordings = [tmp_path / "a.wav", tmp_path / "b.wav"]
    touched(tmp_path, "a.txt", "b.txt")
    targets(recordings, tmp_path, "srt")
    assert not capsys.readouterr().err
    targets(recordings, tmp_path, "txt")
    assert f"{tmp_path / 'a.txt'}: is replaced, and 1 more" in capsys.readouterr().err


def test_transcripts_go_to_a_folder(tmp_path: Path) -> None:
    recording, other = touched(tmp_path, "sound.wav", "o")
    with pytest.raises(UserError, match=r"--out .*/o: a file; the name of a folder is wanted"):
        targets([recording], other, "txt")


def test_standard_input_and_pipes_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sound")))
    with pytest.raises(UserError, match=r"^standard input: it is sound$"):
        refuse(Path("-"))
    read, write = os.pipe()
    os.write(write, b"sound")
    os.close(write)
    with local(Path(f"/dev/fd/{read}")) as file:
        assert file.read_bytes() == b"sound"
    os.close(read)


def test_folders_without_permission_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were skipped like empty ones."""

    def scandir(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=f"{tmp_path}: cannot read this folder: Permission denied"):
        recordings([tmp_path])


def test_out_is_no_file_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [sound] = touched(tmp_path, "a.wav")
    assert main(["transcribe", str(tmp_path), str(sound), "--out", str(tmp_path / "a.srt")]) == 2
    assert f"--out {tmp_path / 'a.srt'}: the name of a folder is wanted; --format" in capsys.readouterr().err
    assert not (tmp_path / "a.srt").exists()
