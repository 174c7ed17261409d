"""What is wrong with a recipe and its data? The doctor's result, as plain data; reports show it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from segue.errors import count_of

Level = Literal["error", "warning", "note"]
"""An error speaks against training, or against trusting its scores; a warning is worth a look; a note is neither."""
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
NUM_SAMPLES = 5
"""Number of examples of a finding."""


class Sample(NamedTuple):
    """An example of a finding."""

    where: str
    """`file:line`"""
    text: str = ""
    audio: bytes | None = None
    """Content of an ogg file to play."""


class Symptom(NamedTuple):
    """A finding: the same thing in any number of examples."""

    level: Level
    about: str
    """What was examined: "manifests", "audio", "texts", "pairs", "classes", "splits", "batch", "model"."""
    what: str
    """What was found, in a sentence without its end."""
    mend: str = ""
    """What to do."""
    num_affected: int = 0
    """Number of affected examples; 0 if it is not about examples."""
    num_examined: int = 0
    """Number of examples that were examined for it."""
    samples: Sequence[Sample] = ()
    """Some of the affected examples."""


class Diagnosis(NamedTuple):
    """All findings on a recipe and its data, or on manifests."""

    title: str
    facts: Mapping[str, str]
    """What was examined, and how."""
    symptoms: Sequence[Symptom]
    """Errors first."""
    unseen: Sequence[str] = ()
    """What was not examined."""

    @property
    def is_advisable(self) -> bool:
        """Whether nothing speaks against training."""
        return not any(each.level == "error" for each in self.symptoms)

    @property
    def verdict(self) -> str:
        """The result in a line."""
        counts = {level: sum(each.level == level for each in self.symptoms) for level in LEVELS}
        said = ", ".join(count_of(count, level) for level, count in counts.items())
        return f"training is {'' if self.is_advisable else 'not '}advisable: {said}"

    def as_json(self) -> dict[str, Any]:
        """Everything but the audio."""
        return {
            "advisable": self.is_advisable,
            "facts": dict(self.facts),
            "findings": [
                {**each._asdict(), "samples": [{"where": one.where, "text": one.text} for one in each.samples]}
                for each in self.symptoms
            ],
            "not_examined": list(self.unseen),
        }


def of_all(title: str, facts: Mapping[str, str], symptoms: Sequence[Symptom], unseen: Sequence[str]) -> Diagnosis:
    """The findings in order: errors first, of one level those with the most examples."""
    order = sorted(symptoms, key=lambda each: (LEVELS.index(each.level), -each.num_affected))
    return Diagnosis(title, facts, order, unseen)
