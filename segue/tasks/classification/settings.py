"""What is chosen about a classifier? The recipe of classification."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segue import metrics, recipe
from segue.card import LicenseId
from segue.data.augmentation import AugmentationSection
from segue.data.features import FeaturesSection
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
"""For training: up to which they are learned from 100 times, and from which on the model is wider, for "auto"."""


class DataSection(ManifestsSection):
    """Where the examples are."""

    longest_seconds: Annotated[float, Field(gt=0)] | None = None
    """Longer training sounds are left out, and counted."""
    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training texts with more tokens are left out, and counted; longer ones are classified in parts."""


class BatchSection(recipe.Section):
    """How much is learned from at once: a budget of seconds for sounds, of tokens for texts."""

    seconds: Annotated[float, Field(gt=0)] | Literal["auto"] | None = None
    """Of one micro-batch: sounds times the longest one, at the slowest speed. "auto" tries what fits in memory, once,
    and writes the number into the run's recipe."""
    tokens: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    """Of one micro-batch: texts times the longest one. "auto" as for seconds."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches in a step; devices share them out."""
    buckets: Annotated[int, Field(gt=0)] = 8
    """Groups of similar length that micro-batches are drawn from."""


class Recipe(recipe.Section):
    """Classification of sounds, or of texts: the kind of the model says which."""

    task: Literal["classification"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: an SPDX identifier in small letters, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DataSection = DataSection()
    """Labeled sounds or texts."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | Literal["auto"] = "auto"
    """The classes, in the order of the outputs. "auto" takes the labels of the training examples, sorted, and writes
    them into the run's recipe."""
    features: FeaturesSection | None = None
    """Front end; only for sounds, which need it."""
    augmentation: AugmentationSection | None = None
    """Variation of the training sounds."""
    text: TextSection | None = None
    """Text normalization; without it texts are read as they are, but for their Unicode form (NFC)."""
    tokenizer: TokenizerSection | None = None
    """What texts are cut into; only for texts, which need it."""
    model: Annotated[SoundEncoderSection | EncoderSection, Field(discriminator="kind")]
    """The encoder: of sounds (jasper), or of texts (transformer). A linear layer scores a mean of its outputs,
    whose weights are learned."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target distribution that is spread over all classes."""
    metric: metrics.ClassMetric = "accuracy"
    """What chooses the best model. With macro_f1 rare classes count as much as others."""
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
            raise ValueError(f"batch.{unit}: wanted for {what}, and no batch.{wrong}")
        if self.augmentation is not None and self.augmentation.joined_utterances > 1:
            raise ValueError("augmentation.joined_utterances: sounds that are joined would have no one class")
        if self.classes != "auto" and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: one stands in it twice")
        return self
