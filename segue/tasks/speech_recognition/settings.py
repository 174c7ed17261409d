"""What can be configured about a recognizer? The recipe of speech recognition."""

from typing import Annotated, Literal

from pydantic import Field

from segue import metrics, recipe
from segue.card import LicenseId
from segue.data.augmentation import AugmentationSection
from segue.data.features import LogMelSection
from segue.data.front_ends import FeaturesSection
from segue.data.sounds import RecordingsSection, SecondsSection
from segue.data.text import TextSection
from segue.data.tokenizer import TokenizerSection
from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.start import StartSection
from segue.models.sound_encoders import SoundEncoderSection
from segue.tasks.speech_recognition.ctc import CTCSection

FEW_SECONDS, MUCH_SECONDS = 3600.0, 5 * 3600.0
"""Thresholds for "auto": up to FEW_SECONDS of training speech train for 100 epochs; from MUCH_SECONDS on the model is
wider."""


class Recipe(recipe.Section):
    """Speech recognition."""

    task: Literal["speech_recognition"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of weights, data order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: a lowercase SPDX identifier, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: RecordingsSection = RecordingsSection()
    """Recordings."""
    text: TextSection = TextSection()
    """Text normalization."""
    tokenizer: TokenizerSection
    """Output tokens."""
    features: FeaturesSection = LogMelSection()
    """Front end."""
    augmentation: AugmentationSection = AugmentationSection()
    """Data augmentation of the training speech."""
    model: SoundEncoderSection
    """Architecture of the encoder."""
    objective: CTCSection = CTCSection(kind="ctc")
    """Training objective of the encoder's output."""
    metric: metrics.SpeechMetric = "auto"
    """Metric that selects the best model. "auto" is the word error rate, or the character error rate if the references
    have no spaces between words, as in Chinese, Japanese and Thai."""
    batch: SecondsSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""
