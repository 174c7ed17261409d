"""NeMo's manifests: checked, and rewritten with paths relative to their new location.

SOURCE is one manifest, or a folder with train.jsonl (or .json), dev and test. A key `split` can assign lines to train,
dev and test; other unknown keys are dropped.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, checked
from segue.data.corpora.splits import SPLITS, SplitOptions, divide, named, sources, unpacked_or_packed
from segue.data.examples import Utterance
from segue.data.manifest import parse_with_values
from segue.errors import UserError


class Options(SplitOptions):
    """NeMo's manifests."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Lines of all manifests."""
    suffix = ".json" if unpacked_or_packed(source / "train.json") else ".jsonl"
    found = sources(source, suffix)
    written = [(out / f"{split}.jsonl").resolve() for split in SPLITS]
    for path in found.values():
        if path.resolve() in written:
            raise UserError(f"{path}: is read, and would be replaced; give another OUT_DIR")
    lines = (each for split, path in found.items() for each in _lines(split, path))
    yield from divide(lines, options)


def _lines(split: str, path: Path) -> Iterator[Example]:
    for line, values in parse_with_values(path, Utterance):
        if isinstance(line, UserError):
            yield split, line
            continue
        name = None if split else values.get("split")
        try:
            yield split if name is None else named(str(name), f"{line.origin}: split"), checked(line)
        except UserError as problem:
            yield split, problem
