"""What several test files share, for each task: a tiny corpus, a recipe over it, a trained model.

In the speech corpus every letter is a tone; in the translation corpus a translation is the source's words backwards.
Classes of sounds are tones, of texts the halves that their number words are from.
"""

import gc
import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from segue.data import audio
from segue.engine import memory

# What passed passes again; `make test-slow` looks further, with other inputs each time.
settings.register_profile("repeatable", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("fast", max_examples=10, derandomize=True, deadline=None)  # `make test-fast`
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Garbage collection need not look through what all the imports made, time and again.

    Nor in trainings, which look for garbage before they begin: that took half of a short one's time.
    """
    gc.collect()
    aside = ExitStack()
    aside.enter_context(memory.old_objects_aside())
    session.config.add_cleanup(aside.close)


SAMPLE_RATE_HZ = 8000
TONES_HZ = {"a": 400.0, "b": 900.0, "c": 1700.0, "d": 2800.0, " ": 3600.0}

TINY_RECIPE = """\
task = "speech_recognition"

[data]
root = "{root}"

[tokenizer]
kind = "characters"
alphabet = " abcd"

[features]
sample_rate_hz = 8000
mel_bins = 16

[augmentation]
speeds = [0.9, 1.0, 1.1]
joined_utterances = 2
noise_probability = 0.5
frequency_masks = 1
frequency_width = 2
time_masks = 1
time_width = 3

[model]
kind = "jasper"
residual = "dense"
blocks = [
  {{ channels = 16, kernel = 7, stride = 2, has_residual = false, dropout = 0.1 }},
  {{ channels = 16, kernel = 7, dropout = 0.1 }},
  {{ channels = 24, kernel = 1, has_residual = false }},
]

[batch]
seconds = 3.0
micro_batches = 2
buckets = 3

[optimizer]
kind = "novograd"
learning_rate = 0.03
betas = [0.95, 0.5]
weight_decay = 1e-3

[schedule]
kind = "cosine"
warmup_steps = 5

[engine]
steps = 30
device = "cpu"
threads = 1
workers = 0
log_every = 2
evaluate_every = 10
save_every = 8
clip_norm = 5.0
moving_average_decay = 0.9
average_count = 2
batch_norm_micro_batches = 6
"""


def speak(text: str, draw: np.random.Generator) -> audio.Samples:
    """Every character a tone of 80 ms, over faint noise: (samples,)."""
    time = np.arange(SAMPLE_RATE_HZ * 80 // 1000) / SAMPLE_RATE_HZ
    window = np.hanning(len(time))
    sound = np.concatenate([window * np.sin(2 * np.pi * TONES_HZ[character] * time) for character in text])
    sound *= draw.uniform(0.2, 0.5)
    return (sound + 0.002 * draw.standard_normal(len(sound))).astype(np.float32)


def write_split(folder: Path, split: str, count: int, draw: np.random.Generator) -> None:
    """`count` recordings of random letters by two speakers, and their manifest."""
    lines = []
    for number in range(count):
        letters = "".join(draw.permutation(list("abcd"))[: draw.integers(3, 5)])
        text = letters if number % 2 else f"{letters[:2]} {letters[2:]}"
        samples = speak(text, draw)
        name = f"{split}_{number:02d}.wav"
        audio.write(folder / name, samples, SAMPLE_RATE_HZ)
        line = {"audio_filepath": name, "duration": len(samples) / SAMPLE_RATE_HZ, "text": text}
        lines.append(json.dumps({**line, "speaker": f"speaker_{number // 2 % 2}"}) + "\n")
    (folder / f"{split}.jsonl").write_text("".join(lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, dev.jsonl, test.jsonl and their recordings. Not to be written to."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    for split, count in (("train", 36), ("dev", 8), ("test", 8)):
        write_split(folder, split, count, draw)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over `corpus` with all that resuming could get wrong: augmentation, dropout, BatchNorm, averages."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE.format(root=corpus))
    return path


@pytest.fixture(scope="session")
def trained(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose model has learned the tones. Not to be written to."""
    import segue

    run = tmp_path_factory.mktemp("trained") / "run"
    overrides = ("engine.steps=120", "augmentation.joined_utterances=1", "augmentation.noise_probability=0.0")
    segue.train(tiny_recipe, run, *overrides)
    return run


@pytest.fixture(scope="session")
def exported_recognizer(traced_once: None, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `trained` is exported to, which runs without torch. Not to be written to."""
    from segue import formats

    out = tmp_path_factory.mktemp("exported") / "out"
    formats.export(trained, "onnx", out)
    return out


NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

REVERSAL_RECIPE = """\
task = "translation"

[data]
root = "{root}"

[tokenizer]
kind = "words"

[model]
kind = "transformer"
width = 32
feed_forward = 64
heads = 4
encoder_layers = 2
decoder_layers = 2
positions = "rotary"
dropout = 0.0

[batch]
tokens = 512

[optimizer]
kind = "adamw"
learning_rate = 0.01
betas = [0.9, 0.98]

[schedule]
kind = "cosine"
warmup_steps = 20

[engine]
steps = 240
device = "cpu"
threads = 1
workers = 0
log_every = 40
evaluate_every = 80
save_every = 80
clip_norm = 1.0
"""


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, dev.jsonl and test.jsonl: 3 to 6 number words and the same backwards, none twice."""
    folder = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(0)
    sources: dict[str, None] = {}
    while len(sources) < 3120:
        sources[" ".join(draw.choice(NUMBERS, draw.integers(3, 7)))] = None
    lines = [json.dumps({"source": each, "target": " ".join(each.split()[::-1])}) + "\n" for each in sources]
    for split, part in (("train", lines[:3000]), ("dev", lines[3000:3060]), ("test", lines[3060:])):
        (folder / f"{split}.jsonl").write_text("".join(part))
    return folder


@pytest.fixture(scope="session")
def reversal_recipe(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over `pairs`."""
    path = tmp_path_factory.mktemp("reversal") / "reversal.toml"
    path.write_text(REVERSAL_RECIPE.format(root=pairs))
    return path


@pytest.fixture(scope="session")
def trained_translator(reversal_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose model turns sentences around. Not to be written to."""
    import segue

    run = tmp_path_factory.mktemp("trained_translator") / "run"
    segue.train(reversal_recipe, run)
    return run


LANGUAGE_RECIPE = """\
task = "language_modeling"

[data]
root = "{root}"
train = ["train.jsonl"]

[tokenizer]
kind = "characters"
alphabet = "auto"

[model]
kind = "decoder_only"
context = 32
width = 32
feed_forward = 88
layers = 2
heads = 4
key_value_heads = 2

[batch]
tokens = 128
micro_batches = 4

[optimizer]
kind = "adamw"
learning_rate = 0.01
betas = [0.9, 0.95]
weight_decay = 0.1

[schedule]
kind = "polynomial"
power = 1.0
warmup_steps = 10

[engine]
steps = 120
device = "cpu"
threads = 1
workers = 0
log_every = 20
evaluate_every = 60
save_every = 40
clip_norm = 1.0
"""


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, dev.jsonl and test.jsonl: documents that count on from a number word, none twice."""
    folder = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(0)
    starts = draw.permutation(12 * 40)
    documents = [
        " ".join(NUMBERS[(start + step) % 12] for step in range(4 + start // 12 % 40)) + "."
        for start in starts.tolist()
    ]
    lines = [json.dumps({"text": each}) + "\n" for each in documents]
    for split, part in (("train", lines[:400]), ("dev", lines[400:440]), ("test", lines[440:])):
        (folder / f"{split}.jsonl").write_text("".join(part))
    return folder


@pytest.fixture(scope="session")
def language_recipe(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over `texts`."""
    path = tmp_path_factory.mktemp("language") / "counting.toml"
    path.write_text(LANGUAGE_RECIPE.format(root=texts))
    return path


@pytest.fixture(scope="session")
def trained_language_model(language_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose model counts. Not to be written to."""
    import segue

    run = tmp_path_factory.mktemp("trained_language_model") / "run"
    segue.train(language_recipe, run)
    return run


SOUND_CLASSES_RECIPE = """\
task = "classification"

[data]
root = "{root}"

[features]
sample_rate_hz = 8000
mel_bins = 16

[augmentation]
speeds = [0.9, 1.0, 1.1]
pause_probability = 0.5
longest_pause_seconds = 0.2
noise_probability = 0.2
frequency_masks = 1
frequency_width = 2

[model]
kind = "jasper"
residual = "dense"
blocks = [
  {{ channels = 16, kernel = 7, stride = 2, has_residual = false, dropout = 0.1 }},
  {{ channels = 16, kernel = 7, dropout = 0.1 }},
]

[batch]
seconds = 4.0
micro_batches = 2
buckets = 3

[optimizer]
kind = "adamw"
learning_rate = 0.01

[schedule]
kind = "cosine"
warmup_steps = 5

[engine]
steps = 240
device = "cpu"
threads = 1
workers = 0
log_every = 4
evaluate_every = 80
save_every = 8
moving_average_decay = 0.9
"""

TEXT_CLASSES_RECIPE = """\
task = "classification"
label_smoothing = 0.1

[data]
root = "{root}"
longest_tokens = 12

[tokenizer]
kind = "words"

[model]
kind = "transformer"
width = 32
feed_forward = 64
heads = 4
encoder_layers = 2
dropout = 0.1

[batch]
tokens = 200
micro_batches = 2

[optimizer]
kind = "adamw"
learning_rate = 0.01

[schedule]
kind = "cosine"
warmup_steps = 5

[engine]
steps = 60
device = "cpu"
threads = 1
workers = 0
log_every = 4
evaluate_every = 20
save_every = 8
"""


def write_labeled_sounds(folder: Path, split: str, count: int, draw: np.random.Generator) -> None:
    """`count` recordings of one letter each, said three or four times by two speakers, and their manifest."""
    lines = []
    for number in range(count):
        letter = "abcd"[number % 4]
        samples = speak(letter * int(draw.integers(3, 5)), draw)
        audio.write(folder / f"{split}_{number:02d}.wav", samples, SAMPLE_RATE_HZ)
        line = {"audio_filepath": f"{split}_{number:02d}.wav", "duration": len(samples) / SAMPLE_RATE_HZ}
        lines.append(json.dumps({**line, "label": f"tone {letter}", "speaker": f"speaker_{number // 4 % 2}"}) + "\n")
    (folder / f"{split}.jsonl").write_text("".join(lines))


@pytest.fixture(scope="session")
def labeled_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, dev.jsonl, test.jsonl and their recordings of four classes. Not to be written to."""
    folder = tmp_path_factory.mktemp("labeled_sounds")
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("dev", 8), ("test", 12)):
        write_labeled_sounds(folder, split, count, draw)
    return folder


@pytest.fixture(scope="session")
def labeled_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, dev.jsonl and test.jsonl: 3 to 6 number words, all small or all large."""
    folder = tmp_path_factory.mktemp("labeled_texts")
    draw = np.random.default_rng(0)
    words = {"small": NUMBERS[:6], "large": NUMBERS[6:]}
    for split, count in (("train", 200), ("dev", 20), ("test", 20)):
        lines = []
        for number in range(count):
            label = list(words)[number % 2]
            text = " ".join(draw.choice(words[label], draw.integers(3, 7)))
            lines.append(json.dumps({"text": text, "label": label}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def class_recipes(
    labeled_sounds: Path, labeled_texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Recipes over both, by "sounds" and "texts"."""
    folder, found = tmp_path_factory.mktemp("class_recipes"), {}
    for name, text, root in (
        ("sounds", SOUND_CLASSES_RECIPE, labeled_sounds),
        ("texts", TEXT_CLASSES_RECIPE, labeled_texts),
    ):
        found[name] = folder / f"{name}.toml"
        found[name].write_text(text.format(root=root))
    return found


@pytest.fixture(scope="session")
def trained_classifiers(class_recipes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories whose models tell the classes, by "sounds" and "texts". Not to be written to."""
    import segue

    folder = tmp_path_factory.mktemp("trained_classifiers")
    for name, path in class_recipes.items():
        segue.train(path, folder / name)
    return {name: folder / name for name in class_recipes}


SPEAKERS_RECIPE = """\
task = "speaker_embedding"
speaker_speeds = [1.0, 1.2]
crop_seconds = [0.6, 0.9]
dimensions = 16

[data]
root = "{root}"

[features]
sample_rate_hz = 8000
mel_bins = 24
top_hz = 3600.0

[augmentation]
joined_utterances = 2
noise_probability = 0.2
frequency_masks = 1
frequency_width = 2

[model]
kind = "jasper"
residual = "dense"
blocks = [
  {{ channels = 24, kernel = 7, stride = 2, has_residual = false, dropout = 0.1 }},
  {{ channels = 24, kernel = 5, dropout = 0.1 }},
]

[batch]
seconds = 6.0
micro_batches = 2
buckets = 3

[optimizer]
kind = "adamw"
learning_rate = 0.01

[schedule]
kind = "cosine"
warmup_steps = 5

[engine]
steps = 60
device = "cpu"
threads = 1
workers = 0
log_every = 4
evaluate_every = 30
save_every = 8
moving_average_decay = 0.9
"""


def hum(pitch_hz: float, draw: np.random.Generator) -> audio.Samples:
    """A second of a voice: vowels of two formants, whose place depends on the pitch, as that of a small person does."""
    time = np.arange(SAMPLE_RATE_HZ // 4) / SAMPLE_RATE_HZ
    size = (pitch_hz / 150) ** 0.6
    pieces = []
    for _ in range(4):
        pitch, formants = pitch_hz * draw.uniform(0.94, 1.06), draw.uniform((300, 900), (600, 1600)) * size
        partials = np.arange(1, int(3500 / pitch)) * pitch
        loud = sum(np.exp(-(((partials - formant) / 150) ** 2)) for formant in formants) + 0.02
        waves = np.sin(2 * np.pi * partials[:, None] * time + draw.uniform(0, 6, len(partials))[:, None])
        pieces.append((loud @ waves) * np.hanning(len(time)))
    sound = np.concatenate(pieces)
    noise = 0.002 * draw.standard_normal(len(sound))
    return np.asarray(draw.uniform(0.1, 0.4) * sound / np.abs(sound).max() + noise, np.float32)


@pytest.fixture(scope="session")
def speaker_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and dev.jsonl of three speakers each, test.jsonl of others. Not to be written to."""
    folder, draw = tmp_path_factory.mktemp("speaker_recordings"), np.random.default_rng(0)
    for split, pitches, count in (
        ("train", (100, 150, 225), 24),
        ("dev", (110, 165, 250), 12),
        ("test", (90, 140, 215), 12),
    ):
        lines = []
        for number in range(count):
            pitch, name = pitches[number % 3], f"{split}_{number:02d}.wav"
            audio.write(folder / name, hum(pitch, draw), SAMPLE_RATE_HZ)
            line = {"audio_filepath": name, "duration": 1.0, "text": "", "speaker": f"{pitch} hertz"}
            lines.append(json.dumps(line) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def speaker_recipe(speaker_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over them."""
    path = tmp_path_factory.mktemp("speaker_recipe") / "speakers.toml"
    path.write_text(SPEAKERS_RECIPE.format(root=speaker_recordings))
    return path


@pytest.fixture(scope="session")
def trained_speakers(speaker_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose model tells voices apart. Not to be written to."""
    import segue

    run = tmp_path_factory.mktemp("trained_speakers") / "run"
    segue.train(speaker_recipe, run)
    return run


class _ByValue(pickle.Pickler):
    """What torch itself writes of a tensor is another each time."""

    def reducer_override(self, obj: Any) -> Any:
        import torch

        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        return str, (f"{obj.dtype} {tuple(obj.shape)} {obj.detach().flatten().view(torch.uint8).numpy().tobytes()!r}",)


def _digest(value: object) -> str:
    """Equal for equal models."""
    file = io.BytesIO()
    _ByValue(file).dump(value)
    return hashlib.sha256(file.getvalue()).hexdigest()


@pytest.fixture(scope="session")
def traced_once() -> Iterator[None]:
    """Models are traced once: that takes ten seconds, and the graph of equal weights and settings is the same.

    What torch translates operations with is read once, too, and not for each graph.
    """
    import torch
    from torch import nn
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from segue.formats import onnx

    kept: dict[str, torch.onnx.ONNXProgram] = {}
    real = onnx.traced

    def traced(
        model: nn.Module, example: tuple[torch.Tensor, ...], dimensions: onnx.Names, outputs: Sequence[str]
    ) -> torch.onnx.ONNXProgram:
        key = _digest((model, example, dimensions, list(outputs)))
        if key not in kept:
            kept[key] = real(model, example, dimensions, outputs)
        kept[key].model.metadata_props.clear()
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "traced", traced)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield
