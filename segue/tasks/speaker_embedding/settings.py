"""What can be configured about a model of voices? The recipe of speaker embeddings."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segue import recipe
from segue.card import LicenseId
from segue.data.augmentation import AugmentationSection
from segue.data.front_ends import FeaturesSection
from segue.data.sounds import RecordingsSection, SecondsSection
from segue.engine.optimizer import OptimizerSection
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.start import StartSection
from segue.models.sound_encoders import SoundEncoderSection

FEW_SECONDS, MUCH_SECONDS = 3600.0, 5 * 3600.0
"""Thresholds for "auto": up to FEW_SECONDS of training speech train for 100 epochs; from MUCH_SECONDS on the model is
wider."""

Seconds = Annotated[float, Field(ge=0.2, le=60)]
Speed = Annotated[float, Field(ge=0.5, le=2)]


class Recipe(recipe.Section):
    """Embeddings of speakers: recordings of one voice get similar vectors."""

    task: Literal["speaker_embedding"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of weights, data order, augmentation and dropout."""
    license: LicenseId = "unknown"
    """License of the trained model, for its card: a lowercase SPDX identifier, such as apache-2.0."""
    start: StartSection = StartSection()
    """Fine-tuning."""
    data: RecordingsSection = RecordingsSection()
    """Recordings with their `speaker`. Development data should be of other speakers than the training data."""
    speakers: Annotated[tuple[str, ...], Field(min_length=2)] | Literal["auto"] = "auto"
    """The speakers that are told apart in training. "auto" takes those of the training data, sorted, and writes them
    into the run's recipe."""
    speaker_speeds: Annotated[tuple[Speed, ...], Field(min_length=1)] = (1.0,)
    """Each speaker at each of these speeds, which change the pitch, too, counts as a speaker of their own: more voices
    to learn from (Yamamoto et al. 2019, Interspeech)."""
    crop_seconds: tuple[Seconds, Seconds] = (1.5, 3.0)
    """Shortest and longest part of a recording that is used at once in training. Development scores are of parts of the
    shortest length, as diarization compares parts of about that length."""
    features: FeaturesSection
    """Front end."""
    augmentation: AugmentationSection = AugmentationSection()
    """Data augmentation of the training recordings."""
    model: SoundEncoderSection
    """The encoder. The embedding is a linear function of mean and standard deviation of its outputs over time."""
    dimensions: Annotated[int, Field(gt=1, le=4096)] = 128
    """Length of an embedding."""
    margin: Annotated[float, Field(ge=0, lt=math.pi / 2)] = 0.2
    """Angle, in radians, by which an embedding must be nearer to its speaker than to others (ArcFace)."""
    scale: Annotated[float, Field(gt=0)] = 30.0
    """Factor on cosines before the softmax."""
    batch: SecondsSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""

    @property
    def num_classes(self) -> int:
        """Speakers at each of the speeds."""
        return len(self.speakers) * len(self.speaker_speeds)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.crop_seconds[0] > self.crop_seconds[1]:
            raise ValueError("crop_seconds: the shortest must come first")
        if self.speakers != "auto" and len(set(self.speakers)) < len(self.speakers):
            raise ValueError("speakers: a speaker is listed twice")
        if len(set(self.speaker_speeds)) < len(self.speaker_speeds):
            raise ValueError("speaker_speeds: a speed is listed twice")
        return self
