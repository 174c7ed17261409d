"""Scores of recognizers: normalizers, confusions, rates by length and in time, confidences and their calibration."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import segue
from segue import metrics
from segue.cli import main
from segue.data import audio
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.text import TextSection
from segue.decoding import confidence
from segue.decoding.emissions import Emission
from segue.errors import UserError, gathered
from segue.metrics.confusions import confusions, right_words
from segue.metrics.normalizers import chosen
from segue.runtime import calibration
from segue.runtime.calibration import Calibration
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata
from segue.runtime.speech_search import SpeechSearch, SpeechSearchSection

TOKENS = " abcdefghijklmnopqrstuvwxyz$0123456789"
RATE, FRAME = 8000, 80


class Teller:
    """Says a known text for each length of a recording, sure of right words only."""

    def __init__(self, said: Mapping[int, Sequence[tuple[str, float]]]) -> None:
        self._said = said

    def recognize(self, waveforms: Sequence[audio.Samples]) -> list[Recognized]:
        found = []
        for waveform in waveforms:
            emissions: list[Emission] = []
            for word, sureness in self._said[len(waveform)]:
                for letter in f" {word}":
                    place = 2 * len(emissions)
                    emissions.append(Emission(TOKENS.index(letter), place, place + 1, sureness))
            found.append(Recognized(emissions, np.zeros((0, len(TOKENS) + 1), np.float32)))
        return found


def told(folder: Path, texts: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> tuple[Recognizer, Path]:
    """A recognizer and a manifest: (reference, words with confidences) of each utterance."""
    lines, said = [], {}
    folder.mkdir(exist_ok=True)
    for number, (reference, words) in enumerate(texts):
        size = RATE + 1600 * number
        audio.write(folder / f"{number}.wav", np.full(size, 0.1, np.float32), RATE)
        said[size] = words
        line = {"audio_filepath": f"{number}.wav", "duration": size / RATE, "text": reference, "lang": "en"}
        lines.append(json.dumps(line) + "\n")
    (folder / "test.jsonl").write_text("".join(lines))
    metadata = SpeechMetadata(
        sample_rate_hz=RATE,
        feature_dim=1,
        tokens=tuple(TOKENS),
        samples_per_frame=FRAME,
        text=TextSection(),
        parameters=1,
    )
    return Recognizer(metadata, Teller(said)), folder / "test.jsonl"


def sure(text: str) -> list[tuple[str, float]]:
    return [(word, 0.9) for word in text.split()]


def test_normalizers_change_scores_but_not_what_is_shown(tmp_path: Path) -> None:
    model, manifest = told(tmp_path, [("It's colour 20, OK?", sure("it is color twenty ok"))])
    found = {name: model.evaluator.explain(manifest, normalizer=name) for name in ("none", "ours", "whisper")}
    assert {name: each.scores["word_error_rate"] for name, each in found.items()} == {
        "none": 5 / 4,
        "ours": 4 / 4,
        "whisper": 0.0,
    }
    assert all(each.examples[0].hypothesis == "it is color twenty ok" for each in found.values())
    assert found["whisper"].examples[0].reference == "It's colour 20, OK?"
    assert [each.as_json()["normalizer"] for each in found.values()] == ["none", "ours", "whisper"]


def test_whisper_keeps_other_languages() -> None:
    normalize = chosen("whisper", lambda text, _: text)
    assert normalize("Mr. Ölçü, 20!", "tr") == "mr ölçü 20"
    assert normalize("Mr. Colour", "en-GB") == normalize("Mr. Colour", None) == "mister color"


def test_the_most_frequent_errors_are_counted(tmp_path: Path) -> None:
    texts = [("one two", sure("one too")), ("two", sure("too")), ("a the b", sure("a b")), ("yes", sure("uh yes"))]
    model, manifest = told(tmp_path, texts)
    assert model.evaluate(manifest)["confusions"] == {
        "substitutions": [{"reference": "two", "hypothesis": "too", "count": 2}],
        "insertions": [{"hypothesis": "uh", "count": 1}],
        "deletions": [{"reference": "the", "count": 1}],
    }


def test_counts_of_confusions_are_those_of_the_rate() -> None:
    draw = np.random.default_rng(0)
    sides = [[" ".join(draw.choice(list("abcd"), draw.integers(1, 9))) for _ in range(12)] for _ in range(2)]
    found = confusions(*sides)
    counts = metrics.speech("word_error_rate", *sides).overall()
    assert {kind: sum(each.times for each in errors) for kind, errors in found._asdict().items()} == {
        kind: counts[kind] for kind in ("substitutions", "insertions", "deletions")
    }
    right = sum(sum(right_words(a, b)) for a, b in zip(*sides, strict=True))
    assert right == counts["words"] - counts["substitutions"] - counts["deletions"]


def test_rates_by_length_add_up(tmp_path: Path) -> None:
    texts = [("one two", sure("one" if number < 10 else "one two")) for number in range(50)]
    model, manifest = told(tmp_path, texts)
    found = model.evaluate(manifest)
    groups = found["lengths"]
    assert sum(each["utterances"] for each in groups.values()) == 50
    assert [each["word_error_rate"] for each in groups.values()] == [0.5, 0.0, 0.0, 0.0, 0.0]


def test_words_out_of_time_are_wrong(tmp_path: Path) -> None:
    """Half a minute in one file: two words of its end are heard at its beginning, which only times show."""
    size = 20 * RATE
    audio.write(tmp_path / "long.wav", np.full(size, 0.1, np.float32), RATE)
    part = {"audio_filepath": "long.wav", "duration": 2}
    lines = [{**part, "text": "one two"}, {**part, "offset": 17, "text": "three four"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, _ = told(tmp_path / "other", [])
    model.backend = Teller({size: sure("one two three four"), 2 * RATE: sure("one two")})
    found = model.evaluate(tmp_path / "test.jsonl", as_transcribed=True)
    assert found["time_constrained_word_error_rate"] == 1.0


def test_confidence_is_that_of_nemo() -> None:
    """Tsallis entropy with exponential normalization, written as in NeMo's confidence utilities."""
    draw = np.random.default_rng(0)
    logits = 3 * draw.standard_normal((20, 7))
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    for row, found in zip(log_probs, confidence.of_frames(log_probs), strict=True):
        most = np.exp((1 - 7 ** (1 - 0.33)) / (1 - 0.33))
        expected = (np.exp((1 - np.exp(row * 0.33).sum()) / (1 - 0.33)) - most) / (1 - most)
        assert found == pytest.approx(expected, abs=1e-5)
    certain = np.log(np.array([[1.0, 1e-30, 1e-30], [1 / 3, 1 / 3, 1 / 3]], np.float32))
    assert confidence.of_frames(certain) == pytest.approx([1.0, 0.0], abs=1e-4)


def test_area_under_roc_counts_pairs() -> None:
    draw = np.random.default_rng(1)
    confidences, right = draw.integers(0, 6, 60) / 5, draw.random(60) < 0.6
    pairs = [(a > b) + (a == b) / 2 for a in confidences[right] for b in confidences[~right]]
    assert metrics.area_under_roc(confidences, right) == pytest.approx(np.mean(pairs))
    assert metrics.area_under_roc([0.5], [True]) is None


def test_characters_are_right_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spaces, a reference is one word, and an output as many as it has characters."""
    monkeypatch.setitem(globals(), "TOKENS", " 你好吗呢")
    model, manifest = told(tmp_path, [("你好吗", [("你", 0.9), ("好", 0.8), ("呢", 0.3)])])
    confidences, right = model.evaluator.sureness(Manifest(Utterance, [manifest]))
    assert confidences == pytest.approx([0.9, 0.8, 0.3])
    assert right == [True, True, False]
    assert "calibration_error" not in model.evaluate(manifest)


def test_calibration_error_is_the_gap() -> None:
    assert metrics.calibration_error([0.95] * 10, [True] * 8 + [False] * 2) == pytest.approx(0.15)
    assert metrics.calibration_error([0.25, 0.25, 1.0], [True, False, True]) == pytest.approx(0.5 / 3)


def drawn(count: int, seed: int) -> tuple[list[float], list[bool]]:
    """Confidences that are too low: 0.5 is right nine times in ten."""
    draw = np.random.default_rng(seed)
    confidences = draw.beta(2, 2, count)
    odds = np.log(confidences / (1 - confidences))
    return confidences.tolist(), (draw.random(count) < 1 / (1 + np.exp(-(1.5 * odds + 2.2)))).tolist()


def test_calibration_holds_for_other_words() -> None:
    curve = calibration.fit(*drawn(3000, 0))
    assert (curve.slope, curve.offset) == pytest.approx((1.5, 2.2), abs=0.3)
    confidences, right = drawn(3000, 1)
    fitted = [curve.of(each) for each in confidences]
    assert metrics.calibration_error(fitted, right) < 0.03 < metrics.calibration_error(confidences, right)
    assert metrics.area_under_roc(fitted, right) == pytest.approx(metrics.area_under_roc(confidences, right))


@pytest.mark.parametrize("is_right", [True, False])
def test_words_that_are_all_right_make_nothing_certain(is_right: bool) -> None:
    curve = calibration.fit([0.6] * 60, [is_right] * 60)
    assert 0.001 < curve.of(0.6) < 0.999
    assert curve.slope > 0


def test_few_words_are_refused() -> None:
    with pytest.raises(UserError, match="49 words: to calibrate confidences, 50 or more"):
        calibration.fit([0.5] * 49, [True] * 49)


def test_confidences_are_scored(tmp_path: Path) -> None:
    model, manifest = told(tmp_path, [("one two", [("one", 0.9), ("to", 0.3)]), ("six", [("six", 0.8)])])
    found = model.evaluate(manifest)
    assert found["confidence_auc"] == 1.0
    assert found["calibration_error"] == pytest.approx((0.1 + 0.3 + 0.2) / 3)
    model.calibration = Calibration(slope=1.0, offset=2.0, words=50)
    assert model.evaluate(manifest)["calibration_error"] != found["calibration_error"]


def test_the_curve_stays_beside_the_model(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(trained / "model", copy)
    manifest = tmp_path / "dev.jsonl"
    lines = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(corpus / line["audio_filepath"])
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", str(copy), str(manifest), "--calibrate"]) == 0
    assert "confidence.json: fitted on" in capsys.readouterr().err
    samples = audio.read(Path(lines[0]["audio_filepath"]), 8000)
    before, after = (segue.load(path).recognize_words([samples])[0] for path in (trained, copy))
    curve = calibration.load(copy)
    assert curve is not None
    assert [each.confidence for each in after] == pytest.approx([curve.of(each.confidence) for each in before])
    (copy / "confidence.json").write_text("{}")
    assert main(["evaluate", str(copy), str(manifest)]) == 2
    assert "confidence.json: not written by `segue evaluate --calibrate`" in capsys.readouterr().err


def test_a_curve_of_another_search_is_warned_of(tmp_path: Path) -> None:
    pieces, text = [b"a", b" "], TextSection()
    greedy = SpeechSearch(SpeechSearchSection(kind="greedy", beams=3), pieces, text)
    beam = SpeechSearch(SpeechSearchSection(beams=3), pieces, text)
    for fitted, used, is_warned in ((greedy, greedy, 0), (greedy, beam, 1), (beam, beam, 0), (beam, greedy, 1)):
        curve = calibration.fit(*drawn(100, 0), fitted.deciding)
        calibration.save(curve, tmp_path)
        with gathered() as warned:
            assert calibration.load(tmp_path, used.deciding) == curve
        assert ["fitted with another search" in each.message for each in warned] == [True] * is_warned
    wider = beam.with_section(SpeechSearchSection(beams=4))
    assert wider.deciding != beam.deciding


def test_a_curve_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """It does not say for which search it is, so it is warned of unless that of the model is greedy."""
    (tmp_path / "confidence.json").write_text('{"slope": 1.5, "offset": 0.5, "words": 80}')
    beam = SpeechSearch(SpeechSearchSection(beams=3), [b"a", b" "], TextSection())
    for used, said in ((None, []), (beam.deciding, ["fitted by an earlier version, maybe with another search than"])):
        with gathered() as warned:
            curve = calibration.load(tmp_path, used)
        assert curve == Calibration(slope=1.5, offset=0.5, words=80)
        assert [any(each in one.message for each in said) for one in warned] == [True] * len(said)


def test_a_model_compares_its_curve_with_its_own_search(trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(trained / "model", copy)
    search = segue.load(copy).search.with_section(SpeechSearchSection(beams=4))
    search.save(copy)
    for fitted, num_warnings in ((search.deciding, 0), (None, 1)):
        calibration.save(calibration.fit(*drawn(100, 0), fitted), copy)
        with gathered() as warned:
            assert segue.load(copy).search.deciding == search.deciding
        assert len(warned) == num_warnings


def test_only_recognizers_take_these_options(
    trained_translator: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--normalizer", "whisper"], ["--calibrate"]):
        assert main(["evaluate", str(trained_translator), str(pairs / "test.jsonl"), *option]) == 2
        assert f"{option[0]}: is for speech recognizers" in capsys.readouterr().err
