"""How is music written as text? Two notations of words for a language model, and MIDI files to and from both.

"steps": what sounds on each quarter note: pitches in MIDI numbers from high to low, then "|", as in "67 64 60 | 69 |".
"remi": REMI+ of miditok: Bar, Position, Program, Pitch, Velocity, Duration, Tempo, TimeSig (Huang and Yang 2020,
arXiv:2002.00212; von Rütte et al. 2022, arXiv:2201.10936).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segue.data.examples import Text
from segue.errors import UserError, missing_extra
from segue.files import replacing

Notation = Literal["steps", "remi"]

PITCHES = range(128)
STEP = "|"
"""The word that ends a step."""
KEYS = range(-6, 6)
"""Semitones by which a training piece is transposed: to all twelve keys."""
SUFFIXES = (".mid", ".midi")

_TICKS = 480  # a quarter note
_QUARTERS_PER_MINUTE = 80
_ORGAN = 19  # program of General MIDI: sustains notes that are held for several steps
_VELOCITY = 80
_PITCH = re.compile(r"(?<!\S)(Pitch_)?(\d+)(?!\S)")  # of both notations; drums are PitchDrum_
_REMI = re.compile(r"(Bar|Position|Program|Pitch|PitchDrum|Velocity|Duration|Tempo|TimeSig)_\S+")
_METERS = {unit: [*range(1, 33)] for unit in (1, 2, 4, 8, 16, 32)}
_LONGEST_QUARTERS = 100_000  # most of a day: beyond it, a wrong byte made a time
_SHOWN = 5


class Note(NamedTuple):
    """A note as it sounds."""

    start: float
    """Seconds."""
    seconds: float
    pitch: int
    velocity: int
    program: int
    """Of General MIDI, from 0; drums: -1."""


def check(words: Iterable[str], notation: Notation) -> None:
    """Raises a UserError that names the words that the notation does not have."""
    strange = [word for word in words if not (_is_step_word(word) if notation == "steps" else _REMI.fullmatch(word))]
    if strange:
        wanted = f'MIDI pitches and "{STEP}"' if notation == "steps" else "such as Bar_None, Pitch_60, Velocity_99"
        raise UserError(
            f'notation "{notation}" has words {wanted}, not {", ".join(map(repr, strange[:_SHOWN]))}'
            f"{', ...' if len(strange) > _SHOWN else ''}"
        )


# --- Keys ---


def transposed(text: str, semitones: int) -> str:
    """The text, in either notation, with all pitches but those of drums changed by so many semitones."""
    return _PITCH.sub(lambda found: f"{found[1] or ''}{int(found[2]) + semitones}", text)


def in_all_keys(pieces: Sequence[Text]) -> Iterator[Text]:
    """Each piece in the keys of `KEYS` in which it stays between the lowest and the highest pitch of all pieces."""
    ranges = [_range(piece.text) for piece in pieces]
    lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
    for piece, (low, high) in zip(pieces, ranges, strict=True):
        for semitones in KEYS if low <= high else (0,):  # of a piece for drums alone there is one
            if low + semitones >= lowest and high + semitones <= highest:
                yield Text(transposed(piece.text, semitones), piece.origin)


def identity(text: str) -> str:
    """The same for pieces that differ only in their key."""
    low, high = _range(text)
    return transposed(text, -low) if low <= high else text


def _range(text: str) -> tuple[int, int]:
    pitches = {int(found[2]) for found in _PITCH.finditer(text)}
    return min(pitches, default=PITCHES.stop), max(pitches, default=-1)


# --- Steps ---


def of_steps(steps: Iterable[Iterable[int]]) -> str:
    """The text of steps, each with the pitches that sound."""
    return " ".join(word for step in steps for word in (*map(str, sorted(set(step), reverse=True)), STEP))


def steps_of(text: str) -> list[set[int]]:
    """The pitches of each step; the last one may lack its end. Raises a UserError for words of other texts."""
    words = text.split()
    check(words, "steps")
    steps = [{int(word) for word in step.split()} for step in " ".join(words).split(STEP)]
    return steps if steps[-1] else steps[:-1]


def _is_step_word(word: str) -> bool:
    return word == STEP or (word.isascii() and word.isdecimal() and int(word) in PITCHES)


# --- MIDI ---


def read_midi(path: Path) -> Any:
    """A symusic Score. Raises a UserError for a file that cannot be read or has no notes."""
    symusic = _symusic()
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a MIDI file' if path.is_dir() else 'no such file'}")
    try:
        score = symusic.Score(path)
    except Exception as error:  # a corrupt file raises RuntimeError, ValueError and others
        raise UserError(f"{path}: not a MIDI file that can be read: {error}") from None
    if not any(track.notes for track in score.tracks):
        raise UserError(f"{path}: no notes in it")
    quarters = score.end() // max(1, score.ticks_per_quarter)
    if quarters > _LONGEST_QUARTERS:
        raise UserError(f"{path}: lasts {quarters:,} quarter notes, so it is damaged")
    return score


def read(path: Path, notation: Notation) -> str:
    """The text of a MIDI file. Raises a UserError, with its name, if it cannot be read or written in this notation."""
    score = read_midi(path)
    try:
        return text_of(score, notation)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None


def write_midi(score: Any, path: Path) -> None:
    """Writes a MIDI file, atomically."""
    with replacing(path) as partial:
        partial.write_bytes(score.dumps_midi())


def text_of(score: Any, notation: Notation) -> str:
    """The text of a score. Raises a UserError for a meter that REMI does not have."""
    if notation == "remi":
        remi = _remi()
        for meter in score.time_signatures:
            if (meter.numerator, meter.denominator) not in remi.time_signatures:
                raise UserError(f"a meter of {meter.numerator}/{meter.denominator}, which REMI cannot write here")
        return " ".join(remi.encode(score).tokens)
    ticks = score.ticks_per_quarter
    steps: list[set[int]] = []
    for track in score.tracks:
        for note in track.notes if not track.is_drum else ():
            first, stop = (-(-time // ticks) for time in (note.time, note.time + note.duration))
            steps += [set() for _ in range(stop - len(steps))]
            for step in steps[first:stop]:
                step.add(note.pitch)
    return of_steps(steps)


def score_of(text: str, notation: Notation) -> Any:
    """A symusic Score. A pitch of consecutive steps is one note, since steps do not say whether it is struck again.

    Words in an order that REMI does not have, as a model may write them, are left out. Raises a UserError for words
    that the notation does not have.
    """
    symusic = _symusic()
    if notation == "remi":
        remi = _remi()
        check(text.split(), notation)
        from miditok import TokSequence

        return remi.decode(TokSequence(ids=[remi[word] for word in text.split() if word in remi.vocab]))
    score, track = symusic.Score(_TICKS), symusic.Track(program=_ORGAN)
    held: dict[int, int] = {}
    for number, step in enumerate([*steps_of(text), set()]):
        for pitch in set(held) - step:
            start = held.pop(pitch)
            track.notes.append(symusic.Note(start * _TICKS, (number - start) * _TICKS, pitch, _VELOCITY))
        held |= dict.fromkeys(step - set(held), number)
    track.notes.sort()
    score.tracks.append(track)
    score.tempos.append(symusic.Tempo(0, qpm=_QUARTERS_PER_MINUTE))
    return score


def notes_of(score: Any) -> list[Note]:
    """The notes of a score, in order."""
    return sorted(
        Note(note.start, note.duration, note.pitch, note.velocity, -1 if track.is_drum else track.program)
        for track in score.to("second").tracks
        for note in track.notes
    )


def _symusic() -> Any:
    try:
        import symusic
    except ModuleNotFoundError:
        raise missing_extra("symusic", "music") from None
    return symusic


@cache
def _remi() -> Any:
    """miditok's tokenizer: 24 positions a beat of the meter, which hold triplets and, in 2/2, sixteenths."""
    try:
        import miditok
    except ModuleNotFoundError:
        raise missing_extra("miditok", "music") from None
    return miditok.REMI(
        miditok.TokenizerConfig(
            pitch_range=(0, 127),
            beat_res={(0, 4): 24, (4, 32): 8},
            num_velocities=32,
            use_programs=True,
            use_tempos=True,
            num_tempos=64,
            tempo_range=(20, 300),
            log_tempos=True,
            use_time_signatures=True,
            time_signature_range=_METERS,
        )
    )
