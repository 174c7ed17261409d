"""How are sounds and texts classified? Examples to batches, an encoder, cross-entropy, accuracy.

Suggested reading order: `settings.py` (the recipe), `examples.py` (loader processes), `model.py`, then here the
engine's interface (`Classifying`) and trained models (`load`). Inference is in `runtime/classifier.py`.

Shape letters: B batch, S samples or tokens, C classes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue import metrics, recipe
from segue.card import card, in_segue, length
from segue.data import automatic, manifests, sounds
from segue.data import tokenizer as tokenizers
from segue.data.augmentation import AugmentationSection
from segue.data.examples import Labeled
from segue.data.features import stacked
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.sizes import stand_in, stand_in_model
from segue.data.sounds import SoundBatch
from segue.data.text import normalize
from segue.data.tokenizer import UNKNOWN, Tokenizer
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.planning.estimate import Sketch
from segue.engine.state.checkpoint import write_text
from segue.engine.state.start import prepared, restore_weights
from segue.engine.task import LOSS, Phase, Term
from segue.errors import UserError, count_of, some_of, warn
from segue.layers.loss import cross_entropy
from segue.models.transformer import EncoderSection
from segue.parity import Circumstances, Parity
from segue.progress import progress
from segue.runtime.classifier import (
    Classifier,
    ClassifierBackend,
    ClassifierMetadata,
    Scores,
    SoundInput,
    TextInput,
)
from segue.tasks.classification import comparison
from segue.tasks.classification.comparison import LEAST_IDENTICAL
from segue.tasks.classification.examples import (
    LabeledBatch,
    LabeledSource,
    SoundReader,
    TextBatch,
    TextReader,
    seconds_in,
)
from segue.tasks.classification.model import SoundClassifier, TextClassifier
from segue.tasks.classification.settings import MANY_TEXTS, MUCH_SECONDS, Recipe
from segue.tasks.classification.start import START

__all__ = [
    "EXAMPLE",
    "LEAST_IDENTICAL",
    "START",
    "Classifying",
    "Recipe",
    "build_source",
    "build_task",
    "check_data",
    "compare",
    "examples",
    "load",
    "restore",
    "sketch",
]

EXAMPLE = Labeled
"""Type of the examples in manifests."""
check_data = manifests.check
examples = partial(manifests.for_comparison, Labeled)
SPECIAL = (UNKNOWN,)
"""Special tokens of the tokenizer."""
ASSUMED_CLASSES = 10
"""Number of classes for an estimate without data."""


class ClassPrediction(NamedTuple):
    """The predicted class of an example."""

    id: str
    reference: str
    hypothesis: str
    loss: float
    """Negative log-likelihood of the reference."""


class Classifying:
    """Implements the engine's `Task` protocol (`engine/task.py`)."""

    def __init__(self, section: Recipe, source: LabeledSource) -> None:
        reader = source.reader
        assert isinstance(reader, SoundReader | TextReader)
        self.recipe, self.source, self.classes = section, source, reader.classes
        self.tokenizer = reader.tokenizer if isinstance(reader, TextReader) else None
        self.best_metric: tuple[str, metrics.Direction] = section.metric, metrics.direction(section.metric)
        self.phases = (Phase("", "", section.optimizer, section.schedule, section.start.by_depth),)

    def build_model(self) -> nn.Module:
        """A new model."""
        return prepared(build_model(self.recipe, self.classes, self.tokenizer), self.recipe.start)

    def counts(self, batch: LabeledBatch) -> dict[str, float]:
        """Number of examples."""
        return {"targets": len(batch.ids)}

    def loss(self, model: nn.Module, batch: LabeledBatch, phase: str = "") -> dict[str, Term]:
        """Label-smoothed cross-entropy of the classes, and their negative log-likelihood for the log."""
        del phase
        loss, likelihood = cross_entropy(model(*batch.inputs), batch.targets, self.recipe.label_smoothing)
        return {LOSS: Term(loss.sum()), "likelihood_loss": Term(likelihood.detach().sum(), weight=0.0)}

    def predict(
        self, model: nn.Module, batch: LabeledBatch, any_rank: Callable[[bool], bool] | None = None
    ) -> list[ClassPrediction]:
        """The most likely class of each example."""
        del any_rank
        scores: Tensor = model(*batch.inputs[:2])
        best = scores.argmax(dim=1).tolist()
        _, losses = cross_entropy(scores, batch.targets)
        columns = zip(batch.ids, batch.targets.tolist(), best, losses.tolist(), strict=True)
        return [
            ClassPrediction(each, self.classes[right], self.classes[said], loss) for each, right, said, loss in columns
        ]

    def score(self, predictions: Sequence[ClassPrediction]) -> dict[str, float]:
        """Accuracy and macro F1; mean loss, in nats."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        references, hypotheses = [p.reference for p in predictions], [p.hypothesis for p in predictions]
        found = metrics.classes(self.recipe.metric, references, hypotheses).overall()
        noun = "sounds" if self.recipe.is_of_sounds else "texts"
        return {**found, noun: len(predictions), "loss": sum(p.loss for p in predictions) / len(predictions)}

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Writes recipe (with the names of the classes), tokenizer and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        if self.tokenizer is not None:
            self.tokenizer.save(folder / "tokenizer.json")
        write_text(folder / "README.md", self._card(scores))

    def _card(self, scores: dict[str, float]) -> str:
        section, (name, _), data = self.recipe, self.best_metric, self.recipe.data
        train, dev = self.source.manifests["train"], self.source.manifests["dev"]
        noun, kind = ("sound", "audio-classification") if section.is_of_sounds else ("text", "text-classification")
        sound = f", {length(seconds_in(train))}" if section.is_of_sounds else ""
        rate = "" if section.features is None else f", resampled to {section.features.sample_rate_hz} Hz"
        return card(
            f"Classifier of {noun}s",
            kind=kind,
            license_id=section.license,
            languages=[],
            facts=[
                f"Trained on {manifests.training_name(data)}: {count_of(len(train), noun)}{sound}.",
                *section.start.facts(),
                f"Distinguishes {len(self.classes)} classes of {noun}s{rate}: {', '.join(self.classes)}.",
                f"{name.replace('_', ' ').capitalize()} on {manifests.dev_name(data)}, which chose this state of the "
                f"model: {scores[name]:.2%} ({count_of(len(dev), noun)}).",
            ],
            use=use("model", is_of_sounds=section.is_of_sounds),
        )


def use(folder: str, *, is_of_sounds: bool) -> str:
    """The section of the model card that shows how to use the classifier in `folder` with Segue."""
    if is_of_sounds:
        return in_segue(folder, f"segue classify {folder} sound.wav", 'classify("sound.wav").label')
    command = f'echo "a line of text" | segue classify {folder}'
    return in_segue(folder, command, 'classify("a line of text").label')


def build_model(section: Recipe, classes: Sequence[str], tokenizer: Tokenizer | None) -> nn.Module:
    """A new model; one of texts needs a tokenizer."""
    if isinstance(section.model, EncoderSection):
        assert tokenizer is not None
        return TextClassifier(section.model, len(tokenizer), len(classes))
    assert section.features is not None
    return SoundClassifier(section.features, section.model, len(classes))


def build_source(section: Recipe, run: Path, world: World) -> tuple[Recipe, LabeledSource]:
    """The recipe with every "auto" resolved from the data, and the data of a run. Collective.

    A tokenizer for texts is learned at the first call and saved in the run directory.
    """
    data = world.first(lambda: manifests.resolved(section.data))
    splits = manifests.splits(Labeled, data)
    for manifest in splits:
        _refuse_other_inputs(section, manifest)
    classes = learned_classes(splits.train) if section.classes == "auto" else section.classes
    amount, much = (seconds_in(splits.train), MUCH_SECONDS) if section.is_of_sounds else (len(splits.train), MANY_TEXTS)
    update: dict[str, Any] = {
        "data": data,
        "classes": classes,
        "model": automatic.widened(section.model, amount, much),
    }
    if section.tokenizer is not None:
        texts = _texts(section, splits.train)
        update["tokenizer"] = tokenizers.resolved(section.tokenizer, texts, len(SPECIAL))
    section = section.model_copy(update=update)
    kept = run / "tokenizer.json"

    # Learned once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    def build() -> None:
        if section.tokenizer is not None and not kept.is_file():
            run.mkdir(parents=True, exist_ok=True)
            tokenizers.build(section.tokenizer, _texts(section, splits.train), SPECIAL).save(kept)

    world.first(build)
    source = source_of(section, None if section.is_of_sounds else Tokenizer.load(kept), splits.by_name())
    source.check()
    _say_lonely(splits.train)
    if isinstance(source.reader, SoundReader):
        sounds.say_rates(source.reader.sounds.rates, source.reader.sounds.sample_rate_hz)
    return section, source


def _refuse_other_inputs(section: Recipe, examples: Manifest[Labeled]) -> None:
    """Raises a UserError if the first examples are all of the other kind of input: each would be reported."""
    if all((each.sound is not None) != section.is_of_sounds for each in islice(examples, 20)):
        sounds, texts = Labeled.contents
        found, needed = (texts, sounds) if section.is_of_sounds else (sounds, texts)
        raise UserError(
            f"{', '.join(map(str, examples.paths))}: {found}, where {needed} are needed: model.kind "
            f"{section.model.kind} classifies {'sounds' if section.is_of_sounds else 'texts'} (segue recipes list)"
        )


def learned_classes(train: Manifest[Labeled]) -> tuple[str, ...]:
    """The labels of the training examples, sorted. Raises a UserError if there is only one."""
    labels = sorted({each.label for each in train})
    if len(labels) == 1:
        raise UserError(
            f"{', '.join(map(str, train.paths))}: label: all have {labels[0]!r}; at least two classes are needed"
        )
    return tuple(labels)


def _say_lonely(train: Manifest[Labeled]) -> None:
    """Warns about classes with a single training example."""
    counts = Counter(each.label for each in train)
    lonely = [
        f"{each.origin}: label: the only training example of {each.label!r}"
        for each in train
        if counts[each.label] == 1
    ]
    if lonely:
        warn(f"one example is hardly enough to learn a class:\n{some_of(lonely, 3)}")


def source_of(section: Recipe, tokenizer: Tokenizer | None, splits: dict[Split, Manifest[Labeled]]) -> LabeledSource:
    """The data of these manifests, read according to the recipe."""
    batch, skip_bad = section.batch, section.data.skip_bad
    assert section.classes != "auto"
    reader: SoundReader | TextReader
    if tokenizer is None:
        reader, budget = SoundReader(section, section.classes), batch.seconds
    else:
        reader, budget = TextReader(section, section.classes, tokenizer), batch.tokens
    assert budget is not None
    return LabeledSource(reader, splits, budget, buckets=batch.buckets, seed=section.seed, skip_bad=skip_bad)


def build_task(section: Recipe, source: LabeledSource) -> Classifying:
    """The task for these data."""
    return Classifying(section, source)


def _texts(section: Recipe, examples: Manifest[Labeled]) -> Iterator[str]:
    return (normalize(each.text, section.rule) for each in examples)


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data, for an estimate: the longest examples, as many as fill the budget."""
    notes: tuple[str, ...] = ()
    if section.classes == "auto":
        classes, notes = _stand_in_classes(section)
        section = section.model_copy(update={"classes": classes})
    amount, much = (seconds_in, MUCH_SECONDS) if section.is_of_sounds else (len, MANY_TEXTS)
    model, more = stand_in_model(section.model, section.data, Labeled, amount, much)
    section, notes = section.model_copy(update={"model": model}), (*notes, *more)
    if section.is_of_sounds:
        return _sketch_of_sounds(section, notes)
    return _sketch_of_texts(section, notes)


def _stand_in_classes(section: Recipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of the training data if these exist, else ASSUMED_CLASSES; and notes about assumptions."""
    paths = manifests.training_paths(section.data)
    if all(path.is_file() for path in paths):
        return learned_classes(Manifest(Labeled, paths)), ()
    note = f"{ASSUMED_CLASSES} classes, since {paths[0]} does not exist"
    return tuple(map(str, range(ASSUMED_CLASSES))), (note,)


def _sketch_of_sounds(section: Recipe, notes: tuple[str, ...]) -> Sketch:
    budget, features = section.batch.seconds, section.features
    assert budget is not None
    assert features is not None
    if budget == "auto":
        raise UserError("batch.seconds: auto is found on the device itself; give a number, like batch.seconds=60")
    augmentation = section.augmentation or AugmentationSection()
    rows, seconds = sounds.largest(budget, section.data.longest_seconds, augmentation)
    samples = round(seconds * features.sample_rate_hz)
    silent = section.model_copy(update={"augmentation": augmentation.model_copy(update={"noise_manifest": None})})
    source = source_of(silent, None, {})
    assert isinstance(source.reader, SoundReader)
    of_run = source.reader.sounds
    drawn = of_run.augmentation.features(of_run.front_end.num_frames(samples), np.random.default_rng(0))

    def batch() -> LabeledBatch:
        given = None if drawn is None else stacked([drawn] * rows)
        inputs = SoundBatch(torch.zeros(rows, samples), torch.full((rows,), samples), given)
        return LabeledBatch([""] * rows, float(budget), 0, inputs, torch.zeros(rows, dtype=torch.int64))

    if section.data.longest_seconds is None:
        notes = (*notes, "one sound fills the budget, since data.longest_seconds is not given")
    said = f"{count_of(rows, 'sound')} of {seconds:.2f} s"
    return Sketch(Classifying(silent, source), batch, "seconds", said, "batch.seconds", notes)


def _sketch_of_texts(section: Recipe, notes: tuple[str, ...]) -> Sketch:
    budget = section.batch.tokens
    assert budget is not None
    assert section.tokenizer is not None
    if budget == "auto":
        raise UserError("batch.tokens: auto is found on the device itself; give a number, like batch.tokens=4096")
    rows = -(-budget // section.data.longest_tokens)
    length = budget // rows
    tokenizer, more = stand_in(section.tokenizer, section.data, section.rule, Labeled, ("text",), len(SPECIAL))
    source = source_of(section, tokenizers.build(tokenizer, (), SPECIAL), {})

    def batch() -> LabeledBatch:
        inputs = TextBatch(torch.zeros(rows, length, dtype=torch.int64), torch.full((rows,), length))
        return LabeledBatch([""] * rows, float(rows * length), 0, inputs, torch.zeros(rows, dtype=torch.int64))

    said = f"{count_of(rows, 'text')} of {count_of(length, 'token')}"
    return Sketch(Classifying(section, source), batch, "tokens", said, "batch.tokens", (*notes, *more))


class TorchBackend:
    """The PyTorch backend of a `Classifier`."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model.eval().to(device), device

    @torch.inference_mode()
    def scores(self, inputs: NDArray[Any], lengths: NDArray[np.int64]) -> Scores:
        """(B, S) samples or tokens, (B) lengths -> (B, C) scores."""
        given = (torch.from_numpy(each).to(self._device) for each in (inputs, lengths))
        found: Scores = self._model(*given).cpu().numpy()
        return found


class Trained(NamedTuple):
    """The contents of a model directory."""

    recipe: Recipe
    tokenizer: Tokenizer | None
    model: nn.Module

    def metadata(self) -> ClassifierMetadata:
        """What a runtime needs to know about the model."""
        section = self.recipe
        assert section.classes != "auto"
        return ClassifierMetadata(
            input=TextInput(rule=section.rule, longest_tokens=section.data.longest_tokens)
            if section.features is None
            else SoundInput(sample_rate_hz=section.features.sample_rate_hz),
            classes=section.classes,
            metric=section.metric,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def classifier(self, backend: ClassifierBackend) -> Classifier:
        """A classifier that uses this backend."""
        return Classifier(self.metadata(), backend, self.tokenizer)


def waveforms(trained: Trained, examples: Manifest[Labeled]) -> Iterator[NDArray[np.float32]]:
    """The waveform of each example, sorted by length."""
    evaluator = trained.classifier(TorchBackend(trained.model, torch.device("cpu"))).evaluator
    batches = progress(evaluator.batches(examples), "sees ranges of activations", unit="batches")
    return (waveform for _, group in batches for waveform in group if not isinstance(waveform, str))


def compare(
    trained: Trained,
    backend: ClassifierBackend,
    examples: Manifest[Labeled],
    where: Circumstances,
    least: object = None,
) -> Parity:
    """Compares the PyTorch model with an export."""
    assert least is None
    ours = trained.classifier(TorchBackend(trained.model, torch.device("cpu")))
    return comparison.compare(ours, trained.classifier(backend), examples, where)


def restore(folder: Path) -> Trained:
    """Loads a model directory: recipe, tokenizer, and the model in evaluation mode on the CPU."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    tokenizer = None if section.is_of_sounds else Tokenizer.load(folder / "tokenizer.json")
    model = blueprint(lambda: build_model(section, section.classes, tokenizer))
    make_room(model, torch.device("cpu"))
    restore_weights(model, folder, section.start)
    return Trained(section, tokenizer, model.eval())


def load(folder: Path, device: str) -> Classifier:
    """Loads a model directory for inference."""
    trained = restore(folder)
    return trained.classifier(TorchBackend(trained.model, choose_device(device)))
