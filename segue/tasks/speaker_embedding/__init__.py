"""How are voices turned into vectors? An encoder, pooling, angular margins between speakers, equal error rates.

Suggested reading order: `settings.py` (the recipe), `voices.py` (loader processes), `model.py`, then here the engine's
interface (`SpeakerEmbedding`) and trained models (`load`). Inference is in `runtime/speaker_embedder.py`.

Shape letters: B batch, S samples, D dimensions.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import recipe
from segue.card import card, in_segue, length
from segue.data import audio, automatic, manifests
from segue.data.examples import Utterance
from segue.data.features import stacked
from segue.data.manifest import Manifest
from segue.data.sizes import stand_in_model
from segue.data.sounds import SoundBatch, say_rates
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.planning.estimate import Sketch
from segue.engine.state.checkpoint import write_text
from segue.engine.state.start import prepared, restore_weights
from segue.engine.task import LOSS, Phase, Term
from segue.errors import UserError, count_of, some_of, warn
from segue.layers.loss import cross_entropy
from segue.parity import Circumstances, Parity
from segue.progress import progress
from segue.runtime.speaker_embedder import EmbedderBackend, SpeakerEmbedder, SpeakerMetadata, Vectors
from segue.runtime.speaker_evaluation import score
from segue.tasks.speaker_embedding import comparison
from segue.tasks.speaker_embedding.comparison import LEAST_IDENTICAL
from segue.tasks.speaker_embedding.model import SpeakerModel
from segue.tasks.speaker_embedding.settings import MUCH_SECONDS, Recipe
from segue.tasks.speaker_embedding.start import START
from segue.tasks.speaker_embedding.voices import VoiceBatch, VoiceReader, VoiceSource, seconds_in

__all__ = [
    "EXAMPLE",
    "LEAST_IDENTICAL",
    "START",
    "Recipe",
    "SpeakerEmbedding",
    "build_source",
    "build_task",
    "check_data",
    "compare",
    "examples",
    "load",
    "restore",
    "sketch",
]

EXAMPLE = Utterance
"""Type of the examples in manifests."""
check_data = manifests.check
examples = partial(manifests.for_comparison, Utterance)
CALIBRATION = "calibration.json"
"""File with the threshold, in a model directory."""
ASSUMED_SPEAKERS = 1000
"""Number of speakers for an estimate without data."""


class VoicePrediction(NamedTuple):
    """The embedding of an example."""

    id: str
    speaker: str
    vector: NDArray[np.float32]
    """(D) unit vector."""


class SpeakerEmbedding:
    """Implements the engine's `Task` protocol (`engine/task.py`)."""

    def __init__(self, section: Recipe, source: VoiceSource) -> None:
        self.recipe, self.source = section, source
        self.best_metric: tuple[str, Literal["min", "max"]] = ("equal_error_rate", "min")
        self.phases = (Phase("", "", section.optimizer, section.schedule, section.start.by_depth),)

    def build_model(self) -> SpeakerModel:
        """A new model."""
        return prepared(SpeakerModel(self.recipe, self.recipe.num_classes), self.recipe.start)

    def counts(self, batch: VoiceBatch) -> dict[str, float]:
        """Number of recordings."""
        return {"targets": len(batch.ids)}

    def loss(self, model: nn.Module, batch: VoiceBatch, phase: str = "") -> dict[str, Term]:
        """Cross-entropy of the speakers, with angular margins, summed."""
        del phase
        logits = model(*batch.sounds, batch.targets)
        return {LOSS: Term(cross_entropy(logits, batch.targets)[0].sum())}

    def predict(
        self, model: nn.Module, batch: VoiceBatch, any_rank: Callable[[bool], bool] | None = None
    ) -> list[VoicePrediction]:
        """The embedding of each example."""
        del any_rank
        vectors: Tensor = model(*batch.sounds[:2])
        rows = vectors.float().cpu().numpy()
        return [VoicePrediction(*each) for each in zip(batch.ids, batch.speakers, rows, strict=True)]

    def score(self, predictions: Sequence[VoicePrediction]) -> dict[str, float]:
        """The equal error rate over all pairs, and the cosine distance that divides voices in diarization."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        vectors, speakers = np.stack([each.vector for each in predictions]), [each.speaker for each in predictions]
        found = score(vectors, speakers, manifests.dev_name(self.recipe.data))
        numbers = {"recordings": len(speakers), "speakers": len(set(speakers))}
        return {"equal_error_rate": found.rate, "threshold": 1 - found.middle, **numbers}

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Writes the recipe, the threshold and the model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        write_text(folder / CALIBRATION, json.dumps({"threshold": scores["threshold"]}) + "\n")
        write_text(folder / "README.md", self._card(scores))

    def _card(self, scores: dict[str, float]) -> str:
        section, train, dev = self.recipe, self.source.manifests["train"], self.source.manifests["dev"]
        unseen = {str(each.speaker) for each in dev} - set(section.speakers)
        return card(
            "Speaker embedding model",
            kind="feature-extraction",
            license_id=section.license,
            languages=[],
            facts=[
                f"Trained on {manifests.training_name(section.data)}: {count_of(len(section.speakers), 'speaker')}, "
                f"{count_of(len(train), 'recording')}, {length(seconds_in(train))}.",
                *section.start.facts(),
                f"Input: speech, resampled to {section.features.sample_rate_hz} Hz. Output: {section.dimensions} "
                "numbers, a unit vector; vectors of one voice have a large inner product.",
                f"Equal error rate on {manifests.dev_name(section.data)}, which chose this state of the model: "
                f"{scores['equal_error_rate']:.2%} (parts of {section.crop_seconds[0]:g} s of {len(dev):,} recordings; "
                f"{scores['speakers']:.0f} speakers, {len(unseen)} of them not in the training data).",
            ],
            use=use("model"),
        )


def use(folder: str) -> str:
    """The section of the model card that shows how to use the model in `folder` with Segue."""
    command = f"segue diarize {folder} conversation.wav --speakers 2"
    return in_segue(folder, command, 'diarize("conversation.wav", speakers=2).turns')


def build_source(section: Recipe, run: Path, world: World) -> tuple[Recipe, VoiceSource]:
    """The recipe with every "auto" resolved from the data, and the data of a run. Collective."""
    del run
    data = world.first(lambda: manifests.resolved(section.data))
    splits = manifests.splits(Utterance, data)
    speakers = learned_speakers(splits.train) if section.speakers == "auto" else section.speakers
    model = automatic.widened(section.model, seconds_in(splits.train), MUCH_SECONDS)
    section = section.model_copy(update={"data": data, "speakers": speakers, "model": model})
    source = source_of(section, splits.by_name())
    source.check()
    _check_pairs(section, splits.dev)
    say_rates(source.reader.sounds.rates, section.features.sample_rate_hz)  # type: ignore[attr-defined]
    return section, source


def learned_speakers(train: Manifest[Utterance]) -> tuple[str, ...]:
    """The speakers of the training examples, sorted. Raises a UserError unless there are two."""
    counts = Counter(each.speaker for each in train if each.speaker is not None)
    where = ", ".join(map(str, train.paths))
    if not counts:
        raise UserError(f"{where}: speaker: no line has one; this task learns from recordings with their speakers")
    if len(counts) == 1:
        raise UserError(f"{where}: speaker: all have {next(iter(counts))!r}; at least two speakers are needed")
    lonely = [
        f"{each.origin}: speaker: the only training recording of {each.speaker!r}"
        for each in train
        if each.speaker is not None and counts[each.speaker] == 1
    ]
    if lonely:
        warn(f"one recording is hardly enough to learn a voice:\n{some_of(lonely, 3)}")
    return tuple(sorted(counts))


def _check_pairs(section: Recipe, dev: Manifest[Utterance]) -> None:
    """Checks that an equal error rate can be computed; warns if it would be that of known speakers only."""
    counts = Counter(each.speaker for each in dev)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise UserError(
            f"{', '.join(map(str, dev.paths))}: speaker: {len(counts)} in {count_of(len(dev), 'development recording')}"
            "; at least two are needed, one of them with two recordings (data.dev names the manifests)"
        )
    if all(speaker in section.speakers for speaker in counts):
        warn(
            f"{manifests.dev_name(section.data)}: all speakers are in the training data, too: the equal error rate "
            "will say little about other voices"
        )


def source_of(section: Recipe, splits: dict[manifests.Split, Manifest[Utterance]]) -> VoiceSource:
    """The data of these manifests, read according to the recipe."""
    batch, skip_bad = section.batch, section.data.skip_bad
    reader = VoiceReader(section)
    return VoiceSource(reader, splits, batch.seconds, buckets=batch.buckets, seed=section.seed, skip_bad=skip_bad)


def build_task(section: Recipe, source: VoiceSource) -> SpeakerEmbedding:
    """The task for these data."""
    return SpeakerEmbedding(section, source)


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data, for an estimate: the longest parts, as many as the budget permits."""
    budget, notes = section.batch.seconds, tuple[str, ...]()
    if budget == "auto":
        raise UserError("batch.seconds: auto is found on the device itself; give a number, like batch.seconds=60")
    if section.speakers == "auto":
        paths = manifests.training_paths(section.data)
        if all(path.is_file() for path in paths):
            speakers = learned_speakers(Manifest(Utterance, paths))
        else:
            speakers = tuple(map(str, range(ASSUMED_SPEAKERS)))
            notes = (f"{ASSUMED_SPEAKERS} speakers, since {paths[0]} does not exist",)
        section = section.model_copy(update={"speakers": speakers})
    model, more = stand_in_model(section.model, section.data, Utterance, seconds_in, MUCH_SECONDS)
    silent = section.augmentation.model_copy(update={"noise_manifest": None})
    section = section.model_copy(update={"model": model, "augmentation": silent})
    seconds = section.crop_seconds[1]
    rows, samples = max(1, int(budget / seconds)), round(seconds * section.features.sample_rate_hz)
    source = source_of(section, {})
    assert isinstance(source.reader, VoiceReader)
    of_run = source.reader.sounds
    drawn = of_run.augmentation.features(of_run.front_end.num_frames(samples), np.random.default_rng(0))

    def batch() -> VoiceBatch:
        given = None if drawn is None else stacked([drawn] * rows)
        sounds = SoundBatch(torch.zeros(rows, samples), torch.full((rows,), samples), given)
        return VoiceBatch([""] * rows, float(budget), 0, [""] * rows, sounds, torch.zeros(rows, dtype=torch.int64))

    said = f"{count_of(rows, 'part')} of {seconds:.2f} s"
    return Sketch(SpeakerEmbedding(section, source), batch, "seconds", said, "batch.seconds", (*notes, *more))


class TorchBackend:
    """The PyTorch backend of a `SpeakerEmbedder`."""

    def __init__(self, model: SpeakerModel, device: torch.device) -> None:
        self._model, self._device = model.eval().to(device), device

    @torch.inference_mode()
    def embed(self, waveforms: audio.Samples, lengths: NDArray[np.int64]) -> Vectors:
        """(B, S) waveforms, (B) lengths -> (B, D)."""
        given = (torch.from_numpy(each).to(self._device) for each in (waveforms, lengths))
        found: Vectors = self._model(*given).cpu().numpy()
        return found


class Trained(NamedTuple):
    """The contents of a model directory."""

    recipe: Recipe
    model: SpeakerModel
    threshold: float

    def metadata(self) -> SpeakerMetadata:
        """What a runtime needs to know about the model."""
        assert self.recipe.speakers != "auto"
        of_centers = self.model.centers.weight.numel()  # only training needs them
        return SpeakerMetadata(
            sample_rate_hz=self.recipe.features.sample_rate_hz,
            dimensions=self.recipe.dimensions,
            threshold=self.threshold,
            speakers=self.recipe.speakers,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()) - of_centers,
        )

    def embedder(self, backend: EmbedderBackend | None = None) -> SpeakerEmbedder:
        """An embedder that uses this backend; by default PyTorch on the CPU."""
        return SpeakerEmbedder(self.metadata(), backend or TorchBackend(self.model, torch.device("cpu")))


def waveforms(trained: Trained, recordings: Manifest[Utterance]) -> Iterator[audio.Samples]:
    """The waveform of each recording, sorted by length."""
    batches = progress(trained.embedder().evaluator.batches(recordings), "sees ranges of activations", unit="batches")
    return (waveform for _, group in batches for waveform in group)


def compare(
    trained: Trained,
    backend: EmbedderBackend,
    recordings: Manifest[Utterance],
    where: Circumstances,
    least: object = None,
) -> Parity:
    """Compares the PyTorch model with an export."""
    assert least is None
    return comparison.compare(trained.embedder(), trained.embedder(backend), recordings, where)


def restore(folder: Path) -> Trained:
    """Loads a model directory: recipe, threshold, and the model in evaluation mode on the CPU."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    model = blueprint(lambda: SpeakerModel(section, section.num_classes))
    make_room(model, torch.device("cpu"))
    restore_weights(model, folder, section.start)
    try:
        threshold = float(json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))["threshold"])
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{folder / CALIBRATION}: missing or damaged; copy the model directory again") from None
    return Trained(section, model.eval(), threshold)


def load(folder: Path, device: str) -> SpeakerEmbedder:
    """Loads a model directory for inference."""
    trained = restore(folder)
    return trained.embedder(TorchBackend(trained.model, choose_device(device)))
