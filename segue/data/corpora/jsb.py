"""Bach's chorales in the official split of Boulanger-Lewandowski et al. 2012 (229, 76, 77), in steps of a quarter note.

SOURCE is jsb-chorales-quarter.json of github.com/czhuang/JSB-Chorales-dataset, or its folder. The text of a chorale are
its steps: pitches in MIDI numbers, from high to low, then "|", as in "67 64 60 48 | 69 64 60 45 |".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segue.data import music
from segue.data.corpora import Example
from segue.data.corpora.splits import NAMES
from segue.data.examples import Text
from segue.data.manifest import read_content
from segue.errors import UserError
from segue.recipe import Section

FILE = "jsb-chorales-quarter.json"


class Options(Section):
    """Bach's chorales."""

    transpose: bool = True
    """Training pieces in up to twelve keys, -6 to +5 semitones, as far as they stay between the lowest and the highest
    pitch of all training pieces. Pieces for development and test stay as they are."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """The chorales, split by split."""
    del out
    path = source / FILE if source.is_dir() else source
    try:
        corpus = json.loads(read_content(path, "file"))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(corpus, dict) or not all(isinstance(pieces, list) for pieces in corpus.values()):
        raise UserError(f"{path}: an object with the lists train, valid and test wanted, as in {FILE}")
    for name, pieces in corpus.items():
        if name not in NAMES:
            raise UserError(f"{path}: {name!r}: no such split; train, valid and test wanted")
        found = [_piece(piece, f"{path}: {name} {number}") for number, piece in enumerate(pieces)]
        split, texts = NAMES[name], [each for each in found if isinstance(each, Text)]
        for each in found:
            if isinstance(each, UserError):
                yield split, each
        for each in music.in_all_keys(texts) if split == "train" and options.transpose else texts:
            yield split, each


def _piece(piece: Any, origin: str) -> Text | UserError:
    if not isinstance(piece, list) or not piece:
        return UserError(f"{origin}: a list of steps wanted, each a list of pitches")
    for number, step in enumerate(piece):
        pitches = step if isinstance(step, list) else [step]
        if step is not pitches or not all(type(each) is int and each in music.PITCHES for each in pitches):
            return UserError(f"{origin}, step {number}: MIDI pitches from 0 to 127 wanted, got {json.dumps(step)[:60]}")
    return Text(music.of_steps(piece), origin)
