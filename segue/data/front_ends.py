"""Which front ends are there for sounds? A union of their Sections, for all tasks with audio input."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from segue.data.features import LogMelSection
from segue.data.nemo_features import NemoSection


def _kind(table: Any) -> str | None:
    """The `kind` of a table: of recipes before there were several, too, which have none."""
    return table.get("kind", "log_mel") if isinstance(table, dict) else getattr(table, "kind", None)


FeaturesSection = Annotated[
    Annotated[LogMelSection, Tag("log_mel")] | Annotated[NemoSection, Tag("nemo")], Discriminator(_kind)
]
