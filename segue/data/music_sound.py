"""How does music sound? As fluidsynth plays it with a SoundFont, else as plain sines.

Shape letters: S samples.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from segue.data import music
from segue.data.music import Note
from segue.errors import UserError, note

SAMPLE_RATE_HZ = 22_050
SOUNDFONTS = (
    "/usr/share/sounds/sf3/default-GM.sf3",
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/default.sf2",
)
"""Where Debian, Fedora and Arch have one."""

_HARMONICS = (1.0, 0.4, 0.2, 0.1)  # amplitudes of a tone's overtones: softer than an organ's
_ATTACK_SECONDS, _RELEASE_SECONDS = 0.01, 0.08  # without which notes click
_LOUDEST = 0.8
_BLOCK = 1 << 16  # libsndfile's Vorbis encoder needs stack memory for all samples of a call

Samples = NDArray[np.float32]


def player(soundfont: Path | None = None) -> Callable[[Any], Samples]:
    """What gives the (S) sound of a score, at `SAMPLE_RATE_HZ`.

    fluidsynth plays it with `soundfont`, by default the first of `SOUNDFONTS` that exists. Without fluidsynth or
    SoundFont it is sines, which a note says; raises a UserError if `soundfont` was given.
    """
    program = shutil.which("fluidsynth")
    found = soundfont or next((Path(each) for each in SOUNDFONTS if Path(each).is_file()), None)
    if soundfont is not None and not _is_soundfont(soundfont):  # for which fluidsynth would take its own
        raise UserError(f"{soundfont}: not a SoundFont (.sf2, .sf3)")
    if soundfont is not None and program is None:
        raise UserError(f"{soundfont}: fluidsynth, which plays it, is not installed")
    if program is None or found is None:
        lacks = "fluidsynth" if program is None else "a SoundFont (--soundfont)"
        note(f"played with plain sines, for lack of {lacks}")
        return lambda score: sines(music.notes_of(score))
    return lambda score: _played(score, program, found)


def sines(notes: list[Note]) -> Samples:
    """(S) each note as a sine with three overtones; drums are left out."""
    seconds = max((note.start + note.seconds for note in notes), default=0.0) + _RELEASE_SECONDS
    sound: Samples = np.zeros(int(seconds * SAMPLE_RATE_HZ) + 1, np.float32)
    for each in notes:
        if each.program >= 0:
            start = int(each.start * SAMPLE_RATE_HZ)
            tone = _tone(each)[: len(sound) - start]
            sound[start : start + len(tone)] += tone
    return _normalized(sound)


def wav(samples: Samples) -> bytes:
    """The content of a wav file."""
    file = BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def ogg(samples: Samples) -> bytes:
    """The content of an Ogg Vorbis file, a tenth as large."""
    file = BytesIO()
    with soundfile.SoundFile(file, "w", SAMPLE_RATE_HZ, 1, format="OGG", subtype="VORBIS") as writer:
        for block in _blocks(samples):
            writer.write(block)
    return file.getvalue()


def _is_soundfont(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"sfbk"


def _normalized(sound: Samples) -> Samples:
    """The same sound as loud as it may be: fluidsynth leaves room for a whole orchestra."""
    peak = float(np.abs(sound).max(initial=0.0))
    return sound * np.float32(_LOUDEST / peak) if peak else sound


def _blocks(samples: Samples) -> Iterator[Samples]:
    for start in range(0, len(samples), _BLOCK):
        yield samples[start : start + _BLOCK]


def _tone(each: Note) -> Samples:
    time = np.arange(int((each.seconds + _RELEASE_SECONDS) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    frequency = 440.0 * 2 ** ((each.pitch - 69) / 12)
    tone = np.zeros(len(time))
    for number, amplitude in enumerate(_HARMONICS, 1):
        if number * frequency < SAMPLE_RATE_HZ / 2:
            tone += amplitude * np.sin(2 * np.pi * number * frequency * time)
    rise = np.minimum(1.0, time / _ATTACK_SECONDS)
    fall = np.clip((each.seconds + _RELEASE_SECONDS - time) / _RELEASE_SECONDS, 0.0, 1.0)
    return (tone * rise * fall * each.velocity / 127).astype(np.float32)


def _played(score: Any, program: str, soundfont: Path) -> Samples:
    """(S) the mean of both channels of what fluidsynth plays."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "music.mid"), Path(folder, "music.wav")
        music.write_midi(score, source)
        words = [program, "-ni", "-q", "-F", str(target), "-r", str(SAMPLE_RATE_HZ), str(soundfont), str(source)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not target.is_file():
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise UserError(f"fluidsynth cannot play with {soundfont}: {last}")
        samples, _ = soundfile.read(target, dtype="float32", always_2d=True)
    return _normalized(samples.mean(axis=1))
