"""Does an exported language model predict the same? Its runtime compared with PyTorch, token by token.

Windows of real texts are scored by both, so that each token's log-probability can be compared; then both continue the
beginnings of sentences, always with the likeliest token.

Shape letters: B windows, T tokens.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.data import document_files
from segue.data.documents import Corpus, DocumentsSection, resolved
from segue.data.tokenizer import Tokenizer
from segue.decoding.generation import Limits, Row, generate
from segue.decoding.sampling import SamplingSection
from segue.errors import Problems, UserError
from segue.metrics.language import Counted, counted_words, of_counts
from segue.parity import NUM_SHOWN, Circumstances, Clock, Least, Parity, gate
from segue.progress import progress
from segue.runtime.language_model import LanguageBackend

LEAST_IDENTICAL = 0.95
"""Smallest fraction of identical continuations in full precision; below 1, since two tokens may be as likely."""
NUM_TOKENS = 10_000
"""Tokens that are scored, in windows of the model's context."""
NUM_CONTINUED = 64
"""Beginnings of texts that are continued."""
PROMPT, CONTINUED = 24, 32
"""Most tokens of a beginning, and of what continues it."""
BATCH = 16
"""Beginnings that are continued at once."""
MOST_CHARACTERS = 4_000_000
"""Characters that are read; more would only take time."""


class Texts(NamedTuple):
    """What models are compared on."""

    paths: list[Path]
    """Their files."""
    texts: list[str]
    skip_bad: bool = False
    """Whether texts that the tokenizer cannot write are left out."""


class Window(NamedTuple):
    """A part of a document."""

    text: str
    """Its text; that of the tokens, so that bytes and words can be counted."""
    inputs: list[int]
    targets: list[int]


class Runtime(Protocol):
    """An exported model."""

    longest: int
    """Most tokens that it reads at once."""

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats."""
        ...

    def continued(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """The `num_tokens` likeliest tokens after each prompt, or those before the end token."""
        ...


class Continuing:
    """A backend of a `LanguageModel`, as a `Runtime`."""

    def __init__(self, backend: LanguageBackend, end: int, context: int) -> None:
        self.losses, self._backend, self._end, self.longest = backend.losses, backend, end, context

    def continued(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
        """The likeliest tokens after each prompt."""
        found: list[list[int]] = [[] for _ in prompts]

        def put(row: Row, token: int) -> bool:
            found[row.prompt].append(token)
            return False

        limits = Limits(self.longest, num_tokens, self._end)
        generate(self._backend.steps(), prompts, SamplingSection(temperature=0), limits, put)
        return found


def read(data: DocumentsSection, given: Path | None, skip_bad: bool) -> Texts:
    """The texts to compare on: those given, or test files, or else development texts.

    Raises a UserError without any, and for what cannot be read, unless `skip_bad`.
    """
    root = Path(data.root)
    data = resolved(data) if root.is_dir() else data
    tests = sorted(path for path in root.glob("test*") if document_files.is_known(path))
    dev = [] if isinstance(data.dev, str) else [root / name for name in data.dev]
    paths = tests or [path for path in dev if path.is_file()] if given is None else [given]
    if paths:
        if given is not None and not given.is_file():
            raise UserError(f"{given}: no such file; --examples names a file of texts")
        if not all(map(document_files.is_known, paths)):
            raise UserError(f"{paths[0]}: not a text by its name; texts: {document_files.KNOWN}; give --examples FILE")
        found, problems = list[str](), Problems()
        parts = (each for path in paths for each in document_files.read(path, data.split, data.text_key))
        for each in _whole(parts, problems):
            found.append(each)
            if sum(map(len, found)) > MOST_CHARACTERS:
                break
        if problems and not skip_bad:
            raise UserError(f"{problems.some()}\n(--skip-bad leaves out what cannot be read)")
    else:
        found, paths = _held_out(data), [root / name for name in data.train]
    if not found:
        raise UserError(f"{paths[0]}: no text to compare on; give --examples FILE")
    return Texts(paths, found, skip_bad)


def _held_out(data: DocumentsSection) -> list[str]:
    """The held-out development texts. Raises a UserError if they are not there."""
    wanted = f"test*.txt or .jsonl, or development texts, in {data.root} (data.root of the model's recipe)"
    remedy = f"no texts to compare on: neither {wanted}; give --examples FILE"
    try:
        corpus = Corpus(data.model_copy(update={"skip_bad": True}))
    except UserError:
        raise UserError(remedy) from None
    if not corpus.is_held_out:
        raise UserError(remedy)
    found, size = list[str](), 0
    for split, document in corpus.read():
        if split == "dev":
            found.append(document.text)
            size += len(document.text)
            if size > MOST_CHARACTERS:
                break
    return found


def _whole(parts: Iterable[document_files.Document | UserError], problems: Problems) -> Iterable[str]:
    """The documents; long ones in the parts that they come in."""
    for each in parts:
        if isinstance(each, UserError):
            problems.add(str(each))
        else:
            yield each.text


def windows(texts: Texts, tokenizer: Tokenizer, end: int, context: int, num_tokens: int = NUM_TOKENS) -> list[Window]:
    """Windows of the texts, evenly spaced, with about so many tokens; each begins with an end token.

    Raises a UserError for a text that the tokenizer cannot write, unless they are left out.
    """
    found = list[Window]()
    for text in texts.texts:
        try:
            tokens = [*tokenizer.encode_batch([text])[0].tolist(), end]
        except UserError as problem:
            if texts.skip_bad:
                continue
            raise UserError(f"{texts.paths[0]}: {problem} (--skip-bad leaves such texts out)") from None
        for start in range(0, len(tokens), context):
            targets = tokens[start : start + context]
            inputs = [end, *targets[:-1]]
            found.append(Window(tokenizer.decode_exactly(targets), inputs, targets))
    if not found:
        raise UserError(f"{texts.paths[0]}: no text that the tokenizer can write")
    sizes = np.cumsum([len(each.targets) for each in found])
    if sizes[-1] <= num_tokens:
        return found
    # Every window is as likely to be taken, however long: a whole number of them, so many that their tokens suffice.
    count = max(1, round(len(found) * num_tokens / int(sizes[-1])))
    return [found[place] for place in np.linspace(0, len(found) - 1, count).astype(int).tolist()]


def beginnings(chosen: Sequence[Window], context: int) -> list[list[int]]:
    """Prompts of several lengths, an end token first, evenly spaced over the windows."""
    size = max(1, min(PROMPT, context // 2))
    each = -(-NUM_CONTINUED // len(chosen))
    found = list[list[int]]()
    for number, window in enumerate(chosen):
        places = np.linspace(0, max(0, len(window.inputs) - size), each).astype(int).tolist()
        for turn, place in enumerate(dict.fromkeys(places)):
            length = 1 + (7 * number + 3 * turn + size - 1) % size
            found.append([window.inputs[0], *window.targets[place : place + length - 1]])
    return found[:NUM_CONTINUED]


def compare(
    trained: Any, other: Runtime, texts: Texts, where: Circumstances, least: tuple[str, Runtime] | None = None
) -> Parity:
    """Compares a model in PyTorch with its export in another runtime, also on the `least` instruction set.

    The loss of the metric is the larger one of the two.
    """
    tokenizer, end, context = trained.tokenizer, trained.end, other.longest
    ours = Continuing(trained.backend(), end, context)
    chosen = windows(texts, tokenizer, end, context)
    before, after, after_least = list[Counted](), list[Counted](), list[Counted]()
    differences = list[float]()
    for window in progress(chosen, "compares", len(chosen), "windows", lambda _: 1):
        given = np.array([window.inputs]), np.array([window.targets])
        losses = [side.losses(*given)[0] for side in (ours, other, *([least[1]] if least else []))]
        differences += np.abs(losses[0] - losses[1]).tolist()
        for counts, each in zip((before, after, after_least), losses, strict=False):
            size, words = len(window.text.encode()), counted_words(window.text)
            counts.append(Counted(float(each.sum(dtype=np.float64)), len(window.targets), size, words))
    prompts = beginnings(chosen, context)
    num_tokens = max(1, min(CONTINUED, context - max(map(len, prompts))))
    clock, num_same, num_same_least, differing = Clock(), 0, 0, list[dict[str, Any]]()
    ours.continued(prompts[:1], 2), other.continued(prompts[:1], 2)  # warm-up
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        found, found_after = clock.both(ours.continued, other.continued, some, num_tokens)
        for prompt, mine, theirs in zip(some, found, found_after, strict=True):
            num_same += mine == theirs
            if mine != theirs:
                said = [tokenizer.decode_exactly(each) for each in (prompt, mine, theirs)]
                differing.append(dict(zip(("prompt", "before", "after"), said, strict=True)))
        if least is not None:
            again = least[1].continued(some, num_tokens)
            num_same_least += sum(one == two for one, two in zip(found_after, again, strict=True))
    gated = gate([of_counts(counts) for counts in (before, after, after_least) if counts])
    return Parity(
        task=trained.recipe.task,
        **where._asdict(),
        examples=[str(path) for path in texts.paths],
        count=len(chosen),
        worst_difference=float(np.max(differences)),
        mean_difference=float(np.mean(differences)),
        identical=num_same / len(prompts),
        **gated,
        speed=clock.ratio,
        differing=differing[:NUM_SHOWN],
        least=None
        if least is None
        else Least(least[0], of_counts(after_least).overall()[gated["metric"]], num_same_least / len(prompts)),
    )
