"""How do the examples of manifests become micro-batches? The engine's `Source`, shared by all tasks.

A task implements a `Reader` for its examples: which ones are unusable, how long they are, how one is read.
`ManifestSource` does the rest: leaving out examples and reporting them, budgets, plans, skipping, fingerprint.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from segue.data import automatic
from segue.data.batching import BatchPlan, MicroBatch
from segue.data.examples import Example
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.errors import SKIP_BAD, Problems, UserError, count_of, warn
from segue.progress import progress

Lengths = NDArray[np.float64]

E = TypeVar("E", bound=Example)
X = TypeVar("X")
B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)

NUM_DEV_BUCKETS = 16


class Finding(NamedTuple):
    """Why an example is not used."""

    problem: str
    """The problem, with file and line; for examples left out by the recipe, a text that they have in common."""
    is_mistake: bool = True
    """False if the recipe itself leaves the example out."""


class Seen(NamedTuple):
    """A text of an example, as it is written and as the model sees it."""

    key: str
    """Its key in the manifest."""
    written: str
    normalized: str
    tokenizer: Any
    """The `Tokenizer` that encodes it."""


class Reader(Protocol[E, X, B_co]):
    """How a task reads its examples."""

    noun: str
    """Noun for an example, for messages; its plural has an s."""
    unit: str
    """Unit of lengths and budgets: "seconds", "tokens"."""
    examining: str
    """Description of `examine` for the progress bar."""

    @property
    def few(self) -> float:
        """Up to this `amount` of training data, "auto" means 100 epochs."""
        ...

    def examine(self, split: Split, examples: Iterable[E]) -> Iterator[float | Finding]:
        """The length of each example, in order, or why it is not used."""
        ...

    def seen(self, example: E) -> Sequence[Seen]:
        """The texts of an example that the model reads or writes."""
        ...

    def advice(self) -> Sequence[str]:
        """Lines of advice about the problems that `examine` has found so far."""
        ...

    def arrange(self, split: Split, examples: Manifest[E], lengths: Lengths) -> Lengths:
        """Length of each item that `read` returns: an example, or several joined ones."""
        ...

    def too_long(self, examples: Manifest[E], lengths: Lengths, budget: float) -> str:
        """The message if the longest item does not fit into the budget of a micro-batch."""
        ...

    def read(self, split: Split, examples: Manifest[E], index: int, epoch: int) -> X:
        """Reads item `index` of those that `arrange` returned. Raises a UserError if it cannot be read."""
        ...

    def collate(self, read: Sequence[X], num_skipped: int) -> B_co:
        """Makes a micro-batch of what was read; `num_skipped` bad examples were left out."""
        ...

    def amount(self, examples: Manifest[E]) -> float:
        """Amount of data, in the unit of `few`."""
        ...


class ManifestSource(Generic[E, X, B]):
    """The training and development examples of a run: a pure function of manifests, recipe and number."""

    def __init__(
        self,
        reader: Reader[E, X, B],
        manifests: Mapping[Split, Manifest[E]],
        budget: float | Literal["auto"],
        *,
        buckets: int,
        seed: int,
        skip_bad: bool,
    ) -> None:
        """Examines all examples and leaves out unusable ones; `check` reports them.

        `budget` limits a training micro-batch: number of examples times the longest one; "auto": not determined yet.
        """
        self.reader, self.manifests, self.unit = reader, manifests, reader.unit
        self._budget, self._buckets, self._seed, self._skip_bad = budget, buckets, seed, skip_bad
        self.mistakes: dict[Split, Problems] = {}
        """Why examples cannot be used."""
        self.left_out: dict[Split, Counter[str]] = {}
        """Why, and how often, the recipe itself leaves examples out."""
        self.whole = {split: copy(manifest) for split, manifest in manifests.items()}
        """The manifests with what cannot be used."""
        self._lengths: dict[Split, Lengths] = {}
        for split, manifest in manifests.items():
            usable, unused = array("d"), array("q")
            self.mistakes[split], self.left_out[split] = Problems(), Counter()
            examined = reader.examine(split, progress(manifest, reader.examining, unit=f"{reader.noun}s"))
            for index, each in enumerate(examined):
                if not isinstance(each, Finding):
                    usable.append(each)
                    continue
                unused.append(index)
                if each.is_mistake:
                    self.mistakes[split].add(each.problem)
                else:
                    self.left_out[split][each.problem] += 1
            lengths = np.array(usable, np.float64)
            manifest.without(unused)
            self._lengths[split] = reader.arrange(split, manifest, lengths) if len(lengths) else lengths
        self._plans: dict[Split, BatchPlan] = {}

    def check(self) -> None:
        """Raises a UserError for bad examples, or with `skip_bad` warns about them; also warns about those left out."""
        for split, manifest in self.manifests.items():
            mistakes = self.mistakes[split]
            if mistakes and not self._skip_bad:
                raise UserError("\n".join([mistakes.some(), *self.reader.advice(), SKIP_BAD]))
            if mistakes:
                warn(f"{count_of(len(mistakes), 'unusable example')} left out:\n{mistakes.some(3)}", mistakes)
            for problem, count in self.left_out[split].items():
                warn(f"{count_of(count, self.reader.noun)} {problem} left out")
            if not len(manifest):
                raise UserError(f"{', '.join(map(str, manifest.paths))}: no usable example")
        for split in self.manifests:
            self.plan(split)

    def plan(self, split: Split) -> BatchPlan:
        """Training data in buckets, shuffled; development data sorted by length."""
        if split not in self._plans:
            self._plans[split] = self._planned(split)
        return self._plans[split]

    def lengths(self, split: Split) -> Lengths:
        """Length of each item of a split."""
        return self._lengths[split]

    def budgets(self) -> tuple[float, float]:
        """The longest training example's length; and that times the number of examples."""
        lengths = self._lengths["train"]
        return float(lengths.max()), float(lengths.max() * len(lengths))

    def with_budget(self, budget: float) -> Self:
        """A copy of the source with another budget for training micro-batches."""
        other = copy(self)
        other._budget, other._plans = budget, {}
        return other

    def load(self, split: Split, micro_batch: MicroBatch) -> B:
        """Reads and collates the examples of a micro-batch. Raises a UserError for a bad one, unless `skip_bad`."""
        read: list[X] = []
        for index in micro_batch.indices.tolist():
            try:
                read.append(self.reader.read(split, self.manifests[split], index, micro_batch.epoch))
            except UserError as problem:
                if not self._skip_bad:
                    raise UserError(f"{problem} {SKIP_BAD}") from None
        return self.reader.collate(read, len(micro_batch.indices) - len(read))

    def epochs(self) -> float:
        """The number of epochs for "auto"."""
        return automatic.epochs(self.reader.amount(self.manifests["train"]), self.reader.few)

    def fingerprint(self) -> str:
        """Changes when an example of the training or development data does."""
        return " ".join(f"{split} {len(each)} {each.checksum():08x}" for split, each in self.manifests.items())

    def _planned(self, split: Split) -> BatchPlan:
        lengths = self._lengths[split]
        longest = float(lengths.max())
        budget = longest if self._budget == "auto" else float(self._budget)
        if split != "train":
            return BatchPlan(lengths, max(budget, longest), buckets=NUM_DEV_BUCKETS, seed=0, is_shuffled=False)
        if longest > budget:
            raise UserError(self.reader.too_long(self.manifests[split], lengths, budget))
        return BatchPlan(lengths, budget, buckets=self._buckets, seed=self._seed)
