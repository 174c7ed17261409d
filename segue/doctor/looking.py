"""How are many examples examined? In chunks, on all cores, in memory that grows by a few bytes an example."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.data.examples import Labeled, Pair, Utterance
from segue.data.manifest import Manifest
from segue.diagnosis import NUM_SAMPLES, Sample, Symptom
from segue.errors import UserError
from segue.progress import Bar

Kind = Utterance | Pair | Labeled
Numbers = NDArray[Any]


class Split(NamedTuple):
    """Examples that are used for one purpose."""

    name: str
    """"train", "dev", or the name of a manifest."""
    examples: Manifest[Any]


class Check(Protocol):
    """One question to the examples of all splits."""

    def look(self, indices: Sequence[int], examples: Sequence[Any]) -> Any:
        """What is seen in a chunk of a split, in a process of its own. `indices` are places in the split's manifest."""
        ...

    def gather(self, split: Split, seen: Any) -> None:
        """Adds what was seen in a chunk; chunks of a split arrive in order."""
        ...

    def symptoms(self) -> Iterator[Symptom]:
        """The findings, after all chunks."""
        ...


def over(splits: Sequence[Split], checks: Sequence[Check], what: str, chunk: int) -> None:
    """Shows all examples to all checks, `chunk` at a time; `what` is the label of the progress bar."""
    global _work
    total = sum(len(split.examples) for split in splits)
    with Bar(what, total, "examples") as bar:
        for split in splits:
            _work = split, checks
            chunks = [
                range(start, min(start + chunk, size))
                for size in [len(split.examples)]
                for start in range(0, size, chunk)
            ]
            for indices, results in zip(chunks, _mapped(chunks), strict=True):
                for check, seen in zip(checks, results, strict=True):
                    check.gather(split, seen)
                bar.advance(len(indices))


_work: tuple[Split, Sequence[Check]]  # inherited by forked processes


def _look(indices: range) -> list[Any]:
    split, checks = _work
    examples = [split.examples[index] for index in indices]
    return [check.look(indices, examples) for check in checks]


def _mapped(chunks: Sequence[range]) -> Iterator[list[Any]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(chunks))
    if workers < 2 or sys.platform == "win32":  # no fork there
        yield from map(_look, chunks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin) as pool:
        try:
            yield from pool.map(_look, chunks)
        except BrokenProcessPool:
            raise UserError("a process that reads data died, perhaps for lack of memory") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal signals all; the parent ends them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork


class Tally:
    """Affected examples by kind of finding: all are counted, the first few are kept."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[tuple[int, str]]] = {}
        """Places in the manifest, and what was seen there."""

    def add(self, kind: str, index: int, detail: str = "") -> None:
        """Adds an example."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        first = self.first.setdefault(kind, [])
        if len(first) < NUM_SAMPLES:
            first.append((index, detail))

    def merge(self, other: "Tally") -> None:
        """Adds those of `other`."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first[kind] = [*self.first.get(kind, ()), *other.first[kind]][:NUM_SAMPLES]


class Tallies:
    """A tally per split."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[Split, Tally]] = {}

    def merge(self, split: Split, seen: Tally) -> None:
        """Adds what was seen in a chunk."""
        self.of.setdefault(split.name, (split, Tally()))[1].merge(seen)

    def kinds(self) -> list[str]:
        """The kinds that were found."""
        return list(dict.fromkeys(kind for _, tally in self.of.values() for kind in tally.counts))

    def count(self, kind: str, split: str | None = None) -> int:
        """Affected examples of a split, or of all."""
        return sum(tally.counts.get(kind, 0) for name, (_, tally) in self.of.items() if split in (None, name))

    def samples(self, kind: str) -> list[Sample]:
        """The first few."""
        found = [
            sample(split, index, detail)
            for split, tally in self.of.values()
            for index, detail in tally.first.get(kind, ())
        ]
        return found[:NUM_SAMPLES]


def sample(split: Split, index: int, detail: str = "") -> Sample:
    """An example of a finding, as it is shown."""
    example = split.examples[index]
    return Sample(example.origin, detail or text_of(example))


def text_of(example: Kind) -> str:
    """What an example says, for people."""
    if isinstance(example, Pair):
        return f"{cut(example.source)} | {cut(example.target)}"
    if isinstance(example, Labeled):
        return f"{example.label}: {cut(example.text)}" if example.text else example.label
    return cut(example.text)


def cut(text: str, size: int = 120) -> str:
    """The text, or its beginning."""
    return text if len(text) <= size else f"{text[: size - 1]}…"


def hashed(content: bytes | str) -> int:
    """64 bits that differ for different contents."""
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def joined(parts: Iterable[Numbers], dtype: Any) -> Numbers:
    """One array of many."""
    found = list(parts)
    return np.concatenate(found) if found else np.zeros(0, dtype)


def names(counts: Mapping[str, int], shown: int = 12) -> str:
    """The most frequent ones with their counts."""
    most = sorted(counts.items(), key=lambda each: -each[1])
    more = f" and {len(most) - shown} more" if len(most) > shown else ""
    return ", ".join(f"{name} {count:,}" for name, count in most[:shown]) + more
