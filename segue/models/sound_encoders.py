"""Which encoders are there for sounds? A union of their Sections, for all tasks with audio input."""

from segue.models.jasper import JasperSection

SoundEncoderSection = JasperSection
