"""What does an n-gram language model say of a text? Models in ARPA files, with back-off (Katz 1987), in plain Python.

Also the protocol of language models for whole texts, of which an n-gram is the first.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from io import TextIOWrapper
from math import inf, log
from pathlib import Path
from typing import IO, Protocol

from segue.errors import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_LN10 = log(10)
_LEAST = -99.0
"""What stands for the logarithm of 0; some programs write -inf."""
_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)")
_SECTION = re.compile(r"\\(\d+)-grams:")
_PIECE = re.compile("^\u2581|^##|@@$")
"""Marks of sentencepiece, WordPiece and subword-nmt; the first would be removed with punctuation."""
_FEW_PIECES = 0.1
"""Share of words that may look like pieces."""

Context = tuple[int, ...]
"""The last words, at most one fewer than the order; the state of a model."""


class TextModel(Protocol):
    """A language model of any kind."""

    def log_probabilities(self, texts: Sequence[str]) -> list[float]:
        """The natural logarithm of each text's probability, its end included."""
        ...


class NGram:
    """A back-off n-gram model over words. It does not change, and is thread-safe."""

    def __init__(self, path: Path, form: Callable[[str], str] | None = None) -> None:
        """Reads an ARPA file, also packed (.gz). `form` maps its words to those of the user, such as lower case; of
        words that become equal, the likeliest counts. Raises a UserError if the file is not a complete ARPA file.
        """
        self.path = path
        self._probabilities: dict[Context, float] = {}
        self._backoffs: dict[Context, float] = {}
        self._numbers: dict[str, int] = {}
        with _opened(path) as file:
            self.order = self._read(_Lines(path, file), form or (lambda word: word))
        self.words: dict[str, float] = {
            word: self._probabilities[number,]
            for word, number in self._numbers.items()
            if word not in (BEGIN, END, UNKNOWN) and (number,) in self._probabilities
        }
        """Each word's own log-probability, in nats."""
        self.start: Context = (self._numbers[BEGIN],) if BEGIN in self._numbers and self.order > 1 else ()
        self._end = self._numbers.get(END)
        self.unknown = self._numbers.get(UNKNOWN)

    def score(self, context: Context, word: str) -> tuple[float | None, Context]:
        """The log-probability in nats of a word after a context, and the context after it; None: it is not known."""
        number = self._numbers.get(word)
        if number is None or (number,) not in self._probabilities:
            return None, () if self.unknown is None or self.order == 1 else (self.unknown,)
        return self._score(context, number), self._after(context, number)

    def following(self, context: Context) -> Iterator[tuple[str, float]]:
        """The words of the n-grams that begin with a context, and their log-probabilities in nats after it."""
        for number in self._following.get(context, ()):
            if (word := self._names[number]) not in (BEGIN, END, UNKNOWN):
                yield word, self._probabilities[*context, number]

    def shortened(self, context: Context) -> tuple[float, Context]:
        """What is added for other words after a context, in nats, and the context that counts for them."""
        return self._backoffs.get(context, 0.0), context[1:]

    def end(self, context: Context) -> float:
        """The log-probability in nats of the end of the text after a context; 0 if the model has no end."""
        return 0.0 if self._end is None else self._score(context, self._end)

    def log_probabilities(self, texts: Sequence[str], unknown: float = -10.0) -> list[float]:
        """See `TextModel`. An unknown word has the log-probability `unknown`."""
        found = []
        for text in texts:
            context, total = self.start, 0.0
            for word in text.split():
                probability, context = self.score(context, word)
                total += unknown if probability is None else probability
            found.append(total + self.end(context))
        return found

    @cached_property
    def _following(self) -> dict[Context, list[int]]:
        found: dict[Context, list[int]] = {}
        for *context, number in self._probabilities:
            if context:
                found.setdefault(tuple(context), []).append(number)
        return found

    @cached_property
    def _names(self) -> list[str]:
        return list(self._numbers)

    def _score(self, context: Context, number: int) -> float:
        total = 0.0
        while True:
            found = self._probabilities.get((*context, number))
            if found is not None:
                return total + found
            if not context:
                return -inf
            more, context = self.shortened(context)
            total += more

    def _after(self, context: Context, number: int) -> Context:
        """The longest end of the text that the model has seen: words before it cannot change a score."""
        found = (*context, number)[-(self.order - 1) :] if self.order > 1 else ()
        while found and found not in self._backoffs:
            found = found[1:]
        return found

    def _read(self, lines: "_Lines", form: Callable[[str], str]) -> int:
        """Fills the tables; returns the order."""
        counts: dict[int, int] = {}
        for line in lines:
            if line == "\\data\\":
                break
        else:
            raise lines.error(
                "not an ARPA file: it has no line \\data\\ (segue prepare ngram TEXTS FILE.arpa makes one)"
            )
        header: str | None = None
        for line in lines:
            if line.startswith("\\"):
                header = line
                break
            counted = _COUNT.fullmatch(line)
            if counted is None:
                raise lines.error(f"a line like 'ngram 1=1000' is expected here, not {line[:40]!r}")
            counts[int(counted[1])] = int(counted[2])
        if counts.get(1, 0) == 0:
            raise lines.error("an ARPA file without unigrams: Segue needs them to know the words of the model")
        order = max(counts)
        if sorted(counts) != list(range(1, order + 1)):
            raise lines.error(f"the orders {', '.join(map(str, sorted(counts)))} leave gaps")
        written: dict[str, int] = {}  # words as they are in the file
        for length in range(1, order + 1):
            found = _SECTION.fullmatch(header or "")
            if found is None or int(found[1]) != length:
                instead = f", not {header!r}" if header else ""
                raise lines.error(f"cut off: \\{length}-grams: is expected here{instead}")
            header = self._section(lines, length, length == order, counts[length], form, written)
            pieces = [word for word in written if _PIECE.search(word)] if length == 1 else []
            if len(pieces) > _FEW_PIECES * len(written):
                some = ", ".join(map(repr, pieces[:3]))
                raise UserError(
                    f"{self.path}: a language model of other tokens, pieces of words such as {some}; one of words is "
                    "wanted: `segue prepare ngram` makes one of texts"
                )
        if header != "\\end\\":
            raise lines.error("cut off: it does not end with \\end\\")
        return order

    def _section(
        self, lines: "_Lines", length: int, is_last: bool, count: int, form: Callable[[str], str], known: dict[str, int]
    ) -> str | None:
        """Reads the n-grams of a length; returns the line after them, which starts with a backslash.

        `known` has the numbers of the words as they are in the file; unigrams add to it.
        """
        numbers, probabilities, backoffs = self._numbers, self._probabilities, self._backoffs
        header, read = None, 0
        for line in lines:
            if line.startswith("\\") and (_SECTION.fullmatch(line) or line == "\\end\\"):
                header = line
                break
            fields = line.split()
            read += 1
            try:
                if not length + 1 <= len(fields) <= length + 2:
                    raise ValueError
                probability = max(float(fields[0]), _LEAST) * _LN10
                backoff = max(float(fields[length + 1]), _LEAST) * _LN10 if len(fields) == length + 2 else 0.0
                if length == 1:
                    word = _special(fields[1]) or form(fields[1])
                    key: Context = (numbers.setdefault(word, len(numbers)),)
                    known[fields[1]] = key[0]
                else:
                    key = tuple([known[word] for word in fields[1 : length + 1]])
            except (ValueError, KeyError) as problem:
                what = f"{problem} is no unigram" if isinstance(problem, KeyError) else f"no {length}-gram"
                wrong = lines.error(f"{what}: {line[:60]!r}")
                is_last_line = next(lines, None) is None
                raise (lines.error(f"cut off: it ends with {line[:60]!r}") if is_last_line else wrong) from None
            if probability > 1e-3 or probability != probability:
                raise lines.error(f"a log-probability above 0: {line[:60]!r}")
            if probability > probabilities.get(key, -inf) or key not in probabilities:
                probabilities[key] = probability
                if not is_last:
                    backoffs[key] = backoff
        if read != count:
            raise lines.error(f"cut off or damaged: {count:,} {length}-grams announced, {read:,} found")
        return header


def _special(word: str) -> str | None:
    """The common name of a word that stands for the beginning, the end or unknown words."""
    lower = word.lower()
    return lower if lower in (BEGIN, END, UNKNOWN) else None


class _Lines:
    """The lines of a file that are not blank, with their numbers for errors."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file, self._number = path, file, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            try:
                line = next(self._file)
            except UnicodeDecodeError as problem:
                raise self.error(f"not an ARPA file in UTF-8: {problem.reason}") from None
            except (EOFError, zlib.error, OSError) as problem:
                raise self.error(f"cut off: {problem}") from None
            self._number += 1
            if line := line.strip():
                return line

    def error(self, problem: str) -> UserError:
        """The error for the current line."""
        return UserError(f"{self._path}:{max(self._number, 1)}: {problem}")


def _opened(path: Path) -> IO[str]:
    try:
        if path.suffix == ".gz":
            return TextIOWrapper(gzip.open(path), encoding="utf-8")
        return path.open(encoding="utf-8")
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror or problem}; a language model in an ARPA file is wanted") from None
