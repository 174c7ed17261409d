import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from segue import recipe
from segue.card import length
from segue.data import audio
from segue.data import tokenizer as tokenizers
from segue.data.batching import MicroBatch
from segue.data.examples import Utterance
from segue.data.features import FeatureTensors, LogMel, balance, mask, warp
from segue.data.manifest import Manifest
from segue.data.segments import levels
from segue.decoding.confidence import of_frames
from segue.decoding.emissions import Emission
from segue.engine.distributed.parallel import ALONE
from segue.engine.task import LOSS, Split
from segue.errors import UserError
from segue.runtime.recognizer import Recognizer, Transcript
from segue.runtime.words import Word, after_silence, text_of, words
from segue.tasks.speech_recognition import (
    AcousticModel,
    Recipe,
    SpeechPrediction,
    SpeechRecognition,
    build_source,
    build_task,
    load,
    source_of,
)
from segue.tasks.speech_recognition.utterances import UtteranceReader

RATE = 8000
ALPHABET = " abc"
BLANK = len(ALPHABET)
FRAME = 160  # samples of an output frame: two frames of 10 ms

RECIPE = f"""
task = "speech_recognition"
tokenizer = {{ kind = "characters", alphabet = "{ALPHABET}" }}
features = {{ sample_rate_hz = {RATE}, mel_bins = 8 }}
batch = {{ seconds = 100.0 }}
optimizer = {{ kind = "adamw", learning_rate = 1e-3 }}
schedule = {{ kind = "cosine", warmup_steps = 1 }}
engine = {{ steps = 1, device = "cpu", threads = 1, workers = 0 }}

[model]
kind = "jasper"
residual = "dense"
blocks = [
  {{ channels = 8, kernel = 5, stride = 2, has_residual = false }},
  {{ channels = 8, kernel = 5, repeats = 2 }},
  {{ channels = 8, kernel = 1, has_residual = false }},
]
"""


def noise(num_samples: int, seed: int = 0) -> audio.Samples:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, num_samples).astype(np.float32)


def section_of(folder: Path, *overrides: str) -> Recipe:
    (folder / "recipe.toml").write_text(RECIPE)
    return recipe.validate(recipe.read(folder / "recipe.toml", overrides), Recipe)


def write_lines(folder: Path, examples: Sequence[tuple[str, int]], **keys: Any) -> Path:
    """A manifest of noise with these texts and numbers of samples."""
    lines = []
    for number, (text, num_samples) in enumerate(examples):
        soundfile.write(folder / f"{number}.wav", noise(num_samples, number), RATE, subtype="FLOAT")
        line = {"audio_filepath": f"{number}.wav", "duration": num_samples / RATE, "text": text}
        lines.append(json.dumps(line | keys) + "\n")
    (folder / "x.jsonl").write_text("".join(lines))
    return folder / "x.jsonl"


def task_of(manifest: Path, *overrides: str, split: Split = "train") -> SpeechRecognition:
    """On data that were checked."""
    return task_on({split: manifest}, section_of(manifest.parent, *overrides))


def task_on(manifests: dict[Split, Path], section: Recipe) -> SpeechRecognition:
    made = {split: Manifest(Utterance, [path], skip_bad=section.data.skip_bad) for split, path in manifests.items()}
    source = source_of(section, UtteranceReader(section, tokenizers.build(section.tokenizer, [])), made)
    source.check()
    return build_task(section, source)


def micro_batch(*indices: int, epoch: int = 0) -> MicroBatch:
    return MicroBatch(epoch, np.array(indices))


def random_model(task: SpeechRecognition) -> nn.Module:
    torch.manual_seed(0)
    return task.build_model().eval()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model directory whose weights are random."""
    folder = tmp_path / "model"
    folder.mkdir()
    section = section_of(folder)
    tokenizers.build(section.tokenizer, []).save(folder / "tokenizer.json")
    torch.manual_seed(0)
    save_file(AcousticModel(section, len(ALPHABET)).state_dict(), folder / "model.safetensors")
    return folder


TEXTS = ("a", "abc cab", "aab bcc a", "c b", "ab", "bbb", "cab cab cab")


@torch.inference_mode()
def test_loss_is_the_sum_over_utterances(tmp_path: Path) -> None:
    """Whatever the batch."""
    task = task_of(write_lines(tmp_path, [(text, 4000 + 1111 * n) for n, text in enumerate(TEXTS)]))
    model = random_model(task)
    wanted = []
    for index in range(len(TEXTS)):
        batch = task.source.load("train", micro_batch(index))
        log_probs, frames = model(batch.waveforms, batch.lengths)
        targets = torch.tensor([ALPHABET.index(letter) for letter in TEXTS[index]])
        wanted.append(F.ctc_loss(log_probs[0], targets, frames[0], torch.tensor(len(targets)), BLANK, "sum").item())
    for indices in ([0, 1, 2, 3, 4, 5, 6], [6, 0], [3]):
        batch = task.source.load("train", micro_batch(*indices))
        assert task.counts(batch)["targets"] == sum(len(TEXTS[index]) for index in indices)
        assert task.loss(model, batch)[LOSS].total.item() == pytest.approx(sum(wanted[n] for n in indices), rel=1e-5)
        losses = [prediction.loss for prediction in task.predict(model, batch)]
        assert losses == pytest.approx([wanted[index] for index in indices], rel=1e-5)


@pytest.mark.parametrize(("text", "num_frames"), [("abcabc", 6), ("aabbcc", 9), ("aaa", 5), ("b a", 3)])
@pytest.mark.parametrize("speed", [1.0, 1.25])
@torch.inference_mode()
def test_ctc_must_fit_at_the_fastest_speed(tmp_path: Path, text: str, num_frames: int, speed: float) -> None:
    fewest = FRAME * num_frames - FRAME * 3 // 4  # of the last frame a quarter is enough
    fits = write_lines(tmp_path, [(text, round(fewest * speed))])
    task = task_of(fits, f"augmentation.speeds=[{speed}]")
    loss = task.loss(random_model(task), task.source.load("train", micro_batch(0)))[LOSS]
    assert np.isfinite(loss.total.item())

    too_short = write_lines(tmp_path, [("a", 800), (text, round(fewest * speed) - 2)])
    with pytest.raises(UserError) as raised:
        task_of(too_short, f"augmentation.speeds=[0.9, {speed}, 1.0]")
    assert f"{too_short}:2: text: CTC needs {num_frames} frames for {len(text)} tokens" in str(raised.value)
    if speed > 1:
        task_of(too_short, "augmentation.speeds=[0.9, 1.0]")
    else:
        task = task_of(too_short, split="dev")
        (prediction,) = task.predict(random_model(task), task.source.load("dev", micro_batch(1)))
        assert (prediction.loss, prediction.num_targets) == (0.0, len(text))  # where torch has infinity


@torch.inference_mode()
def test_a_reference_without_tokens_has_no_loss(tmp_path: Path) -> None:
    """To say nothing has a likelihood as well; but a loss for each target has no place for it."""
    task = task_of(write_lines(tmp_path, [("a b", 8000), ("a", 8000)]), split="dev")
    batch, model = task.source.load("dev", micro_batch(0, 1)), random_model(task)
    lengths = torch.tensor([0, 1])
    batch = batch._replace(target_lengths=lengths, targets=batch.targets[-1:])
    without, with_one = task.predict(model, batch)
    assert (without.loss, without.num_targets) == (0.0, 0)
    assert with_one.loss > 1


def test_unusable_texts_are_named_or_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_lines(tmp_path, [("a b", 8000), ("Éx a, é", 8000), ("?!", 8000)])
    with pytest.raises(UserError) as raised:
        task_of(manifest)
    assert str(raised.value).split("\n") == [
        f"{manifest}:2: text: outside the tokenizer's alphabet: 'é' 'x'",
        f"{manifest}:3: text: nothing is left of '?!' after normalization",
        "tokenizer.alphabet=auto takes the characters of the training texts; or in [tokenizer]:",
        f'alphabet = "{ALPHABET}xé"',
        "(--skip-bad leaves such examples out and counts them)",
    ]
    task = task_of(manifest, "data.skip_bad=true")
    assert [utterance.text for utterance in task.source.manifests["train"]] == ["a b"]
    assert task.source.manifests["train"].num_skipped == 2
    assert "2 unusable examples left out" in capsys.readouterr().err


def test_unspaced_texts_use_character_errors(tmp_path: Path) -> None:
    """To choose the model."""
    manifest, alphabet = write_lines(tmp_path, [("今天天气很好", 8000)]), "tokenizer.alphabet=今天气很好"
    task = task_of(manifest, alphabet, split="dev")
    assert task.best_metric == ("character_error_rate", "min")
    scores = task.score([SpeechPrediction("id", "今天天气很好", "今天天气真好", 1.0, 6)])
    assert list(scores)[:2] == ["character_error_rate", "word_error_rate"]
    assert (scores["character_error_rate"], scores["word_error_rate"]) == (1 / 6, 1)
    task.source.manifests = dict.fromkeys(("train", "dev"), task.source.manifests["dev"])
    task.save_assets(tmp_path / "model", scores)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- Character error rate on dev.jsonl, which chose this state of the model: 16.67%" in card
    assert task_of(manifest, alphabet, "metric=word_error_rate", split="dev").best_metric[0] == "word_error_rate"
    assert task_of(write_lines(tmp_path, [("abc cab", 8000)]), split="dev").best_metric[0] == "word_error_rate"


@pytest.mark.parametrize(("seconds", "said"), [(132, "2.2 minutes"), (5400, "1.5 hours"), (7.2e6, "2,000.0 hours")])
def test_cards_say_how_much_sound_there_was(seconds: float, said: str) -> None:
    assert length(seconds) == said


def test_joining_needs_a_space_to_write(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [("a", 8000), ("b", 8000)], speaker="ann")
    with pytest.raises(UserError, match=r"x\.jsonl:1: text: outside the tokenizer's alphabet: ' '"):
        task_of(manifest, "tokenizer.alphabet=abc", "augmentation.joined_utterances=2")


def test_too_small_budgets_are_refused(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [("a", 8000), ("b", 24000)])
    with pytest.raises(UserError, match=r"batch\.seconds: 3\.0 s cannot hold the longest utterance: 3\.75 s"):
        task_of(manifest, "batch.seconds=3.0", "augmentation.speeds=[0.8, 1.0]")
    task = task_of(manifest, "batch.seconds=3.0", "augmentation.speeds=[0.8, 1.0]", "data.longest_seconds=2.0")
    assert len(task.source.manifests["train"]) == 1


def test_loading_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """But on seed, epoch and example alone."""
    task = task_of(
        write_lines(tmp_path, [(text, 8000 + 999 * n) for n, text in enumerate(TEXTS)]),
        "augmentation.speeds=[0.9, 1.0, 1.1]",
        "augmentation.noise_probability=0.5",
        "augmentation.vocal_tract_warp=0.1",
        "augmentation.time_masks=2",
    )

    def parts(batch: Any, row: int) -> list[bytes]:
        waveform = batch.waveforms[row, : int(batch.lengths[row])]
        return [waveform.numpy().tobytes(), *(tensor[row].numpy().tobytes() for tensor in batch.augmentation)]

    together = task.source.load("train", micro_batch(4, 2, 0))
    assert parts(together, 1) == parts(task.source.load("train", micro_batch(2)), 0)
    assert parts(together, 1) != parts(task.source.load("train", micro_batch(2, epoch=1)), 0)


def test_joined_utterances_are_concatenated(tmp_path: Path) -> None:
    task = task_of(
        write_lines(tmp_path, [("a b", 3000 + 100 * n) for n in range(9)], speaker="ann"),
        "augmentation.joined_utterances=3",
    )
    reader = task.source.reader
    assert isinstance(reader, UtteranceReader)
    joining = reader.sounds.joining
    assert joining is not None
    for index in range(len(joining)):
        members = joining.members(index, 5)
        batch = task.source.load("train", micro_batch(index, epoch=5))
        assert batch.ids == ["+".join(f"{member}.wav" for member in members)]
        assert batch.texts == [" ".join("a b" for _ in members)]
        recordings = np.concatenate([noise(3000 + 100 * member, member) for member in members])
        np.testing.assert_array_equal(batch.waveforms[0].numpy(), recordings)


def test_bad_audio_is_named_with_its_line_or_counted(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [("a", 8000), ("b", 8000), ("c", 8000)])
    soundfile.write(tmp_path / "1.wav", np.zeros(8000), RATE)
    task, skipping = task_of(manifest), task_of(manifest, "data.skip_bad=true")
    (tmp_path / "2.wav").write_text("no audio")  # after the start, which looks at headers
    with pytest.raises(UserError, match=r"x\.jsonl:2: .*1\.wav: silent: every sample is 0 \(--skip-bad"):
        task.source.load("train", micro_batch(0, 1))
    with pytest.raises(UserError, match=r"x\.jsonl:3: .*2\.wav: not audio"):
        task.source.load("train", micro_batch(2))
    batch = skipping.source.load("train", micro_batch(0, 1, 2))
    assert (batch.ids, batch.num_skipped) == (["0.wav"], 2)
    with pytest.raises(UserError, match=r"x\.jsonl:3: audio_filepath: .*2\.wav: not audio"):
        task_of(manifest)
    assert len(task_of(manifest, "data.skip_bad=true").source.manifests["train"]) == 2


@pytest.mark.parametrize("bad_split", ["train", "dev"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"duration": 1.2}, "duration: has 1.20 s, but "),
        ({"offset": 0.7, "duration": 0.5}, "duration: ends at 1.20 s, but "),
        ({"audio_filepath": "gone.wav"}, "audio_filepath: no such file: "),
        ({"channel": 2}, "channel: 2, but "),
    ],
)
def test_all_splits_are_checked_at_the_start(
    tmp_path: Path, bad_split: Split, keys: dict[str, Any], message: str
) -> None:
    manifests: dict[Split, Path] = {}
    for split in ("train", "dev"):
        manifests[split] = write_lines(tmp_path, [("a", 8000), ("b", 8000)]).rename(tmp_path / f"{split}.jsonl")
    lines = manifests[bad_split].read_text().splitlines()
    manifests[bad_split].write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | keys)]))
    section = section_of(tmp_path)

    def start(skip_bad: bool) -> SpeechRecognition:
        data = section.data.model_copy(update={"skip_bad": skip_bad})
        return task_on(manifests, section.model_copy(update={"data": data}))

    with pytest.raises(UserError, match=f"{bad_split}.jsonl:2: {message}"):
        start(skip_bad=False)
    assert len(start(skip_bad=True).source.manifests[bad_split]) == 1


@pytest.mark.parametrize(
    ("wanted_hz", "message"),
    [
        (16000, "8000 samples a second in 4 of 4 recordings; after resampling"),
        (4000, "more than 4000 samples a second in 4 of 4 recordings; sound above 2000 Hz is lost"),
        (RATE, ""),
    ],
)
def test_other_sample_rates_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted_hz: int, message: str
) -> None:
    manifest = write_lines(tmp_path, [("a", 8000), ("b", 8000)])
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(manifest.read_text())
    assert RATE == 8000
    section = section_of(tmp_path, f"data.root={tmp_path}", f"features.sample_rate_hz={wanted_hz}")
    build_source(section, tmp_path / "run", ALONE)
    said = capsys.readouterr().err
    assert message in said
    assert bool(said) == bool(message)


def test_masks_set_only_their_spans_to_zero() -> None:
    features = torch.rand(2, 6, 9) + 1
    bands = torch.tensor([[[1, 3], [5, 6]], [[0, 0], [4, 4]]])
    spans = torch.tensor([[[0, 0], [9, 9]], [[2, 4], [3, 7]]])
    wanted = features.clone()
    wanted[0, 1:3] = wanted[0, 5] = 0
    wanted[1, :, 2:7] = 0
    assert torch.equal(mask(features, FeatureTensors(torch.ones(2), torch.zeros(2), bands, spans)), wanted)


def test_fricatives_change_their_level_and_vowels_do_not() -> None:
    vowel, fricative = torch.tensor([0.0, 0, -20, -20]), torch.tensor([-20.0, -20, 0, 0])
    features = torch.stack([vowel, fricative], dim=1).repeat(2, 1, 1)  # (2, 4, 2)
    changed = balance(features, torch.tensor([10.0, 0.0])) - features
    wanted = torch.zeros(2, 4, 2)
    wanted[0, :, 1] = math.log(10)
    torch.testing.assert_close(changed, wanted, atol=1e-4, rtol=0)


def test_a_warp_scales_the_positions_of_bins() -> None:
    ramp = torch.arange(8.0).view(1, 8, 1).expand(3, 8, 4)
    warped = warp(ramp, torch.tensor([1.0, 0.75, 1.25]))
    assert torch.equal(warped[0], ramp[0])
    torch.testing.assert_close(warped[1], 0.75 * ramp[1])
    torch.testing.assert_close(warped[2], (1.25 * ramp[2]).clamp(max=7))


class Reader(nn.Module):
    """A model that reads its tokens off the waveform: token n is said where the level is (n + 1) / 10."""

    def __init__(self, front_end: LogMel) -> None:
        super().__init__()
        self.front_end = front_end

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = (self.front_end.num_frames(lengths) + 1) // 2
        whole = F.pad(waveforms, (0, -waveforms.shape[1] % FRAME)).reshape(len(waveforms), -1, FRAME)  # (B, T, samples)
        tokens = (10 * whole.amax(dim=2)).round().long() - 1
        return F.one_hot(tokens % (BLANK + 1), BLANK + 1).float().add(1e-3).log(), frames


def read_off(transcriber: Recognizer) -> None:
    """Its model is `Reader` from here on."""
    backend: Any = transcriber.backend
    backend.model = Reader(backend.model.front_end)


SURE = float(of_frames(np.log(np.eye(1, BLANK + 1, dtype=np.float32) + np.float32(1e-3)))[0])
"""The confidence of a token of `Reader`."""


def spoken(num_samples: int, longest_gap: int) -> tuple[audio.Samples, list[Emission]]:
    """A waveform for `Reader`, and what it says, to its last frame. No token follows itself."""
    draw = np.random.default_rng(0)
    levels, emissions = np.zeros(num_samples // FRAME + 1, np.float32), list[Emission]()
    num_frames = ((num_samples + FRAME // 4) // (FRAME // 2) + 1) // 2
    frame = 3
    while frame < num_frames:
        token = int(emissions[-1].token + draw.integers(1, BLANK) if emissions else 1) % BLANK
        end = min(frame + int(draw.integers(1, 3)), num_frames)
        levels[frame:end] = (token + 1) / 10
        emissions.append(Emission(token, frame, end, SURE))
        frame = end + int(draw.integers(longest_gap + 1))
    return np.repeat(levels, FRAME)[:num_samples], emissions


@pytest.mark.parametrize("longest_gap", [0, 4, 60])
@pytest.mark.parametrize("num_samples", [4000, 19200, 19201, 33600, 160_000, 160_100])
def test_windows_transcribe_like_one_window(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, longest_gap: int, num_samples: int
) -> None:
    samples, emissions = spoken(num_samples, longest_gap)
    soundfile.write(model_folder / "long.wav", samples, RATE, subtype="FLOAT")
    transcripts = []
    for window_seconds in (2.4, 10_000.0):
        monkeypatch.setattr(Recognizer, "WINDOW_SECONDS", window_seconds)
        monkeypatch.setattr(Recognizer, "OVERLAP_SECONDS", 0.6)
        transcriber = load(model_folder, "cpu")
        read_off(transcriber)
        transcripts.append(transcriber.transcribe(model_folder / "long.wav", voice_activity="off"))  # tones
    assert transcripts[0] == transcripts[1]
    assert transcripts[0].duration == num_samples / RATE
    pieces = [letter.encode() for letter in ALPHABET]
    emissions = after_silence(emissions, pieces, levels(samples, RATE), FRAME, RATE)
    said = words(emissions, pieces, FRAME / RATE)
    wanted = [word._replace(end=min(word.end, num_samples / RATE)) for word in said]
    assert transcripts[0].words == [
        word._replace(confidence=each.confidence) for word, each in zip(wanted, transcripts[0].words, strict=True)
    ]
    confidences = [word.confidence for word in transcripts[0].words]
    assert confidences == pytest.approx([word.confidence for word in wanted], rel=1e-4)
    assert transcripts[0].text == text_of(said)


def test_a_transcript_writes_every_format() -> None:
    said = [Word("héllo", 0.12345, 0.5, 0.98765), Word("you", 0.6, 1.0, 0.5)]
    transcript = Transcript("dir/a.wav", 1.23456, "héllo you", said)
    line = transcript.written("json")
    assert "\n" not in line
    assert "héllo" in line
    assert json.loads(line) == {
        "audio": "dir/a.wav",
        "duration": 1.235,
        "text": "héllo you",
        "segments": [{"id": 0, "start": 0.123, "end": 1.0, "text": "héllo you"}],
        "words": [
            {"word": "héllo", "start": 0.123, "end": 0.5, "confidence": 0.9877},
            {"word": "you", "start": 0.6, "end": 1.0, "confidence": 0.5},
        ],
    }
    assert transcript.written("text") == "héllo you"
    assert transcript.written("srt") == "1\n00:00:00,123 --> 00:00:01,234\nhéllo you"
    assert transcript.written("vtt").startswith("WEBVTT\n\n1\n00:00:00.123 --> 00:00:01.234\nhéllo you")


def test_speakers_are_written_where_they_are_known() -> None:
    said = [Word("yes", 0.1, 0.4, 0.9, speaker="Ann & Co"), Word("no", 0.5, 0.9, 0.9, speaker="Ben")]
    transcript = Transcript("a.wav", 4.0, "yes no", [*said, Word("so", 2.0, 2.2, 0.9)])
    found = json.loads(transcript.written("json"))
    assert [each.get("speaker") for each in found["words"]] == ["Ann & Co", "Ben", None]
    assert [(each["text"], each.get("speaker")) for each in found["segments"]] == [
        ("yes", "Ann & Co"),
        ("no", "Ben"),
        ("so", None),
    ]
    assert transcript.written("srt").split("\n")[2::4] == ["Ann & Co: yes", "Ben: no", "so"]
    assert transcript.written("vtt").split("\n")[4::4] == ["<v Ann &amp; Co>yes", "<v Ben>no", "so"]


@pytest.mark.parametrize("num_samples", [1, 39, 40, 8000, 30 * RATE])
def test_silence_gives_no_words(model_folder: Path, num_samples: int, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(model_folder / "x.wav", np.zeros(num_samples), RATE)
    transcript = load(model_folder, "cpu").transcribe(model_folder / "x.wav")
    assert (transcript.text, transcript.words, transcript.duration) == ("", [], num_samples / RATE)
    assert re.search(r"x\.wav: (nothing was recognized|no speech found)", capsys.readouterr().err)


@pytest.mark.parametrize("num_samples", [1, 39, 40, 200, 8000, 30 * RATE])
def test_every_length_of_sound_has_a_transcript(model_folder: Path, num_samples: int) -> None:
    soundfile.write(model_folder / "x.wav", noise(num_samples), RATE)
    transcript = load(model_folder, "cpu").transcribe(model_folder / "x.wav")
    assert transcript.duration == num_samples / RATE
    for word in transcript.words:
        assert 0 <= word.start < word.end <= transcript.duration
        assert 0 < word.confidence <= 1


def test_unusable_audio_is_refused(model_folder: Path) -> None:
    transcriber = load(model_folder, "cpu")
    samples = noise(30 * RATE)
    samples[-1] = np.nan  # in the last window
    soundfile.write(model_folder / "nan.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(model_folder / "zero.wav", samples[:0], RATE)
    (model_folder / "empty.wav").touch()
    for name, message in (("nan", "holds NaN"), ("zero", "holds no audio"), ("empty", "the file is empty")):
        with pytest.raises(UserError, match=rf"{name}\.wav: {message}"):
            transcriber.transcribe(model_folder / f"{name}.wav")


def test_unwritable_references_count_as_errors(model_folder: Path, tmp_path: Path) -> None:
    transcriber = load(model_folder, "cpu")
    scores = transcriber.evaluate(write_lines(tmp_path, [("ab", 8000), ("Zoo, zebra!", 8000), ("", 8000)]))
    assert (scores["utterances"], scores["words"], scores["skipped"]) == (3, 3, 0)
    assert scores["substitutions"] + scores["deletions"] >= 2


@torch.inference_mode()
def test_dev_scores_are_of_the_texts_one_gets(model_folder: Path, tmp_path: Path) -> None:
    """Words that only silence parts are words, too."""
    manifest = write_lines(tmp_path, [("ab ca", 40 * FRAME)])
    samples = np.zeros(40 * FRAME, np.float32)
    for token, frame in ((1, 5), (2, 8), (3, 24), (1, 27)):  # 0.3 s between b and c
        samples[frame * FRAME : (frame + 1) * FRAME] = (token + 1) / 10
    (name,) = (json.loads(line)["audio_filepath"] for line in manifest.read_text().splitlines())
    soundfile.write(tmp_path / name, samples, RATE, subtype="FLOAT")
    transcriber = load(model_folder, "cpu")
    read_off(transcriber)
    assert transcriber.transcribe(tmp_path / name).text == "ab ca"
    task = task_of(manifest, split="dev")
    model: Any = random_model(task)
    model.forward = Reader(model.front_end).forward
    (prediction,) = task.predict(model, task.source.load("dev", micro_batch(0)))
    assert prediction.hypothesis == "ab ca"


def test_evaluation_does_not_depend_on_the_batch(model_folder: Path, tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [(text, 4000 + 777 * n) for n, text in enumerate(TEXTS)])
    transcriber = load(model_folder, "cpu")
    together = transcriber.evaluator.results(Manifest(Utterance, [manifest]))
    for prediction in together:
        transcript = transcriber.transcribe(tmp_path / prediction.id)
        assert transcript.text == " ".join(prediction.hypothesis.split())


def test_evaluation_names_bad_audio_or_counts_it(model_folder: Path, tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [("a", 8000), ("b", 8000)])
    with manifest.open("a") as file:
        file.write("nonsense\n")
    (tmp_path / "0.wav").write_text("no audio")
    transcriber = load(model_folder, "cpu")
    with pytest.raises(UserError, match=r"x\.jsonl:3: not JSON"):
        transcriber.evaluate(manifest)
    scores = transcriber.evaluate(manifest, skip_bad=True)
    assert (scores["utterances"], scores["skipped"]) == (1, 2)


def test_weights_that_do_not_fit_are_refused(model_folder: Path) -> None:
    tokenizers.build(tokenizers.CharactersSection(kind="characters", alphabet="ab"), []).save(
        model_folder / "tokenizer.json"
    )
    with pytest.raises(UserError, match=r"model\.safetensors: these weights do not fit (.|\n)*head\.output\.weight"):
        load(model_folder, "cpu")
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load(model_folder, "cpu")


def test_no_loaded_batch_exceeds_its_budget(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path, [("a b", 3000 + 500 * n) for n in range(30)], speaker="ann")
    task = task_of(
        manifest,
        "augmentation.speeds=[0.9, 1.1]",
        "augmentation.joined_utterances=3",
        "augmentation.pause_probability=0.5",
        "augmentation.longest_pause_seconds=0.4",
        "batch.seconds=12.0",
        "batch.buckets=3",
    )
    plan = task.source.plan("train")
    for number in range(2 * plan.num_micro_batches):
        waveforms = task.source.load("train", plan.micro_batch(number)).waveforms
        assert waveforms.numel() <= 12.0 * RATE + len(waveforms)  # resampling may round a sample up


def test_as_transcribed_scores_whole_recordings(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("segue.runtime.voice_activity.is_available", lambda: False)  # tones are no speech
    monkeypatch.setattr(Recognizer, "WINDOW_SECONDS", 2.4)
    monkeypatch.setattr(Recognizer, "OVERLAP_SECONDS", 0.6)
    samples, emissions = spoken(160_000, 9)  # below 0.2 s: no silence that ends a word
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    transcriber = load(model_folder, "cpu")
    read_off(transcriber)
    said = words(emissions, [letter.encode() for letter in ALPHABET], FRAME / RATE)
    lines = []
    for first in range(0, len(said) - 2, 3):
        if first != 6:  # what is said here is in no reference, and counts nowhere
            start, end = said[first].start, said[first + 2].end
            text = text_of(said[first : first + 3])
            lines.append({"audio_filepath": "long.wav", "offset": start, "duration": end - start, "text": text})
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", samples[: 2 * RATE], RATE, subtype="FLOAT")
        text = text_of([word for word in said if word.end <= 2])
        lines.append({"audio_filepath": f"{number}.wav", "duration": 2.0, "text": text, "speaker": "ann"})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation = transcriber.evaluator.explain(tmp_path / "test.jsonl", as_transcribed=True)
    assert evaluation.scores["recordings"] == len(evaluation.examples) == 2
    assert evaluation.scores["utterances"] == len(lines)
    for rate in (evaluation.scores["word_error_rate"], evaluation.scores["alone_word_error_rate"]):
        assert isinstance(rate, float)
        assert rate <= 0.02  # a word may be cut at two seconds
    assert [each.id for each in evaluation.examples][1] == "0.wav ... 1.wav"
    monkeypatch.setattr(transcriber, "transcribe", lambda *_, **__: Transcript("", 20.0, "", []))
    assert transcriber.evaluate(tmp_path / "test.jsonl", as_transcribed=True)["word_error_rate"] == 1.0
