"""Who speaks when: clusters, turns, words, error rates; a conversation of synthesized voices from file to text."""

import json
from itertools import permutations
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import onnx
import pytest
import simpleder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment

from segue.cli import main
from segue.data import audio
from segue.data.kaldi_features import filter_bank
from segue.data.synthesis import Synthesizer
from segue.data.turns import Turn, read_rttm, rttm
from segue.errors import UserError
from segue.metrics import verification
from segue.metrics.diarization import best_pairs, diarization_error
from segue.runtime import clustering, voice_activity
from segue.runtime.diarization import Part, _parts, _Recent, named, turns
from segue.runtime.onnx_embedder import open_graph
from segue.runtime.speaker_embedder import SpeakerEmbedder, SpeakerMetadata
from segue.runtime.speaker_words import assigned
from segue.runtime.words import Word

RATE = 16000


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def voices(counts: list[int], seed: int, spread: float = 0.5) -> NDArray[np.float64]:
    """Vectors around a center per voice."""
    draw = np.random.default_rng(seed)
    centers = unit(draw.standard_normal((len(counts), 16)))
    return unit(np.repeat(centers, counts, axis=0) + spread * draw.standard_normal((sum(counts), 16)) / 4)


def same_groups(one: NDArray[np.int_], other: NDArray[np.int_]) -> bool:
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


def test_silence_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow in a recording of hours in which nobody speaks."""
    block = np.zeros(512 * 20, np.float32)
    silent = np.zeros(20, np.float32)
    monkeypatch.setattr(voice_activity, "probabilities", lambda blocks, rate: (silent for _ in blocks))
    recent = _Recent(block for _ in range(50))
    model = SpeakerEmbedder(SpeakerMetadata(sample_rate_hz=RATE, dimensions=2, threshold=0.5), None)  # type: ignore[arg-type]
    assert list(_parts(recent, model)) == []
    assert recent.num_samples == 50 * len(block)
    assert len(recent.between(0, recent.num_samples)) <= len(block)


# --- Clusters ---


@pytest.mark.parametrize("seed", range(5))
def test_average_linkage_equals_that_of_scipy(seed: int) -> None:
    vectors = voices([20, 1, 13, 30], seed, 1.5)
    merges, wanted = clustering.average_linkage(vectors), linkage(vectors, "average", "cosine")
    assert [merge.distance for merge in merges] == pytest.approx(wanted[:, 2])
    for count in (1, 2, 4, 17, 64):
        theirs = fcluster(wanted, count, "maxclust")
        assert same_groups(clustering.cut(merges, len(vectors) - count), theirs)


@pytest.mark.parametrize("count", [2, 3, None])
def test_an_outlier_is_no_speaker(count: int | None) -> None:
    """A cut of the tree at two or three clusters would make it one."""
    vectors = np.concatenate([voices([30, 25, 20][: count or 2], 3, 0.3), -voices([30], 3, 0.0)[:1]])
    labels = clustering.clusters(vectors, np.full(len(vectors), 0.75), 0.5, count)
    sizes = [30, 25, 20][: count or 2]
    assert same_groups(labels[:-1], np.repeat(range(len(sizes)), sizes))
    plain = fcluster(linkage(vectors, "average", "cosine"), len(sizes), "maxclust")
    assert np.bincount(plain).max() > 30 or count is None


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_close_voices_of_little_spread_are_two(spread: float) -> None:
    """Their distance is below the threshold, which allows for voices of more spread."""
    draw = np.random.default_rng(0)
    middle, way = np.eye(16)[:2]
    centers = np.repeat([middle + 0.5 * way, middle - 0.5 * way], [40, 30], axis=0)
    vectors = unit(centers + spread * draw.standard_normal(centers.shape) / 4)
    between = 1 - (vectors[:40] @ vectors[40:].T).mean()
    assert between < 0.5
    found = clustering.clusters(vectors, np.full(70, 0.75), 0.5, None)
    assert same_groups(found, np.repeat([0, 1], [40, 30]))


@pytest.mark.parametrize("spread", [0.2, 0.7, 0.9])
def test_a_voice_of_any_spread_is_one(spread: float) -> None:
    vectors = voices([120], 2, spread)
    assert not clustering.clusters(vectors, np.full(120, 0.75), 0.5, None).any()


def test_no_more_voices_than_ten_are_counted() -> None:
    vectors = unit(np.repeat(np.eye(16)[:12], 10, axis=0) + 0.01)
    assert len(set(clustering.clusters(vectors, np.full(120, 0.75), 0.5, None))) == 10


def test_somebody_who_says_little_is_found_if_asked_for() -> None:
    vectors = voices([100, 3], 1, 0.3)
    labels = clustering.clusters(vectors, np.full(103, 0.75), 0.5, 2)
    assert same_groups(labels, np.repeat([0, 1], [100, 3]))
    assert not clustering.clusters(vectors, np.full(103, 0.75), 0.5, None).any()


def test_fewer_parts_than_speakers_are_a_speaker_each() -> None:
    assert sorted(clustering.clusters(voices([1, 1], 0), np.ones(2), 0.5, 8)) == [0, 1]
    assert clustering.clusters(voices([1], 0), np.ones(1), 0.5, None).tolist() == [0]


# --- Words ---


def test_vectors_without_numbers_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    vectors = voices([4, 4], seed=0).astype(np.float32)
    parts = [Part(2.0 * n, 2.0 * n + 1.5, True, vector) for n, vector in enumerate(vectors)]
    wanted = turns(parts, 20.0, 0.4, 2, "it")
    broken = Part(16.0, 17.5, True, np.full_like(vectors[0], np.nan))
    assert turns([*parts, broken], 20.0, 0.4, 2, "it") == wanted
    assert "it: left out: 1 of 9 parts of the speech, for which the model of voices gives no" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"it: the model of voices gives no numbers \(NaN\) for any speech"):
        turns([broken], 20.0, 0.4, None, "it")


def words(text: str, seconds: float = 0.3) -> list[Word]:
    """One every 0.4 s; "|" is a pause of a second."""
    found, time = list[Word](), 0.0
    for word in text.split():
        if word == "|":
            time += 1.0
        else:
            found.append(Word(word, time, time + seconds, 1.0))
            time += 0.4
    return found


@pytest.mark.parametrize(
    ("text", "turns", "wanted"),
    [
        ("a b c d", [(0.0, 0.75, "x"), (0.75, 2.0, "y")], "xxyy"),
        ("a b c d", [(0.0, 0.9, "x"), (0.9, 2.0, "y")], "xxyy"),  # most of c is after the change
        ("a b c d", [(0.0, 1.0, "x"), (1.0, 2.0, "y")], "xxxy"),
        ("a b c d", [(0.0, 0.3, "x"), (1.2, 2.0, "y")], "xxyy"),  # in the pause: the nearer turn
        ("a b c d e", [(0.0, 0.75, "x"), (0.75, 1.15, "y"), (1.15, 2.0, "x")], "xxxxx"),  # an island
        ("a b. yes c d", [(0.0, 0.75, "x"), (0.75, 1.15, "y"), (1.15, 2.0, "x")], "xxyxx"),  # between sentences
        ("a b | yes | c d", [(0.0, 1.0, "x"), (1.5, 2.4, "y"), (2.8, 5.0, "x")], "xxyxx"),  # between pauses
        ("a b c d e f g", [(0.0, 0.75, "x"), (0.75, 1.95, "y"), (1.95, 3.0, "x")], "xxyyyxx"),
        ("a b", [], "--"),
    ],
)
def test_speakers_change_between_words(text: str, turns: list[tuple[float, float, str]], wanted: str) -> None:
    found = assigned(words(text), [Turn(*turn) for turn in turns])
    assert "".join(word.speaker or "-" for word in found) == wanted
    assert [word._replace(speaker=None) for word in found] == words(text)


def test_names_are_given_by_first_turns(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Turn(0, 1, "7"), Turn(1, 2, "3"), Turn(2, 3, "7")]
    assert [turn.speaker for turn in named(turns, ["Ann", "Ben"], "it")] == ["Ann", "Ben", "Ann"]
    assert [turn.speaker for turn in named(turns, [], "it")] == ["Speaker 1", "Speaker 2", "Speaker 1"]
    assert not capsys.readouterr().err
    assert [turn.speaker for turn in named(turns, ["Ann"], "it")] == ["Ann", "Speaker 2", "Ann"]
    assert "it: 2 speakers were found, but 1 name is given: Ann" in capsys.readouterr().err


# --- Error rates ---

Spoken = list[tuple[float, float, str]]
HUNDREDTHS = st.integers(0, 400)


def turns_of(names: str) -> st.SearchStrategy[Spoken]:
    """Turns of at least 0.1 s, in hundredths of a second, without overlap of a speaker with themselves."""
    one = st.tuples(st.integers(0, 40), st.integers(1, 10), st.sampled_from(names))
    found = st.lists(one, max_size=8)

    def without_overlap(drawn: list[tuple[int, int, str]]) -> Spoken:
        used: dict[str, set[int]] = {}
        kept: Spoken = []
        for start, length, name in drawn:
            span = set(range(start, start + length))
            if not span & used.setdefault(name, set()):
                used[name] |= span
                kept.append((start / 10, (start + length) / 10, name))
        return kept

    return found.map(without_overlap)


@given(turns_of("abc"), turns_of("xyz"))
def test_error_parts_equal_brute_force(reference: Spoken, hypothesis: Spoken) -> None:
    """Frame by frame, with every mapping of speakers."""
    frames = np.arange(0, 6, 0.1) + 0.05

    def spoken(turns: Spoken, names: str) -> NDArray[np.bool_]:
        return np.array([[any(s <= t < e and n == name for s, e, n in turns) for t in frames] for name in names])

    ours, theirs = spoken(reference, "abc"), spoken(hypothesis, "xyz")
    right = max((ours & theirs[list(order)]).sum() for order in permutations(range(3)))
    both = np.minimum(ours.sum(axis=0), theirs.sum(axis=0)).sum()
    found = diarization_error(reference, hypothesis)
    assert found.missed == pytest.approx(0.1 * np.maximum(ours.sum(0) - theirs.sum(0).astype(int), 0).sum())
    assert found.false_alarm == pytest.approx(0.1 * np.maximum(theirs.sum(0) - ours.sum(0).astype(int), 0).sum())
    assert found.confusion == pytest.approx(0.1 * (both - right), abs=1e-9)
    assert found.total == pytest.approx(0.1 * ours.sum())


@given(turns_of("a"), turns_of("x"))
def test_error_rates_equal_those_of_simpleder(reference: Spoken, hypothesis: Spoken) -> None:
    """Of turns without overlap, for which it is made."""
    ours = [(start, end, "ab"[number % 2]) for number, (start, end, _) in enumerate(sorted(reference))]
    theirs = [(start, end, "xyz"[number % 3]) for number, (start, end, _) in enumerate(sorted(hypothesis))]
    if ours and theirs:
        wanted = simpleder.DER([(n, s, e) for s, e, n in ours], [(n, s, e) for s, e, n in theirs])
        assert diarization_error(ours, theirs).rate == pytest.approx(wanted)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_pairs_equal_those_of_scipy(rows: int, columns: int, seed: int) -> None:
    gains = np.random.default_rng(seed).integers(0, 9, (rows, columns)).astype(float)
    found = best_pairs(gains)
    assert len({row for row, _ in found}) == len({column for _, column in found}) == min(rows, columns)
    wanted = gains[linear_sum_assignment(gains, maximize=True)].sum()
    assert sum(gains[row, column] for row, column in found) == pytest.approx(wanted)


def test_equal_error_rates_are_between_the_errors() -> None:
    similarities = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    is_same = np.array([True, True, False, True, False, False])
    rate, threshold = verification.equal_error(similarities, is_same)
    assert rate == pytest.approx(1 / 3)
    assert threshold == 0.7
    assert verification.equal_error(similarities, np.array([1, 1, 1, 0, 0, 0], bool))[0] == 0
    assert verification.equal_error(similarities, np.array([0, 0, 0, 1, 1, 1], bool))[0] == 1
    assert verification.equal_error(np.zeros(6), is_same)[0] == pytest.approx(0.5)


def test_pairs_of_recordings_have_an_interval() -> None:
    vectors = voices([6, 6, 6, 6], 0, 2.0).astype(np.float32)
    found = verification.of_pairs(vectors, [*"aaaaaabbbbbbccccccdddddd"])
    assert found is not None
    assert found.interval is not None
    assert found.interval[0] < found.rate < found.interval[1]
    assert (found.num_same, found.num_different) == (4 * 15, 6 * 36)
    assert verification.of_pairs(vectors, ["a"] * 24) is None


# --- RTTM ---


def test_rttm_is_read_as_written(tmp_path: Path) -> None:
    turns = [Turn(0.0, 1.5, "Ann"), Turn(1.25, 3.0, "Ben_Smith")]
    (tmp_path / "it.rttm").write_text(";; comment\n" + rttm([turns[0], turns[1]._replace(speaker="Ben Smith")], "a b"))
    assert read_rttm(tmp_path / "it.rttm") == turns


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SPEAKER it 1 0.0", ":1: not a line of RTTM"),
        ("SPEAKER it 1 zero 1.0 <NA> <NA> Ann <NA> <NA>", ":1: start and duration in seconds wanted"),
        ("SPEAKER it 1 0.0 -1.0 <NA> <NA> Ann <NA> <NA>", ":1: start and duration in seconds wanted"),
        (
            "SPEAKER it 1 0 1 <NA> <NA> Ann <NA> <NA>\nSPEAKER other 1 0 1 <NA> <NA> Ann <NA> <NA>",
            ": of several recordings (it, other)",
        ),
    ],
)
def test_bad_rttm_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "it.rttm").write_text(line + "\n")
    with pytest.raises(UserError, match="rttm") as error:
        read_rttm(tmp_path / "it.rttm")
    assert said in str(error.value)


# --- Other people's models ---


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("count", [90, 400, 4321])
def test_features_equal_those_of_kaldi(rate: int, count: int) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, count).astype(np.float32)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.samp_freq, options.frame_opts.snip_edges = 0, rate, False
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 40, 20, -400
    theirs = kaldi_native_fbank.OnlineFbank(options)
    theirs.accept_waveform(rate, samples.tolist())
    theirs.input_finished()
    wanted = np.stack([theirs.get_frame(n) for n in range(theirs.num_frames_ready)])
    assert filter_bank(samples, rate, 40) == pytest.approx(wanted, abs=2e-3)


def timbre(path: Path, middle: NDArray[np.float32], **metadata: str) -> Path:
    """A model of voices as sherpa-onnx takes it: the mean of Kaldi's features, less `middle` (80)."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["mean", "middle"], ["embedding"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "timbre",
        [helper.make_tensor_value_info("x", floats, ["N", "T", 80])],
        [helper.make_tensor_value_info("embedding", floats, ["N", 80])],
        [helper.make_tensor("middle", floats, [80], middle.tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    said = {"framework": "wespeaker", "language": "English", "sample_rate": str(RATE), "output_dim": "80"}
    helper.set_model_props(model, {**said, "normalize_samples": "1", "feature_normalize_type": "", **metadata})
    onnx.save(model, path)
    return path


def test_models_for_sherpa_give_what_sherpa_gives(tmp_path: Path) -> None:
    import sherpa_onnx

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 20000).astype(np.float32)
    for metadata in ({}, {"normalize_samples": "0"}):
        path = timbre(tmp_path / "timbre.onnx", np.full(80, -5.0, np.float32), **metadata)
        config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(path), num_threads=1)
        extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)
        stream = extractor.create_stream()
        stream.accept_waveform(RATE, samples)
        stream.input_finished()
        wanted = unit(np.array([extractor.compute(stream)]))
        model = open_graph(path, threads=1)
        assert model.embed([samples, samples[:5000]])[:1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"framework": ""}, "framework: missing"),
        ({"framework": "nemo"}, "framework: nemo"),
        ({"sample_rate": "fast"}, "sample_rate: fast"),
        ({"output_dim": "0"}, "output_dim: 0"),
        ({"feature_normalize_type": "per_feature"}, "feature_normalize_type: per_feature"),
    ],
)
def test_graphs_that_are_no_models_of_voices_are_refused(metadata: dict[str, str], said: str, tmp_path: Path) -> None:
    path = timbre(tmp_path / "it.onnx", np.zeros(80, np.float32), **metadata)
    with pytest.raises(UserError, match=f"it.onnx: {said}; a model of voices for sherpa-onnx is wanted"):
        open_graph(path)


# --- From a file to turns ---


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: it.wav, in which a man and a woman speak in turns, it.rttm, and voices.onnx, which tells them apart."""
    folder, synthesizer = tmp_path_factory.mktemp("conversation"), Synthesizer()
    spoken, turns, time = list[audio.Samples](), list[Turn](), 0.0
    for number, text in enumerate(
        ["what did you say about the weather", "it will rain all day, take a coat", "oh no"] * 2
    ):
        man = number % 2 == 0
        samples = synthesizer.say(text, "en-us+m3" if man else "en-us+f2", 160, 30 if man else 70)
        samples = audio.resample(samples, synthesizer.sample_rate_hz, RATE)
        loud = np.flatnonzero(np.abs(samples) > 0.01)
        samples = samples[loud[0] : loud[-1]]
        turns.append(Turn(time, time + len(samples) / RATE, "man" if man else "woman"))
        spoken += [samples, np.zeros(round(0.3 * RATE), np.float32)]
        time += len(samples) / RATE + 0.3
    whole = np.concatenate(spoken)
    audio.write(
        folder / "it.wav", whole + 1e-3 * np.random.default_rng(0).standard_normal(len(whole), np.float32), RATE
    )
    (folder / "it.rttm").write_text(rttm(turns, "it"))
    means = {
        name: np.mean([filter_bank(s, RATE, 80).mean(axis=0) for s in spoken[start::4]], axis=0)
        for name, start in (("man", 0), ("woman", 2))
    }
    timbre(folder / "voices.onnx", ((means["man"] + means["woman"]) / 2).astype(np.float32), threshold="0.5")
    return folder


@pytest.mark.parametrize("speakers", ["2", "auto"])
def test_a_conversation_is_divided_into_turns(
    speakers: str, conversation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diarize", str(conversation / "voices.onnx"), str(conversation / "it.wav"), "--speakers", speakers]
    assert main([*words, "--format", "rttm", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'it.rttm'}\n"
    assert main([*words, "--format", "json", "--names", "Ann,Ben"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [turn["speaker"] for turn in found["turns"]] == ["Ann", "Ben"] * 3
    assert "warning" not in said.err
    error = diarization_error(read_rttm(conversation / "it.rttm"), read_rttm(tmp_path / "it.rttm"))
    assert error.confusion == 0
    assert error.rate < 0.15


@pytest.mark.parametrize(("speakers", "said"), [(1, None), (8, "8 speakers asked for, but"), (2, None)])
def test_other_numbers_of_speakers_are_obeyed_and_said(
    speakers: int, said: str | None, conversation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = open_graph(conversation / "voices.onnx", 1).diarize(conversation / "it.wav", speakers=speakers)
    assert 1 <= len(found.speakers) <= speakers
    err = capsys.readouterr().err
    assert ("warning" in err) == (said is not None)
    assert said is None or said in err


def test_of_speech_that_overlaps_one_speaker_is_missed(conversation: Path) -> None:
    """The rest is as without it, and words have one of both speakers."""
    seconds = 0.8
    turns = read_rttm(conversation / "it.rttm")
    samples = audio.read(conversation / "it.wav", RATE)
    place, shift = round(turns[4].start * RATE), round((0.3 + seconds) * RATE)
    mixed = np.pad(samples[:place], (0, len(samples) - place - shift))
    mixed[place - shift :] += samples[place:]
    moved = [
        turn if n < 4 else Turn(turn.start - shift / RATE, turn.end - shift / RATE, turn.speaker)
        for n, turn in enumerate(turns)
    ]
    found = open_graph(conversation / "voices.onnx", 1).diarize(mixed, RATE, speakers=2)
    error = diarization_error(moved, found.turns)
    assert error.missed == pytest.approx(seconds, abs=0.2)
    assert error.rate < 0.15 + 2 * seconds / error.total
    middle = place / RATE - 0.3 - seconds / 2
    [word] = assigned([Word("both", middle - 0.1, middle + 0.1, 1.0)], found.turns)
    assert word.speaker in found.speakers


def test_one_voice_asked_to_be_two_is_said(conversation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turn = read_rttm(conversation / "it.rttm")[1]
    samples = audio.read(conversation / "it.wav", RATE, turn.start, turn.end - turn.start)
    model = open_graph(conversation / "voices.onnx", 1)
    assert model.diarize(np.tile(samples, 3), RATE, speakers=2).turns
    assert (
        "samples: 2 speakers asked for, but some of the voices are as alike as one is to itself"
        in capsys.readouterr().err
    )
    assert model.diarize(np.tile(samples, 3), RATE).speakers == ["Speaker 1"]


@pytest.mark.parametrize("seconds", [0.01, 3.0])
def test_without_speech_there_are_no_turns(seconds: float, conversation: Path) -> None:
    model = open_graph(conversation / "voices.onnx", 1)
    found = model.diarize(np.zeros(round(seconds * RATE), np.float32), RATE, speakers=2)
    assert (found.turns, found.duration) == ([], seconds)


def test_less_than_a_part_is_one_turn(conversation: Path) -> None:
    model: SpeakerEmbedder = open_graph(conversation / "voices.onnx", 1)
    samples = audio.read(conversation / "it.wav", RATE, 0.3, 0.6)
    assert model.diarize(samples, RATE).speakers == ["Speaker 1"]
    assert model.diarize(samples, RATE, speakers=2).speakers == ["Speaker 1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--speakers N or --speakers auto: how many speakers are there?"),
        (["--speakers", "2", "--names", "Ann"], "--speakers 2, but --names gives 1: Ann"),
        (["--speakers", "99"], "speakers: a number from 1 to 50 wanted, got 99"),
    ],
)
def test_mistakes_of_commands_are_said(
    words: list[str], said: str, conversation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diarize", str(conversation / "voices.onnx"), str(conversation / "it.wav"), *words]) == 2
    assert said in capsys.readouterr().err


def test_transcripts_name_speakers(conversation: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each word has the speaker of the turn around its middle, unless it is near a change."""
    words = ["transcribe", str(trained), str(conversation / "it.wav"), "--speakers", "2", "--names", "Ann,Ben"]
    assert main([*words, "--speaker-model", str(conversation / "voices.onnx"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["words"]
    assert {word["speaker"] for word in found} == {"Ann", "Ben"}
    names = {"man": "Ann", "woman": "Ben"}
    for word in found:
        for turn in read_rttm(conversation / "it.rttm"):
            if turn.start + 0.8 < word["start"] and word["end"] < turn.end - 0.8:
                assert word["speaker"] == names[turn.speaker]
