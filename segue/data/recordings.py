"""How are a manifest's utterances combined to recordings? Whole files, or clips of a speaker joined with pauses."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segue.data import scripts
from segue.data.audio import Samples
from segue.data.channels import Channel
from segue.data.examples import Utterance

PAUSE_SECONDS = 1.0
JOINED_SECONDS = 60.0
"""Length of joined clips: several of the windows in which long recordings are recognized."""


class Recording(NamedTuple):
    """Utterances in the order in which they are recognized."""

    utterances: list[Utterance]
    path: Path | None
    """The file that they are parts of; None for joined clips."""

    @property
    def id(self) -> str:
        """Ids of its first and last utterance."""
        first, last = self.utterances[0].id, self.utterances[-1].id
        return first if len(self.utterances) == 1 else f"{first} ... {last}"

    @property
    def seconds(self) -> float:
        """Total duration of its utterances in seconds."""
        return sum(each.seconds for each in self.utterances)

    @property
    def speaker(self) -> str | None:
        """The speaker, if there is only one."""
        speakers = {each.speaker for each in self.utterances}
        return speakers.pop() if len(speakers) == 1 else None

    @property
    def text(self) -> str:
        """The transcripts, joined with spaces where the script has them."""
        text = ""
        for utterance in self.utterances:
            is_apart = not (scripts.is_unspaced(text[-1:]) and scripts.is_unspaced(utterance.text))
            text += " " * bool(text and is_apart) + utterance.text
        return text

    def covers(self, seconds: float) -> bool:
        """Whether this time is inside an utterance; speech elsewhere in the file is in no reference."""
        return any(0 <= seconds - each.offset_seconds < each.seconds for each in self.utterances)


def of(utterances: Iterable[Utterance]) -> Iterator[Recording]:
    """Groups all utterances into recordings: with others of the same file, or with clips of the same speaker."""
    of_file: dict[tuple[Path, Channel], list[Utterance]] = {}
    for utterance in utterances:
        of_file.setdefault((utterance.audio, utterance.channel), []).append(utterance)
    clips: dict[str | None, list[Utterance]] = {}
    for (path, _), members in of_file.items():
        if len(members) > 1:
            yield Recording(sorted(members, key=lambda each: each.offset_seconds), path)
        else:
            clips.setdefault(members[0].speaker, []).append(members[0])
    for members in clips.values():
        joined: list[Utterance] = []
        for utterance in members:
            joined.append(utterance)
            if sum(each.seconds + PAUSE_SECONDS for each in joined) >= JOINED_SECONDS:
                yield Recording(joined, None)
                joined = []
        if joined:
            yield Recording(joined, None)


def join(clips: Iterable[Samples], sample_rate_hz: int) -> Samples:
    """Joins clips of (S) each -> (S'), each followed by a pause with noise at the clip's lowest level."""
    draw = np.random.default_rng(0)
    parts: list[Samples] = []
    for clip in clips:
        size = min(len(clip), sample_rate_hz // 50)
        levels = np.square(clip[: len(clip) // size * size].reshape(-1, size)).mean(axis=1)
        noise = draw.standard_normal(round(PAUSE_SECONDS * sample_rate_hz), dtype=np.float32)
        parts += [clip, noise * np.sqrt(np.quantile(levels, 0.1))]
    return np.concatenate(parts).astype(np.float32)
