"""Tables as programs write them: Excel's and others' separators, encodings, line ends and quotation marks."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from segue.data.corpora import prepare
from segue.data.examples import Pair, Utterance
from segue.data.manifest import Manifest
from segue.errors import UserError

NO_SPLITS = ("dev_share=0", "test_share=0")
ROWS = (("source", "target"), ("a, b; c", "eins"), ("schön", "zwei"))


def joined(separator: str, end: str = "\n") -> str:
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in ROWS]
    return "".join(separator.join(row) + end for row in quoted)


def pairs(table: Path, *overrides: str) -> dict[str, str]:
    written = prepare("csv", table, table.parent / "out", [*NO_SPLITS, *overrides])
    return {pair.source: pair.target for each in written for pair in Manifest(Pair, [each.path])}


def table(folder: Path, content: str | bytes, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(source: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as raised:
        prepare("csv", source, source.parent / "out", [*NO_SPLITS, *overrides])
    return str(raised.value)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_may_have_any_separator_and_line_end(tmp_path: Path, separator: str, end: str, name: str) -> None:
    assert pairs(table(tmp_path, joined(separator, end), name)) == dict(ROWS[1:])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_may_be_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    assert pairs(table(tmp_path, joined("\t", "\r\n").encode(encoding))) == dict(ROWS[1:])


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\r", "sep=;;;\n"])
def test_excel_s_own_first_line_names_the_separator(tmp_path: Path, line: str) -> None:
    assert pairs(table(tmp_path, line + joined(";", line[-1]))) == dict(ROWS[1:])
    message = refused(table(tmp_path, line + "source;target\nx;\n".replace("\n", line[-1])))
    assert message.startswith(f"{tmp_path}/x.csv:3: target: empty")


def test_fields_may_exceed_pythons_limit(tmp_path: Path) -> None:
    for name, separator in (("x.csv", ","), ("x.tsv", "\t")):
        found = pairs(table(tmp_path, f"source{separator}target\n{'a' * 131_073}{separator}b\n", name))
        assert found == {"a" * 131_073: "b"}


@pytest.mark.parametrize("before", ["", "\n", " \r\n", ",,\n", "\u200b"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_empty_rows_before_the_table_are_skipped(tmp_path: Path, before: str, end: str) -> None:
    assert pairs(table(tmp_path, before + joined(",", end))) == dict(ROWS[1:])


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_return_inside_a_field_is_text(tmp_path: Path, separator: str) -> None:
    content = f"source{separator}target\none\rtwo{separator}eins\nthree{separator}drei\n"
    assert pairs(table(tmp_path, content)) == {"one\rtwo": "eins", "three": "drei"}


def test_quotation_marks_in_tsv_are_text(tmp_path: Path) -> None:
    """Unless the table quotes its fields."""
    plain = 'source\ttarget\n"one\teins\n"two" and "three"\tzwei\n'
    assert pairs(table(tmp_path, plain)) == {'"one': "eins", '"two" and "three"': "zwei"}
    quoted = 'source\ttarget\n"say ""one"""\teins\n"two\tthree"\tzwei\n'
    assert set(pairs(table(tmp_path, quoted.replace("\tthree", " three")))) == {'say "one"', "two three"}
    assert pairs(table(tmp_path, '"source"\t"target"\n"one"\t"eins"\n')) == {"one": "eins"}
    for inside in ("\t", "\n"):
        assert pairs(table(tmp_path, f'source\ttarget\n"one{inside}two"\teins\n')) == {f"one{inside}two": "eins"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('source,target\na,b\n"one,eins\ntwo,zwei\n', "3: a quotation mark opens a text here and is never closed"),
        ('source,target\n"one" more,eins\n', "2: a quoted text continues after its closing quotation mark"),
        ("source,target,target\na,b,c\n", "1: 2 columns are named target; rename all but one"),
        ("source,target\n\n,,\na\n", "4: target: missing"),
        ("source,target\na,\u200b\n", "2: target: empty"),
        ("id,source,target\n1,a,b\n1,a,d\n", "3: id: '1' is already in "),
        ("source,target,split\na,b,train\nc,d,held out\n", "3: split: train, dev or test wanted, got 'held out'"),
        ("source,target\na,b\nc,caf\xe9\n".encode("latin-1"), "3: not UTF-8; save the file as UTF-8"),
        ("source,target\na,b\0c d e f g h\n", "2: contains a NUL character"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert f"{tmp_path}/x.csv:{message}" in refused(table(tmp_path, content))


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    table(tmp_path, b"PK\x03\x04rest", "x.xlsx")
    table(tmp_path, b"\xd0\xcf\x11\xe0rest", "x.xls")
    assert "an Excel, LibreOffice or zip file, not a table of text; in Excel: File, Save As, CSV UTF-8" in refused(
        tmp_path / "x.xlsx"
    )
    assert "an Excel file, not a table of text" in refused(tmp_path / "x.xls")
    (tmp_path / "folder").mkdir()
    table(tmp_path / "folder", joined(","), "some.csv")
    assert f"SOURCE is one table, such as {tmp_path}/folder/some.csv" in refused(tmp_path / "folder")
    assert "empty: no column names" in refused(table(tmp_path, ""))


def test_column_names_ignore_case_and_ids_stay(tmp_path: Path) -> None:
    prepare("csv", table(tmp_path, " ID ,Source,TARGET\nx1,a,b\n"), tmp_path / "out", NO_SPLITS)
    [pair] = Manifest(Pair, [tmp_path / "out" / "train.jsonl"])
    assert (pair.id, pair.source, pair.target) == ("x1", "a", "b")


def test_columns_can_give_a_part_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 8000)
    for content in ("audio,text,offset,duration\na.wav,hi,0.5,1\n", "audio;text;Start;End\na.wav;hi;0,5;1,5\n"):
        prepare("csv", table(tmp_path, content), tmp_path / "out", NO_SPLITS)
        [found] = Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])
        assert (found.offset_seconds, found.seconds) == (0.5, 1.0)
    assert capsys.readouterr().err == f"{tmp_path / 'out' / 'train.jsonl'}: is replaced\n"
    assert "2: duration: ends at 3.00 s, but " in refused(table(tmp_path, "audio,text,start,end\na.wav,hi,1,3\n"))
    assert "2: start and end: a part of" in refused(table(tmp_path, "audio,text,start,end\na.wav,hi,1,0.5\n"))
    assert "2: end: seconds wanted, got 'x'" in refused(table(tmp_path, "audio,text,start,end\na.wav,hi,1,x\n"))
    prepare("csv", table(tmp_path, "audio,path,text,gender\na.wav,b.wav,hi,f\n"), tmp_path / "out", NO_SPLITS)
    assert f"{tmp_path}/x.csv: columns that are not used: path, gender" in capsys.readouterr().err


def test_a_column_of_splits_is_respected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = "source,target,Split\na,b,Train\nc,d,validation\ne,f,test\ng,h,dev\n"
    written = prepare("csv", table(tmp_path, content), tmp_path / "out")
    found = {each.path.stem: [pair.source for pair in Manifest(Pair, [each.path])] for each in written}
    assert found == {"train": ["a"], "dev": ["c", "g"], "test": ["e"]}
    assert capsys.readouterr().err == ""
    prepare("csv", table(tmp_path, "source,target,part\na,b,test\n"), tmp_path / "out", ["split=part"])
    assert "no example for training: all are for test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Datei;Wortlaut\na.wav;one\n", ":1: no column audio_filepath or "),
        ("a.wav;one\nb.wav;two\n", ":1: names of columns are wanted in the first line, not the recording a.wav"),
    ],
)
def test_unknown_columns_are_divided_too(tmp_path: Path, content: str, message: str) -> None:
    """By the only separator that is there, whatever the file's name says."""
    assert refused(table(tmp_path, content)).startswith(f"{tmp_path}/x.csv{message}")


def test_folders_of_another_machine_are_said_once(tmp_path: Path) -> None:
    rows = "".join(f"C:\\Users\\Jörg\\Ton\\{number}.wav;one\n" for number in range(40))
    assert refused(table(tmp_path, f"Path;Text\n{rows}")).split("\n")[:-1] == [
        f"{tmp_path}/x.csv:2: Path: no folder C:\\Users\\Jörg\\Ton here; remove it from the paths, which are "
        "relative to the table (also lines 3, 4, 5, 6, 7, 8, 9, 10, 11 and 30 more)"
    ]


@pytest.mark.parametrize("folder", ["C:/Users/Ann", "\\\\server\\sound", "//server/sound"])
def test_other_folders_are_said_as_written(tmp_path: Path, folder: str) -> None:
    said = refused(table(tmp_path, f"path,text\n{folder}/a.wav,one\n"))
    assert said.startswith(f"{tmp_path}/x.csv:2: path: no folder {folder} here; ")


def test_a_folder_of_recordings_wants_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert refused(tmp_path).endswith("with a first line path,text and a line for each recording: a.wav,WHAT IS SAID")
