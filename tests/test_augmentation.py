from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data import audio
from segue.data.augmentation import Augmentation, AugmentationSection, Joining
from segue.data.batching import BatchPlan
from segue.data.examples import Utterance
from segue.data.manifest import write_manifest

RATE = 8000
SPEECH = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)


def augmentation(mel_bins: int = 64, root: Path = Path(), **changes: Any) -> Augmentation:
    return Augmentation(AugmentationSection(**changes), RATE, mel_bins, root)


def test_the_same_draw_gives_the_same_result() -> None:
    varied = augmentation(
        speeds=(0.9, 1.0, 1.1),
        noise_probability=0.5,
        vocal_tract_warp=0.2,
        fricatives_db=9,
        frequency_masks=2,
        time_masks=2,
    )
    sounds, spans = set(), set()
    for seed in [*range(10), *range(10)]:
        sounds.add(varied.waveform(SPEECH, np.random.default_rng(seed)).tobytes())
        drawn = varied.features(200, np.random.default_rng(seed))
        assert drawn is not None
        assert 0 < abs(drawn.fricatives_db) < 9
        spans.add((drawn.warp, drawn.fricatives_db, drawn.frequency_spans.tobytes(), drawn.time_spans.tobytes()))
    assert len(sounds) > 5  # the speed alone makes three
    assert len(spans) == 10


def test_the_defaults_vary_nothing() -> None:
    plain, draw = augmentation(), np.random.default_rng(0)
    np.testing.assert_array_equal(plain.waveform(SPEECH, draw), SPEECH)
    assert plain.features(100, draw) is None


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.1, 2.0])
def test_speed_shortens_speech_and_raises_its_pitch(speed: float) -> None:
    faster = augmentation(speeds=(speed,)).waveform(SPEECH, np.random.default_rng(0))
    assert abs(len(faster) - len(SPEECH) / speed) <= 1
    pitch = np.abs(np.fft.rfft(faster, 10 * RATE)).argmax() / 10
    assert pitch == pytest.approx(440 * speed, abs=1)


@pytest.mark.parametrize("is_recorded", [False, True])
def test_noise_has_the_asked_ratio_to_the_speech(tmp_path: Path, is_recorded: bool) -> None:
    audio.write(tmp_path / "hum.wav", 0.1 * SPEECH[:3000] ** 3, RATE)  # shorter than the speech
    write_manifest(tmp_path / "noise.jsonl", [Utterance("", tmp_path / "hum.wav", 3000 / RATE, "")])
    noisy = augmentation(
        root=tmp_path,
        noise_probability=1.0,
        noise_snr_db=(5.0, 20.0),
        noise_manifest="noise.jsonl" if is_recorded else None,
    )
    ratios = []
    for seed in range(20):
        noise = noisy.waveform(SPEECH, np.random.default_rng(seed)) - SPEECH
        ratios.append(10 * np.log10(np.square(SPEECH).mean() / np.square(noise).mean()))
        if is_recorded:
            np.testing.assert_allclose(noise[:1000], noise[3000:4000], atol=1e-5)
    assert 4.99 < min(ratios) < 8
    assert 17 < max(ratios) < 20.01


def test_noise_has_the_asked_probability() -> None:
    noisy = augmentation(noise_probability=0.3)
    count = sum(not np.array_equal(noisy.waveform(SPEECH, np.random.default_rng(n)), SPEECH) for n in range(200))
    assert 40 < count < 80


@given(
    masks=st.integers(1, 5),
    widths=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    sizes=st.tuples(st.integers(1, 80), st.integers(0, 300)),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_masks_lie_inside_and_within_their_width(
    masks: int, widths: tuple[int, int], sizes: tuple[int, int], seed: int
) -> None:
    mel_bins, num_frames = sizes
    masked = augmentation(
        mel_bins, frequency_masks=masks, frequency_width=widths[0], time_masks=masks, time_width=widths[1]
    )
    drawn = masked.features(num_frames, np.random.default_rng(seed))
    assert drawn is not None
    for spans, size, widest in (
        (drawn.frequency_spans, mel_bins, widths[0]),
        (drawn.time_spans, num_frames, min(widths[1], num_frames // 5)),
    ):
        assert spans.shape == (masks, 2)
        for start, end in spans.tolist():
            assert 0 <= start <= end <= size
            assert end - start <= widest


@st.composite
def speeches(draw: st.DrawFn) -> tuple[list[float], list[str | None], Joining]:
    seconds = draw(st.lists(st.floats(0.1, 10), min_size=1, max_size=120))
    names = st.sampled_from(["ann", "bob", None])
    speakers = draw(st.lists(names, min_size=len(seconds), max_size=len(seconds)))
    section = AugmentationSection(
        joined_utterances=draw(st.integers(1, 6)), pause_probability=draw(st.sampled_from([0.0, 0.5]))
    )
    joining = Joining(np.array(seconds), speakers, section, draw(st.integers(0, 1000)))
    return seconds, speakers, joining


@given(speeches(), st.integers(0, 3))
@settings(deadline=None)
def test_joining_uses_each_utterance_once(speech: tuple[list[float], list[str | None], Joining], epoch: int) -> None:
    """In each epoch, with others of its speaker, within the bound on length."""
    seconds, speakers, joining = speech
    joined = [joining.members(index, epoch) for index in range(len(joining))]
    assert Counter(member for members in joined for member in members) == Counter(range(len(seconds)))
    for members, pauses, bound in zip(joined, joining.pauses, joining.seconds, strict=True):
        assert len(members) <= 1 or len({speakers[member] for member in members}) == 1
        assert len(members) <= 1 or speakers[members[0]] is not None or set(speakers) == {None}
        assert len(pauses) in (0, len(members) + 1)
        assert sum(seconds[member] for member in members) + sum(pauses) <= bound + 1e-9
        assert bound <= len(members) * max(seconds) + sum(pauses) + 1e-9


@given(speeches(), st.integers(0, 2))
@settings(deadline=None)
def test_joined_batches_hold_each_utterance_once(
    speech: tuple[list[float], list[str | None], Joining], epoch: int
) -> None:
    """Within the budget."""
    seconds, _, joining = speech
    budget = 2 * joining.seconds.max()
    plan = BatchPlan(joining.seconds, budget, buckets=3, seed=0)
    heard = Counter[int]()
    for number in range(epoch * plan.num_micro_batches, (epoch + 1) * plan.num_micro_batches):
        batch = plan.micro_batch(number)
        joined = [joining.members(index, batch.epoch) for index in batch.indices.tolist()]
        heard.update(member for members in joined for member in members)
        longest = max(sum(seconds[member] for member in members) for members in joined)
        assert len(joined) * longest <= budget + 1e-6
    assert heard == Counter(range(len(seconds)))


def test_joining_varies_by_epoch_repeatably() -> None:
    """The order in which epochs are asked for changes nothing."""
    draw = np.random.default_rng(0)
    joining = Joining(draw.uniform(1, 5, 100), ["ann"] * 100, AugmentationSection(joined_utterances=4), seed=0)
    assert 4 >= max(len(joining.members(index, 0)) for index in range(len(joining))) > 1

    def companies(epoch: int) -> set[frozenset[int]]:
        joined = [joining.members(index, epoch) for index in range(len(joining))]
        return {frozenset(members) for members in joined if len(members) > 1}

    first, second = companies(0), companies(1)
    assert len(first & second) <= 2
    assert companies(0) == first


def test_the_bound_on_joined_length_is_tight() -> None:
    seconds = np.random.default_rng(0).uniform(1, 10, 500)
    joining = Joining(seconds, ["ann"] * 500, AugmentationSection(joined_utterances=5), seed=0)
    assert joining.seconds.sum() < 1.1 * seconds.sum()


def test_pauses_have_the_asked_rate_and_length() -> None:
    section = AugmentationSection(pause_probability=0.4, longest_pause_seconds=2.0)
    joining = Joining(np.ones(1000), [None] * 1000, section, seed=0)
    with_words = [pauses for index, pauses in enumerate(joining.pauses) if joining.members(index, 0)]
    assert len(with_words) == 1000
    assert 350 < sum(bool(pauses) for pauses in with_words) < 450
    seconds = np.array([each for pauses in with_words for each in pauses])
    assert 1.8 < seconds.max() < 2
    assert 0.4 < np.median(seconds) < 0.6  # a quarter


def test_pauses_add_examples_of_noise_alone() -> None:
    section = AugmentationSection(pause_probability=0.4)
    joining = Joining(np.ones(1000), [None] * 1000, section, seed=0)
    alone = [index for index in range(len(joining)) if not joining.members(index, 0)]
    assert len(alone) == 30
    noise = augmentation().join([], joining.pauses[alone[0]], np.random.default_rng(0))
    assert len(noise) == int(joining.pauses[alone[0]][0] * RATE) > 0


def test_pauses_do_not_change_utterances() -> None:
    pauses = (0.1, 0.0, 0.2, 0.05)
    pieces = [np.full(400, number + 1.0, np.float32) for number in range(3)]
    levels = set()
    for seed in range(40):
        joined = augmentation().join(pieces, pauses, np.random.default_rng(seed))
        starts = [800, 1200, 1600 + 1600]
        assert len(joined) == 1200 + 800 + 1600 + 400
        for piece, start in zip(pieces, starts, strict=True):
            np.testing.assert_array_equal(joined[start : start + 400], piece)
        levels.add(round(float(np.abs(joined[:800]).max()), 5))
    assert 0.0 in levels  # digital silence now and then
    assert len(levels) > 20


def test_pauses_are_silence_or_quiet_noise() -> None:
    """A fifth is digital silence, and the noise of others is up to 35 dB below speech."""
    pieces = [np.full(RATE, 0.5, np.float32)]
    silent, below = 0, []
    for seed in range(400):
        joined = augmentation().join(pieces, (1.0, 0.0), np.random.default_rng(seed))
        power = float(np.square(joined[:RATE]).mean())
        if power == 0:
            silent += 1
        else:
            below.append(10 * np.log10(0.25 / power))
    assert silent == pytest.approx(80, abs=20)  # the standard deviation is 8
    assert -1 < min(below) < 1
    assert 34 < max(below) < 36


def test_without_pauses_utterances_are_adjacent() -> None:
    joined = augmentation().join([SPEECH, -SPEECH], (), np.random.default_rng(0))
    np.testing.assert_array_equal(joined, np.concatenate([SPEECH, -SPEECH]))


def test_levels_are_within_bounds_and_clipped() -> None:
    levels = []
    for seed in range(50):
        quieter = augmentation(level_db=(-30.0, 0.0)).waveform(SPEECH, np.random.default_rng(seed))
        levels.append(20 * np.log10(np.abs(quieter).max()))
    assert -30 < min(levels) < -27
    assert -3 < max(levels) <= 0
    louder = augmentation(level_db=(20.0, 20.0)).waveform(SPEECH, np.random.default_rng(0))
    assert np.abs(louder).max() == 1


def test_band_limiting_cuts_only_the_ends() -> None:
    noise = np.random.default_rng(0).standard_normal(16 * RATE).astype(np.float32)
    before = np.abs(np.fft.rfft(noise))
    for seed in range(20):
        limited = augmentation(band_probability=1.0).waveform(noise, np.random.default_rng(seed))
        share = np.abs(np.fft.rfft(limited)) / before
        hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
        assert share[(hertz > 500) & (hertz < 2500)].min() > 0.9
        assert share[hertz < 25].max() < 0.01


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_codecs_change_speech_without_a_shift(rate: int) -> None:
    chirp = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 3000, rate)) / rate).astype(np.float32) * 0.5
    coder = Augmentation(AugmentationSection(codec_probability=1.0), rate, 64, Path())
    found = set()
    for seed in range(12):
        coded = coder.waveform(chirp, np.random.default_rng(seed))
        assert len(coded) == len(chirp)
        shift = np.correlate(coded[2000:5000], chirp[2200:4800]).argmax() - 200
        assert abs(shift) <= 2
        assert np.corrcoef(coded[500:-500], chirp[500:-500])[0, 1] > 0.9
        found.add(coded.tobytes())
    assert len(found) > 3
    assert chirp.tobytes() not in found


def test_noise_is_of_many_colors() -> None:
    def tilt(seed: int) -> float:
        noise = augmentation(noise_probability=1.0).waveform(SPEECH, np.random.default_rng(seed)) - SPEECH
        power = np.abs(np.fft.rfft(noise)) ** 2
        return float(10 * np.log10(power[100:1000].mean() / power[4000:7000].mean()))

    tilts = [tilt(seed) for seed in range(40)]
    assert min(tilts) < 1  # white
    assert max(tilts) > 20
