from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.segments import (
    EARLY_SECONDS,
    PAD_SECONDS,
    PAUSE_SECONDS,
    SHORTEST_SECONDS,
    Frames,
    Lengths,
    Region,
    Segment,
    levels,
    regions,
    silences,
    speech,
    windows,
)

RATE, FRAME = 1000, 32  # samples a second, samples in a frame of the detector
LENGTHS = Lengths(longest=4000, overlap=1000, grid=20, silence=500)
FRAME_SECONDS = FRAME / RATE
FIRST = 1_000_000  # no sample is silent


def said(spans: list[tuple[bool, int]], block: int) -> tuple[np.ndarray, list[Frames]]:
    """Samples that are their own positions, in blocks; and whether each frame is speech."""
    probabilities = np.concatenate([[0.9 if is_speech else 0.1] * count for is_speech, count in spans])
    samples = np.arange(len(probabilities) * FRAME, dtype=np.float32) + FIRST
    frames = [
        Frames(samples[n * FRAME : (n + block) * FRAME], probabilities[n : n + block].astype(np.float32))
        for n in range(0, len(probabilities), block)
    ]
    return probabilities > 0.5, frames


def cut(frames: list[Frames]) -> list[Segment]:
    return list(speech(frames, FRAME, RATE, LENGTHS))


spans = st.lists(st.tuples(st.booleans(), st.integers(1, 60) | st.integers(1, 400)), min_size=1, max_size=30)


@given(spans=spans, block=st.integers(1, 200))
@settings(max_examples=25)
def test_every_speech_sample_is_in_a_segment(spans: list[tuple[bool, int]], block: int) -> None:
    """Once, but for the overlap of windows, and with its own position; only sounds too short to be speech are left."""
    is_speech, frames = said(spans, block)
    found = cut(frames)
    covered = np.zeros(len(is_speech) * FRAME, np.int64)
    for segment in found:
        assert segment.start % LENGTHS.grid == 0
        assert (segment.samples - FIRST).tolist() == list(range(segment.start, segment.start + len(segment.samples)))
        covered[segment.start : segment.start + len(segment.samples)] += 1
    for one, other in pairwise(found):
        overlap = one.start + len(one.samples) - other.start
        assert overlap == LENGTHS.overlap if other.continues else overlap < LENGTHS.grid
    missed = np.flatnonzero(is_speech.repeat(FRAME) & (covered == 0))
    edges = np.flatnonzero(np.diff(missed) > 1)
    for part in np.split(missed, edges + 1):
        assert len(part) < SHORTEST_SECONDS * RATE + FRAME


@given(spans=spans, block=st.integers(1, 200))
@settings(max_examples=25)
def test_segments_are_cut_only_in_silence(spans: list[tuple[bool, int]], block: int) -> None:
    is_speech, frames = said(spans, block)
    found = cut(frames)
    sounding = is_speech.repeat(FRAME)
    for number, segment in enumerate(found):
        assert len(segment.samples) <= LENGTHS.longest + (PAD_SECONDS + EARLY_SECONDS) * RATE + LENGTHS.grid + FRAME
        goes_on = number + 1 < len(found) and found[number + 1].continues
        end = segment.start + len(segment.samples)
        if not goes_on and end < len(sounding):
            assert not sounding[end - 1 : end + 1].any()


@given(spans=spans, block=st.integers(1, 200))
@settings(max_examples=25)
def test_blocks_do_not_change_segments(spans: list[tuple[bool, int]], block: int) -> None:
    shapes = [
        [(each.start, len(each.samples), each.continues) for each in cut(said(spans, size)[1])] for size in (1, block)
    ]
    assert shapes[0] == shapes[1]


def test_the_longest_silence_is_cut() -> None:
    """Here of 0.45 s, among pauses of 0.3 s; it is shared by the segments."""
    words = [(True, 20), (False, 10)] * 5
    words[4:4] = [(True, 20), (False, 14)]
    first, second = cut(said(words, 10)[1])
    silence = np.cumsum([count for _, count in words])[4:6] * FRAME
    assert silence[0] < first.start + len(first.samples) <= second.start + LENGTHS.grid < silence[1]


def test_silence_is_skipped_and_padded() -> None:
    (segment,) = cut(said([(False, 1000), (True, 50), (False, 1000)], 10)[1])
    assert segment.start == (1000 * FRAME - PAD_SECONDS * RATE) // 20 * 20
    assert segment.start + len(segment.samples) == 1050 * FRAME + PAD_SECONDS * RATE
    assert cut(said([(False, 3000)], 10)[1]) == []
    assert cut(said([(False, 100), (True, 3), (False, 100)], 10)[1]) == []


def sounding(parts: list[tuple[float, float]], late: float = 0.0) -> list[Frames]:
    """Noise of some amplitudes (1 is loud speech) for so many seconds each; the detector hears what is louder than
    0.01, but begins to so many seconds late, and stops as much too early."""
    draw = np.random.default_rng(0)
    amplitudes = np.concatenate([np.full(round(seconds * RATE), value) for value, seconds in parts])
    amplitudes = np.pad(amplitudes, (0, -len(amplitudes) % FRAME), constant_values=parts[-1][0])
    samples = (amplitudes * draw.choice([-0.5, 0.5], len(amplitudes))).astype(np.float32)
    is_loud = amplitudes > 0.01
    shift = round(late * RATE)
    heard = np.logical_and(np.roll(is_loud, shift), np.roll(is_loud, -shift)).reshape(-1, FRAME).mean(axis=1) > 0.5
    return [Frames(samples, np.where(heard, 0.9, 0.1).astype(np.float32))]


@pytest.mark.parametrize("late", [0.0, 0.1, -0.15])
def test_speech_begins_where_it_sounds(late: float) -> None:
    """Whatever the detector says."""
    [segment] = cut(sounding([(0.001, 2.0), (1.0, 1.5), (0.001, 3.0)], late))
    assert segment.start == pytest.approx(2000 - PAD_SECONDS * RATE, abs=LENGTHS.grid)
    assert segment.start + len(segment.samples) == pytest.approx(3500 + PAD_SECONDS * RATE, abs=20)


def test_noise_as_loud_as_speech_moves_no_edge() -> None:
    frames = sounding([(0.001, 2.0), (1.0, 1.5), (0.001, 3.0)])
    [(samples, probabilities)] = frames
    noisy = samples + np.random.default_rng(1).choice([-0.5, 0.5], len(samples)).astype(np.float32)
    [one], [other] = cut([Frames(noisy, probabilities)]), cut([Frames(np.ones_like(samples), probabilities)])
    assert (one.start, len(one.samples)) == (other.start, len(other.samples))


@pytest.mark.parametrize(("quieter_db", "longest", "count"), [(0, 2.0, 1), (3, 2.0, 1), (6, 2.0, 2), (0, 0.5, 2)])
def test_speech_of_one_level_stays_together(quieter_db: float, longest: float, count: int) -> None:
    """Across a second of silence, if the model may get so much."""
    parts = [(0.001, 1.0), (1.0, 0.8), (0.001, 1.0), (10 ** (-quieter_db / 20), 0.8), (0.001, 4.0)]
    lengths = LENGTHS._replace(silence=round(longest * RATE))
    assert len(list(speech(sounding(parts), FRAME, RATE, lengths))) == count


@pytest.mark.parametrize("is_speech", [True, False])
def test_memory_is_bounded(is_speech: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any pause, and without any speech."""
    from segue.data import segments

    held: list[int] = []
    release = segments._Cutter.release

    def watched(self: segments._Cutter, frame: int) -> None:
        release(self, frame)
        held.append(len(self._samples))

    monkeypatch.setattr(segments._Cutter, "release", watched)
    found = cut(said([(is_speech, 20_000)], 10)[1])
    assert max(held) <= (LENGTHS.longest if is_speech else 0) + 1000
    assert [each.continues for each in found][1:] == [True] * (len(found) - 1)


def test_regions_are_speech_without_pauses() -> None:
    pause = round(PAUSE_SECONDS / FRAME_SECONDS)
    _, frames = said([(False, 10), (True, 5), (False, pause - 1), (True, 5), (False, pause), (True, 4)], 7)
    found = list(regions((each.probabilities for each in frames), FRAME_SECONDS))
    second = 20 + 2 * pause - 1
    assert found == [
        pytest.approx((10 * FRAME_SECONDS, (19 + pause) * FRAME_SECONDS)),
        pytest.approx((second * FRAME_SECONDS, (second + 4) * FRAME_SECONDS)),
    ]


def test_windows_overlap() -> None:
    blocks = np.split(np.arange(11_000, dtype=np.float32), 11)
    found = list(windows(blocks, LENGTHS))
    assert [(each.start, len(each.samples), each.continues) for each in found] == [
        (0, 4000, False),
        (3000, 4000, True),
        (6000, 4000, True),
        (9000, 2000, True),
    ]
    assert [len(each.samples) for each in windows(blocks[:4], LENGTHS)] == [4000]


@pytest.mark.parametrize("quiet", [2.0, 5.0, 6.2, 6.9])
def test_sound_that_fades_is_heard_once(quiet: float) -> None:
    """A detector may hear speech for long after the level says that it has ended: in windows that are done by then."""
    seconds = np.arange(14 * RATE) / RATE
    loud = (seconds < quiet) | ((seconds >= 10) & (seconds < 12))
    samples = np.where(loud, 0.1, 1e-5) * np.sin(seconds * 1234)
    heard = (seconds[::FRAME] < 8) | ((seconds[::FRAME] >= 10) & (seconds[::FRAME] < 12))
    found = cut([Frames(samples.astype(np.float32), np.where(heard, 0.9, 0.1).astype(np.float32))])
    assert all(0 < len(segment.samples) <= LENGTHS.longest for segment in found)
    for one, other in pairwise(found):
        assert other.continues or other.start >= one.start + len(one.samples)
    assert found[-1].start / RATE == pytest.approx(10 - PAD_SECONDS, abs=0.05)


def test_a_quieter_voice_is_kept() -> None:
    """40 dB below the voice before it, without a pause."""
    seconds = np.arange(8 * RATE) / RATE
    samples = np.select([seconds < 1, seconds < 4, seconds < 7], [0.0, 0.1, 0.001]) * np.sin(seconds * 1234)
    samples += np.random.default_rng(0).normal(0, 1e-5, len(samples))
    heard = (seconds[::FRAME] >= 1) & (seconds[::FRAME] < 7)
    found = cut([Frames(samples.astype(np.float32), np.where(heard, 0.9, 0.1).astype(np.float32))])
    assert found[0].start / RATE <= 1
    assert found[-1].start + len(found[-1].samples) >= 6.5 * RATE


@pytest.mark.parametrize(("noise", "wanted"), [(0.0, 2), (0.003, 2), (0.3, 0)])
def test_silence_is_found_by_level(noise: float, wanted: int) -> None:
    """Speech, with silence of 0.3, 0.15 and 0.25 s in it, in noise; loud noise has no silence."""
    draw = np.random.default_rng(0)
    parts = [(0.5, 0.3), (0.3, 0.0), (0.5, 0.3), (0.15, 0.0), (0.5, 0.3), (0.25, 0.0), (0.5, 0.3)]
    level = np.concatenate([np.full(round(seconds * 8000), size) for seconds, size in parts])
    samples = level * draw.standard_normal(len(level)) + noise * draw.standard_normal(len(level))
    found = silences(levels(samples.astype("f4"), 8000), 8000, [Region(0, len(samples))])
    assert len(found) == wanted
    for (start, end), (true_start, true_end) in zip(found, ((0.5, 0.8), (1.95, 2.2)), strict=False):
        assert start / 8000 == pytest.approx(true_start, abs=0.011)
        assert end / 8000 == pytest.approx(true_end, abs=0.011)
    assert silences(levels(np.zeros(10, np.float32), 8000), 8000, [Region(0, 10)]) == []


@pytest.mark.parametrize("words", [((10.0, 10.4), (10.65, 11.0)), ((2.0, 2.3), (2.55, 2.8), (18.0, 18.3))])
def test_much_silence_hides_no_other(words: Sequence[tuple[float, float]]) -> None:
    """Two words, a quarter of a second apart, in 20 s of quiet noise, without and with a third one far away."""
    draw = np.random.default_rng(0)
    samples = 0.0005 * draw.standard_normal(20 * 8000)
    for start, end in words:
        samples[round(start * 8000) : round(end * 8000)] += 0.3 * draw.standard_normal(round((end - start) * 8000))
    said = [Region(round(8000 * (start + end) / 2), round(8000 * (start + end) / 2) + 160) for start, end in words]
    first = silences(levels(samples.astype("f4"), 8000), 8000, said)[0]
    assert [each / 8000 for each in first] == pytest.approx([words[0][1], words[1][0]], abs=0.011)
