"""Which windows of a corpus make up micro-batch n? A pure function of (seed, n).

Shape letters: B windows, T tokens of a window.

The stream is an end token, then all tokens of the corpus. A window of T inputs has as targets what follows each of
them. In each epoch, windows follow each other from a random place in the first T tokens on, and come in a random order;
no order is stored, so resuming needs only the step.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from segue.data import automatic
from segue.data.batching import Indices, MicroBatch
from segue.data.documents import END
from segue.data.manifests import Split
from segue.data.token_files import TokenFile
from segue.data.tokenizer import Tokenizer
from segue.errors import UserError

B = TypeVar("B")

MOST_PERMUTED = 10_000_000
"""From so many windows on, their order is computed one by one: a permutation would need 8 bytes for each."""
_ROUNDS = 4  # of a Feistel network, with which it is a pseudorandom permutation (Luby and Rackoff 1988)


class Windows(NamedTuple):
    """A micro-batch of windows."""

    inputs: NDArray[np.int64]
    """(B, T) tokens."""
    targets: NDArray[np.int64]
    """(B, T) the token behind each."""
    documents: NDArray[np.int64]
    """(B, T) the number of end tokens in the row so far: attention is between equal numbers."""
    lengths: NDArray[np.int64]
    """(B) tokens of each row; end tokens are behind them. All are T, except that of the last development window."""
    ids: list[str]
    """The part of the corpus and the window's place in the stream."""
    num_skipped: int = 0

    @property
    def amount(self) -> float:
        """Number of targets."""
        return float(self.lengths.sum())


class WindowPlan:
    """An endless sequence of micro-batches: epoch after epoch, each window exactly once per epoch.

    In training, an epoch leaves out less than two windows of tokens, at its ends, which are others in each epoch. In
    development, windows are in order, and the last one is shorter: each token is a target exactly once.
    """

    def __init__(self, num_tokens: int, window: int, budget: float, *, seed: int = 0, is_training: bool = True) -> None:
        """`budget` limits the tokens of a micro-batch; a window has `window` tokens, or all of a smaller corpus."""
        assert num_tokens > 0
        self.window = min(window, num_tokens)
        """T."""
        assert budget >= self.window
        self._seed, self._is_training = seed, is_training
        if is_training:
            self.num_windows = max(1, (num_tokens - self.window + 1) // self.window)
            self._num_offsets = min(self.window, num_tokens - self.num_windows * self.window + 1)
        else:
            self.num_windows, self._num_offsets = -(-num_tokens // self.window), 1
        self.num_micro_batches = -(-self.num_windows // int(budget // self.window))
        """Micro-batches in an epoch."""
        self._epoch = -1
        self._order: Callable[[Indices], Indices] = lambda places: places
        self._offset = 0

    def micro_batch(self, number: int) -> MicroBatch:
        """Micro-batch `number`, counted from 0 over all epochs; its indices are places in the stream."""
        epoch, position = divmod(number, self.num_micro_batches)
        if epoch != self._epoch:  # only a cache: consecutive numbers are in the same epoch
            self._begin(epoch)
        size, num_larger = divmod(self.num_windows, self.num_micro_batches)  # as np.array_split divides
        start = position * size + min(position, num_larger)
        windows = self._order(np.arange(start, start + size + (position < num_larger), dtype=np.int64))
        return MicroBatch(epoch, self._offset + windows * self.window)

    def heaviest(self) -> tuple[int, ...]:
        """The first micro-batch, which has as many windows as any."""
        return (0,)

    def _begin(self, epoch: int) -> None:
        if self._is_training:
            draw = np.random.default_rng([self._seed, 1, epoch])
            self._offset = int(draw.integers(self._num_offsets))
            self._order = order(self.num_windows, draw)
        self._epoch = epoch


def order(size: int, draw: np.random.Generator) -> Callable[[Indices], Indices]:
    """A random permutation of the numbers below `size`, as a function of places."""
    if size < MOST_PERMUTED:
        permutation = draw.permutation(size)
        return lambda places: permutation[places]
    return _feistel(size, draw)


def _feistel(size: int, draw: np.random.Generator) -> Callable[[Indices], Indices]:
    """A permutation that needs no memory: a Feistel network on as many bits as `size` needs, in two halves.

    Results that are too large are put in again, until they are not (cycle walking; Black and Rogaway 2002).
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = draw.integers(2**64, size=_ROUNDS, dtype=np.uint64)

    def permuted(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> half, numbers & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return (left << half) | right

    def apply(places: Indices) -> Indices:
        found = permuted(places.astype(np.uint64))
        while (is_large := found >= size).any():
            found[is_large] = permuted(found[is_large])
        return found.astype(np.int64)

    return apply


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of each number (the finalizer of splitmix64; Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


class WindowSource(Generic[B]):
    """The windows of a corpus as micro-batches: a pure function of token files, recipe and number."""

    unit = "tokens"

    def __init__(
        self,
        files: Mapping[Split, TokenFile],
        window: int,
        budget: float | Literal["auto"],
        make: Callable[[Windows], B],
        *,
        tokenizer: Tokenizer,
        seed: int,
        few: float,
    ) -> None:
        """`window` is T; `budget` limits the tokens of a training micro-batch; "auto": not determined yet.

        `make` makes a batch of windows; `tokenizer` has made the tokens; up to `few` training tokens, "auto" means 100
        epochs. Raises a UserError for a budget without room for a window.
        """
        smallest = min(window, len(files["train"])) if files else window  # an estimate has no files
        if budget != "auto" and budget < smallest:
            raise UserError(
                f"batch.tokens: {budget:g} is less than a window of {smallest:,} tokens; a micro-batch has one or more"
            )
        self.files, self._window, self._budget, self._make = dict(files), window, budget, make
        self.tokenizer, self._end, self._seed, self._few = tokenizer, tokenizer.special[END], seed, few
        self._plans: dict[Split, WindowPlan] = {}

    def plan(self, split: Split) -> WindowPlan:
        """Training windows in random order, development windows in that of the texts."""
        if split not in self._plans:
            num_tokens = len(self.files[split])
            smallest = float(min(self._window, num_tokens))
            budget = smallest if self._budget == "auto" else max(smallest, self._budget)
            self._plans[split] = WindowPlan(
                num_tokens, self._window, budget, seed=self._seed, is_training=split == "train"
            )
        return self._plans[split]

    def load(self, split: Split, micro_batch: MicroBatch) -> B:
        """Reads the windows of a micro-batch."""
        return self._make(self.windows(split, micro_batch.indices))

    def windows(self, split: Split, places: Indices) -> Windows:
        """The windows at these places of the stream."""
        tokens, window = self.files[split].tokens, self.plan(split).window
        rows = np.full((len(places), window + 1), self._end, np.int64)
        lengths = np.minimum(window, len(tokens) - places)
        for row, place, length in zip(rows, places.tolist(), lengths.tolist(), strict=True):
            if place:
                row[: length + 1] = tokens[place - 1 : place + length]
            else:  # the end token before the first document
                row[1 : length + 1] = tokens[:length]
        inputs = rows[:, :-1].copy()
        inputs[np.arange(window) >= lengths[:, None]] = self._end
        ids = [f"{split}:{place}" for place in places.tolist()]
        return Windows(inputs, rows[:, 1:].copy(), np.cumsum(inputs == self._end, axis=1), lengths, ids)

    def budgets(self) -> tuple[float, float]:
        """The smallest budget of a training micro-batch, one window; and one that holds all of them."""
        num_tokens = len(self.files["train"])
        plan = WindowPlan(num_tokens, self._window, num_tokens)
        return float(plan.window), float(plan.window * plan.num_windows)

    def with_budget(self, budget: float) -> Self:
        """A copy of the source with another budget for training micro-batches."""
        other = copy(self)
        other._budget, other._plans = budget, {}
        return other

    def epochs(self) -> float:
        """The number of epochs for "auto"."""
        return automatic.epochs(len(self.files["train"]), self._few)

    def fingerprint(self) -> str:
        """Changes when a token does, or the windows' length."""
        files = (f"{split} {len(file)} {file.checksum[:16]}" for split, file in self.files.items())
        return f"window {self._window} {' '.join(files)}"
