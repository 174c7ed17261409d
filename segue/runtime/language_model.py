"""What does a user do with a language model? Continues texts, as a whole or piece by piece.

The `LanguageBackend` is a PyTorch model or an exported one; everything else is the same for both.
"""

import codecs
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue.data import document_files
from segue.data.documents import END
from segue.data.music import Notation
from segue.data.tokenizer import Tokenizer
from segue.decoding.generation import Limits, Prompted, Row, Steps, check, generate_together
from segue.decoding.sampling import SamplingSection, row_generator
from segue.errors import UserError
from segue.recipe import Section

if TYPE_CHECKING:
    from segue.runtime.language_evaluation import LanguageEvaluator

PositiveInt = Annotated[int, Field(gt=0)]


class LanguageMetadata(Section):
    """What a runtime needs to know about a language model."""

    task: Literal["language_modeling"] = "language_modeling"
    """The task."""
    context: PositiveInt
    """Longest sequence, in tokens."""
    stride: PositiveInt
    """Tokens that each window of an evaluation scores; the others of it are context."""
    split: document_files.Split
    """What a document is in a text file."""
    text_key: str
    """Key of the text in JSON lines."""
    step_token: str | None = None
    """The token that ends a step; None: the texts have no steps."""
    notation: Notation | None = None
    """What the words say, if they are music."""
    sampling: SamplingSection
    """How tokens are drawn, unless asked otherwise."""
    parameters: PositiveInt
    """Number of parameters."""


class LanguageBackend(Protocol):
    """A model in some runtime."""

    def steps(self) -> Steps:
        """A new generation."""
        ...

    def losses(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, T) tokens, (B, T) next tokens -> (B, T) negative log-likelihoods in nats. Rows are independent."""
        ...


class Generated(NamedTuple):
    """A continuation of a prompt."""

    text: str
    tokens: list[int]
    ending: Literal["end", "stop", "length"]
    """Why it ended: the model ended it, a stop string, or the number of tokens."""


Generation = Callable[[Sequence[Prompted], SamplingSection, Limits], None]
"""Continues prompts, as `generation.generate_together`."""


class LanguageModel:
    """A trained language model. It has no state between calls and is thread-safe."""

    BATCH = 16
    """Prompts that are read at once."""

    def __init__(self, metadata: LanguageMetadata, tokenizer: Tokenizer, backend: LanguageBackend) -> None:
        self.metadata, self.tokenizer, self.backend = metadata, tokenizer, backend
        self.end = tokenizer.special[END]
        self.generation: Generation = self._alone
        """What continues prompts: with the backend, unless a server shares it."""

    def generate(
        self,
        prompts: str | Sequence[str] = "",
        *,
        tokens: int = 200,
        samples: int = 1,
        stop: str | Sequence[str] = (),
        sampling: SamplingSection | None = None,
        is_sliding: bool = False,
    ) -> list[list[Generated]]:
        """`samples` continuations of each prompt, of at most `tokens` tokens each.

        A continuation ends before the first of the `stop` strings. The same seed gives the same text for the same
        prompt at the same place of the list, whatever the others are. With `is_sliding` a text may exceed the context:
        the model then goes on with the last half of it. Raises a UserError for a prompt that the tokenizer cannot
        write, or that does not fit.
        """
        wanted = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = self._asked(tokens, samples, stop, sampling, is_sliding)
        return list(self._continued(self._read(wanted, asked), samples, asked))

    def generate_each(
        self,
        prompts: Sequence[str],
        *,
        tokens: int = 200,
        samples: int = 1,
        stop: str | Sequence[str] = (),
        sampling: SamplingSection | None = None,
        is_sliding: bool = False,
    ) -> Iterator[list[Generated]]:
        """The same one after the other, as they are made; all prompts are checked before the first."""
        asked = self._asked(tokens, samples, stop, sampling, is_sliding)
        return self._continued(self._read(prompts, asked), samples, asked)

    def stream(
        self,
        prompt: str = "",
        *,
        tokens: int = 200,
        stop: str | Sequence[str] = (),
        sampling: SamplingSection | None = None,
        is_sliding: bool = False,
    ) -> Generator[str, None, Generated]:
        """The continuation of one prompt, piece by piece as it is made: the pieces of `generate`'s text.

        The generator returns what `generate` does. The prompt is checked before there is one.
        """
        asked = self._asked(tokens, 1, stop, sampling, is_sliding)
        return self._streamed(self._read([prompt], asked), asked)

    def _streamed(self, rows: Sequence[Sequence[int]], asked: "_Asked") -> Generator[str, None, Generated]:
        pieces: SimpleQueue[str | BaseException | Generated] = SimpleQueue()
        is_left = False

        def put(row: Row, text: str) -> None:
            del row
            if is_left:
                raise _LeftError
            pieces.put(text)

        def run() -> None:
            try:
                [[found]] = self._batch(rows, 0, range(1), asked, put)
                pieces.put(found)
            except _LeftError:
                pass
            except BaseException as problem:  # raised where the pieces are read
                pieces.put(problem)

        Thread(target=copy_context().run, args=(run,), daemon=True).start()
        try:
            while not isinstance(piece := pieces.get(), Generated):
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
            return piece
        finally:
            is_left = True

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, Any]:
        """Scores on a file of texts with confidence intervals, and the number of bad documents left out."""
        return self.evaluator.explain(manifest, skip_bad, has_media=False).as_json()

    @property
    def evaluator(self) -> "LanguageEvaluator":
        """What scores texts."""
        from segue.runtime.language_evaluation import LanguageEvaluator

        return LanguageEvaluator(self)

    def _alone(self, prompts: Sequence[Prompted], section: SamplingSection, limits: Limits) -> None:
        generate_together(self.backend.steps(), prompts, section, limits)

    def _asked(
        self, tokens: int, samples: int, stop: str | Sequence[str], sampling: SamplingSection | None, is_sliding: bool
    ) -> "_Asked":
        if tokens < 1 or samples < 1:
            raise UserError(f"tokens, samples: numbers above 0 wanted, got {tokens} and {samples}")
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        return _Asked(tokens, strings, sampling or self.metadata.sampling, is_sliding)

    def _read(self, prompts: Sequence[str], asked: "_Asked") -> list[list[int]]:
        """The prompts in tokens. Raises a UserError that names one that cannot be written, or does not fit."""
        rows = []
        for number, prompt in enumerate(prompts, 1):
            try:
                prompt.encode()  # what a shell passes on may be no Unicode text
                rows.append([self.end, *self.tokenizer.encode(prompt)])
            except UnicodeEncodeError as problem:
                raise UserError(f"prompt {number}: not Unicode text, at character {problem.start + 1}") from None
            except UserError as problem:
                raise UserError(f"prompt {number}: {problem}") from None
        check(rows, self._limits(asked))
        return rows

    def _limits(self, asked: "_Asked") -> Limits:
        return Limits(self.metadata.context, asked.num_tokens, self.end, asked.is_sliding)

    def _continued(self, rows: Sequence[Sequence[int]], samples: int, asked: "_Asked") -> Iterator[list[Generated]]:
        """The continuations of each prompt, in batches of about `BATCH` rows."""
        at_once = max(1, self.BATCH // samples)
        for first in range(0, len(rows), at_once):
            found: list[list[Generated]] = [[] for _ in rows[first : first + at_once]]
            for sample in range(0, samples, self.BATCH):
                some = range(sample, min(samples, sample + self.BATCH))
                batch = self._batch(rows[first : first + at_once], first, some, asked)
                for each, more in zip(found, batch, strict=True):
                    each += more
            yield from found

    def _batch(
        self,
        rows: Sequence[Sequence[int]],
        first: int,
        samples: range,
        asked: "_Asked",
        put: Callable[[Row, str], None] | None = None,
    ) -> list[list[Generated]]:
        """These samples of some prompts, the first of which has the number `first`."""
        numbers = range(first, first + len(rows))
        texts = {Row(number, sample): _Text(asked.stop) for number in numbers for sample in samples}

        def prompted(number: int) -> Prompted:
            own = [Row(number, sample) for sample in samples]

            def is_last(sample: int, token: int) -> bool:
                text = texts[own[sample]]
                is_ended = text.add(token, self.tokenizer.pieces[token])
                if put is not None:
                    put(own[sample], text.news())
                return is_ended

            generators = [row_generator(asked.sampling.seed, *row) for row in own]
            return Prompted(rows[number - first], asked.num_tokens, generators, is_last)

        self.generation(list(map(prompted, numbers)), asked.sampling, self._limits(asked))
        results = []
        for number in numbers:
            each = [texts[Row(number, sample)] for sample in samples]
            results.append([text.finished(asked.num_tokens) for text in each])
            if put is not None:
                put(Row(number, samples.start), each[0].news())
        return results


def step_of(tokenizer: Tokenizer, step_token: str | None) -> int | None:
    """The number of the token that ends a step. Raises a UserError if the tokenizer has no such token."""
    if step_token is None:
        return None
    try:
        (number,) = tokenizer.encode(step_token)
    except (UserError, ValueError):
        raise UserError(f"step_token: {step_token!r} is not a token of this tokenizer") from None
    return number


class _Asked(NamedTuple):
    """What is asked of each text."""

    num_tokens: int
    stop: tuple[str, ...]
    sampling: SamplingSection
    is_sliding: bool


class _LeftError(Exception):
    """The reader of a stream has left."""


class _Text:
    """The text of a row as it grows."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [each for each in stop if each]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text, self._given = "", 0
        self._tokens: list[int] = []
        self._is_stopped = self._is_finished = False
        self._patience = max(map(len, self._stop), default=1) - 1  # characters that may begin a stop string

    def add(self, token: int, piece: bytes) -> bool:
        """Appends a token; whether a stop string ended the text."""
        self._tokens.append(token)
        before = len(self._text)
        self._text += self._decoder.decode(piece)
        places = [self._text.find(each, max(0, before - self._patience)) for each in self._stop]
        if found := [place for place in places if place >= 0]:
            self._text, self._is_stopped = self._text[: min(found)], True
        return self._is_stopped

    def news(self) -> str:
        """What was added since the last call, but for what may be the beginning of a stop string."""
        end = len(self._text) if self._is_stopped or self._is_finished else len(self._text) - self._patience
        news = self._text[self._given : max(end, self._given)]
        self._given += len(news)
        return news

    def finished(self, num_tokens: int) -> Generated:
        """The result."""
        self._is_finished = True
        if not self._is_stopped:
            self._text += self._decoder.decode(b"", final=True)
        is_full = len(self._tokens) == num_tokens
        ending: Literal["end", "stop", "length"] = "stop" if self._is_stopped else "length" if is_full else "end"
        return Generated(self._text, self._tokens, ending)
