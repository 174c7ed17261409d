import json
import os
import re
from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from segue.data import audio
from segue.data.corpora import Written, next_command, prepare
from segue.data.examples import Utterance
from segue.data.manifest import Manifest, write_manifest
from segue.errors import UserError, count_of

RATE = 8000


def record(path: Path, seconds: float = 0.5) -> Path:
    """A file of low noise."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * RATE)).astype(np.float32)
    audio.write(path, samples, RATE)
    return path


def texts(written: list[Written]) -> dict[str, list[str]]:
    """The texts of each split, after a check that every line's audio is there and as long as it says."""
    found: dict[str, list[str]] = {}
    for path, count, summary, _ in written:
        manifest = Manifest(Utterance, [path])
        assert len(manifest) == count
        assert summary == f"{count_of(count, 'utterance')}, {manifest.sizes.sum() / 60:.1f} minutes"
        for utterance in manifest:
            assert utterance.seconds <= audio.duration(utterance.audio) + 1e-6
        found[path.stem] = [utterance.text for utterance in manifest]
    return found


def refused(corpus: str, source: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as raised:
        prepare(corpus, source, source.parent / "out", overrides)
    return str(raised.value)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Three digits by two speakers, ten recordings each."""
    for digit in (0, 7, 9):
        for speaker in ("ann", "bob"):
            for index in range(10):
                record(tmp_path / "digits" / f"{digit}_{speaker}_{index}.wav", 0.1 + 0.01 * index)
    return tmp_path / "digits"


STRINGS = ("train_strings=20", "dev_strings=5", "test_strings=6")


def test_fsdd_has_the_official_test_indices(digits: Path, tmp_path: Path) -> None:
    """Strings of digits never cross splits."""
    found = texts(prepare("fsdd", digits, tmp_path / "out", STRINGS))
    counts = {split: len(lines) for split, lines in found.items()}
    assert counts == {"train": 18, "dev": 12, "test": 30, "train_strings": 20, "dev_strings": 5, "test_strings": 6}
    assert set(found["train"]) == {"zero", "seven", "nine"}
    for utterance in Manifest(Utterance, [tmp_path / "out" / "test.jsonl"]):
        assert re.fullmatch(r"\d_(ann|bob)_[0-4]", utterance.audio.stem)
    for utterance in Manifest(Utterance, [tmp_path / "out" / "train_strings.jsonl"]):
        count = len(utterance.text.split())
        assert 1 <= count <= 5
        assert 0.15 * count <= utterance.seconds <= 0.17 * count  # indices 5 to 7
        assert utterance.speaker in ("ann", "bob")


def test_fsdd_strings_are_drawn_the_same_each_time(digits: Path, tmp_path: Path) -> None:
    lines = [
        [path.read_text() for path, *_ in prepare("fsdd", digits, tmp_path / name, [*STRINGS, f"seed={seed}"])]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert lines[0] == lines[1]
    assert lines[0][:3] == lines[2][:3]
    assert lines[0][3:] != lines[2][3:]


def test_fsdd_can_keep_a_speaker_for_the_test(digits: Path, tmp_path: Path) -> None:
    written = prepare("fsdd", digits, tmp_path / "out", ["test_speaker=bob", *STRINGS])
    speakers = {path.stem: Counter(each.speaker for each in Manifest(Utterance, [path])) for path, *_ in written}
    assert speakers["test"] == {"bob": 30}
    assert set(speakers["test_strings"]) == {"bob"}
    assert speakers["train"] == {"ann": 9}
    assert speakers["dev"] == {"ann": 6}
    assert set(speakers["train_strings"]) == {"ann"}
    assert "test_speaker: no such speaker: eve (speakers: ann, bob)" in refused("fsdd", digits, "test_speaker=eve")


def test_fsdd_names_unusable_files(digits: Path) -> None:
    record(digits / "hello.wav")
    (digits / "7_ann_9.wav").write_text("no audio")
    message = refused("fsdd", digits, *STRINGS)
    assert f"{digits / 'hello.wav'}: not named like 7_speaker_12.wav" in message
    assert f"{digits / '7_ann_9.wav'}: not audio" in message


def test_ljspeech_takes_the_normalized_text(tmp_path: Path) -> None:
    """Names of clips divide it."""
    source = tmp_path / "lj"
    names = ["LJ001-0001", "LJ049-0001", "LJ050-0001"]
    for name, folder in zip(names, ("wavs/{}.wav", "flac/{}.flac", "wavs/{}.wav"), strict=True):
        record(source / folder.format(name))
    (source / "metadata.csv").write_text("".join(f'{name}|Say "{n}", St.|say {n}\n' for n, name in enumerate(names)))
    wanted = {"train": ["say 0"], "dev": ["say 1"], "test": ["say 2"]}
    assert texts(prepare("ljspeech", source, tmp_path / "out")) == wanted
    assert "no clip from LJ060 on" in refused("ljspeech", source, "dev_from=LJ060", "test_from=LJ070")
    assert "should come after dev_from" in refused("ljspeech", source, "dev_from=LJ060")


def test_ljspeech_names_bad_lines(tmp_path: Path) -> None:
    record(tmp_path / "lj" / "wavs" / "LJ049-0001.wav")
    table = tmp_path / "lj" / "metadata.csv"
    table.write_text("LJ049-0001|One.|one\nLJ049-0002|two\n\nLJ049-0003|Three.|three\n")
    message = refused("ljspeech", table.parent)
    assert f"{table}:2: three columns wanted, separated by |, got 2" in message
    assert f"{table}:4: no such file: {table.parent / 'wavs' / 'LJ049-0003.wav'}" in message


def test_librispeech_joins_only_training_parts(tmp_path: Path) -> None:
    source = tmp_path / "LibriSpeech"
    for part in ("train-clean-100", "train-other-500", "dev-clean", "test-clean", "test-other"):
        chapter = source / part / "19" / "198"
        record(chapter / "19-198-0000.flac")
        (chapter / "19-198.trans.txt").write_text(f"19-198-0000 SAID IN {part.upper()}\n")
    (source / "README.TXT").touch()
    assert texts(prepare("librispeech", source, tmp_path / "out")) == {
        "train": ["SAID IN TRAIN-CLEAN-100", "SAID IN TRAIN-OTHER-500"],
        "dev": ["SAID IN DEV-CLEAN"],
        "test": ["SAID IN TEST-CLEAN"],
        "test_other": ["SAID IN TEST-OTHER"],
    }
    assert {each.speaker for each in Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])} == {"19"}
    assert "SOURCE is the unpacked LibriSpeech folder" in refused("librispeech", source / "dev-clean")


def test_librispeech_names_lines_without_audio(tmp_path: Path) -> None:
    lines = tmp_path / "LibriSpeech" / "dev-clean" / "1" / "2" / "1-2.trans.txt"
    record(lines.parent / "1-2-0000.flac")
    lines.write_text("1-2-0000 HERE\n1-2-0001 GONE\n")
    assert f"{lines}:2: no such file" in refused("librispeech", tmp_path / "LibriSpeech")


NO_SPLITS = ("dev_share=0", "test_share=0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "wav_filename,wav_filesize,transcript\na.wav,17,one\nb.wav,17,two\n"),
        ("x.csv", "client_id,path,sentence\nann,a.wav,one\nbob,b.wav,two\n"),
        ("x.csv", "\ufefftext,file_name\r\none,a.wav\r\ntwo,b.wav\r\n"),
        ("x.tsv", "path\tsentence\tup_votes\na.wav\tone\t2\nb.wav\ttwo\t3\n"),
    ],
)
def test_tables_of_known_layouts_are_read(tmp_path: Path, name: str, content: str) -> None:
    record(tmp_path / "clips" / "a.wav")  # Common Voice
    record(tmp_path / "b.wav")
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = texts(prepare(name[2:], tmp_path / name, tmp_path / "out", NO_SPLITS))
    assert {split: sorted(lines) for split, lines in found.items()} == {"train": ["one", "two"]}


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("x.csv", 'a.wav,"one, two"', "one, two"),
        ("x.csv", 'a.wav,"one\ntwo"', "one\ntwo"),
        ("x.csv", 'a.wav,say "one"', 'say "one"'),
        ("x.csv", "a.wav,one\u2028two\x85three", "one\u2028two\x85three"),
        ("x.tsv", 'a.wav\t"one', '"one'),
        ("x.tsv", "a.wav\tone, two", "one, two"),
    ],
)
def test_texts_in_tables_are_unchanged(tmp_path: Path, name: str, row: str, text: str) -> None:
    record(tmp_path / "a.wav")
    separator = "\t" if name.endswith("tsv") else ","
    (tmp_path / name).write_text(f"audio{separator}text\n{row}\n", encoding="utf-8")
    assert texts(prepare("csv", tmp_path / name, tmp_path / "out", NO_SPLITS)) == {"train": [text]}


def test_a_table_names_its_bad_rows(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    table = tmp_path / "x.csv"
    table.write_text("audio,text\na.wav,one\n,two\na.wav\na.wav,three, four\ngone.wav,five\n")
    assert refused("csv", table).split("\n")[:4] == [
        f"{table}:3: audio: missing",
        f"{table}:4: text: missing",
        f"{table}:5: more columns than the header; quote texts that contain the separator",
        f"{table}:6: no such file: {tmp_path / 'gone.wav'}",
    ]


def test_an_unclosed_quote_is_named(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text('audio,text\na.wav,"one\na.wav,two\n')
    message = f"{tmp_path / 'x.csv'}:2: a quotation mark opens a text here and is never closed"
    assert message in refused("csv", tmp_path / "x.csv")


def test_unknown_columns_say_which_to_name(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    table = tmp_path / "x.csv"
    table.write_text("sound,words,who\na.wav,one,ann\n")
    message = refused("csv", table)
    assert message.startswith(f"{table}:1: no column audio_filepath or audio or")
    assert message.endswith("or a first line with names (columns, between commas: sound, words, who)")
    prepare("csv", table, tmp_path / "out", ["audio=sound", "text=words", "speaker=who", *NO_SPLITS])
    assert Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])[0].speaker == "ann"
    assert "no column nobody; give speaker=NAME" in refused("csv", table, "audio=sound", "text=words", "speaker=nobody")


def test_a_name_that_is_too_long_for_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"audio,text\n{'a' * 300}.wav,one\n")
    assert f"{tmp_path}/x.csv:2: no such file: {tmp_path}/aaa" in refused("csv", tmp_path / "x.csv")


def test_a_row_may_name_its_language(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav")
    (tmp_path / "x.csv").write_text("audio,text,locale\na.wav,one,tr\nb.wav,two,\n")
    prepare("csv", tmp_path / "x.csv", tmp_path / "out", [*NO_SPLITS, "language=en"])
    found = Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])
    assert {each.text: each.language for each in found} == {"one": "tr", "two": "en"}


def test_a_row_without_a_speaker_has_none(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text("audio,text,speaker\na.wav,one,\n")
    prepare("csv", tmp_path / "x.csv", tmp_path / "out", NO_SPLITS)
    assert Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])[0].speaker is None


@pytest.mark.parametrize("corpus", ["csv", "tsv", "nemo", "kaldi"])
def test_existing_splits_are_kept(tmp_path: Path, corpus: str) -> None:
    source = tmp_path / "source"
    for split in ("train", "dev", "test"):
        file = record(source / f"{split}.wav")
        if corpus == "kaldi":
            (source / split).mkdir()
            (source / split / "wav.scp").write_text(f"{split} {file}\n")
            (source / split / "text").write_text(f"{split} said in {split}\n")
        elif corpus == "nemo":
            write_manifest(source / f"{split}.json", [Utterance("", file, 0.5, f"said in {split}")])
        else:
            separator = {"csv": ",", "tsv": "\t"}[corpus]
            lines = (("audio", "text"), (file.name, f"said in {split}"))
            (source / f"{split}.{corpus}").write_text("".join(separator.join(line) + "\n" for line in lines))
    wanted = {split: [f"said in {split}"] for split in ("train", "dev", "test")}
    assert texts(prepare(corpus, source, tmp_path / "out")) == wanted


def test_splits_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    """Nor on the order of lines."""
    splits = []
    for name, numbers in (("one", range(30)), ("two", reversed(range(30)))):
        rows = [f"{record(tmp_path / name / f'{number}.wav').name},text {number}\n" for number in numbers]
        (tmp_path / name / "x.csv").write_text("audio,text\n" + "".join(rows))
        written = prepare("csv", tmp_path / name / "x.csv", tmp_path / "out", ["dev_share=0.2", "test_share=0.1"])
        splits.append({split: set(lines) for split, lines in texts(written).items()})
    assert splits[0] == splits[1]
    assert {split: len(lines) for split, lines in splits[0].items()} == {"train": 21, "dev": 6, "test": 3}


def test_a_hash_of_file_names_alone_splits(tmp_path: Path) -> None:
    # The rule as it was written first; equal names in two folders may part.
    names = [f"{folder}/{number}.wav" for folder in ("a", "b") for number in range(10)]
    rows = [f"{record(tmp_path / name).relative_to(tmp_path)},{name}\n" for name in names]
    (tmp_path / "x.csv").write_text("audio,text\n" + "".join(rows))
    ordered = sorted(names, key=lambda name: crc32(f"{Path(name).name} 0.0".encode()))
    found = texts(prepare("csv", tmp_path / "x.csv", tmp_path / "out", ["dev_share=0.25", "test_share=0.25"]))
    assert found == {"test": ordered[:5], "dev": ordered[5:10], "train": ordered[10:]}


def test_nemo_audio_paths_are_rewritten(tmp_path: Path) -> None:
    record(tmp_path / "clips" / "a.wav", 2.0)
    manifest = tmp_path / "x.jsonl"
    line = {"audio_filepath": "clips/a.wav", "duration": 0.5, "offset": 1.0, "text": "one", "lang": "de", "speaker": 7}
    manifest.write_text(json.dumps(line) + "\n")
    prepare("nemo", manifest, tmp_path / "deep" / "out", NO_SPLITS)
    found = Manifest(Utterance, [tmp_path / "deep" / "out" / "train.jsonl"])[0]
    assert found.audio.resolve() == tmp_path / "clips" / "a.wav"
    assert (found.seconds, found.offset_seconds, found.text) == (0.5, 1.0, "one")
    assert (found.language, found.speaker, found.has_id) == ("de", "7", False)
    manifest.write_text(json.dumps(line | {"id": "first"}) + "\n")
    prepare("nemo", manifest, tmp_path / "out", NO_SPLITS)
    assert Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])[0].id == "first"


def test_nemo_lines_may_name_their_split(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    line = '{{"audio_filepath": "a.wav", "duration": 1.0, "text": "{0}", "split": "{0}"}}\n'
    (tmp_path / "x.json").write_text("".join(map(line.format, ("test", "Valid", "train"))))
    written = prepare("nemo", tmp_path / "x.json", tmp_path / "out")
    found = {each.path.stem: [example.text for example in Manifest(Utterance, [each.path])] for each in written}
    assert found == {"test": ["test"], "dev": ["Valid"], "train": ["train"]}
    (tmp_path / "x.json").write_text(line.format("held out"))
    assert "x.json:1: split: train, dev or test wanted, got 'held out'" in refused("nemo", tmp_path / "x.json")


def test_nemo_names_bad_lines(tmp_path: Path) -> None:
    manifest = tmp_path / "x.jsonl"
    manifest.write_text('{"audio_filepath": "gone.wav", "duration": 1, "text": "one"}\n{"text": "two"}\n')
    message = refused("nemo", manifest)
    assert f"{manifest}:1: audio_filepath: no such file: {tmp_path / 'gone.wav'}" in message
    assert f"{manifest}:2: lacks the key 'audio_filepath'" in message


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """A data folder with segments; columns stand between spaces or tabs."""
    source = tmp_path / "kaldi"
    source.mkdir()
    (source / "wav.scp").write_text(f"call {record(tmp_path / 'call.wav', 3.0)}\npiped sox x.wav -t wav - |\n")
    (source / "segments").write_text("ann-1 call 0.25 1.0\nbob-1\tcall\t1.5\t2.75\n")
    (source / "utt2spk").write_text("ann-1 ann\nbob-1\tbob\n")
    (source / "text").write_text("ann-1 good day\nbob-1\tgood night\n")
    return source


def test_kaldi_segments_have_times_and_speakers(kaldi: Path, tmp_path: Path) -> None:
    prepare("kaldi", kaldi, tmp_path / "out", NO_SPLITS)
    found = sorted(
        Manifest(Utterance, [tmp_path / "out" / "train.jsonl"]), key=lambda utterance: utterance.offset_seconds
    )
    assert [(each.speaker, each.text, each.offset_seconds, each.seconds) for each in found] == [
        ("ann", "good day", 0.25, 0.75),
        ("bob", "good night", 1.5, 1.25),
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("text", "eve-1 hello\n", "text:1: eve-1 is not in segments"),
        ("segments", "ann-1 talk 0 1\nbob-1 call 1 2\n", "text:1: talk is not in wav.scp"),
        ("segments", "ann-1 call 0\nbob-1 call 1 2\n", "segments:1: recording, start and end wanted"),
        ("segments", "ann-1 call 0 1 1\nbob-1 call 1 2\n", "segments:1: channel: 2, but "),
        (
            "segments",
            "ann-1 call 0 1 A\nbob-1 call 1 2\n",
            "segments:1: recording, start and end wanted, and a channel",
        ),
        ("segments", "ann-1 call 0 1\nbob-1 call 1 9\n", "segments:2: duration: ends at 9.00 s, but "),
        ("text", "ann-1\nbob-1 hello\n", "text:1: ann-1 has no text"),
        ("segments", "ann-1 call nan inf\nbob-1 call 1 2\n", "segments:1: a start from 0 and an end after it wanted"),
        ("segments", "ann-1 call 0 1\nbob-1 call 2 2\n", "segments:2: a start from 0 and an end after it wanted"),
        ("segments", "ann-1 piped 0 1\nbob-1 call 1 2\n", "wav.scp:2: a command, which is not run"),
        ("wav.scp", "call gone.wav\n", "text:1: no such file"),
        ("wav.scp", "call\n", "wav.scp:1: call has no audio file"),
        ("segments", "ann-1\nbob-1 call 1 2\n", "segments:1: recording, start and end wanted"),
        ("text", "ann-1 \u200b\nbob-1 hello\n", "text:1: ann-1 has no text"),
        ("utt2spk", "ann-1 ann\nbob-1\n", "utt2spk:2: one speaker of bob-1 wanted, got ''"),
        ("utt2spk", "ann-1 ann bob\n", "utt2spk:1: one speaker of ann-1 wanted, got 'ann bob'"),
    ],
)
def test_kaldi_names_file_and_line_of_what_is_wrong(kaldi: Path, file: str, content: str, message: str) -> None:
    (kaldi / file).write_text(content)
    assert f"{kaldi}/{message}" in refused("kaldi", kaldi)


@pytest.mark.parametrize("file", ["text", "wav.scp", "segments", "utt2spk"])
def test_kaldi_names_what_repeats_an_id(kaldi: Path, file: str) -> None:
    first = (kaldi / file).read_text().splitlines()[0]
    with (kaldi / file).open("a") as added:
        added.write(f"{first.split()[0]} something else\n")
    assert f"{kaldi}/{file}:3: {first.split()[0]} is already in {kaldi}/{file}:1" in refused("kaldi", kaldi)


def test_kaldi_reports_what_it_leaves_out(kaldi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kaldi / "segments").write_text("ann-1 call 0 1\nbob-1 call 1 -1\neve-1 call 2 3\n")
    (kaldi / "utt2spk").write_text("ann-1 ann\n")
    prepare("kaldi", kaldi, tmp_path / "out", NO_SPLITS)
    said = capsys.readouterr().err
    assert f"1 entry without a line in text left out: eve-1 ({kaldi}/segments:3)" in said
    assert f"1 entry without a line in utt2spk, so without a speaker: bob-1 ({kaldi}/text:2)" in said
    found = {each.id: each.seconds for each in Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])}
    assert found == {"ann-1": 1.0, "bob-1": 2.0}  # -1 is the end; ids survive


def test_kaldi_without_segments_takes_whole_files(kaldi: Path, tmp_path: Path) -> None:
    (kaldi / "segments").unlink()
    (kaldi / "utt2spk").unlink()
    (kaldi / "text").write_text("call good day\n")
    prepare("kaldi", kaldi, tmp_path / "out", NO_SPLITS)
    found = Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])[0]
    assert (found.text, found.seconds, found.speaker) == ("good day", 3.0, None)


def test_skip_bad_counts_and_keeps_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "x.csv").write_text("audio,text\na.wav,one\ngone.wav,two\nbad.wav,three\n")
    assert "(--skip-bad leaves such examples out and counts them)" in refused("csv", tmp_path / "x.csv", *NO_SPLITS)
    written = prepare("csv", tmp_path / "x.csv", tmp_path / "out", NO_SPLITS, skip_bad=True)
    assert texts(written) == {"train": ["one"]}
    assert "2 bad examples left out" in capsys.readouterr().err
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match="no usable example"):
        prepare("csv", tmp_path / "x.csv", tmp_path / "out", NO_SPLITS, skip_bad=True)


def test_replaced_manifests_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is replaced, and only if it is."""
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.csv").write_text(f"audio,text\n{name}.wav,one\n")
    out = tmp_path / "out"
    prepare("csv", tmp_path / "a.csv", out, NO_SPLITS)
    assert "is replaced" not in capsys.readouterr().err
    prepare("csv", tmp_path / "a.csv", out, NO_SPLITS)
    assert f"{out / 'train.jsonl'}: is replaced\n" in capsys.readouterr().err
    kept = ["train.jsonl.gz", "dev.jsonl", "test.jsonl", "test_noisy.jsonl.gz"]
    for name in (*kept, "notes.jsonl", "notes.jsonl.gz", "dev.txt"):
        (out / name).touch()
    prepare("csv", tmp_path / "b.csv", out, NO_SPLITS)
    assert f"{out}: manifests from before that stay as they are: {', '.join(kept)}\n" in capsys.readouterr().err
    (tmp_path / "b.csv").write_text("audio,text\ngone.wav,one\n")
    with pytest.raises(UserError, match="no such file"):
        prepare("csv", tmp_path / "b.csv", out, NO_SPLITS)
    assert "is replaced" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.wav\tone\nb.wav\ttwo\n", ":1: names of columns are wanted in the first line, not the recording a.wav"),
        (b"path  text\na.wav  one\n", ":1: a single column, 'path  text'; columns are separated by tabs, commas, "),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", ": a sound or video file, where a plain text in UTF-8 is wanted"),
        (b"path\ttext\n", ": no example in it (segue prepare tsv says what it reads)"),
    ],
)
def test_no_tables_are_refused_by_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    table = tmp_path / "x.tsv"
    table.write_bytes(content)
    assert refused("tsv", table).startswith(f"{table}{message}")


@pytest.mark.parametrize("corpus", ["fsdd", "ljspeech", "librispeech", "kaldi", "multi30k", "wmt14"])
def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path, corpus: str) -> None:
    (tmp_path / "x.txt").write_text("one\n")
    assert refused(corpus, tmp_path / "x.txt").startswith(f"{tmp_path / 'x.txt'}: not a folder; SOURCE is ")


def test_prepare_never_replaces_what_it_reads(tmp_path: Path) -> None:
    """Nor is OUT_DIR a file."""
    record(tmp_path / "a.wav")
    manifest = tmp_path / "train.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "duration": 0.5, "text": "one", "note": "mine"}\n')
    for source in (manifest, tmp_path):
        with pytest.raises(UserError, match=f"{manifest}: is read, and would be replaced; give another OUT_DIR"):
            prepare("nemo", source, tmp_path)
    assert "mine" in manifest.read_text()
    with pytest.raises(UserError, match=f"OUT_DIR {manifest}: a file; the name of a folder is wanted"):
        prepare("nemo", manifest, manifest)


def test_an_error_comes_without_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """About examples that are left after it."""
    record(tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text("audio,text\na.wav,one\ngone.wav,two\n")
    assert refused("csv", tmp_path / "x.csv").startswith(f"{tmp_path / 'x.csv'}:3: no such file: ")
    assert capsys.readouterr().err == ""
    prepare("csv", tmp_path / "x.csv", tmp_path / "out", skip_bad=True)
    assert "1 example is too few to reserve one for test" in capsys.readouterr().err


def test_an_error_leaves_the_old_manifests(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text("audio,text\na.wav,one\n")
    prepare("csv", tmp_path / "x.csv", tmp_path / "out", NO_SPLITS)
    (tmp_path / "x.csv").write_text("audio,text\na.wav,two\ngone.wav,three\n")
    refused("csv", tmp_path / "x.csv", *NO_SPLITS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]
    assert Manifest(Utterance, [tmp_path / "out" / "train.jsonl"])[0].text == "one"


def test_mistakes_on_the_command_line_are_explained(tmp_path: Path) -> None:
    assert "no such corpus: 'fsd' (corpora: fsdd, ljspeech," in refused("fsd", tmp_path)
    assert "did you mean 'fsdd'?" in refused("fsd", tmp_path)
    assert "no such file or folder" in refused("fsdd", tmp_path / "gone")
    assert "did you mean 'test_speaker'" in refused("fsdd", tmp_path, "test_speakr=ann")
    (tmp_path / "x.csv").write_bytes(b"audio,text\na.wav,caf\xe9\n")
    assert "not UTF-8" in refused("csv", tmp_path / "x.csv")


def test_prepare_suggests_the_train_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.recipe.shipped", lambda: {"your_speech": tmp_path, "your_translation": tmp_path})
    both = [Written(Path(f"{split}.jsonl"), 1, "1 utterance, 0.1 minutes", "utterance") for split in ("train", "dev")]
    pairs = [each._replace(noun="pair") for each in both]
    assert next_command("csv", both, Path("my data")) == "segue train your_speech data.root='my data'"
    assert next_command("parallel", pairs, Path("data")) == "segue train your_translation data.root=data"
    assert next_command("csv", both[:1], Path("data")) is None
    assert next_command("fsdd", both, Path("data")) is None  # its recipe does not ship here


def real_data(name: str) -> Path:
    if "SEGUE_DATA" not in os.environ:
        pytest.skip("real recordings: set SEGUE_DATA to their folder")
    folder = Path(os.environ["SEGUE_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"real recordings: {folder} is not there")
    return folder


def test_the_real_fsdd_has_its_published_size(tmp_path: Path) -> None:
    strings = ("train_strings=3", "dev_strings=3", "test_strings=3")
    found = texts(prepare("fsdd", real_data("fsdd"), tmp_path / "out", strings))
    counts = {split: Counter(lines) for split, lines in found.items() if not split.endswith("strings")}
    for split, each in (("test", 25), ("dev", 20), ("train", 205)):
        assert len(counts[split]) == 10
        assert set(counts[split].values()) == {each}


def test_the_real_ljspeech_has_its_length(tmp_path: Path) -> None:
    overrides = ("dev_from=LJ002-0161", "test_from=LJ002-0181")
    written = prepare("ljspeech", real_data("ljspeech_excerpt"), tmp_path / "out", overrides)
    assert sum(each.num_examples for each in written) == 385
    seconds = Manifest(Utterance, [each.path for each in written]).sizes.sum()
    assert seconds / 60 == pytest.approx(41.7, abs=0.05)
    assert len(texts(written)["dev"]) == 20
