"""Free Spoken Digit Dataset: single digits, and strings of digits made from them; with label=digit, ten classes.

Files are named `{digit}_{speaker}_{index}.wav` (github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0). The
official test set is index 0 to 4. For development, the last four training recordings of each digit and speaker are set
aside.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from segue.data import audio
from segue.data.corpora import Example, check_source, measured
from segue.data.examples import Labeled, Utterance
from segue.errors import UserError
from segue.recipe import Section

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_INDICES = range(5)
DEV_RECORDINGS = 4
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
    """Random seed of the strings."""
    label: Literal["digit"] | None = None
    """"digit" makes manifests for classification: the digit is the class, and there are no strings."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Single recordings as train, dev and test; strings as train_strings, dev_strings and test_strings."""
    check_source(source, "the folder recordings of the corpus")
    files: dict[tuple[int, str], dict[int, Path]] = {}  # by digit and speaker, then index
    for file in sorted(source.glob("*.wav")):
        name = re.fullmatch(r"(\d)_(\w+)_(\d+)", file.stem)
        if name is None:
            yield "train", UserError(f"{file}: not named like 7_speaker_12.wav (digit, speaker, index)")
        else:
            files.setdefault((int(name[1]), name[2]), {})[int(name[3])] = file
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for (digit, speaker), recordings in files.items():
        for split, index in _divide(sorted(recordings), speaker, options.test_speaker):
            found = measured(recordings[index], WORDS[digit], str(recordings[index]), speaker)
            if isinstance(found, UserError) or options.label is None:
                yield split, found
            else:
                yield split, Labeled.of(found)
            if isinstance(found, Utterance):
                splits[split].append(found)
    speakers = {speaker for _, speaker in files}
    if options.test_speaker is not None and options.test_speaker not in speakers:
        raise UserError(
            f"test_speaker: no such speaker: {options.test_speaker} (speakers: {', '.join(sorted(speakers))})"
        )
    for number, (split, singles) in enumerate(splits.items()):
        count = getattr(options, f"{split}_strings") if options.label is None else 0
        draw = np.random.default_rng([options.seed, number])
        for each in range(count if singles else 0):
            file = out / "strings" / split / f"{each:05d}.flac"
            yield f"{split}_strings", _string(singles, options.longest, file, draw)


def _divide(indices: list[int], speaker: str, test_speaker: str | None) -> Iterator[tuple[str, int]]:
    """The split of each index. With a test speaker, the official test recordings of the others are not used."""
    if speaker == test_speaker:
        yield from (("test", index) for index in indices)
        return
    if test_speaker is None:
        yield from (("test", index) for index in indices if index in TEST_INDICES)
    others = [index for index in indices if index not in TEST_INDICES]
    num_train = len(others) - min(DEV_RECORDINGS, len(others) // 2)
    yield from (("train", index) for index in others[:num_train])
    yield from (("dev", index) for index in others[num_train:])


def _string(singles: Sequence[Utterance], longest: int, file: Path, draw: np.random.Generator) -> Utterance | UserError:
    """Writes random recordings of one speaker to a new file, concatenated without additional pauses."""
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
