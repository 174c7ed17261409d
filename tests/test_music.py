"""Music as text: notations, MIDI, the corpora jsb and midi, and a model of steps that writes MIDI."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import segue
from segue.cli import main
from segue.data import music, music_sound
from segue.data.corpora import next_command, prepare
from segue.data.examples import Text
from segue.data.music import Note
from segue.errors import UserError
from segue.recipe import validate
from segue.report import music as report
from segue.tasks.language_modeling import Recipe

symusic: Any = pytest.importorskip("symusic")

CHORALE = [[60, 64, 67, 72], [60, 64, 67, 72], [], [59, 62, 67], [60, 64, 72]]
RECIPE = """\
task = "language_modeling"
step_token = "|"
notation = "steps"
[data]
root = "{root}"
[tokenizer]
kind = "words"
[model]
kind = "decoder_only"
context = 32
width = 16
feed_forward = 32
layers = 1
heads = 2
[batch]
tokens = 64
[optimizer]
kind = "adamw"
learning_rate = 1e-2
[schedule]
kind = "constant"
[engine]
steps = 6
device = "cpu"
threads = 1
workers = 0
"""


def score(notes: Iterable[tuple[float, float, int]], *, is_drum: bool = False, program: int = 0) -> Any:
    """(start, length, pitch), in quarter notes."""
    found, track = symusic.Score(480), symusic.Track(program=program, is_drum=is_drum)
    for number, (start, length, pitch) in enumerate(notes):
        track.notes.append(symusic.Note(round(start * 480), round(length * 480), pitch, 40 + number % 60))
    found.tracks.append(track)
    return found


def notes(found: Any) -> list[tuple[float, float, int, int]]:
    """(start, length, pitch, program), in quarter notes, sorted; drums are program -1."""
    quarter = found.ticks_per_quarter
    return sorted(
        (note.time / quarter, note.duration / quarter, note.pitch, -1 if track.is_drum else track.program)
        for track in found.tracks
        for note in track.notes
    )


def write_jsb(folder: Path, train: Sequence[object], valid: Sequence[object], test: Sequence[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"train": train, "valid": valid, "test": test}
    (folder / "jsb-chorales-quarter.json").write_text(json.dumps(content))
    return folder


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


# --- Notations ---


def test_steps_round_trip_through_text_and_midi(tmp_path: Path) -> None:
    text = music.of_steps(CHORALE)
    assert text == "72 67 64 60 | 72 67 64 60 | | 67 62 59 | 72 64 60 |"
    assert music.steps_of(text) == [set(step) for step in CHORALE]
    music.write_midi(music.score_of(text, "steps"), tmp_path / "new.mid")
    assert music.read(tmp_path / "new.mid", "steps") == text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.mid"]


def test_a_pitch_of_consecutive_steps_is_one_note() -> None:
    found = notes(music.score_of("60 | 60 | | 60 | 62 60", "steps"))
    assert [each[:3] for each in found] == [(0, 2, 60), (3, 2, 60), (4, 1, 62)]


def test_steps_are_what_sounds_on_each_quarter() -> None:
    played = score([(0, 0.5, 60), (0.5, 0.5, 61), (0.5, 1.5, 64), (2.25, 1, 67)])
    drums = score([(0, 1, 36)], is_drum=True)
    played.tracks.append(drums.tracks[0])
    assert music.text_of(played, "steps") == "60 | 64 | | 67 |"


def test_remi_keeps_notes_tempos_and_meters() -> None:
    """Triplets, sixteenths in 2/2, overlapping notes, drums; changes of tempo and meter, one of them of both."""
    lengths = (1, 0.5, 0.25, 1 / 3)
    runs = [(n * length, length, 28 + 24 * k + n) for k, length in enumerate(lengths) for n in range(24)]
    played = score([*runs, (2, 12, 27)])
    for other in (score([(n, 0.25, 38) for n in range(16)], is_drum=True), score([(9, 3, 80)], program=40)):
        played.tracks.append(other.tracks[0])
    for start, tempo in ((0, 93.0), (4, 140.0), (11, 62.5)):
        played.tempos.append(symusic.Tempo(start * 480, tempo))
    meters = [(0, 4, 4), (4, 3, 4), (10, 2, 2), (14, 7, 8)]
    for start, count, unit in meters:
        played.time_signatures.append(symusic.TimeSignature(start * 480, count, unit))
    text = music.text_of(played, "remi")
    again = music.score_of(text, "remi")
    np.testing.assert_allclose(notes(again), notes(played), atol=1e-6)
    assert music.text_of(again, "remi") == text
    quarter = again.ticks_per_quarter
    assert [(each.time / quarter, each.numerator, each.denominator) for each in again.time_signatures] == meters
    tempos = [(each.time / quarter, each.qpm) for each in again.tempos]
    assert [start for start, _ in tempos] == [0, 4, 11]
    assert [tempo for _, tempo in tempos] == pytest.approx([93, 140, 62.5], rel=0.025)  # 64 tempos, 4.4 % apart


def test_a_meter_that_remi_lacks_is_refused(tmp_path: Path) -> None:
    played = score([(0, 1, 60)])
    played.time_signatures.append(symusic.TimeSignature(0, 5, 64))
    played.dump_midi(tmp_path / "odd.mid")
    with pytest.raises(UserError, match=r"odd\.mid: a meter of 5/64"):
        music.read(tmp_path / "odd.mid", "remi")


def test_a_missing_midi_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.mid: no such file$"):
        music.read(tmp_path / "none.mid", "remi")


def test_a_time_without_end_is_refused(tmp_path: Path) -> None:
    score([(0, 1, 60), (500_000, 1, 60)]).dump_midi(tmp_path / "long.mid")
    with pytest.raises(UserError, match=r"long\.mid: lasts 500,001 quarter notes"):
        music.read(tmp_path / "long.mid", "steps")


def test_words_of_other_texts_are_named() -> None:
    with pytest.raises(UserError, match=r'notation "steps" has words .*, not \'Bar_None\', \'128\'$'):
        music.score_of("60 Bar_None | 128", "steps")
    with pytest.raises(UserError, match=r'notation "remi" has words .*, not \'60\''):
        music.check(["Bar_None", "60"], "remi")


def test_what_a_model_writes_in_a_wrong_order_is_left_out() -> None:
    text = (
        "Pitch_60 Velocity_99 Bar_None TimeSig_4/4 Position_0 Program_0 Pitch_61 Velocity_99 Duration_1.0.24 Pitch_99"
    )
    assert 61 in [pitch for _, _, pitch, _ in notes(music.score_of(text, "remi"))]


@pytest.mark.parametrize("notation", ["steps", "remi"])
def test_transposing_the_text_is_transposing_the_notes(notation: music.Notation) -> None:
    played = score([(n, 1, 60 + n) for n in range(8)])
    higher = score([(n, 1, 63 + n) for n in range(8)])
    for each in (played, higher):
        each.tracks.append(score([(0, 1, 36)], is_drum=True).tracks[0])
    text = music.transposed(music.text_of(played, notation), 3)
    assert text == music.text_of(higher, notation)
    assert music.identity(text) == music.identity(music.text_of(played, notation))
    assert music.identity(text) != music.identity(f"{text} {text}")


def test_keys_stay_between_the_pitches_of_all_pieces() -> None:
    pieces = [Text("50 |", "wide"), Text("60 |", "wide"), Text("52 50 |", "low"), Text("|", "silent")]
    found = list(music.in_all_keys(pieces))
    assert [each.text for each in found if each.origin == "low"] == [f"{52 + n} {50 + n} |" for n in range(6)]
    assert [each.text for each in found if each.origin == "silent"] == ["|"]
    assert {int(word) for each in found for word in each.text.split() if word != "|"} == set(range(50, 61))


# --- Corpora ---


def test_chorales_for_training_come_in_all_keys(tmp_path: Path) -> None:
    high, low = [[43]], [[96]]
    source = write_jsb(tmp_path / "jsb", [high, low, CHORALE], [CHORALE], [[[45]]])
    written = prepare("jsb", source, tmp_path / "out")
    assert next_command("jsb", written, Path("out")) == "segue train jsb_chorales data.root=out"
    assert next_command("midi", written, Path("out")) == "segue train your_music data.root=out"
    found = {each.path.stem: each for each in written}
    assert {split: each.summary for split, each in found.items()} == {
        "train": "25 documents",  # 43 goes up by 0 to 5, 96 down by 0 to 6, the other piece has room for all twelve
        "dev": "1 document",
        "test": "1 document",
    }
    assert texts(found["dev"].path) == [music.of_steps(CHORALE)]
    assert texts(found["test"].path) == ["45 |"]
    assert music.transposed(music.of_steps(CHORALE), -6) in texts(found["train"].path)
    prepare("jsb", source, tmp_path / "out", ["transpose=false"])
    assert texts(found["train"].path) == ["43 |", "96 |", music.of_steps(CHORALE)]


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ([[60, 128]], "train 0, step 0: .*128"),
        ([[60], 7], "train 0, step 1: .*7"),
        ([], "a list of steps"),
        (3, "train"),
    ],
)
def test_bad_chorales_are_named(piece: object, message: str, tmp_path: Path) -> None:
    source = write_jsb(tmp_path / "jsb", [piece, CHORALE], [CHORALE], [])
    with pytest.raises(UserError, match=message):
        prepare("jsb", source, tmp_path / "out")
    found = prepare("jsb", source, tmp_path / "out", skip_bad=True) if piece != 3 else []
    assert not found or {each.path.stem for each in found} == {"train", "dev"}


def test_midi_files_become_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad files are named, or left out and counted; a piece in another key is the same piece."""
    folder = tmp_path / "midi"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        score([(n, 1, 60 + n * (number + 1) % 13) for n in range(12)]).dump_midi(folder / f"{number:02}.mid")
    score([(n, 1, 62 + n * 3 % 13) for n in range(12)]).dump_midi(folder / "more" / "again.MID")
    (folder / "cut.mid").write_bytes((folder / "01.mid").read_bytes()[:60])
    score([]).dump_midi(folder / "silent.mid")
    (folder / "notes.txt").write_text("not music")
    with pytest.raises(UserError, match=r"(?s)cut\.mid: not a MIDI file.*silent\.mid: no notes in it"):
        prepare("midi", folder, tmp_path / "out")
    assert not (tmp_path / "out" / "train.jsonl").exists()
    capsys.readouterr()
    found = {each.path.stem: texts(each.path) for each in prepare("midi", folder, tmp_path / "out", skip_bad=True)}
    said = capsys.readouterr().err
    assert "1 piece that repeats another one left out" in said
    assert "2 bad examples left out" in said
    own = {split: {music.identity(text) for text in each} for split, each in found.items()}
    assert sum(map(len, own.values())) == 12
    assert not own["train"] & (own["dev"] | own["test"])
    assert not own["dev"] & own["test"]
    assert len(found["train"]) > len(own["train"])
    assert (len(found["dev"]), len(found["test"])) == (len(own["dev"]), len(own["test"]))
    words = {word for text in found["train"] for word in text.split()}
    assert all(set(text.split()) <= words for split in ("dev", "test") for text in found[split])


def test_a_held_out_piece_needs_the_words_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, length in (("train", 1), ("dev", 1), ("test", 2.5)):
        (tmp_path / "midi" / split).mkdir(parents=True)
        score([(0, length, 60), (4, 1, 67 if split == "dev" else 66)]).dump_midi(tmp_path / "midi" / split / "1.mid")
    options = ["transpose=false"]
    with pytest.raises(UserError, match=r"dev/1\.mid: words that no training piece has: Pitch_67(?s:.*)test/1\.mid"):
        prepare("midi", tmp_path / "midi", tmp_path / "out", options)
    together = tmp_path / "together"
    for number, split in enumerate(("train", "dev", "test")):
        together.mkdir(exist_ok=True)
        (together / f"{number}.mid").write_bytes((tmp_path / "midi" / split / "1.mid").read_bytes())
    prepare("midi", together, tmp_path / "out", [*options, "dev_share=0.3", "test_share=0.3"])
    assert "1 piece is for training, since no other training piece has all the words" in capsys.readouterr().err


def test_a_known_piece_replaces_held_out_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of pieces that are held out, each has a word of its own; of the others, one has none."""
    folder = tmp_path / "midi"
    folder.mkdir()
    score([(0, 1, 60), (1, 1, 64)]).dump_midi(folder / "known.mid")
    score([(0, 1, 60), (1, 1, 64), (2, 1, 67)]).dump_midi(folder / "more.mid")
    for number in range(3):
        score([(0, 0.5 + number / 4, 62)]).dump_midi(folder / f"{number}.mid")
    found = {each.path.stem: texts(each.path) for each in prepare("midi", folder, tmp_path / "out")}
    said = capsys.readouterr().err
    assert "known.mid is for development: other pieces have all its words" in said, said
    assert len(found["dev"]) == 1
    assert set(found["dev"][0].split()) <= {word for text in found["train"] for word in text.split()}


def test_keys_are_refused_without_development_pieces(tmp_path: Path) -> None:
    (tmp_path / "midi").mkdir()
    score([(0, 1, 60)]).dump_midi(tmp_path / "midi" / "1.mid")
    with pytest.raises(UserError, match=r"no piece for development; .*transpose=false"):
        prepare("midi", tmp_path / "midi", tmp_path / "out")
    (found,) = prepare("midi", tmp_path / "midi", tmp_path / "out", ["transpose=false", "dev_share=0", "test_share=0"])
    assert found.summary == "1 document"


# --- Sound and page ---


def test_a_sine_has_the_frequency_of_its_pitch() -> None:
    samples = music_sound.sines([Note(0.5, 1.0, 69, 100, 0), Note(0.0, 0.1, 36, 100, -1)])
    assert not samples[: music_sound.SAMPLE_RATE_HZ // 2].any()  # drums are left out
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.fft.rfftfreq(len(samples), 1 / music_sound.SAMPLE_RATE_HZ)[spectrum.argmax()] == pytest.approx(440, abs=1)
    assert np.abs(samples).max() == pytest.approx(0.8)
    assert len(music_sound.sines([])) > 0


def test_sines_are_said_and_a_wrong_soundfont_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    samples = music_sound.player()(music.score_of("60 |", "steps"))
    assert samples.any()
    assert "plain sines, for lack of fluidsynth" in capsys.readouterr().err
    font = tmp_path / "own.sf2"
    with pytest.raises(UserError, match="not a SoundFont"):
        music_sound.player(font)
    font.write_bytes(b"RIFF1234sfbk")
    with pytest.raises(UserError, match="fluidsynth, which plays it, is not installed"):
        music_sound.player(font)
    program = tmp_path / "fluidsynth"
    program.write_text("#!/bin/sh\necho no such preset >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match=r"fluidsynth cannot play with .*own\.sf2: no such preset"):
        music_sound.player(font)(music.score_of("60 |", "steps"))


def test_a_piano_roll_has_a_bar_for_each_note(tmp_path: Path) -> None:
    played = music.score_of(music.of_steps(CHORALE), "steps")
    found = music.notes_of(played)
    roll = report.roll(found, "chorale")
    assert len(roll.findall("rect")) == len(found)
    starts = {float(each.attrib["x"]) for each in roll.findall("rect")}
    assert starts == {report.LEFT + report.PIXELS * 0.75 * step for step in (0, 3, 4)}
    pieces = [report.Piece("Piece 1", found, b"sound", "<b>"), report.Piece("Piece 2", [], b"", "|")]
    report.write(pieces, {}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    assert page.count("<svg") == 1
    assert "http://" not in page
    assert "https://" not in page


# --- A model ---


@pytest.fixture(scope="module")
def chorales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chorales")
    train = [[[60 + n % 5 + piece, 48 + piece] for n in range(9)] for piece in range(6)]
    source = write_jsb(folder / "source", [*train, CHORALE], [train[0][::-1], train[1][::-1]], [CHORALE, train[3]])
    prepare("jsb", source, folder)
    return folder


@pytest.fixture(scope="module")
def run(chorales: Path) -> Path:
    recipe = chorales / "steps.toml"
    recipe.write_text(RECIPE.format(root=chorales))
    segue.train(recipe, chorales / "run")
    return chorales / "run"


def test_nats_a_step_are_the_losses_of_all_but_the_end(run: Path, chorales: Path) -> None:
    model = segue.load(run, "cpu")
    found = model.evaluate(chorales / "test.jsonl")
    nats, steps = 0.0, 0
    for text in texts(chorales / "test.jsonl"):
        row = [model.end, *model.tokenizer.encode(text)]
        assert len(row) < model.metadata.context
        nats += float(model.backend.losses(np.array([row[:-1]]), np.array([row[1:]])).sum())
        steps += text.count("|")
    assert found["nats_per_step"] == pytest.approx(nats / steps, rel=1e-5)
    assert found["steps"] == steps == len(CHORALE) + 9
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["dev"]
    assert last["steps"] == 18
    card = (run / "model" / "README.md").read_text()
    assert f"{last['nats_per_step']:.4f} nats a step" in card
    assert "--midi" in card


def test_a_model_of_music_writes_midi_sound_and_a_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without fluidsynth
    midi, wav, page = tmp_path / "new.mid", tmp_path / "new.wav", tmp_path / "new.html"
    words = ["generate", str(run), "60 48 |", "--tokens", "20", "--midi", str(midi)]
    assert main([*words, "--wav", str(wav), "--report", str(page), "--samples", "2"]) == 0
    numbered = [tmp_path / name for name in ("new_1.mid", "new_1.wav", "new_2.mid", "new_2.wav")]
    assert capsys.readouterr().out.split() == [*map(str, numbered), str(page)]
    assert page.read_text().count("<audio") == 2
    for file in numbered[1::2]:
        assert soundfile.info(file).duration > 0.5
    assert music.read(numbered[0], "steps").startswith("60 48 |")
    # A MIDI file as the prompt.
    assert main(["generate", str(run), str(numbered[0]), "--tokens", "1", "--midi", str(midi), "--slide"]) == 0
    assert music.read(midi, "steps").startswith(music.read(numbered[0], "steps").rstrip(" |"))


def test_texts_are_not_music(trained_language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(trained_language_model), "--midi", str(tmp_path / "new.mid")]) == 2
    assert "is no model of music" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_token": "||"}, r"step_token: '\|\|' is not a token"),
        ({"notation": "remi"}, r'notation "remi" has words .*, not'),
    ],
)
def test_a_recipe_of_other_music_is_refused(
    changes: dict[str, str], message: str, run: Path, chorales: Path, tmp_path: Path
) -> None:
    del run  # whose recipe is there
    with pytest.raises(UserError, match=message):
        segue.train(chorales / "steps.toml", tmp_path / "run", *(f"{key}={value}" for key, value in changes.items()))


def test_music_is_of_words(chorales: Path, run: Path) -> None:
    del run
    from segue import recipe

    draft = recipe.read(chorales / "steps.toml", ["tokenizer.kind=bytes"])
    with pytest.raises(UserError, match='notation "steps" is of words'):
        validate(draft, Recipe)
