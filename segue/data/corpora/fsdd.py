"""Free Spoken Digit Dataset: single digits, and strings of digits made from them.

Files are named `{digit}_{speaker}_{index}.wav` (github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0). The
official test set is index 0 to 4; the next four of each digit and speaker are taken from training for development.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from segue.data import audio
from segue.data.corpora import Example, measured
from segue.data.manifest import Utterance
from segue.errors import UserError
from segue.recipe import Section

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_INDICES = range(5)
DEV_INDICES = range(5, 9)
SAMPLE_RATE_HZ = 8000
Count = Annotated[int, Field(ge=0)]


class Options(Section):
    """Free Spoken Digit Dataset."""

    test_speaker: str | None = None
    """Keep this speaker out of training and development, and test on all of his or her recordings."""
    longest: Annotated[int, Field(gt=0)] = 5
    """A string has 1 to this many digits of one speaker, drawn at random."""
    train_strings: Count = 2000
    """Number of strings for training."""
    dev_strings: Count = 300
    """Number of strings for development."""
    test_strings: Count = 300
    """Number of strings for test."""
    seed: Count = 0
    """Of the draw."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Single recordings as train, dev and test; strings as train_strings, dev_strings and test_strings."""
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    speakers = set()
    for file in sorted(source.glob("*.wav")):
        name = re.fullmatch(r"(\d)_(\w+)_(\d+)", file.stem)
        if name is None:
            yield "train", UserError(f"{file}: not named like 7_speaker_12.wav (digit, speaker, index)")
            continue
        digit, speaker, index = int(name[1]), name[2], int(name[3])
        speakers.add(speaker)
        found = measured(file, WORDS[digit], str(file), speaker)
        split = _split(speaker, index, options.test_speaker)
        if isinstance(found, Utterance) and split is not None:
            splits[split].append(found)
        if split is not None:
            yield split, found
    if options.test_speaker is not None and options.test_speaker not in speakers:
        raise UserError(
            f"test_speaker: no such speaker: {options.test_speaker} (speakers: {', '.join(sorted(speakers))})"
        )
    for number, (split, singles) in enumerate(splits.items()):
        count = getattr(options, f"{split}_strings")
        draw = np.random.default_rng([options.seed, number])
        for each in range(count if singles else 0):
            file = out / "strings" / split / f"{each:05d}.flac"
            yield f"{split}_strings", _string(singles, options.longest, file, draw)


def _split(speaker: str, index: int, test_speaker: str | None) -> str | None:
    """None: not used. With a test speaker, the others' official test recordings stay unused."""
    if test_speaker is not None and speaker == test_speaker:
        return "test"
    if index in TEST_INDICES:
        return "test" if test_speaker is None else None
    return "dev" if index in DEV_INDICES else "train"


def _string(singles: Sequence[Utterance], longest: int, file: Path, draw: np.random.Generator) -> Utterance | UserError:
    """One recording after the other, without pauses beyond their own, in one new file."""
    speaker = singles[int(draw.integers(len(singles)))].speaker
    own = [each for each in singles if each.speaker == speaker]
    chosen = [own[n] for n in draw.integers(len(own), size=draw.integers(1, longest + 1))]
    try:
        samples = np.concatenate([audio.read(each.audio, SAMPLE_RATE_HZ) for each in chosen])
    except UserError as problem:
        return problem
    audio.write(file, samples, SAMPLE_RATE_HZ)
    return Utterance(
        id=file.stem,
        audio=file,
        seconds=len(samples) / SAMPLE_RATE_HZ,
        text=" ".join(each.text for each in chosen),
        speaker=speaker,
        origin=str(file),
    )
