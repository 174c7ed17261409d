"""NeMo's manifests: checked, and written again with paths that hold where they lie now.

SOURCE is one manifest, or a folder with train.jsonl (or .json), dev and test.
"""

from collections.abc import Iterator
from pathlib import Path

from segue.data.corpora import Example, checked
from segue.data.corpora.splits import SplitOptions, divide, sources, unpacked_or_packed
from segue.data.examples import Utterance
from segue.data.manifest import parse_manifest


class Options(SplitOptions):
    """NeMo's manifests."""


def examples(source: Path, out: Path, options: Options) -> Iterator[Example]:
    """Lines of all manifests."""
    del out
    suffix = ".json" if unpacked_or_packed(source / "train.json") else ".jsonl"
    lines = (
        (split, checked(line) if isinstance(line, Utterance) else line)
        for split, path in sources(source, suffix).items()
        for line in parse_manifest(path, Utterance)
    )
    yield from divide(lines, options)
