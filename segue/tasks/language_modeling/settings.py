"""What can be configured about a language model? The recipe of language modeling."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from segue import recipe
from segue.card import LicenseId
from segue.data.documents import DocumentsSection
from segue.data.music import Notation
from segue.data.tokenizer import LosslessSection
from segue.decoding.sampling import SamplingSection
from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.start import StartSection
from segue.models.decoder_only import DecoderOnlySection
from segue.models.gpt2 import GPT2Section


class BatchSection(recipe.Section):
    """Batch size."""

    tokens: Annotated[int, Field(gt=0)] | Literal["auto"]
    """Size of a micro-batch: as many windows of `model.context` tokens as fit, at least one. "auto" determines once
    what fits in memory, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches per step, divided among the devices."""


class Recipe(recipe.Section):
    """Language modeling by a decoder-only Transformer."""

    task: Literal["language_modeling"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of weights, data order and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: a lowercase SPDX identifier, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DocumentsSection = DocumentsSection()
    """Texts."""
    tokenizer: LosslessSection
    """Tokenizer, of a kind that keeps every character of a text."""
    model: Annotated[DecoderOnlySection | GPT2Section, Field(discriminator="kind")]
    """Architecture."""
    stride: Annotated[int, Field(gt=0)] | None = None
    """`segue evaluate` reads windows of `model.context` tokens, of which the last ones, so many, are scored; a quarter
    of the context is the default. Fewer are slower and give a lower loss, as each token has a longer context."""
    step_token: Annotated[str, Field(min_length=1)] | None = None
    """A token that ends a step, such as "|" in chorales. Evaluations then also have the metric nats_per_step: the
    losses of all tokens but the end of a document, divided by the number of these tokens. Its first step counts."""
    notation: Notation | None = None
    """What the words of the texts say, if they are music, which `segue generate` then also writes as MIDI: "steps", of
    `segue prepare jsb`, or "remi", of `segue prepare midi`."""
    sampling: SamplingSection = SamplingSection()
    """How `segue generate` draws tokens."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""

    @model_validator(mode="after")
    def _music_is_of_words(self) -> "Recipe":
        if self.notation is not None and self.tokenizer.kind != "words":
            raise ValueError(f'notation "{self.notation}" is of words; tokenizer.kind should be "words"')
        return self

    @model_validator(mode="after")
    def _stride_fits(self) -> "Recipe":
        if self.stride is not None and self.stride > self.model.context:
            raise ValueError(f"stride {self.stride} is more than model.context ({self.model.context})")
        return self
