"""Which encoders read sounds? One union of their Sections, for every task that has one."""

from segue.models.jasper import JasperSection

SoundEncoderSection = JasperSection
