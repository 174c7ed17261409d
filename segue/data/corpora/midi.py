"""MIDI files as texts of REMI words, a piece each, for a language model with the tokenizer "words" (`segue[music]`).

SOURCE is a folder with .mid and .midi files, or with folders train, dev and test of them. A piece that occurs twice, in
whatever key, is taken once.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from segue.data import music
from segue.data.corpora import Example
from segue.data.corpora.splits import SPLITS, SplitOptions, divide, sources
from segue.data.examples import Text
from segue.errors import Problems, UserError, count_of, note


class Options(SplitOptions):
    """MIDI files."""

    transpose: bool = True
    """Training pieces in up to twelve keys, -6 to +5 semitones, as far as they stay between the lowest and the highest
    pitch of all training pieces. Pieces for development and test stay as they are."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """The pieces, split by split; without given splits in the order of a hash."""
    del out
    folders = sources(source, "")
    pieces: dict[str, list[Text]] = {split: [] for split in SPLITS}
    problems = Problems()
    for split, found in divide(_unique(folders), options):
        if isinstance(found, Text):
            pieces[split].append(found)
        else:
            yield split, found
            problems.add(str(found))
    train, num_moved = pieces["train"], 0
    words = {word for piece in _written(train, options) for word in piece.text.split()}
    for split in ("dev", "test"):
        for piece in list(pieces[split]):
            if not (new := set(piece.text.split()) - words):
                continue
            pieces[split].remove(piece)
            if "" in folders:
                train.append(piece)
                words |= new
                num_moved += 1
            else:
                shown = ", ".join(sorted(new)[:3])
                yield split, UserError(f"{piece.origin}: words that no training piece has: {shown}")
    if num_moved:
        moved = count_of(num_moved, "piece is", "pieces are")
        note(f"{moved} for training, since no other training piece has all the words")
    # A share that is held out of train.jsonl later would be of pieces that are also there in other keys.
    if options.transpose and train and not pieces["dev"]:
        known = _known(train) if "" in folders and options.dev_share else None
        if known is None:
            bad = f"\n{problems.some()}" if problems else ""
            raise UserError(f"{source}: no piece for development; it needs more pieces, or transpose=false{bad}")
        train.remove(known)
        pieces["dev"].append(known)
        note(f"{known.origin} is for development: other pieces have all its words")
    for split in ("dev", "test"):
        yield from ((split, piece) for piece in pieces[split])
    yield from (("train", piece) for piece in _written(train, options))


def _known(pieces: list[Text]) -> Text | None:
    """The first piece of whose words each is in another one as well; None if there is none."""
    counts = Counter(word for piece in pieces for word in set(piece.text.split()))
    return next((piece for piece in pieces if all(counts[word] > 1 for word in piece.text.split())), None)


def _written(train: list[Text], options: Options) -> Iterator[Text]:
    return music.in_all_keys(train) if options.transpose and train else iter(train)


def _unique(folders: dict[str, Path]) -> Iterator[Example]:
    """The pieces of folders. One that is in several splits stays the furthest from training."""
    seen, num_repeated = set[str](), 0
    for split, folder in reversed(folders.items()):
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder; it should be one with MIDI files")
        files = sorted(path for path in folder.rglob("*") if _is_midi(path))
        if not files:
            raise UserError(f"{folder}: no MIDI file in it ({', '.join(music.SUFFIXES)})")
        for file in files:
            try:
                text = music.read(file, "remi")
            except UserError as problem:
                yield split, problem
                continue
            if (identity := music.identity(text)) in seen:
                num_repeated += 1
                continue
            seen.add(identity)
            yield split, Text(text, str(file))
    if num_repeated:
        note(f"{count_of(num_repeated, 'piece that repeats', 'pieces that repeat')} another one left out")


def _is_midi(path: Path) -> bool:
    return path.suffix.lower() in music.SUFFIXES and not path.name.startswith(".") and path.is_file()
