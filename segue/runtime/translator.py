"""How are texts of any length translated? Splitting into sentences, batching, streams of lines, context.

The `TranslationBackend` is a PyTorch model or an exported one; everything else is the same for both.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import sentences
from segue.data.text import TextSection, has_letters, normalize
from segue.data.vocabularies import Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.errors import UserError, warn
from segue.recipe import Section

if TYPE_CHECKING:
    from segue.runtime.translation_evaluation import TranslationEvaluator

PositiveInt = Annotated[int, Field(gt=0)]


class TranslationMetadata(Section):
    """What a runtime needs to know about a translation model."""

    task: Literal["translation"] = "translation"
    """The task."""
    languages: tuple[str, ...]
    """Target languages of the training data."""
    longest_tokens: PositiveInt
    """Longer texts are translated sentence by sentence."""
    text: TextSection
    """Text normalization of both sides."""
    search: SearchSection
    """Beam search."""
    metric: metrics.TextMetric
    """Metric of the model."""
    bleu_tokenizer: metrics.BleuTokenizer = "auto"
    """How BLEU splits texts into words (`metrics.bleu_tokenizer`)."""
    parameters: PositiveInt
    """Number of parameters."""


class TranslationBackend(Protocol):
    """A model in some runtime."""

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `num_best` best outputs for each row of source tokens, best first; each begins with its prefix."""
        ...

    def attention(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32] | None:
        """(heads of all layers, T + 1, S) cross-attention weights for predicting each token of `target` and the next
        one; None if the runtime does not provide them."""
        ...


class Translator:
    """A trained model for texts of any length. It has no state between calls and is thread-safe."""

    BATCH = 32  # sentences per batch
    WINDOW = 1024  # lines read at once: limits memory, and lets sentences of similar length be batched

    def __init__(self, metadata: TranslationMetadata, vocabularies: Vocabularies, backend: TranslationBackend) -> None:
        self.metadata, self.vocabularies, self.backend = metadata, vocabularies, backend
        source = vocabularies.source
        # If no token has letters, the model was trained on numbers or codes.
        self._reads_letters = any(has_letters(token) for token in source.tokens if token not in source.special)

    @property
    def languages(self) -> list[str]:
        """The target languages of the training data."""
        return self.vocabularies.languages

    def check_language(self, target_language: str | None) -> None:
        """Raises a UserError if the model cannot translate into this language, or needs one and gets None."""
        self.vocabularies.check(target_language)

    def translate(
        self, texts: Sequence[str], target_language: str | None = None, search: SearchSection | None = None
    ) -> list[str]:
        """The translation of each text, in order.

        A text without letters, such as "-" or "12:30", is returned unchanged, a blank one as "". Texts longer than the
        training limit are translated sentence by sentence. Warns about characters that are not in the vocabulary.
        Raises a UserError if the model cannot translate into the target language.
        """
        if isinstance(texts, str):
            raise UserError("translate: a list of texts wanted, got one text")
        self.vocabularies.check(target_language)
        pieces: list[str] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for piece in [] if self.stays(text) else self._pieces(normalize(text, self.metadata.text)):
                pieces.append(piece)
                owners.append(number)
        self._warn_of_unknown(pieces)
        results = [""] * len(texts)
        for number, piece, best in zip(owners, pieces, self.search(pieces, target_language, search), strict=True):
            gap = " " if piece.endswith(" ") else ""
            results[number] += self.vocabularies.target.decode(best[0].tokens) + gap
        return [
            text if self.stays(text) and text.strip() else result.rstrip(" ")
            for text, result in zip(texts, results, strict=True)
        ]

    def translate_lines(
        self,
        lines: Iterable[str],
        target_language: str | None = None,
        *,
        search: SearchSection | None = None,
        context: int = 0,
        window: int = WINDOW,
    ) -> Iterator[str]:
        """The translation of each line, in order, in bounded memory.

        With `context`, a line is translated together with this many preceding lines, as a continuation of their
        translations: for models trained on more than one sentence at a time. This is not batched, and slow.
        """
        lines = iter(lines)
        if not context:
            while block := list(islice(lines, window)):
                yield from self.translate(block, target_language, search)
            return
        before: deque[tuple[str, str]] = deque(maxlen=min(context, sys.maxsize))
        for line in lines:
            translation = self._in_context(line, list(before), target_language, search)
            if line.strip():
                before.append((line, translation))
            yield translation

    def best(
        self, text: str, count: int, target_language: str | None = None, search: SearchSection | None = None
    ) -> list[tuple[str, float]]:
        """The `count` best translations of one sentence, best first, with their scores (`decoding/autoregressive`).

        A text without letters has only one, itself.
        """
        self.vocabularies.check(target_language)
        if self.stays(text):
            return [(text, 0.0)]
        [found] = self.search([normalize(text, self.metadata.text)], target_language, search, num_best=count)
        return [(self.vocabularies.target.decode(each.tokens), each.score) for each in found]

    def search(
        self,
        texts: Sequence[str],
        target_language: str | None,
        section: SearchSection | None = None,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each normalized text, none of which may be too long; batched by length."""
        encode, source_tokens = self.vocabularies.source.encode, self.vocabularies.source_tokens
        rows = [source_tokens(encode(text), target_language) for text in texts]
        results: list[list[Hypothesis]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(order), self.BATCH):
            numbers = order[start : start + self.BATCH]
            found = self.backend.search(
                [rows[number] for number in numbers],
                section or self.metadata.search,
                num_best=num_best,
                prefixes=None if prefixes is None else [prefixes[number] for number in numbers],
            )
            for number, best in zip(numbers, found, strict=True):
                results[number] = best
        return results

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, Any]:
        """Scores on a manifest with confidence intervals, scores by language if there are several, and the number of
        bad examples left out."""
        return self.evaluator.explain(manifest, skip_bad, has_media=False).as_json()

    @property
    def evaluator(self) -> "TranslationEvaluator":
        """An evaluator of this model."""
        from segue.runtime.translation_evaluation import TranslationEvaluator  # imports this module

        return TranslationEvaluator(self)

    def stays(self, text: str) -> bool:
        """Whether a text is not translated: without letters, a model trained on sentences would hallucinate one."""
        return self._reads_letters and not has_letters(text)

    def _pieces(self, text: str) -> list[str]:
        """The text, or its sentences if it is longer than the training limit."""
        length = self.vocabularies.source.num_tokens
        longest = self.metadata.longest_tokens
        if not text:
            return []
        # A token has at least one byte, so most lines need not be tokenized.
        if len(text.encode()) <= longest or length([text])[0] <= longest:
            return [text]
        return sentences.pieces(text, longest, lambda piece: length([piece])[0])

    def _in_context(
        self,
        line: str,
        before: list[tuple[str, str]],
        target_language: str | None,
        section: SearchSection | None,
    ) -> str:
        """The translation of a line as a continuation of preceding lines and their translations."""
        length, longest = self.vocabularies.source.num_tokens, self.metadata.longest_tokens
        text, *sources = (normalize(each, self.metadata.text) for each in (line, *(source for source, _ in before)))
        translations = [translation for _, translation in before]
        while sources and length([" ".join([*sources, text])])[0] > longest:  # more than the training limit
            del sources[0], translations[0]
        if self.stays(line) or not text or not sources:
            return self.translate([line], target_language, section)[0]
        self._warn_of_unknown([text])
        prefix = self.vocabularies.target.encode(" ".join(translations))
        [[best]] = self.search([" ".join([*sources, text])], target_language, section, prefixes=[prefix])
        return self.vocabularies.target.decode(best.tokens[len(prefix) :])

    def _warn_of_unknown(self, texts: Sequence[str]) -> None:
        unknown = dict.fromkeys(
            character for text in texts for character in self.vocabularies.source.unknown_characters(text)
        )
        if unknown:
            shown = " ".join(map(repr, list(unknown)[:10])) + (" ..." if len(unknown) > 10 else "")
            warn(f"not in the model's vocabulary ({len(unknown):,}), to be guessed from context: {shown}")
