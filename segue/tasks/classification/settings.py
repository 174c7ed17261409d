"""What can be configured about a classifier? The recipe of classification."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segue import metrics, recipe
from segue.card import LicenseId
from segue.data.augmentation import AugmentationSection
from segue.data.front_ends import FeaturesSection
from segue.data.manifest import ManifestsSection
from segue.data.text import TextSection
from segue.data.tokenizer import TokenizerSection
from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.start import StartSection
from segue.models.sound_encoders import SoundEncoderSection
from segue.models.transformer import EncoderSection

FEW_SECONDS, MUCH_SECONDS = 3600.0, 5 * 3600.0
FEW_TEXTS, MANY_TEXTS = 1000, 200_000
"""Thresholds for "auto": up to FEW_ training runs for 100 epochs; from MUCH_ or MANY_ on the model is wider."""


class DataSection(ManifestsSection):
    """Manifests of labeled examples."""

    longest_seconds: Annotated[float, Field(gt=0)] | None = None
    """Longer training sounds are left out and counted."""
    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training texts with more tokens are left out and counted; longer inputs are classified in parts."""


class BatchSection(recipe.Section):
    """Batch size: in seconds for sounds, in tokens for texts."""

    seconds: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    """Size limit of a micro-batch: number of sounds times the longest one, at the slowest speed. "auto" determines once
    what fits in memory, and writes the number into the run's recipe."""
    tokens: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    """Size limit of a micro-batch: number of texts times the longest one. "auto" as for seconds."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches per step, divided among the devices."""
    buckets: Annotated[int, Field(gt=0)] = 8
    """Number of length buckets from which micro-batches are drawn."""


class Recipe(recipe.Section):
    """Classification of sounds or of texts, depending on the kind of the model."""

    task: Literal["classification"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of weights, data order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: a lowercase SPDX identifier, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DataSection = DataSection()
    """Labeled sounds or texts."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | Literal["auto"] = "auto"
    """The classes, in the order of the outputs. "auto" takes the labels of the training examples, sorted, and writes
    them into the run's recipe."""
    features: FeaturesSection | None = None
    """Front end; required for sounds, not allowed for texts."""
    augmentation: AugmentationSection | None = None
    """Data augmentation of the training sounds."""
    text: TextSection | None = None
    """Text normalization; by default texts are only normalized to Unicode form NFC."""
    tokenizer: TokenizerSection | None = None
    """Tokenizer; required for texts, not allowed for sounds."""
    model: Annotated[SoundEncoderSection | EncoderSection, Field(discriminator="kind")]
    """The encoder: of sounds (jasper), or of texts (transformer). A linear layer computes scores from a mean of its
    outputs with learned weights."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass of the target distribution that is spread over all classes."""
    metric: metrics.ClassMetric = "accuracy"
    """Metric that selects the best model. With macro_f1 rare classes count as much as frequent ones."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""

    @property
    def is_of_sounds(self) -> bool:
        """Whether it classifies sounds."""
        return not isinstance(self.model, EncoderSection)

    @property
    def rule(self) -> TextSection:
        """How texts are normalized."""
        return self.text or TextSection(case="keep", punctuation="keep", unicode_form="NFC")

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        what, needed, other = (
            ("sounds", ("features",), ("tokenizer", "text"))
            if self.is_of_sounds
            else ("texts", ("tokenizer",), ("features", "augmentation"))
        )
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: missing; model.kind {self.model.kind} classifies {what}, which need it")
        for name in other:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: model.kind {self.model.kind} classifies {what}, which have none")
        unit, wrong = ("seconds", "tokens") if self.is_of_sounds else ("tokens", "seconds")
        if getattr(self.batch, unit) is None or getattr(self.batch, wrong) is not None:
            raise ValueError(f"batch.{unit}: needed for {what}, without batch.{wrong}")
        if self.augmentation is not None and self.augmentation.joined_utterances > 1:
            raise ValueError("augmentation.joined_utterances: joined sounds would not have a single class")
        if self.classes != "auto" and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a class is listed twice")
        return self
