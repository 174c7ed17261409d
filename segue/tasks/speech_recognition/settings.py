"""What is chosen about a recognizer? The recipe of speech recognition."""

from typing import Annotated, Literal

from pydantic import Field

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
from segue.tasks.speech_recognition.ctc import CTCSection

Seconds = Annotated[float, Field(gt=0)]

FEW_SECONDS, MUCH_SECONDS = 3600.0, 5 * 3600.0
"""Of training speech: up to which it is learned from 100 times, and from which on the model is wider, for "auto"."""


class DataSection(ManifestsSection):
    """Where the recordings are."""

    longest_seconds: Seconds | None = None
    """Longer training utterances are left out, and counted."""


class BatchSection(recipe.Section):
    """How much is learned from at once."""

    seconds: Seconds | Literal["auto"]
    """Budget of one micro-batch: utterances times the longest one, at the slowest speed. "auto" tries what fits in
    memory, once, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches in a step; devices share them out."""
    buckets: Annotated[int, Field(gt=0)] = 8
    """Groups of similar length that micro-batches are drawn from."""


class Recipe(recipe.Section):
    """Speech recognition."""

    task: Literal["speech_recognition"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: an SPDX identifier in small letters, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: DataSection = DataSection()
    """Recordings."""
    text: TextSection = TextSection()
    """Text normalization."""
    tokenizer: TokenizerSection
    """Output tokens."""
    features: FeaturesSection = FeaturesSection()
    """Front end."""
    augmentation: AugmentationSection = AugmentationSection()
    """Variation of the training speech."""
    model: SoundEncoderSection
    """Architecture of the encoder."""
    objective: CTCSection = CTCSection(kind="ctc")
    """What the encoder's output is trained for."""
    metric: metrics.SpeechMetric = "auto"
    """What chooses the best model. "auto" is the word error rate, or the character error rate where the references put
    no spaces between words, as in Chinese, Japanese and Thai."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""
