"""Texts said by the voices of espeak-ng: for words of which there are few recordings, or recordings of few people.

SOURCE is a text file, a text a line. Voices differ between train, dev and test. A model of synthesized speech alone
does not recognize people; beside recordings of people it may help (recipes/classification/digits_anyone.toml). Needs
the package espeakng-loader.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from segue.data import audio
from segue.data.corpora import Example
from segue.data.corpora.lines import EmptyLineError, lines
from segue.data.examples import Labeled, Utterance
from segue.data.synthesis import Synthesizer
from segue.errors import UserError
from segue.recipe import Section

# Voice variants of espeak-ng; each is used in one split only.
VOICES = {
    split: tuple(names.split())
    for split, names in {
        "train": "m1 m2 m3 m4 m6 m8 f1 f2 f4 f5 Alex Alicia Andrea Andy Diogo Gene Henrique Hugo Jacky Marco Michael "
        "Mike Reed adam anika antonio belinda benjamin boris caleb david edward gustave iven linda marcelo max miguel "
        "pablo paul quincy robert sandro shelby steph travis",
        "dev": "m5 Annie iven2",
        "test": "m7 f3 Lee Mario steph2 victor",
    }.items()
}
ENGLISH = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc")
"""Accents."""

Count = Annotated[int, Field(ge=0)]


class Options(Section):
    """Synthesized speech."""

    train: Count = 250
    """Recordings of each text for training, by 46 voices at random rates and pitches."""
    dev: Count = 6
    """Recordings of each text for development, by 3 other voices."""
    test: Count = 12
    """Recordings of each text for test, by 6 other voices."""
    language: str = "en"
    """espeak-ng's name of the language of the texts; "en": several accents of English."""
    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)] = 16000
    """Of the recordings."""
    label: Literal["text"] | None = None
    """"text" makes manifests for classification: the text is the class."""
    seed: Count = 0
    """Random seed of voices, rates and pitches."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Recordings of all texts, split by split, in the order of the lines."""
    texts = list[tuple[str, str]]()
    for number, line in lines(source):
        if isinstance(line, EmptyLineError):
            continue
        if isinstance(line, UserError):
            yield "train", line
            continue
        texts.append((f"{source}:{number}", line.strip()))
    voice = Synthesizer()
    for which, split in enumerate(VOICES):
        for number in range(getattr(options, split) * len(texts)):
            origin, text = texts[number % len(texts)]
            draw = np.random.default_rng([options.seed, which, number])
            file = out / split / f"{number:06d}.flac"
            try:
                said = spoken(voice, text, split, file, draw, options.sample_rate_hz, options.language)
            except UserError as problem:
                raise UserError(f"{origin}: {problem}") from None
            yield split, said if options.label is None else Labeled.of(said)


def spoken(
    voice: Synthesizer,
    text: str,
    split: str,
    file: Path,
    draw: np.random.Generator,
    sample_rate_hz: int,
    language: str = "en",
) -> Utterance:
    """Writes `text`, said by a random voice of the split at a random rate and pitch, to `file`.

    Raises a UserError for a language that espeak-ng does not have, or a text of which nothing is said.
    """
    speaker = str(draw.choice(VOICES[split]))
    accent = draw.choice(ENGLISH) if language == "en" else language
    samples = voice.say(
        text,
        voice=f"{accent}+{speaker}",
        words_per_minute=int(draw.integers(120, 220)),
        pitch=int(draw.integers(30, 71)),
    )
    samples = audio.resample(samples, voice.sample_rate_hz, sample_rate_hz)
    if not samples.any():
        raise UserError(f"espeak-ng says nothing for {text!r}")
    audio.write(file, samples, sample_rate_hz)
    return Utterance(
        file.stem, file, len(samples) / sample_rate_hz, text, speaker=speaker, language=language, origin=str(file)
    )
