"""How is speech recognized? Utterances to batches, an encoder, the loss of an objective, transcripts, error rates.

Suggested reading order: `settings.py` (the recipe), `utterances.py` (loader processes), `model.py` and `ctc.py` (the
computation), then here the engine's interface (`SpeechRecognition`) and trained models (`load`). Inference is in
`runtime/recognizer.py`.

Shape letters: B batch, S samples, T frames, V vocabulary (blank included, last).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from segue import metrics, recipe
from segue.card import card, in_segue, length
from segue.data import audio, automatic, manifests
from segue.data import tokenizer as tokenizers
from segue.data.examples import Utterance
from segue.data.features import stacked
from segue.data.manifest import Manifest
from segue.data.segments import levels
from segue.data.sizes import stand_in, stand_in_model
from segue.data.sounds import largest, say_rates
from segue.data.text import normalize
from segue.data.tokenizer import Tokenizer
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.planning.estimate import Sketch
from segue.engine.state.checkpoint import write_text
from segue.engine.state.start import prepared, restore_weights
from segue.engine.task import LOSS, Phase, Term
from segue.errors import UserError, count_of
from segue.layers.mask import output_frames
from segue.parity import Circumstances, Parity
from segue.progress import progress
from segue.runtime import calibration, speech_search
from segue.runtime.recognizer import Recognized, Recognizer, SpeechMetadata, written
from segue.runtime.words import after_silence, text_of, words
from segue.tasks.speech_recognition import comparison
from segue.tasks.speech_recognition.comparison import LEAST_IDENTICAL, Recognize
from segue.tasks.speech_recognition.ctc import CTC
from segue.tasks.speech_recognition.model import AcousticModel, renamed
from segue.tasks.speech_recognition.settings import MUCH_SECONDS, Recipe
from segue.tasks.speech_recognition.start import START
from segue.tasks.speech_recognition.utterances import (
    SpeechBatch,
    SpeechSource,
    UtteranceReader,
    seconds_in,
)

__all__ = [
    "EXAMPLE",
    "LEAST_IDENTICAL",
    "START",
    "AcousticModel",
    "Recipe",
    "SpeechRecognition",
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


class SpeechPrediction(NamedTuple):
    """The transcript of an example."""

    id: str
    reference: str
    hypothesis: str
    loss: float
    """Negative log-likelihood of the reference; 0 if CTC cannot align it."""
    num_targets: int


class SpeechRecognition:
    """Implements the engine's `Task` protocol (`engine/task.py`)."""

    def __init__(self, section: Recipe, source: SpeechSource) -> None:
        reader = source.reader
        assert isinstance(reader, UtteranceReader)
        self.recipe, self.source, self.tokenizer = section, source, reader.tokenizer
        self.objective = reader.objective
        dev = (utterance.text for utterance in source.manifests.get("dev", ()))
        self._rate = metrics.speech_metric(section.metric, dev)
        self.best_metric: tuple[str, Literal["min", "max"]] = (self._rate, "min")
        self.phases = (Phase("", "", section.optimizer, section.schedule, section.start.by_depth),)

    def build_model(self) -> AcousticModel:
        """A new model."""
        return prepared(AcousticModel(self.recipe, len(self.tokenizer)), self.recipe.start)

    def counts(self, batch: SpeechBatch) -> dict[str, float]:
        """Number of target tokens."""
        return {"targets": int(batch.target_lengths.sum())}

    def loss(self, model: nn.Module, batch: SpeechBatch, phase: str = "") -> dict[str, Term]:
        """Negative log-likelihood of the references, summed."""
        del phase
        log_probs, frames = model(batch.waveforms, batch.lengths, batch.augmentation)
        return {LOSS: Term(self.objective.loss(log_probs, frames, batch.targets, batch.target_lengths).sum())}

    def predict(
        self, model: nn.Module, batch: SpeechBatch, any_rank: Callable[[bool], bool] | None = None
    ) -> list[SpeechPrediction]:
        """Greedy transcripts, in one pass."""
        del any_rank
        log_probs, frames = model(batch.waveforms, batch.lengths)
        # References that CTC cannot align (no tokens, or too many) count in the error rates but not in the loss.
        targets, lengths = batch.targets, batch.target_lengths
        losses = self.objective.loss(log_probs, frames, targets, lengths, zero_infinity=True) * (lengths > 0)
        scores, num_frames = log_probs.cpu().numpy(), frames.tolist()
        assert isinstance(model, AcousticModel)
        frame, rate = model.samples_per_frame, self.recipe.features.sample_rate_hz
        pieces = self.tokenizer.pieces
        rows = zip(scores, num_frames, batch.waveforms.cpu().numpy(), batch.lengths.tolist(), strict=True)
        found = (
            after_silence(self.objective.recognize(row[:length]), pieces, levels(waveform[:size], rate), frame, rate)
            for row, length, waveform, size in rows
        )
        hypotheses = [text_of(words(each, pieces, frame / rate)) for each in found]
        columns = zip(batch.ids, batch.texts, hypotheses, losses.tolist(), lengths.tolist(), strict=True)
        return [SpeechPrediction(*row) for row in columns]

    def score(self, predictions: Sequence[SpeechPrediction]) -> dict[str, float]:
        """Word and character error rates of normalized texts, and the loss per target."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        hypotheses = [normalize(p.hypothesis, self.recipe.text) for p in predictions]
        scores = metrics.speech(self._rate, [p.reference for p in predictions], hypotheses).overall()
        loss = sum(p.loss for p in predictions) / max(1, sum(p.num_targets for p in predictions))
        return {**scores, "utterances": len(predictions), "loss": loss}

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizer and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.tokenizer.save(folder / "tokenizer.json")
        write_text(folder / "README.md", _model_card(self, scores))


def _model_card(task: SpeechRecognition, scores: dict[str, float]) -> str:
    section, (name, _) = task.recipe, task.best_metric
    data, rate = section.data, section.features.sample_rate_hz
    train, dev = task.source.manifests["train"], task.source.manifests["dev"]
    return card(
        "Speech recognition model",
        kind="automatic-speech-recognition",
        license_id=section.license,
        languages=sorted({utterance.language for utterance in dev if utterance.language is not None}),
        facts=[
            f"Trained on {manifests.training_name(data)}: {count_of(len(train), 'utterance')}, "
            f"{length(train.sizes.sum())}.",
            *section.start.facts(),
            f"Input: speech, resampled to {rate} Hz. Output: text, {section.text.case} case.",
            f"{name.replace('_', ' ').capitalize()} on {manifests.dev_name(data)}, which chose this state of the "
            "model: "
            f"{scores[name]:.2%} ({count_of(len(dev), 'utterance')}).",
        ],
        use=use("model"),
    )


def use(folder: str) -> str:
    """The section of the model card that shows how to use the recognizer in `folder` with Segue."""
    return in_segue(folder, f"segue transcribe {folder} speech.wav", 'transcribe("speech.wav").text')


def build_source(section: Recipe, run: Path, world: World) -> tuple[Recipe, SpeechSource]:
    """The recipe with every "auto" resolved from the data, and the data of a run. Collective.

    The tokenizer is learned at the first call and saved in the run directory.
    """
    data = world.first(lambda: manifests.resolved(section.data))
    section = section.model_copy(update={"data": data})
    splits = manifests.splits(Utterance, data)
    section = section.model_copy(
        update={
            "tokenizer": tokenizers.resolved(section.tokenizer, _texts(section, splits.train)),
            "model": automatic.widened(section.model, seconds_in(splits.train), MUCH_SECONDS),
        }
    )
    # Learned once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    kept = run / "tokenizer.json"

    def build() -> None:
        if not kept.is_file():
            run.mkdir(parents=True, exist_ok=True)
            tokenizers.build(section.tokenizer, _texts(section, splits.train)).save(kept)

    world.first(build)
    reader = UtteranceReader(section, Tokenizer.load(kept))
    source = source_of(section, reader, splits.by_name())
    source.check()
    say_rates(reader.sounds.rates, section.features.sample_rate_hz)
    return section, source


def source_of(
    section: Recipe, reader: UtteranceReader, splits: dict[manifests.Split, Manifest[Utterance]]
) -> SpeechSource:
    """The data of these manifests, read according to the recipe."""
    batch, skip_bad = section.batch, section.data.skip_bad
    return SpeechSource(reader, splits, batch.seconds, buckets=batch.buckets, seed=section.seed, skip_bad=skip_bad)


def build_task(section: Recipe, source: SpeechSource) -> SpeechRecognition:
    """The task for these data."""
    return SpeechRecognition(section, source)


def _texts(section: Recipe, utterances: Iterable[Utterance]) -> Iterator[str]:
    return (normalize(each.text, section.text, each.language) for each in utterances)


TOKENS_A_SECOND = 15.0  # LJSpeech: 1.3 million characters in 24 hours; other tokens are longer


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data, for an estimate: the longest utterances, as many as the budget permits."""
    budget, longest, augmentation = section.batch.seconds, section.data.longest_seconds, section.augmentation
    if budget == "auto":
        raise UserError("batch.seconds: auto is found on the device itself; give a number, like batch.seconds=60")
    rows, seconds = largest(budget, longest, augmentation)
    samples = round(seconds * section.features.sample_rate_hz)
    tokenizer, assumed = stand_in(section.tokenizer, section.data, section.text, Utterance, ("text",))
    model, more = stand_in_model(section.model, section.data, Utterance, seconds_in, MUCH_SECONDS)
    assumed = (*assumed, *more)
    section = section.model_copy(update={"model": model})
    silent = section.model_copy(update={"augmentation": augmentation.model_copy(update={"noise_manifest": None})})
    reader = UtteranceReader(silent, tokenizers.build(tokenizer, ()))
    frames = reader.sounds.front_end.num_frames(samples)
    # Half the frames: CTC needs a blank between equal tokens.
    num_tokens = min(round(seconds * TOKENS_A_SECOND), output_frames(frames, section.model.subsampling) // 2)
    drawn = reader.sounds.augmentation.features(frames, np.random.default_rng(0))

    def batch() -> SpeechBatch:
        return SpeechBatch(
            ids=[""] * rows,
            texts=[""] * rows,
            amount=budget,
            num_skipped=0,
            waveforms=torch.zeros(rows, samples),
            lengths=torch.full((rows,), samples),
            targets=torch.zeros(rows * num_tokens, dtype=torch.int64),
            target_lengths=torch.full((rows,), num_tokens),
            augmentation=None if drawn is None else stacked([drawn] * rows),
        )

    notes = (f"{count_of(num_tokens, 'target token')} in each, {TOKENS_A_SECOND:g} a second at most", *assumed)
    if longest is None:
        notes = (*notes, "one utterance fills the budget, since data.longest_seconds is not given")
    return Sketch(
        SpeechRecognition(silent, source_of(silent, reader, {})),
        batch,
        reader.unit,
        f"{count_of(rows, 'utterance')} of {seconds:.2f} s",
        "batch.seconds",
        notes,
    )


class TorchBackend:
    """The PyTorch backend of a `Recognizer`."""

    def __init__(self, model: AcousticModel, objective: CTC, device: torch.device) -> None:
        self.model, self._objective, self._device = model.eval().to(device), objective, device

    @torch.inference_mode()
    def recognize(self, waveforms: Sequence[audio.Samples]) -> list[Recognized]:
        """Recognizes waveforms of shape (S) each, as one batch."""
        padded, lengths = (torch.from_numpy(each).to(self._device) for each in audio.padded(waveforms))
        log_probs, frames = self.model(padded, lengths)
        rows = (row[:length] for row, length in zip(log_probs.cpu().numpy(), frames.tolist(), strict=True))
        return [Recognized(self._objective.recognize(row), row) for row in rows]


class Trained(NamedTuple):
    """The contents of a model directory."""

    recipe: Recipe
    tokenizer: Tokenizer
    model: AcousticModel

    def metadata(self) -> SpeechMetadata:
        """What a runtime needs to know about the model."""
        return SpeechMetadata(
            sample_rate_hz=self.recipe.features.sample_rate_hz,
            feature_dim=self.recipe.features.mel_bins,
            tokens=written(self.tokenizer.pieces),
            samples_per_frame=self.model.samples_per_frame,
            text=self.recipe.text,
            metric=self.recipe.metric,
            normalization=self.recipe.features.normalization,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )


def waveforms(trained: Trained, utterances: Manifest[Utterance]) -> Iterator[audio.Samples]:
    """The waveform of each utterance, sorted by length."""
    sounds = _recognizer(trained, torch.device("cpu")).evaluator.sounds(utterances)
    return (
        waveform for _, group in progress(sounds, "sees ranges of activations", unit="batches") for waveform in group
    )


def compare(
    trained: Trained, run: Recognize, utterances: Manifest[Utterance], where: Circumstances, least: object = None
) -> Parity:
    """Compares the PyTorch model with an export."""
    assert least is None
    return comparison.compare(_recognizer(trained, torch.device("cpu")), run, utterances, where)


def _recognizer(trained: Trained, device: torch.device) -> Recognizer:
    return Recognizer(
        trained.metadata(), TorchBackend(trained.model, trained.recipe.objective.build(len(trained.tokenizer)), device)
    )


def restore(folder: Path) -> Trained:
    """Loads a model directory: recipe, tokenizer, and the model in evaluation mode on the CPU."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = blueprint(lambda: AcousticModel(section, len(tokenizer)))
    make_room(model, torch.device("cpu"))
    restore_weights(model, folder, section.start, renamed)
    return Trained(section, tokenizer, model.eval())


def load(folder: Path, device: str) -> Recognizer:
    """Loads a model directory for inference, with the search and the calibration that lie there."""
    model = _recognizer(restore(folder), choose_device(device))
    model = model.with_search(speech_search.load(folder, model.metadata.pieces, model.metadata.text))
    model.calibration = calibration.load(folder, model.search.deciding)
    return model
