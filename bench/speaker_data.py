"""Makes recordings of many voices to train on, and conversations of real voices to diarize, with who spoke when.

    python bench/speaker_data.py voices OUT --data FOLDER          # espeak-ng's voices and three of FSDD's speakers
    python bench/speaker_data.py conversations OUT --data FOLDER   # others: FSDD, LJSpeech, LibriVox, playing cards

FOLDER holds `fsdd`, `ljspeech_excerpt` and `pocketsphinx_testdata`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segue.data import audio
from segue.data.audio import Samples
from segue.data.corpora.synthesized import ENGLISH, VOICES
from segue.data.examples import Utterance
from segue.data.manifest import write_manifest
from segue.data.synthesis import Synthesizer
from segue.data.turns import Turn, write_rttm

RATE = 16000
TRAINED_FSDD = ("george", "jackson", "yweweler")
HELD_OUT_FSDD = ("lucas", "nicolas")
PITCHES = {"train": (20, 45, 70), "dev": (45,)}
"""A voice at each of these pitches counts as a speaker."""
PER_SPEAKER = 8
"""Recordings of each of espeak-ng's speakers."""
FSDD_STRINGS = 60
"""Strings of digits of each of FSDD's speakers."""


def texts(data: Path) -> list[str]:
    """Phrases of LJSpeech's texts, of about four seconds each."""
    lines = (data / "ljspeech_excerpt" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    words = " ".join(line.split("|")[2] for line in lines).split()
    return [" ".join(words[start : start + 10]) for start in range(0, len(words) - 10, 10)]


def string(files: Sequence[Path], draw: np.random.Generator, count: int) -> Samples:
    """So many digits of one speaker, joined with short pauses."""
    pieces: list[Samples] = []
    for number in draw.integers(len(files), size=count):
        samples = audio.read(files[number], RATE)
        pieces += [samples / max(float(np.abs(samples).max()), 1e-3) * np.float32(0.5)]
        pieces += [np.zeros(round(draw.uniform(0.05, 0.2) * RATE), np.float32)]
    return np.concatenate(pieces[:-1])


def voices(out: Path, data: Path) -> None:
    """train.jsonl and dev.jsonl: the quickstart's voices for training, and its others for development."""
    phrases, voice = texts(data), Synthesizer()
    for split, names in (("train", VOICES["train"]), ("dev", VOICES["dev"] + VOICES["test"])):
        draw, found = np.random.default_rng(len(names)), list[Utterance]()

        def add(samples: Samples, speaker: str) -> None:
            file = out / split / f"{len(found):05d}.flac"  # noqa: B023
            audio.write(file, samples, RATE)
            found.append(Utterance(file.stem, file, len(samples) / RATE, "", speaker=speaker))  # noqa: B023

        for name in names:
            for pitch in PITCHES[split]:
                accent = str(draw.choice(ENGLISH))
                for _ in range(PER_SPEAKER):
                    rate, own = int(draw.integers(130, 210)), pitch + int(draw.integers(-4, 5))
                    spoken = voice.say(str(draw.choice(phrases)), f"{accent}+{name}", rate, own)
                    add(audio.resample(spoken, voice.sample_rate_hz, RATE), f"{name} {pitch}")
        for speaker in TRAINED_FSDD:
            indices = range(45) if split == "train" else range(45, 50)
            files = [data / "fsdd" / f"{digit}_{speaker}_{index}.wav" for digit in range(10) for index in indices]
            for _ in range(FSDD_STRINGS if split == "train" else 20):
                add(string(files, draw, int(draw.integers(3, 9))), speaker)
        write_manifest(out / f"{split}.jsonl", found)
        print(f"{split}: {len(found)} recordings of {len({each.speaker for each in found})} speakers")


def sources(data: Path) -> dict[str, list[Path]]:
    """The recordings of each real speaker that conversations are made of; none of them is in the training data."""
    found = {
        speaker: [data / "fsdd" / f"{digit}_{speaker}_{index}.wav" for digit in range(10) for index in range(50)]
        for speaker in HELD_OUT_FSDD
    }
    found["lj"] = sorted((data / "ljspeech_excerpt" / "flac").glob("*.flac"))
    found["librivox"] = sorted((data / "pocketsphinx_testdata" / "librivox").glob("*.wav"))
    found["cards"] = sorted((data / "pocketsphinx_testdata" / "cards").glob("*.wav"))
    for speaker in TRAINED_FSDD:  # known voices, other recordings
        found[speaker] = [
            data / "fsdd" / f"{digit}_{speaker}_{index}.wav" for digit in range(10) for index in range(45, 50)
        ]
    return found


PAUSES, OVERLAPS = (0.0, 0.2, 0.4, 0.7, 1.0), (-1.5, -0.7, 0.0, 0.4, 1.0)
"""Seconds between turns; of conversations named "overlapping", two in five begin before the other has ended."""
CONVERSATIONS: dict[str, tuple[tuple[str, ...], float]] = {
    "lj_librivox": (("lj", "librivox"), 300.0),
    "lj_lucas": (("lj", "lucas"), 300.0),
    "lucas_nicolas": (("lucas", "nicolas"), 180.0),
    "librivox_nicolas": (("librivox", "nicolas"), 180.0),
    "lj_cards": (("lj", "cards"), 300.0),
    "three": (("lj", "librivox", "lucas"), 300.0),
    "four": (("lj", "librivox", "lucas", "nicolas"), 600.0),
    "twenty_minutes": (("lj", "librivox"), 1200.0),
    "known": (("george", "jackson"), 180.0),
    "overlapping": (("lj", "librivox"), 300.0),
    "overlapping_known": (("george", "jackson"), 180.0),
}
"""Name -> speakers, seconds."""


def speech_of(samples: Samples) -> tuple[int, int]:
    """First and last sample of speech: from where 10 ms are louder than 35 dB below the loudest."""
    size = RATE // 100
    power = np.square(samples[: len(samples) // size * size].reshape(-1, size)).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10**-3.5)
    return int(loud[0]) * size, int(loud[-1] + 1) * size


def conversation(
    files: dict[str, list[Path]], speakers: Sequence[str], seconds: float, seed: int, pauses: Sequence[float] = PAUSES
) -> tuple[Samples, list[Turn]]:
    """Turns of 1 to 12 s, most with pauses between them, at the speakers' own levels, in a quiet room. Pauses below 0
    are overlaps.

    A turn of digits has pauses of 0.05 to 0.2 s, which count as speech.
    """
    draw = np.random.default_rng(seed)
    pieces, turns, place, last = list[Samples](), list[Turn](), 0.0, ""
    gain = {speaker: 10 ** (draw.uniform(-10, 0) / 20) for speaker in speakers}
    while place < seconds:
        speaker = str(draw.choice([each for each in speakers if each != last]))
        if speaker in (*HELD_OUT_FSDD, *TRAINED_FSDD):
            samples = string(files[speaker], draw, int(draw.integers(3, 12)))
        else:
            samples = audio.read(files[speaker][int(draw.integers(len(files[speaker])))], RATE)
            samples = samples / np.abs(samples).max() * np.float32(0.5)
        first, end = speech_of(samples)
        samples = samples[first:end] * np.float32(gain[speaker])
        pause = round(float(draw.choice(pauses)) * RATE)
        turns.append(Turn(place, place + len(samples) / RATE, speaker))
        pieces.append(samples)
        place += max(len(samples) + pause, RATE // 2) / RATE
        last = speaker
    joined = np.zeros(
        max(round(turn.start * RATE) + len(each) for turn, each in zip(turns, pieces, strict=True)) + RATE, np.float32
    )
    for turn, samples in zip(turns, pieces, strict=True):
        joined[round(turn.start * RATE) :][: len(samples)] += samples
    return joined + np.float32(1e-3) * draw.standard_normal(len(joined), dtype=np.float32), turns


def conversations(out: Path, data: Path) -> None:
    """A wav and an rttm file each, and conversations.json with the speakers."""
    files = sources(data)
    for number, (name, (speakers, seconds)) in enumerate(CONVERSATIONS.items()):
        pauses = OVERLAPS if name.startswith("overlapping") else PAUSES
        samples, turns = conversation(files, speakers, seconds, number, pauses)
        audio.write(out / f"{name}.wav", samples, RATE)
        write_rttm(out / f"{name}.rttm", turns)
    (out / "conversations.json").write_text(json.dumps({name: each[0] for name, each in CONVERSATIONS.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("voices", "conversations"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    (voices if given.what == "voices" else conversations)(given.out, given.data)
