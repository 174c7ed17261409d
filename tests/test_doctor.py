"""What the doctor finds in manifests: each planted fault, and nothing else."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from segue import doctor
from segue.cli import main
from segue.data import audio
from segue.diagnosis import Diagnosis
from segue.doctor import audio as sounds
from segue.doctor import texts
from segue.errors import MOST_KINDS, Problems, UserError
from segue.report import diagnosis as report

Line = dict[str, Any]
SPLITS = ("train", "dev", "test")
RATE = 8000


def examined(folder: Path, **how: Any) -> Diagnosis:
    return doctor.of_manifests([folder / f"{split}.jsonl" for split in SPLITS], **how)


def serious(found: Diagnosis) -> list[str]:
    """All findings but notes."""
    return [f"{each.level} {each.about}: {each.what}" for each in found.symptoms if each.level != "note"]


def notes(found: Diagnosis) -> str:
    return "\n".join(each.what for each in found.symptoms if each.level == "note")


def change(folder: Path, number: int, split: str = "train", **keys: Any) -> Line:
    """Changes a line of a manifest."""
    path = folder / f"{split}.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    line: Line = lines[number]
    line |= keys
    write(path, lines)
    return line


def write(path: Path, lines: Sequence[Line]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


# --- recordings ---


@pytest.fixture
def speech(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus of tones, to be damaged."""
    return shutil.copytree(corpus, tmp_path / "speech")


def of_sound(vary: Callable[[audio.Samples], audio.Samples]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        path = folder / "train_03.wav"
        samples, _ = soundfile.read(path, dtype="float32")
        soundfile.write(path, vary(samples), RATE)

    return plant


def with_text(text: str) -> Callable[[Path], Any]:
    return lambda folder: change(folder, 3, text=text)


def with_long_duration(folder: Path) -> None:
    change(folder, 3, duration=3 * audio.duration(folder / "train_03.wav"))


def with_more(samples: audio.Samples) -> audio.Samples:
    return np.concatenate([samples, 0.002 * np.random.default_rng(0).standard_normal(2 * RATE)]).astype(np.float32)


def as_texts_of_one_another(folder: Path) -> None:
    shutil.copy(folder / "train_03.wav", folder / "train_04.wav")
    change(folder, 4, duration=audio.duration(folder / "train_04.wav"))


def also_in_dev(folder: Path) -> None:
    line = change(folder, 3)
    shutil.copy(folder / line["audio_filepath"], folder / "copy.wav")
    change(folder, 2, "dev", audio_filepath="copy.wav", duration=line["duration"], text=line["text"])


def another_speaker_in_dev(folder: Path) -> None:
    change(folder, 2, "dev", speaker="new")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no audio": (
        lambda folder: (folder / "train_03.wav").write_bytes(b"no audio"),
        "error audio: audio_filepath: …: not audio that can be read",
    ),
    "missing": (lambda folder: (folder / "train_03.wav").unlink(), "error audio: audio_filepath: no such file: …"),
    "truncated": (
        lambda folder: (folder / "train_03.wav").write_bytes((folder / "train_03.wav").read_bytes()[:2000]),
        "error audio: audio_filepath: …: truncated: … s are missing",
    ),
    "silent": (of_sound(np.zeros_like), "error audio: silent: every sample is 0"),
    "clipped": (of_sound(lambda samples: (samples * 5).clip(-0.9, 0.9)), "warning audio: clipped"),
    "quiet": (of_sound(lambda samples: samples * 0.004), "warning audio: very quiet"),
    "narrow": (
        of_sound(lambda samples: audio.resample(audio.resample(samples, 8000, 4000), 4000, 8000)[: len(samples)]),
        "warning audio: narrow",
    ),
    "too long a duration": (with_long_duration, "error audio: duration: has … s, but … has … s of sound"),
    "too short a duration": (of_sound(with_more), "warning audio: longer than the `duration`"),
    "another text": (with_text("abcd" * 8), "warning audio: far more or fewer characters a second"),
    "markup": (with_text("ab <i>c</i>"), "warning texts: markup"),
    "entity": (with_text("a &amp; b"), "warning texts: markup"),
    "address": (with_text("www.abc.de"), "warning texts: web or e-mail addresses"),
    "control": (with_text("ab\x07c"), "warning texts: control characters"),
    "replaced": (with_text("ab\ufffdc"), "warning texts: replacement characters"),
    "misread": (with_text("Ã©abc"), "warning texts: UTF-8 that was read as Windows-1252"),
    "mixed": (with_text("a\u0430bc"), "warning texts: letters of two scripts in a word"),
    "digits": (with_text("ab 12"), "warning texts: digits"),
    "leak": (also_in_dev, "error splits: the same recordings are in train and dev"),
    "contradiction": (as_texts_of_one_another, "warning splits: equal recordings in train with different texts"),
    "speakers": (another_speaker_in_dev, "warning splits: 2 of 3 speakers in dev are also in train"),
}


def test_clean_speech_is_advisable(speech: Path) -> None:
    found = examined(speech)
    assert serious(found) == []
    assert found.is_advisable
    assert found.facts["sound"].endswith(" minutes, all decoded")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_speech_is_found(speech: Path, name: str) -> None:
    """And no other one."""
    plant, wanted = FAULTS[name]
    plant(speech)
    found = examined(speech)
    [said] = [each for each in serious(found) if not (name == "truncated" and "characters a second" in each)]
    assert said.startswith(wanted)
    assert found.is_advisable == wanted.startswith("warning")
    shown = next(each for each in found.symptoms if each.level != "note")
    place = "dev.jsonl:3" if name == "leak" else "train.jsonl:4"
    assert shown.mend
    assert name != "another text" or len(shown.samples) == shown.num_affected == 1
    assert not shown.samples or place in {each.where.rpartition("/")[2] for each in shown.samples}


def test_mixed_rates_are_a_note(speech: Path) -> None:
    samples, _ = soundfile.read(speech / "train_03.wav", dtype="float32")
    soundfile.write(speech / "train_03.wav", audio.resample(samples, RATE, 2 * RATE), 2 * RATE)
    found = examined(speech)
    assert "several sample rates: 8000 Hz 51, 16000 Hz 1" in notes(found)


def test_segments_of_a_file_are_not_too_short(speech: Path) -> None:
    line = change(speech, 3)
    lines = [json.loads(each) for each in (speech / "train.jsonl").read_text().splitlines()]
    half = line["duration"] / 2
    lines[3:4] = [line | {"duration": half, "text": "ab"}, line | {"duration": half, "offset": half, "text": "cd"}]
    write(speech / "train.jsonl", lines)
    assert serious(examined(speech)) == []


def test_unusual_recordings_can_be_heard(speech: Path, tmp_path: Path) -> None:
    change(speech, 3, text="<b>" + "abcd" * 8)
    found = examined(speech, has_media=True)
    [heard] = [each for each in found.symptoms if "far more or fewer" in each.what]
    assert heard.samples[0].audio is not None
    assert heard.samples[0].audio[:4] == b"OggS"
    report.write(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>abcd" not in page
    assert "&lt;b&gt;abcd" in page
    assert 'src="data:audio/ogg;base64,' in page
    assert len(page) < 2e6


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=50))
def test_flat_tops_are_a_share(values: list[float]) -> None:
    assert 0 <= sounds.flat_share(np.array(values, np.float32)) <= 1


@pytest.mark.parametrize("highest", [1000, 2000, 3000])
def test_the_bandwidth_of_noise_is_found(highest: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(16000, 1 / RATE) > highest] = 0
    found = sounds.bandwidth(np.fft.irfft(spectrum).astype(np.float32), RATE, RATE / 2)
    assert found == pytest.approx(highest, abs=150)


# --- texts ---


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_can_be_examined(text: str) -> None:
    assert set(texts.odd(text)) <= set(texts.KINDS)


@pytest.mark.parametrize(
    "text",
    [
        "Two dogs & a cat, 3 < 4!",
        "CAFÉ» et «thé»: l'été à Zürich, garçon; ñandú",
        "Дом у реки, IP-адрес",  # noqa: RUF001
        "Ελληνικά και English; 5 kΩ, 3 μm, Δt",
        "東京タワー と カメラ",
        "a/b and c.d e.g. this",
    ],
)
def test_good_texts_are_not_odd(text: str) -> None:
    assert texts.odd(text) == {}


@given(st.text(st.characters(min_codepoint=0xA1, max_codepoint=0x17F), min_size=1, max_size=1))
def test_misread_letters_are_recognized(letter: str) -> None:
    misread = "".join(
        bytes([byte]).decode("cp1252", errors="replace").replace("\ufffd", chr(byte)) for byte in letter.encode()
    )
    assert texts.is_misread(misread)
    assert not texts.is_misread(letter)


# --- pairs ---

_SYLLABLES = {
    "source": ["the", "ing", "ter", "wha", "ould", "ain"],
    "target": ["sch", "ei", "ung", "zwi", "ach", "pfe"],
}


def pair(draw: np.random.Generator) -> Line:
    """Two texts in made-up languages, of about the same length."""
    counts = draw.integers(1, 4, draw.integers(4, 16))
    line = {side: " ".join("".join(draw.choice(each, n)) for n in counts) for side, each in _SYLLABLES.items()}
    return line | {"source_language": "xa", "target_language": "xb"}


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    """A folder with pairs of which neither side repeats."""
    draw = np.random.default_rng(1)
    for split, count in (("train", 600), ("dev", 60), ("test", 60)):
        write(tmp_path / f"{split}.jsonl", [pair(draw) for _ in range(count)])
    return tmp_path


def lines_of(folder: Path, split: str = "train") -> list[Line]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def changed(vary: Callable[[list[Line]], Any]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        lines = lines_of(folder)
        vary(lines)
        write(folder / "train.jsonl", lines)

    return plant


def move(lines: list[Line]) -> None:
    targets = [line["target"] for line in lines]
    for line, target in zip(lines[200:400], targets[201:401], strict=True):
        line["target"] = target


def swap(lines: list[Line]) -> None:
    lines[5]["source"], lines[5]["target"] = lines[5]["target"], lines[5]["source"]


def copy_sources(lines: list[Line]) -> None:
    for line in lines[5:20]:
        line["target"] = line["source"]


def with_dev_in_train(folder: Path) -> None:
    write(folder / "train.jsonl", [*lines_of(folder), *lines_of(folder, "dev")[:10]])


PAIR_FAULTS: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "ratio": (changed(lambda lines: lines[5].update(target="sch")), {"warning pairs: one side is far longer"}),
    "swapped": (changed(swap), {"warning pairs: a side that looks like another language"}),
    "script": (
        changed(lambda lines: lines[5].update(target="русский текст" * (len(lines[5]["source"]) // 13))),
        {"warning pairs: a side in another script"},
    ),
    "moved": (changed(move), {"error pairs: ", "warning pairs: one side is far longer"}),
    "copied": (
        changed(copy_sources),
        {"warning pairs: the target is a copy", "warning pairs: a side that looks like another language"},
    ),
    "repeated": (
        changed(lambda lines: lines.extend(lines[:50])),
        {"warning splits: pairs in train that repeat an earlier one"},
    ),
    "shared": (with_dev_in_train, {"warning splits: 16.7% of the sources in dev are also in train"}),
    "markup": (changed(lambda lines: lines[5].update(source="<b>the</b> ingter")), {"warning texts: markup"}),
}


def test_clean_pairs_are_advisable(sides: Path) -> None:
    assert serious(examined(sides)) == []


@pytest.mark.parametrize("name", PAIR_FAULTS)
def test_a_fault_of_pairs_is_found(sides: Path, name: str) -> None:
    plant, wanted = PAIR_FAULTS[name]
    plant(sides)
    found = serious(examined(sides))
    assert len(found) == len(wanted)
    assert all(any(said.startswith(each) for said in found) for each in wanted)


def test_moved_lines_are_named(sides: Path) -> None:
    changed(move)(sides)
    [found] = [each for each in examined(sides).symptoms if each.level == "error"]
    first, last = (int(word) for word in found.what.partition("train.jsonl:")[2].split(":")[0].split(" to line "))
    assert abs(first - 201) <= 20
    assert abs(last - 400) <= 20
    assert "of the line after" in found.what


# --- classes ---


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Texts of three classes."""
    draw = np.random.default_rng(2)
    for split, count in (("train", 300), ("dev", 60), ("test", 60)):
        lines = [{"text": pair(draw)["source"], "label": "abc"[number % 3]} for number in range(count)]
        write(tmp_path / f"{split}.jsonl", lines)
    return tmp_path


def relabel(old: str, new: str, split: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        lines = [line | {"label": new if line["label"] == old else line["label"]} for line in lines_of(folder, split)]
        write(folder / f"{split}.jsonl", lines)

    return plant


CLASS_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "alike": (changed(lambda lines: [line.update(label="A ") for line in lines[:30:3]]), "classes that differ only in"),
    "rare": (changed(lambda lines: lines[7].update(label="d")), "classes with fewer than 5 training examples: d 1"),
    "new": (relabel("a", "b", "train"), "classes in dev without a training example: a 20"),
    "missing": (relabel("a", "b", "dev"), "classes that are missing in dev: a 100"),
    "contradiction": (
        changed(lambda lines: lines[8].update(text=lines[7]["text"])),
        "equal texts in train with different classes",
    ),
}


def test_clean_classes_are_advisable(classes: Path) -> None:
    found = examined(classes)
    assert serious(found) == []
    assert "train: 3 classes: a 100, b 100, c 100" in notes(found)


@pytest.mark.parametrize("name", CLASS_FAULTS)
def test_a_fault_of_classes_is_found(classes: Path, name: str) -> None:
    plant, wanted = CLASS_FAULTS[name]
    plant(classes)
    found = [each.partition(": ")[2] for each in serious(examined(classes))]
    assert found[0].startswith(wanted)
    assert len(found) == (2 if name == "new" else 1)  # of test, too


# --- many problems, and the command ---


@given(st.lists(st.text(max_size=30)))
def test_all_problems_are_counted(messages: list[str]) -> None:
    problems, halves = Problems(), (Problems(), Problems())
    for number, message in enumerate(messages):
        problems.add(message)
        halves[number >= len(messages) // 2].add(message)
    halves[0].merge(halves[1])
    for each in (problems, halves[0]):
        assert sum(kind.count for kind in each.kinds.values()) == len(each) == len(messages)
        assert list(each.first) == list(dict.fromkeys(messages))[:10]


def test_kinds_of_problems_are_few() -> None:
    problems = Problems()
    for number in range(10_000):
        problems.add(f"x.jsonl:{number}: audio_filepath: no such file: /data/{number}.wav")
        problems.add(f"x.jsonl:{number}: {''.join(chr(97 + int(digit)) for digit in str(number))}")
    assert problems.kinds["audio_filepath: no such file: …"].count == 10_000
    assert len(problems.kinds) <= MOST_KINDS + 1
    assert all(len(kind.first) <= 10 for kind in problems.kinds.values())
    assert problems.some(2).endswith("\n... and 19998 more")


def test_bad_lines_are_grouped_by_kind(speech: Path) -> None:
    with (speech / "train.jsonl").open("a") as file:
        file.write(2000 * '{"audio_filepath": "a.wav"}\n' + 1000 * "x\n")
    found = [each for each in examined(speech).symptoms if each.level == "error"]
    assert [each.num_affected for each in found] == [2000, 1000]
    assert found[0].what.startswith("lacks the key 'duration'")
    assert "not JSON" in found[1].what


def test_a_file_of_bad_lines_alone_is_refused_by_line(tmp_path: Path) -> None:
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text(3 * "{'text': 'a'}\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:1: not JSON: "):
        doctor.of_manifests([manifest])


@pytest.mark.parametrize("has_fault", [False, True])
def test_the_exit_status_says_whether_to_train(
    speech: Path, capsys: pytest.CaptureFixture[str], has_fault: bool
) -> None:
    if has_fault:
        (speech / "train_03.wav").unlink()
    paths = [str(speech / f"{split}.jsonl") for split in SPLITS]
    assert main(["doctor", *paths]) == (3 if has_fault else 0)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith(f"training is {'not ' * has_fault}advisable: {int(has_fault)} error")
    assert main(["doctor", *paths, "--json"]) == (3 if has_fault else 0)
    found = json.loads(capsys.readouterr().out)
    assert found["advisable"] is not has_fault


def test_other_files_are_refused(speech: Path, sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"missing\.jsonl: cannot read this manifest"):
        doctor.of_manifests([sides / "dev.jsonl", speech / "missing.jsonl"])
    (sides / "dev.jsonl").write_text('{"audio": "a.wav", "transcript": "a"}\n')
    with pytest.raises(UserError, match="examples: its first line has 'audio', 'transcript', where one of these is "):
        doctor.of_manifests([sides / "dev.jsonl"])
    assert main(["doctor", str(speech / "train.jsonl"), "data.root=x"]) == 2
    assert "a key of a recipe" in capsys.readouterr().err
