"""What is chosen about a translator? The recipe of translation."""

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
"""For training: up to which they are learned from 100 times, and from which on the model is wider, for "auto"."""


class DataSection(ManifestsSection):
    """Where the pairs are."""

    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training pairs with more tokens on a side are left out, and counted; longer lines are translated in parts."""


class BatchSection(recipe.Section):
    """How much is learned from at once."""

    tokens: Annotated[int, Field(gt=0)] | Literal["auto"]
    """Budget of one micro-batch: pairs times the longest side of any of them, random cuts not counted. "auto" tries
    what fits in memory, once, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches in a step; devices share them out."""
    buckets: Annotated[int, Field(gt=0)] = 16
    """Groups of similar length that micro-batches are drawn from."""


class Recipe(recipe.Section):
    """Translation by an encoder-decoder Transformer."""

    task: Literal["translation"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order, random cuts and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: an SPDX identifier in small letters, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DataSection = DataSection()
    """Text pairs."""
    text: TextSection = TextSection(case="keep", punctuation="keep", unicode_form="NFC")
    """Text normalization, of both sides."""
    tokenizer: TokenizerSection
    """Tokens of both languages, or of the target where `source_tokenizer` is given."""
    source_tokenizer: TokenizerSection | None = None
    """Tokens of the source; without it both sides share one tokenizer, learned from both."""
    subwords: SubwordsSection = SubwordsSection()
    """Random cuts of the training texts."""
    model: TransformerSection
    """Architecture."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target distribution that is spread over all tokens."""
    search: SearchSection = SearchSection()
    """How outputs are looked for; evaluations while training search with one beam."""
    metric: metrics.TextMetric = "bleu"
    """What chooses the best model. `word_error_rate` counts tokens between spaces: phonemes, for instance. Of several
    target languages it is the mean."""
    bleu_tokenizer: metrics.BleuTokenizer = "auto"
    """How BLEU cuts texts into words, by sacrebleu's names. "auto" goes by the target language, or by what the
    references look like: zh, ja-mecab, ko-mecab, char for scripts like Thai, else 13a."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""
