"""`segue align`: words on tones, whose times are exact; formats, read by other programs; texts that are wrong."""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from segue.cli import main
from segue.commands import options
from segue.data import audio
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.text import TextSection
from segue.decoding.ctc import greedy
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata
from segue.runtime.scores import scored
from segue.runtime.spelling import Spelling, divided

SAMPLE_RATE_HZ, SAMPLES_PER_FRAME = 8000, 160
LETTER_SECONDS = 0.08
LETTERS_HZ = {" ": 3600.0, "a": 400.0, "b": 900.0, "c": 1700.0, "d": 2800.0}


def spoken(text: str) -> audio.Samples:
    """Every letter a tone, a space nothing."""
    time = np.arange(round(LETTER_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tones = [
        (0 if character == " " else 0.3) * np.hanning(len(time)) * np.sin(2 * np.pi * LETTERS_HZ[character] * time)
        for character in text
    ]
    return np.concatenate(tones).astype(np.float32)


class Ear:
    """Hears tones as CTC does: a token in the frame where it is loudest, else blanks."""

    def recognize(self, waveforms: Sequence[audio.Samples]) -> list[Recognized]:
        found = []
        size = round(LETTER_SECONDS * SAMPLE_RATE_HZ)
        waves = np.exp(2j * np.pi * np.outer(list(LETTERS_HZ.values()), np.arange(size)) / SAMPLE_RATE_HZ)
        for waveform in waveforms:
            num_frames = -(-len(waveform) // SAMPLES_PER_FRAME)
            before = (size - SAMPLES_PER_FRAME) // 2
            sound = np.pad(waveform, (before, size + SAMPLES_PER_FRAME))
            frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::SAMPLES_PER_FRAME][:num_frames]
            levels = np.abs((frames * np.hanning(size)) @ waves.T)
            around = np.pad(levels, ((1, 1), (0, 0)))
            is_peak = (levels > 20) & (levels >= around[:-2]) & (levels > around[2:])
            is_peak &= levels == levels.max(axis=1, keepdims=True)
            scores = np.full((num_frames, len(LETTERS_HZ) + 1), np.log(1e-5), np.float32)
            scores[:, -1] = np.where(is_peak.any(axis=1), np.log(1e-5), np.log(0.9999))
            scores[:, :-1][is_peak] = np.log(0.9999)
            found.append(Recognized(greedy(scores, len(LETTERS_HZ)), scores))
        return found


class Talk(NamedTuple):
    """A long recording."""

    audio: Path
    text: Path
    words: list[tuple[str, float, float]]
    """Each with its true start and end."""


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """A minute of sentences of two words, with pauses of up to 4 s: three windows."""
    folder = tmp_path_factory.mktemp("talk")
    draw = np.random.default_rng(7)
    parts: list[audio.Samples] = []
    lines: list[str] = []
    words: list[tuple[str, float, float]] = []
    place = 0
    while place < 60 * SAMPLE_RATE_HZ:
        pause = 0.002 * draw.standard_normal(int(draw.uniform(0.3, 4) * SAMPLE_RATE_HZ))
        letters = "".join(draw.choice(list("abcd"), 8))
        start = (place + len(pause)) / SAMPLE_RATE_HZ
        second = start + 6 * LETTER_SECONDS
        words += [
            (letters[:5], start, start + 5 * LETTER_SECONDS),
            (letters[5:], second, second + 3 * LETTER_SECONDS),
        ]
        lines.append(f"{letters[:5].capitalize()}, {letters[5:]}!")
        parts += [pause.astype(np.float32), spoken(f"{letters[:5]} {letters[5:]}")]
        place += len(pause) + len(parts[-1])
    audio.write(folder / "talk.flac", np.concatenate(parts), SAMPLE_RATE_HZ)
    (folder / "talk.txt").write_text("\n".join(lines) + "\n")
    return Talk(folder / "talk.flac", folder / "talk.txt", words)


@pytest.fixture(scope="module")
def model() -> Recognizer:
    metadata = SpeechMetadata(
        sample_rate_hz=SAMPLE_RATE_HZ,
        feature_dim=1,
        tokens=tuple(LETTERS_HZ),
        samples_per_frame=SAMPLES_PER_FRAME,
        text=TextSection(),
        parameters=1,
    )
    return Recognizer(metadata, Ear())


@pytest.fixture
def run(model: Recognizer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `segue align MODEL` with further words."""
    monkeypatch.setattr(options, "load_model", lambda *given: model)
    return lambda *words: main(["align", "model", *map(str, words)])


def test_words_are_where_they_were_said(model: Recognizer, talk: Talk) -> None:
    found = model.align(talk.audio, talk.text.read_text())
    assert [each.word.strip(",!").lower() for each in found.words] == [word for word, _, _ in talk.words]
    errors = [
        abs(each.start - start) + abs(each.end - end)
        for each, (_, start, end) in zip(found.words, talk.words, strict=True)
    ]
    assert np.mean(errors) / 2 < 0.03
    assert max(errors) < 0.15
    assert found.score > 0.9
    assert len(found.sentences) == len(talk.words) / 2
    assert found.duration == pytest.approx(audio.duration(talk.audio))
    ends = [0.0, *(each.end for each in found.words)]
    assert all(before <= each.start < each.end for before, each in zip(ends, found.words, strict=False))


def test_a_part_of_the_text_finds_its_place(model: Recognizer, talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    lines = talk.text.read_text().splitlines()
    part = model.align(talk.audio, "\n".join(lines[9:12]))
    starts = [start for _, start, _ in talk.words[18:24]]
    assert [each.start for each in part.words] == pytest.approx(starts, abs=0.1)
    assert "much is said between the sentences that is not in the text" in capsys.readouterr().err


def test_times_are_those_of_the_file(run: Callable[..., int], talk: Talk, tmp_path: Path) -> None:
    """Of a line with an offset, too."""
    number = 12
    begin = talk.words[number][1] - 0.2
    line = {
        "audio_filepath": str(talk.audio),
        "offset": begin,
        "duration": 1.1,
        "text": " ".join(word for word, _, _ in talk.words[number : number + 2]),
    }
    (tmp_path / "one.jsonl").write_text(json.dumps(line) + "\n")
    assert run(str(tmp_path / "one.jsonl"), "--out", str(tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "talk.json").read_text())
    assert found["words"][0]["start"] == pytest.approx(talk.words[number][1], abs=0.08)
    assert found["words"][1]["end"] == pytest.approx(talk.words[number + 1][2], abs=0.08)


def test_files_are_read_by_others(run: Callable[..., int], talk: Talk, tmp_path: Path) -> None:
    import pysubs2
    from praatio import textgrid

    def made(form: str) -> Path:
        assert run(talk.audio, talk.text, "--format", form, "--out", tmp_path) == 0
        return tmp_path / f"talk.{'TextGrid' if form == 'textgrid' else form}"

    said: dict[str, Any] = json.loads(made("json").read_text())
    grid = textgrid.openTextgrid(str(made("textgrid")), includeEmptyIntervals=False)
    assert grid.tierNames == ("sentences", "words")
    assert [(each.label, round(each.start, 3)) for each in grid.getTier("words").entries] == [
        (each["word"], each["start"]) for each in said["words"]
    ]
    assert [each.label for each in grid.getTier("sentences").entries] == said["text"].split("\n")
    subtitles = pysubs2.load(str(made("srt")))
    assert " ".join(each.plaintext.replace("\n", " ") for each in subtitles).split() == said["text"].split()
    assert [each.start for each in subtitles] == sorted(each.start for each in subtitles)
    fields = [line.split() for line in made("ctm").read_text().splitlines()]
    assert [row[4] for row in fields] == [each["word"] for each in said["words"]]
    assert [float(row[2]) for row in fields] == [each["start"] for each in said["words"]]
    assert {(row[0], row[1]) for row in fields} == {("talk", "1")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dc ba dc ba aaa bbb", "the text does not belong to this recording: score 0.0"),
        ("abcd " * 2000, "and there are"),
        ("42 %", "the model cannot spell any word of the text: '42 %'"),
        ("-- ...", "its text has no words"),
        ("", "empty"),
        ("1\n00:00:01,000 --> 00:00:02,000\nab", "subtitles with times; a plain text is needed"),
    ],
)
def test_wrong_texts_are_refused(
    run: Callable[..., int], talk: Talk, tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(text)
    assert run(str(talk.audio), str(tmp_path / "text.txt")) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1


def test_a_missing_text_says_what_to_type(
    run: Callable[..., int], talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(talk.audio)) == 2
    assert "segue align MODEL AUDIO TEXT" in capsys.readouterr().err
    assert run(str(talk.audio), "ab cd") == 2
    assert "write the text into one" in capsys.readouterr().err


def test_words_that_cannot_be_spelled_are_placed(
    model: Recognizer, talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = talk.text.read_text().splitlines()
    first = lines[5].split()[0]
    found = model.align(talk.audio, "\n".join([*lines[:5], f"{first} 99!", *lines[6:]]))
    word = found.words[11]
    assert (word.word, word.score) == ("99!", None)
    assert (word.start, word.end) == pytest.approx(talk.words[11][1:], abs=0.15)
    assert "1 word that the model cannot spell is placed between the neighbors" in capsys.readouterr().err


def test_utterances_are_for_training(
    model: Recognizer, run: Callable[..., int], talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = talk.text.read_text().splitlines()
    text = tmp_path / "talk.txt"
    text.write_text("\n".join([*lines[:4], "Aaaba, dcd!", *lines[5:9], f"{lines[9].split()[0]} 99!", *lines[10:]]))
    assert run(talk.audio, text, "--utterances", tmp_path, "--longest", 5) == 0
    told = capsys.readouterr().out
    assert run(talk.audio, text, "--utterances", tmp_path) == 2
    assert f"{tmp_path / 'train.jsonl'}: exists; give another folder" in capsys.readouterr().err
    assert "left out: 1 stretch, 0.0 minutes: sound unlike the text" in told
    assert "minutes: words that the model cannot spell" in told
    manifest = Manifest(Utterance, [tmp_path / "train.jsonl"])
    assert all(each.seconds <= 5.4 for each in manifest)
    said = " ".join(each.text for each in manifest)
    assert said.split() == " ".join([*lines[:4], *lines[5:9], *lines[10:]]).split()
    heard, _ = model.recognize([each.samples(SAMPLE_RATE_HZ) for each in manifest])
    texts = ["".join(filter(str.isalpha, each.text.lower())) for each in manifest]
    assert [each.replace(" ", "") for each in heard] == texts  # the ear hears no spaces
    starts = np.array([start for _, start, _ in talk.words])
    ends = np.array([end for _, _, end in talk.words])
    for each in manifest:  # no cut is inside a word
        for edge in (each.offset_seconds, each.offset_seconds + each.seconds):
            assert not ((starts + 0.04 < edge) & (edge < ends - 0.04)).any()


def test_refused_lines_leave_the_others(
    run: Callable[..., int], talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"audio_filepath": str(talk.audio), "duration": audio.duration(talk.audio), "channel": 1}
    manifest = tmp_path / "two.jsonl"
    texts = ("ddd ccc bbb aaa", talk.text.read_text())
    manifest.write_text("".join(json.dumps({**place, "text": text}) + "\n" for text in texts))
    assert run(str(manifest)) == 2
    printed = capsys.readouterr()
    assert f"segue: {manifest}:1: {talk.audio}: the text does not belong" in printed.err
    assert json.loads(printed.out)["audio"] == str(talk.audio)
    assert run(str(manifest), "--skip-bad") == 0
    assert "1 of 2 recordings left out" in capsys.readouterr().err
    assert run(str(manifest), "--format", "srt") == 2
    assert "needs --out DIR" in capsys.readouterr().err


def test_scores_of_windows_are_those_of_the_whole(model: Recognizer, talk: Talk) -> None:
    samples = audio.read(talk.audio, SAMPLE_RATE_HZ)
    pieces = list(scored(model, np.array_split(samples, 7)))
    joined = np.concatenate(pieces)
    assert len(pieces) > 2
    assert len(joined) == -(-len(samples) // model.metadata.samples_per_frame)
    _, [whole] = model.recognize([samples])
    assert np.mean(joined.argmax(axis=1) == whole[: len(joined)].argmax(axis=1)) > 0.95


def test_digital_silence_is_blank(model: Recognizer) -> None:
    [scores] = scored(model, [np.zeros(SAMPLE_RATE_HZ, np.float32)])
    assert set(scores.argmax(axis=1)) == {scores.shape[1] - 1}


RULE = TextSection()


def test_words_are_kept_as_written() -> None:
    [first, second] = divided("“Well – don't,” she said: 'Go home.'\n\nTwo % of it", RULE)
    assert [(each.word, each.said) for each in first] == [
        ("“Well –", "well"),
        ("don't,”", "don't"),
        ("she", "she"),
        ("said:", "said"),
        ("'Go", "go"),
        ("home.'", "home"),
    ]
    assert [each.word for each in second] == ["Two %", "of", "it"]


def test_lines_without_stops_are_sentences() -> None:
    assert [len(each) for each in divided("one two\nthree\n\nfour", RULE)] == [2, 1, 1]
    wrapped = "It was late. We\nwent home."
    assert [[each.word for each in sentence] for sentence in divided(wrapped, RULE)] == [
        ["It", "was", "late."],
        ["We", "went", "home."],
    ]


def test_characters_are_words_where_there_are_no_spaces() -> None:
    [words] = divided("你好，Bob 吗", RULE)
    assert [(each.word, each.follows_space) for each in words] == [
        ("你", True),
        ("好，", False),
        ("Bob", False),
        ("吗", True),
    ]


def test_the_fewest_pieces_spell_a_word() -> None:
    pieces = [b" the", b" ", b"t", b"h", b"e", b" th", b"re", b"r"]
    spelling = Spelling(pieces)
    assert spelling.tokens("there", True) == [0, 6]
    assert spelling.tokens("there", False) == [2, 3, 4, 6]
    assert spelling.tokens("cat", True) is None
    assert Spelling([b"a", b"b"]).tokens("ab a", True) == [0, 1, 0]  # without spaces


def test_commands_of_the_page_run(run: Callable[..., int], talk: Talk, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "alignment.md").read_text(encoding="utf-8")
    place = {"audio_filepath": str(talk.audio), "duration": audio.duration(talk.audio), "text": talk.text.read_text()}
    (tmp_path / "talks.jsonl").write_text(json.dumps(place) + "\n")
    files = {"talk.mp3": talk.audio, "talk.txt": talk.text, "talks.jsonl": tmp_path / "talks.jsonl"}
    commands = re.findall(r"^    segue align runs/english (.*)$", page, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        words = command.split()
        folders = [words[number + 1] for number, word in enumerate(words) if word in ("--out", "--utterances")]
        assert run(*(tmp_path / word if word in folders else files.get(word, word) for word in words)) == 0
        assert all(any((tmp_path / folder).iterdir()) for folder in folders)
    assert (tmp_path / "data" / "talks" / "train.jsonl").is_file()
