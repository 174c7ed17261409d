"""Models of voices: margins, padding, training, exports in their runtimes, evaluation, speakers in transcripts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from segue import recipe, tasks
from segue.cli import main
from segue.data import audio
from segue.layers.angular_margin import angular_scores
from segue.tasks.speaker_embedding.model import SpeakerModel, StatisticsPooling
from segue.tasks.speaker_embedding.settings import Recipe

RATE = 8000


# --- The model ---


def test_margins_equal_the_paper() -> None:
    """s cos(theta + m) for the target, s cos(theta) for the others (equation 3), by arc cosines."""
    draw = torch.Generator().manual_seed(0)
    embeddings, centers = torch.randn(6, 5, generator=draw), torch.randn(4, 5, generator=draw)
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    angles = torch.nn.functional.cosine_similarity(embeddings[:, None], centers[None], dim=2).acos()
    moved = angles + 0.3 * torch.nn.functional.one_hot(targets, 4)
    assert moved.max() < torch.pi
    torch.testing.assert_close(angular_scores(embeddings, centers, targets, 0.3, 20.0), 20 * moved.cos())


def test_margins_lower_the_target_at_all_angles() -> None:
    angles = torch.linspace(0, torch.pi, 200)
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    found = angular_scores(embeddings, torch.tensor([[1.0, 0.0]]), torch.zeros(200, dtype=torch.int64), 0.5, 1.0)
    assert (found[:, 0] < angles.cos()).all()
    assert (found.diff(dim=0) < 0).all()
    [gradient] = torch.autograd.grad(found.sum(), embeddings)
    assert gradient.isfinite().all()


def test_statistics_equal_those_of_real_frames() -> None:
    encoded, frames = torch.randn(2, 3, 9), torch.tensor([9, 4])
    found = StatisticsPooling()(encoded, frames)
    for row, count in enumerate((9, 4)):
        real = encoded[row, :, :count]
        torch.testing.assert_close(found[row, :3], real.mean(dim=1))
        torch.testing.assert_close(found[row, 3:], (real.var(dim=1, correction=0) + 1e-5).sqrt())


@pytest.fixture(scope="module")
def model(speaker_recipe: Path) -> SpeakerModel:
    section = recipe.validate(recipe.read(speaker_recipe), Recipe)
    torch.manual_seed(0)
    return SpeakerModel(section, 6).eval()


def test_padding_changes_no_vector(model: SpeakerModel) -> None:
    draw = torch.Generator().manual_seed(0)
    sounds = [0.1 * torch.randn(size, generator=draw) for size in (4000, 2500)]
    alone = torch.cat([model(each[None], torch.tensor([len(each)])) for each in sounds])
    padded = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True, padding_value=9.0)
    torch.testing.assert_close(model(padded, torch.tensor([4000, 2500])), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(2))


# --- Training, evaluation, exports ---


def test_unseen_voices_are_told_apart(trained_speakers: Path, speaker_recordings: Path) -> None:
    """The test manifest is of other speakers than the training data."""
    found = tasks.load(trained_speakers).evaluate(speaker_recordings / "test.jsonl")
    assert found["equal_error_rate"] < 0.2
    assert found["speakers"] == 3
    assert found["intervals"]["equal_error_rate"][0] <= found["equal_error_rate"]


def test_known_and_unknown_speakers_have_scores(
    trained_speakers: Path, speaker_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [(speaker_recordings / f"{name}.jsonl").read_text() for name in ("train", "test")]
    values = [json.loads(line) for text in texts for line in text.splitlines()]
    for each in values:
        each["audio_filepath"] = str(speaker_recordings / each["audio_filepath"])
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(each) + "\n" for each in values))
    report = tmp_path / "report.html"
    assert (
        main(["evaluate", str(trained_speakers), str(tmp_path / "all.jsonl"), "--json", "--report", str(report)]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert {name: each["recordings"] for name, each in found["voices"].items()} == {
        "in training": 24,
        "not in training": 12,
    }
    assert found["speakers"] == 6
    assert "similarity to the own speaker" in report.read_text()


@pytest.fixture(scope="module")
def exported(target: str, traced_once: None, trained_speakers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recognizer of speakers is exported to, which is compared with PyTorch when it is written."""
    del traced_once
    folder = tmp_path_factory.mktemp("exported_speakers") / target
    assert main(["export", str(trained_speakers), target, str(folder)]) == 0
    return folder


@pytest.mark.parametrize("target", ["onnx"], scope="module")
def test_an_export_gives_the_same_vectors(exported: Path, trained_speakers: Path, speaker_recordings: Path) -> None:
    ours, onnx = tasks.load(trained_speakers), tasks.load(exported)
    sounds = [audio.read(path, RATE) for path in sorted(speaker_recordings.glob("test_0*.wav"))[:3]]
    assert onnx.embed(sounds) == pytest.approx(ours.embed(sounds), abs=1e-4)
    assert onnx.threshold == ours.threshold


@pytest.mark.parametrize("target", ["onnx", pytest.param("sherpa-onnx", marks=pytest.mark.slow)], scope="module")
def test_exports_find_the_same_speakers(exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["worst_difference"] < 1e-4
    assert parity["identical"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sherpa-onnx"], scope="module")
def test_sherpa_finds_a_speaker_with_it(exported: Path, speaker_recordings: Path) -> None:
    """Its registry of speakers finds each recording's speaker among two."""
    import sherpa_onnx

    path = str(exported / "model.onnx")
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=path))
    assert extractor.dim == 16
    values = [json.loads(line) for line in (speaker_recordings / "test.jsonl").read_text().splitlines()]
    registry = sherpa_onnx.SpeakerEmbeddingManager(extractor.dim)

    def vector(name: str) -> Any:
        stream = extractor.create_stream()
        stream.accept_waveform(RATE, audio.read(speaker_recordings / name, RATE))
        stream.input_finished()
        return extractor.compute(stream)

    speakers = {each["speaker"]: each["audio_filepath"] for each in values}
    for name, file in speakers.items():
        registry.add(name, vector(file))
    found = [registry.search(vector(each["audio_filepath"]), 0.0) == each["speaker"] for each in values]
    assert np.mean(found) > 0.8


def segmentation(path: Path) -> Path:
    """A graph in the place of pyannote's: speech between pauses is of the speakers 1, 2, 3, 1, ... of its five seconds.

    Speech is where the mean magnitude in 0.1 s is above 0.01, up to 0.3 s apart.
    """
    window, shift = RATE // 10, RATE // 100
    onset = numpy_helper.from_array(np.array([[[-1, 1]]], np.float32), "onset")
    classes = numpy_helper.from_array(np.arange(7, dtype=np.float32)[None, :, None], "classes")
    numbers = {"least": np.float32(0.01), "one": np.float32(1), "three": np.float32(3), "axis": np.int64(2)}
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("AveragePool", ["size"], ["level"], kernel_shape=[window], strides=[shift]),
        helper.make_node("Greater", ["level", "least"], ["is_loud"]),
        helper.make_node("Cast", ["is_loud"], ["loud"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MaxPool", ["loud"], ["speech"], kernel_shape=[31], pads=[15, 15]),
        helper.make_node("Conv", ["speech", "onset"], ["edges"], pads=[1, 0]),
        helper.make_node("Relu", ["edges"], ["onsets"]),
        helper.make_node("CumSum", ["onsets", "axis"], ["count"]),
        helper.make_node("Mod", ["count", "three"], ["turn"], fmod=1),
        helper.make_node("Add", ["turn", "one"], ["speaker"]),
        helper.make_node("Mul", ["speech", "speaker"], ["class"]),
        helper.make_node("Equal", ["class", "classes"], ["is_class"]),
        helper.make_node("Cast", ["is_class"], ["scores"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["scores"], ["y"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "segmentation",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, "T"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", "F", 7])],
        [onset, classes, *(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {"sample_rate": RATE, "window_size": 5 * RATE, "receptive_field_size": window}
    said |= {"receptive_field_shift": shift, "num_speakers": 3, "powerset_max_classes": 2, "num_classes": 7}
    helper.set_model_props(model, {key: str(value) for key, value in said.items()})
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sherpa-onnx"], scope="module")
def test_sherpa_diarizes_with_it(
    exported: Path, trained_speakers: Path, speaker_recordings: Path, tmp_path: Path
) -> None:
    """Turns of two seconds, of speakers that the model was not trained on."""
    import sherpa_onnx

    values = [json.loads(line) for line in (speaker_recordings / "test.jsonl").read_text().splitlines()]
    said: dict[str, list[audio.Samples]] = {}
    for each in values:
        said.setdefault(each["speaker"], []).append(audio.read(speaker_recordings / each["audio_filepath"], RATE))
    turns = [np.concatenate(said[name][first : first + 2]) for first in (0, 2) for name in ("90 hertz", "215 hertz")]
    pause = np.zeros(RATE // 2, np.float32)
    samples = np.concatenate([pause, *(each for turn in turns for each in (turn, pause))])
    parts = sherpa_onnx.OfflineSpeakerSegmentationPyannoteModelConfig(str(segmentation(tmp_path / "parts.onnx")))
    threshold = tasks.load(trained_speakers).threshold
    for clustering in (
        sherpa_onnx.FastClusteringConfig(num_clusters=2),
        sherpa_onnx.FastClusteringConfig(num_clusters=-1, threshold=threshold),
    ):
        config = sherpa_onnx.OfflineSpeakerDiarizationConfig(
            segmentation=sherpa_onnx.OfflineSpeakerSegmentationModelConfig(pyannote=parts),
            embedding=sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(exported / "model.onnx")),
            clustering=clustering,
        )
        found = sherpa_onnx.OfflineSpeakerDiarization(config).process(samples).sort_by_start_time()
        assert [each.speaker for each in found] == [found[0].speaker, 1 - found[0].speaker] * 2
        assert [each.start for each in found] == pytest.approx([0.5, 3.0, 5.5, 8.0], abs=0.2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["speaker"], "speaker: no line has one"),
        ([], "speaker: all have 'high'; at least two speakers are needed"),
    ],
)
def test_data_without_two_speakers_are_refused(
    lines: list[str], said: str, speaker_recipe: Path, speaker_recordings: Path, tmp_path: Path, capsys: Any
) -> None:
    [value] = [json.loads(line) for line in (speaker_recordings / "train.jsonl").read_text().splitlines()][:1]
    value |= {"audio_filepath": str(speaker_recordings / value["audio_filepath"]), "speaker": "high"}
    for key in lines:
        del value[key]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(value) + "\n")
    words = ["train", str(speaker_recipe), f"data.root={tmp_path}", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert said in capsys.readouterr().err


# --- Speakers in transcripts ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--speakers", "2"], "--speakers: --format text shows no speakers; interview, html, json, srt and vtt do"),
        (["--speakers", "2", "--format", "srt"], "--speakers needs --speaker-model VOICES: segue train small_voices"),
        (["--speaker-model", "x"], "--speaker-model is for --speakers N or --speakers auto, which is not given"),
        (["--names", "Ann"], "--names: names for whom? It needs --speakers or --channels"),
        (["--speakers", "2", "--channels", "--format", "srt"], "give one of both"),
        (["--speakers", "auto", "--format", "srt", "--speaker-model", "nobody.onnx"], "nobody.onnx: no such file"),
        (
            ["--speakers", "auto", "--format", "srt", "--speaker-model", "{trained}"],
            "not a model of voices; segue train",
        ),
        (
            ["--speakers", "3", "--names", "Ann,Ben", "--format", "srt", "--speaker-model", "x"],
            "--speakers 3, but --names gives 2: Ann, Ben",
        ),
    ],
)
def test_mistakes_about_speakers_are_said(
    words: list[str], said: str, trained: Path, speaker_recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(speaker_recordings / "test_00.wav")
    assert main(["transcribe", str(trained), file, *(word.format(trained=trained) for word in words)]) == 2
    assert said in capsys.readouterr().err
