"""Which examples are for training, and which select the best model? Manifests, or a held-out part of them."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from segue.data import automatic
from segue.data.corpora.splits import SplitOptions, divide
from segue.data.examples import Example
from segue.data.manifest import Manifest, ManifestsSection, named
from segue.errors import UserError, count_of, warn

Split = Literal["train", "dev"]
FEW_DEV = 5
"""Fewer development examples than this are warned about."""
E = TypeVar("E", bound=Example)
S = TypeVar("S", bound=ManifestsSection)


class Named(Protocol):
    """The names of what a recipe reads: manifests, or texts."""

    @property
    def train(self) -> tuple[str, ...]:
        """For training."""
        ...

    @property
    def dev(self) -> tuple[str, ...] | str:
        """For development."""
        ...

    @property
    def rehearsal(self) -> tuple[str, ...]:
        """Mixed into training."""
        ...

    @property
    def rehearsal_share(self) -> float:
        """Share of the training that they are."""
        ...


class Splits(NamedTuple):
    """The examples of a run."""

    train: Manifest[Any]
    dev: Manifest[Any]

    def by_name(self) -> dict[Split, Manifest[Any]]:
        """As a dict."""
        return {"train": self.train, "dev": self.dev}


def resolved(data: S) -> S:
    """The section with `dev = "auto"` resolved: dev.jsonl if it exists, else "held_out"."""
    if data.dev != "auto":
        return data
    found = [name for name in ("dev.jsonl", "dev.jsonl.gz") if (Path(data.root) / name).is_file()]
    return data.model_copy(update={"dev": tuple(found[:1]) or "held_out"})


def splits(kind: type[E], data: ManifestsSection) -> Splits:
    """The training and development examples. Raises a UserError for missing or unusable manifests.

    Warnings about held-out examples are given only here, at the start of a training.
    """
    check(data)
    train = Manifest(kind, training_paths(data), skip_bad=data.skip_bad)
    if data.dev != "held_out":
        return Splits(train, Manifest(kind, dev_paths(data), skip_bad=data.skip_bad))
    chosen = _held_out(train, is_said=True)
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    if not len(rest) or not len(chosen):
        raise UserError(f"{', '.join(map(str, train.paths))}: too few examples to hold some out for development")
    if len(chosen) < FEW_DEV:
        warn(
            f"held out for development: {len(chosen)} of {count_of(len(train), 'example')}; "
            "so few choose the best model by luck; more data help, and a training with --from MODEL needs fewer"
        )
    return Splits(train.part(rest), train.part(chosen))


def dev(kind: type[E], data: ManifestsSection, skip_bad: bool) -> Manifest[E] | None:
    """The development examples; None if their manifests no longer exist."""
    held_out = data.dev == "held_out"
    paths = [path for path in (training_paths(data) if held_out else dev_paths(data)) if path.is_file()]
    if not paths:
        return None
    manifest = Manifest(kind, paths, skip_bad=skip_bad)
    return manifest.part(_held_out(manifest, is_said=False)) if held_out else manifest


def training_paths(data: ManifestsSection) -> list[Path]:
    """Paths of the training manifests."""
    return [Path(data.root) / name for name in data.train]


def paths_of_test(data: ManifestsSection) -> list[Path]:
    """Paths of the test manifests in the folder of the training manifests."""
    return named(Path(data.root), "test*")


def for_comparison(kind: type[E], data: ManifestsSection, given: Path | None, skip_bad: bool) -> Manifest[E]:
    """The examples on which models are compared: those given, or the test manifests, or else development examples.

    Raises a UserError without any.
    """
    paths = paths_of_test(data) if given is None else [given]
    found = Manifest(kind, paths, skip_bad=skip_bad) if paths else dev(kind, data, skip_bad)
    if found is None:
        raise UserError(
            f"no examples to compare on: neither test*.jsonl nor {dev_name(data)} in {data.root} (data.root of the "
            "model's recipe); give --examples MANIFEST"
        )
    return found


def rehearsal_of(data: S) -> S:
    """The section of the data that are rehearsed: all of them, as no scores are of them."""
    dev = data.train if data.dev == "held_out" else data.dev
    return data.model_copy(update={"train": data.rehearsal, "rehearsal": (), "dev": dev})


def training_name(data: Named) -> str:
    """What the training examples are, in words."""
    mixed = f" with {data.rehearsal_share:.0%} of {', '.join(data.rehearsal)} mixed in" if data.rehearsal else ""
    return f"{', '.join(data.train)}{mixed}"


def dev_paths(data: ManifestsSection) -> list[Path]:
    """Paths of the development manifests; empty if examples are held out."""
    return [] if isinstance(data.dev, str) else [Path(data.root) / name for name in data.dev]


def dev_name(data: Named) -> str:
    """Description of the development examples."""
    return f"a part of {', '.join(data.train)}, held out" if isinstance(data.dev, str) else ", ".join(data.dev)


def check(data: ManifestsSection) -> None:
    """Raises a UserError if a manifest does not exist; it names the missing folder, or the manifests in it."""
    wanted = {"train": training_paths(data), "rehearsal": training_paths(rehearsal_of(data)), "dev": dev_paths(data)}
    missing = [(key, path) for key, paths in wanted.items() for path in paths if not path.is_file()]
    if not missing:
        return
    key, path = missing[0]
    folder = path.parent
    if not folder.is_dir():
        wrong = "not a folder" if folder.exists() else "no such folder"
        if folder != Path(data.root):
            raise UserError(f"{folder}: {wrong}; data.{key} names manifests, as seen from data.root={data.root}")
        raise UserError(f"{folder}: {wrong}; data.root={data.root} should name what `segue prepare` wrote")
    there = sorted(path.name for path in folder.iterdir() if path.name.endswith((".jsonl", ".json", ".jsonl.gz")))
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    has = f"the folder has {listed}: data.{key} names manifests" if there else "the folder has no manifest"
    remedy = "data.dev=held_out takes a tenth of the training examples" if key == "dev" else "segue prepare writes them"
    raise UserError(f"{path}: no such manifest ({has}; {remedy})")


def _held_out(manifest: Manifest[Any], *, is_said: bool) -> Any:
    """Sorted indices of the held-out examples, chosen as `segue prepare` would."""
    options = SplitOptions(dev_share=automatic.held_out_share(len(manifest)), test_share=0.0)
    places = {example.origin: index for index, example in enumerate(manifest)}
    remedy = """data.dev='["FILE.jsonl"]' can name a manifest of other speakers"""
    # Of few speakers, a whole one is too much to lose: of five, a fifth of all voices, where a tenth was asked for.
    examples = (("", example) for example in manifest)
    divided = divide(examples, options, is_said=is_said, remedy=remedy, most=1.25)
    chosen = [places[each.origin] for split, each in divided if split == "dev" and not isinstance(each, UserError)]
    return np.array(sorted(chosen), dtype=np.int64)
