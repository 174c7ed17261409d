"""Recognizers of NeMo, imported: from archives made here with the names that NeMo gives, and from NeMo itself."""

import gzip
import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

import segue
from segue import tasks
from segue.cli import main
from segue.data import audio
from segue.formats.archive import MOST_MEMBERS
from segue.tasks.speech_recognition import AcousticModel

RATE_HZ = 16000
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
Blocks = list[dict[str, Any]]
State = dict[str, Tensor]


def block(filters: int, kernel: int, repeat: int = 1, **more: Any) -> dict[str, Any]:
    lists = {"kernel": [kernel], "stride": [1], "dilation": [1]}
    return {"filters": filters, "repeat": repeat, **lists, "dropout": 0.1, "residual": repeat > 1, **more}


MODELS: dict[str, Blocks] = {
    "jasper": [
        block(12, 11, stride=[2]),
        block(12, 11, 2, residual_dense=True),
        block(16, 13, 3, residual_dense=True),
        block(16, 5, dilation=[2]),
        block(20, 1),
    ],
    "quartznet": [
        block(12, 33, stride=[2], separable=True),
        block(12, 11, 3, separable=True),
        block(16, 13, 2, separable=True),
        block(16, 7, dilation=[2], separable=True),
        block(20, 1),
    ],
}


def config_of(blocks: Blocks) -> dict[str, Any]:
    """What NeMo writes, with a reference as it has some."""
    nemo = "nemo.collections.asr.modules"
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "nemo_version": "1.20.0",
        "sample_rate": RATE_HZ,
        "labels": LABELS,
        "preprocessor": {
            "_target_": f"{nemo}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": "${model.sample_rate}",
            "normalize": "per_feature",
            "window_size": 0.02,
            "window_stride": 0.01,
            "window": "hann",
            "features": 24,
            "n_fft": 512,
            "dither": 1e-5,
            "pad_to": 16,
        },
        "spec_augment": {"_target_": f"{nemo}.SpectrogramAugmentation", "rect_masks": 5},
        "encoder": {
            "_target_": f"{nemo}.ConvASREncoder",
            "feat_in": 24,
            "activation": "relu",
            "conv_mask": True,
            "jasper": blocks,
        },
        "decoder": {
            "_target_": f"{nemo}.ConvASRDecoder",
            "feat_in": blocks[-1]["filters"],
            "num_classes": len(LABELS),
            "vocabulary": "${labels}",
        },
    }


def weights_of(blocks: Blocks, seed: int = 0) -> State:
    """Random weights under NeMo's names."""
    draw = torch.Generator().manual_seed(seed)
    found: State = {
        "preprocessor.featurizer.window": torch.ones(320),
        "preprocessor.featurizer.fb": torch.ones(1, 24, 257),
    }

    def norm(place: str, channels: int) -> None:
        found[f"{place}.weight"] = torch.rand(channels, generator=draw) + 0.5
        found[f"{place}.bias"] = torch.randn(channels, generator=draw) * 0.1
        found[f"{place}.running_mean"] = torch.randn(channels, generator=draw) * 0.1
        found[f"{place}.running_var"] = torch.rand(channels, generator=draw) + 0.5
        found[f"{place}.num_batches_tracked"] = torch.tensor(7)

    def convolution(place: str, outputs: int, inputs: int, kernel: int) -> None:
        weight = torch.randn(outputs, inputs, kernel, generator=draw)
        found[f"{place}.conv.weight"] = weight * (2 / (inputs * kernel)) ** 0.5

    channels, panes = 24, list[int]()
    for number, each in enumerate(blocks):
        place, filters, [kernel] = f"encoder.encoder.{number}", each["filters"], each["kernel"]
        sources = [channels]
        if each.get("residual_dense"):
            panes.append(channels)
            sources = list(panes)
        entry = 0
        for _ in range(each["repeat"]):
            if each.get("separable"):
                convolution(f"{place}.mconv.{entry}", channels, 1, kernel)
                convolution(f"{place}.mconv.{entry + 1}", filters, channels, 1)
                entry += 1
            else:
                convolution(f"{place}.mconv.{entry}", filters, channels, kernel)
            norm(f"{place}.mconv.{entry + 1}", filters)
            entry, channels = entry + 4, filters
        for pane, inputs in enumerate(sources if each["residual"] else []):
            convolution(f"{place}.res.{pane}.0", filters, inputs, 1)
            norm(f"{place}.res.{pane}.1", filters)
    found["decoder.decoder_layers.0.weight"] = torch.randn(len(LABELS) + 1, channels, 1, generator=draw) / 4
    found["decoder.decoder_layers.0.bias"] = torch.randn(len(LABELS) + 1, generator=draw)
    return found


def expected(blocks: Blocks, state: State, features: Tensor) -> Tensor:
    """(1, F, T) normalized features -> (T', V): JasperBlock and ConvASRDecoder as functions, without padding."""

    def norm(place: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{place}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x, panes = features, list[Tensor]()
    for number, each in enumerate(blocks):
        place, [kernel], [stride], [dilation] = (
            f"encoder.encoder.{number}",
            each["kernel"],
            each["stride"],
            each["dilation"],
        )
        sources = [x]
        if each.get("residual_dense"):
            panes.append(x)
            sources = list(panes)
        y, entry = x, 0
        for repeat in range(each["repeat"]):
            weight = state[f"{place}.mconv.{entry}.conv.weight"]
            groups = y.shape[1] if each.get("separable") else 1
            y = F.conv1d(y, weight, None, stride, dilation * (kernel - 1) // 2, dilation, groups)
            if each.get("separable"):
                entry += 1
                y = F.conv1d(y, state[f"{place}.mconv.{entry}.conv.weight"])
            y = norm(f"{place}.mconv.{entry + 1}", y)
            if repeat + 1 < each["repeat"]:
                y = y.relu()
            entry += 4
        for pane, source in enumerate(sources if each["residual"] else []):
            y = y + norm(f"{place}.res.{pane}.1", F.conv1d(source, state[f"{place}.res.{pane}.0.conv.weight"]))
        x = y.relu()
    scores = F.conv1d(x, state["decoder.decoder_layers.0.weight"], state["decoder.decoder_layers.0.bias"])
    return scores.log_softmax(dim=1)[0].T


def checkpoint(state: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


def tar_of(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def members_of(config: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, bytes]:
    return {
        "./model_config.yaml": yaml.safe_dump(dict(config), allow_unicode=True).encode(),
        "./model_weights.ckpt": checkpoint(state),
    }


def archive(path: Path, name: str = "jasper", **changes: Any) -> Path:
    """A `.nemo` file; `changes` are of the configuration, by keys with double underscores for dots."""
    blocks = json.loads(json.dumps(MODELS[name]))
    config, state = config_of(blocks), weights_of(MODELS[name])
    for key, value in changes.items():
        *tables, last = key.split("__")
        table: Any = config
        for each in tables:
            table = table[int(each)] if isinstance(table, list) else table[each]
        if value is None:
            del table[last]
        else:
            table[last] = value
    path.write_bytes(tar_of(members_of(config, state)))
    return path


def sound(num_samples: int = 20_000) -> audio.Samples:
    draw = np.random.default_rng(3)
    time = np.arange(num_samples) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * (200 + 900 * k) * time * (1 + time)) for k in range(4))
    return (0.1 * tones + 0.01 * draw.standard_normal(num_samples)).astype(np.float32)


def scores_of(model: Any, waveforms: list[audio.Samples]) -> list[Any]:
    return [each.scores for each in model.backend.recognize(waveforms)]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_nemo_s_blocks(name: str, tmp_path: Path) -> None:
    source = archive(tmp_path / "model.nemo", name)
    assert main(["import", str(source), str(tmp_path / "model")]) == 0
    trained = tasks.restore(tmp_path / "model")
    assert isinstance(trained.model, AcousticModel)
    waveforms = [sound(), sound(9_000)]
    found = scores_of(segue.load(tmp_path / "model", device="cpu"), waveforms)
    for waveform, ours in zip(waveforms, found, strict=True):
        front_end = trained.model.front_end
        features, frames = front_end(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        wanted = expected(MODELS[name], weights_of(MODELS[name]), front_end.normalize(features, frames))
        np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-4)


def test_older_archives_are_compressed(tmp_path: Path) -> None:
    plain = archive(tmp_path / "model.nemo")
    older = tmp_path / "older.nemo"
    older.write_bytes(gzip.compress(plain.read_bytes()))
    assert main(["import", str(older), str(tmp_path / "a")]) == 0
    assert main(["import", str(plain), str(tmp_path / "b")]) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"README.md", "model.safetensors", "recipe.toml", "tokenizer.json"}
    for name in names - {"README.md"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    card = (tmp_path / "a" / "README.md").read_text()
    assert "Imported with [Segue]" in card
    assert "From older.nemo (SHA-256 of older.nemo: " in card


@pytest.mark.parametrize(
    ("version", "words", "padding"),
    [
        ("2.4.1", [], "reflect"),
        ("2.5.0", [], "zeros"),
        ("3.0.0rc0", [], "zeros"),
        ("2.5.0", ["--nemo-version", "1.0"], "reflect"),
        (None, ["--nemo-version", "2.5.0"], "zeros"),
    ],
)
def test_the_version_decides_the_front_end(
    version: str | None, words: list[str], padding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = archive(tmp_path / "model.nemo", nemo_version=version)
    assert main(["import", str(source), str(tmp_path / "model"), *words]) == 0
    assert tasks.restore(tmp_path / "model").recipe.features.padding == padding
    assert f"front end of NeMo {'since' if padding == 'zeros' else 'before'} 2.5.0" in capsys.readouterr().err


def refused(source: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which an import is refused; nothing is written."""
    out = source.parent / "out"
    capsys.readouterr()
    assert main(["import", str(source), str(out), *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("segue: ")
    assert message.count("\n") == 1
    assert [path.name for path in source.parent.iterdir() if "out" in path.name] == []
    return message


SE = "encoder.jasper.1.se: true cannot be imported, only false"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nemo_version": None}, "nemo_version: missing, and the front end of NeMo 2.5.0 differs"),
        ({"nemo_version": "2.5.0rc1"}, "'2.5.0rc1': no version of which it is known"),
        ({"target": "nemo.collections.asr.models.EncDecRNNTModel"}, "target: EncDecRNNTModel cannot be imported, only"),
        ({"target": None}, "target: missing"),
        ({"encoder___target_": "nemo.X.ConformerEncoder"}, "encoder._target_: ConformerEncoder cannot be imported"),
        ({"encoder__jasper__1__se": True}, SE),
        ({"encoder__jasper__1__filters": None}, "encoder.jasper.1.filters: missing"),
        ({"encoder__jasper__1__filters": "many"}, "encoder.jasper.1.filters: a whole number is wanted, not 'many'"),
        ({"encoder__jasper__1__stride": [2]}, "encoder.jasper.1.stride: a stride in a block with several"),
        ({"encoder__jasper__1__residual_dense": False}, "encoder.jasper.1.residual_dense: false cannot be imported"),
        ({"encoder__activation": "selu"}, "encoder.activation: 'selu' cannot be imported, only 'relu'"),
        ({"preprocessor__normalize": "all_features"}, "preprocessor.normalize: 'all_features' cannot be imported"),
        ({"preprocessor__sample_rate": "${oc.env:RATE}"}, "preprocessor.sample_rate: '${oc.env:RATE}': an expression"),
        ({"decoder__vocabulary": "${nothing.here}"}, "decoder.vocabulary: refers to nothing.here, which is missing"),
        ({"labels": [*LABELS, "ab"]}, "decoder.vocabulary.28: 'ab': a label of one character is wanted"),
        ({"labels": [*LABELS, "a"]}, "decoder.vocabulary.28: 'a' is in it twice"),
        ({"labels": LABELS[:-1]}, "decoder.num_classes: 28, but decoder.vocabulary has 27 labels"),
        ({"encoder__jasper__4__filters": 21}, "encoder.encoder.4.mconv.0.conv.weight: has shape (20, 16, 1)"),
        (
            {"encoder__jasper__0__kernel_size_factor": 0.5},
            "mconv.0.conv.weight: has shape (12, 24, 11), model_",
        ),
    ],
)
def test_what_is_not_our_jasper_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = archive(tmp_path / "model.nemo", **changes)
    capsys.readouterr()
    assert main(["import", str(found), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Evil:
    """Loading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_pickled_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = members_of(config_of(MODELS["jasper"]), {})
    touched, source = tmp_path / "touched", tmp_path / "model.nemo"
    evil = {**weights_of(MODELS["jasper"]), "more": Evil(touched)}
    for content in (checkpoint(evil), pickle.dumps(Evil(touched), protocol=2)):
        source.write_bytes(tar_of({**members, "./model_weights.ckpt": content}))
        assert "model_weights.ckpt: contains other objects than tensors" in refused(source, capsys)
        assert not touched.exists()


def test_yaml_with_python_tags_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = members_of(config_of(MODELS["jasper"]), {})
    source = tmp_path / "model.nemo"
    touched = tmp_path / "touched"
    tag = f"a: 1\nb: !!python/object/apply:os.mkdir ['{touched}']\n".encode()
    source.write_bytes(tar_of({**members, "./model_config.yaml": tag}))
    message = refused(source, capsys)
    assert "model_config.yaml: line 2: could not determine a constructor for the tag" in message
    assert "only plain values are read" in message
    assert not touched.exists()


def link(name: str, kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def add(file: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)

    return add


def member(name: str, size: int = 0) -> Callable[[tarfile.TarFile], None]:
    def add(file: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        file.addfile(info, io.BytesIO(bytes(size)))

    return add


def many(file: tarfile.TarFile) -> None:
    for number in range(MOST_MEMBERS + 1):
        member(str(number))(file)


UNSAFE = "a name outside of the archive's folder"
LINK = "neither a file nor a folder (a link or a device)"


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (member("../model_weights.ckpt"), UNSAFE),
        (member("a/../../b"), UNSAFE),
        (member("/etc/passwd"), UNSAFE),
        (member("C:\\model.ckpt"), UNSAFE),
        (link("model_weights.ckpt", tarfile.SYMTYPE), LINK),
        (link("model_weights.ckpt", tarfile.LNKTYPE), LINK),
        (link("zero", tarfile.CHRTYPE), LINK),
        (link("pipe", tarfile.FIFOTYPE), LINK),
        (member("model_config.yaml", 2 << 20), "has 2,097,152 bytes; at most 1,048,576 are read"),
        (many, "more than 1,000 members: not a model"),
        (member("else"), "model_config.yaml, model_weights.ckpt is not in it"),
    ],
)
def test_unsafe_members_are_refused(
    add: Callable[[tarfile.TarFile], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "model.nemo"
    with tarfile.open(source, "w") as file:
        add(file)
    assert message in refused(source, capsys)


def test_bombs_are_refused_before_they_expand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.nemo"
    with tarfile.open(source, "w:gz") as file:
        member("model_weights.ckpt", 100 << 20)(file)
    assert source.stat().st_size < 1 << 20
    assert "claims 104,857,600 bytes in an archive of" in refused(source, capsys)
    with tarfile.open(source, "w:gz") as file:
        for number in range(100):
            member(str(number), 1 << 20)(file)
    assert "expands to more than" in refused(source, capsys)
    bomb = io.BytesIO(checkpoint({"a": torch.zeros(1 << 20)}))
    small = io.BytesIO()
    with zipfile.ZipFile(bomb) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    members = members_of(config_of(MODELS["jasper"]), {})
    source.write_bytes(tar_of({**members, "./model_weights.ckpt": small.getvalue()}))
    assert "model_weights.ckpt: compressed, unlike files that torch writes" in refused(source, capsys)
    views = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights_of(MODELS["jasper"]).items()}
    source.write_bytes(
        tar_of({**members, "./model_weights.ckpt": checkpoint(views | {"z": torch.zeros(1).expand(10**9)})})
    )
    assert "its tensors are larger than the file" in refused(source, capsys)


def test_damaged_archives_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = archive(tmp_path / "model.nemo").read_bytes()
    source = tmp_path / "damaged.nemo"
    for content in (whole[: len(whole) // 2], gzip.compress(whole)[: len(whole) // 3], b"no archive", b"", b"\x1f\x8b"):
        source.write_bytes(content)
        assert "not a complete tar archive" in refused(source, capsys)
    assert "no such file or folder" in refused(tmp_path / "missing.nemo", capsys)


def test_an_existing_directory_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = archive(tmp_path / "model.nemo"), tmp_path / "out"
    out.mkdir()
    assert main(["import", str(source), str(out)]) == 2
    assert capsys.readouterr().err == f"segue: {out}: exists already; give another directory\n"
    assert list(out.iterdir()) == []


def test_sherpa_onnx_is_refused_in_one_line(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(archive(tmp_path / "model.nemo")), str(tmp_path / "model")]) == 0
    words = ["export", str(tmp_path / "model"), "sherpa-onnx", str(tmp_path / "sherpa")]
    assert main([*words, "--examples", str(corpus / "test.jsonl")]) == 2
    assert 'features.kind = "nemo": sherpa-onnx computes other features' in capsys.readouterr().err


@pytest.mark.slow
def test_imported_models_are_ordinary_ones(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fine-tuned from it, exported, transcribed in windows: the graph includes NeMo's front end."""
    model, run, graph = tmp_path / "model", tmp_path / "run", tmp_path / "graph"
    assert main(["import", str(archive(tmp_path / "model.nemo", "quartznet")), str(model)]) == 0
    assert main(["evaluate", str(model), str(corpus / "test.jsonl")]) == 0
    fast = ["engine.steps=2", "engine.threads=1", "engine.evaluate_every=2", "engine.save_every=2"]
    assert main(["train", "--from", str(model), f"data.root={corpus}", "--out", str(run), *fast]) == 0
    told = json.loads((run / "start.json").read_text())["tensors"]
    assert {each["fate"] for each in told} == {"loaded"}
    assert main(["export", str(run), "onnx", str(graph)]) == 0
    long = np.concatenate([sound(int(1.1 * RATE_HZ))] * 30)
    soundfile.write(tmp_path / "long.wav", long, RATE_HZ)
    capsys.readouterr()
    texts = []
    for each in (run, graph):
        assert main(["transcribe", str(each), str(tmp_path / "long.wav")]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_nemo_itself(name: str, tmp_path: Path) -> None:
    python = os.environ.get("SEGUE_NEMO_PYTHON")
    if not python:
        pytest.skip("SEGUE_NEMO_PYTHON is not set: the python of an environment with nemo_toolkit[asr]")
    config = {**config_of(MODELS[name]), "sample_rate": RATE_HZ}
    config["preprocessor"]["sample_rate"], config["decoder"]["vocabulary"] = RATE_HZ, LABELS
    del config["nemo_version"], config["target"], config["spec_augment"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    waveforms = [sound(num) for num in (20_000, 16_000, 48_123)]
    np.savez(tmp_path / "sounds.npz", *waveforms)
    script = Path(__file__).with_name("nemo_peer.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, script, tmp_path], check=True, env=environment)
    assert main(["import", str(tmp_path / "model.nemo"), str(tmp_path / "model")]) == 0
    model = segue.load(tmp_path / "model", device="cpu")
    theirs = json.loads((tmp_path / "texts.json").read_text())
    with np.load(tmp_path / "log_probs.npz") as saved:
        for number, ours in enumerate(scores_of(model, waveforms)):
            np.testing.assert_allclose(ours, saved[f"arr_{number}"], atol=1e-4)
    raw = [
        "".join(LABELS[emission.token] for emission in each.emissions).strip()
        for each in model.backend.recognize(waveforms)
    ]
    assert raw == [text.strip() for text in theirs]


@pytest.mark.parametrize("command", [("train", "data.root=data", "--from"), ("transcribe", "a.wav")])
def test_other_commands_name_import(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.nemo"
    path.touch()
    words = [*command, str(path)] if command[0] == "train" else [command[0], str(path), *command[1:]]
    assert main(words) == 2
    assert f"{path}: a model of another toolkit; import it first: segue import {path} OUT" in capsys.readouterr().err
