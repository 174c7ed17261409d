"""What can be configured about a translator? The recipe of translation."""

from typing import Annotated, Literal

from pydantic import Field

from segue import metrics, recipe
from segue.card import LicenseId
from segue.data.manifest import ManifestsSection
from segue.data.subwords import SubwordsSection
from segue.data.text import TextSection
from segue.data.tokenizer import TokenizerSection
from segue.decoding.search import SearchSection
from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.start import StartSection
from segue.models.transformer import TransformerSection

FEW_PAIRS, MANY_PAIRS = 1000, 200_000
"""Thresholds for "auto": up to FEW_PAIRS training runs for 100 epochs; from MANY_PAIRS on the model is wider."""


class DataSection(ManifestsSection):
    """Manifests of text pairs."""

    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training pairs with more tokens on a side are left out and counted; longer inputs are translated in parts."""


class BatchSection(recipe.Section):
    """Batch size."""

    tokens: Annotated[int, Field(gt=0)] | Literal["auto"]
    """Size limit of a micro-batch: number of pairs times the longest side of any of them, in tokens without random
    segmentation. "auto" determines once what fits in memory, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches per step, divided among the devices."""
    buckets: Annotated[int, Field(gt=0)] = 16
    """Number of length buckets from which micro-batches are drawn."""


class Recipe(recipe.Section):
    """Translation by an encoder-decoder Transformer."""

    task: Literal["translation"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of weights, data order, random segmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: a lowercase SPDX identifier, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DataSection = DataSection()
    """Text pairs."""
    text: TextSection = TextSection(case="keep", punctuation="keep", unicode_form="NFC")
    """Text normalization of both sides."""
    tokenizer: TokenizerSection
    """Tokenizer of both languages, or of the target if there is a `source_tokenizer`."""
    source_tokenizer: TokenizerSection | None = None
    """Tokenizer of the source; without it both sides share one tokenizer, learned from both."""
    subwords: SubwordsSection = SubwordsSection()
    """Random subword segmentation of the training texts."""
    model: TransformerSection
    """Architecture."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability mass of the target distribution that is spread over all tokens."""
    search: SearchSection = SearchSection()
    """Beam search; evaluations during training use one beam."""
    metric: metrics.TextMetric = "bleu"
    """Metric that selects the best model. `word_error_rate` counts tokens between spaces: phonemes, for instance. With
    several target languages it is the mean over languages."""
    bleu_tokenizer: metrics.BleuTokenizer = "auto"
    """How BLEU splits texts into words, by sacrebleu's names. "auto" depends on the target language, or if that is
    unknown on the script of the references: zh, ja-mecab, ko-mecab, char for scripts like Thai, else 13a."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""
