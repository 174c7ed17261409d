"""How does an exported Transformer run in CTranslate2? Its search with Segue's rules: limits, scores, prefixes.

CTranslate2's beam search follows the same hypotheses as `decoding/autoregressive`, step by step, with three
differences. In CTranslate2 a sentence is done when enough hypotheses have ended, even if live ones could become better.
The probability of forbidden n-grams is redistributed to other tokens during the search. And directly after a prefix the
output can only end if the end token is the most likely one.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segue.data.vocabularies import END, Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.errors import UserError, missing_extra
from segue.runtime.translator import TranslationMetadata, Translator

POSITIONS = 4096
"""Maximum number of tokens of a source, and of an output with its end token: `formats/ctranslate2` writes this many
sinusoids."""
PATIENCE = 1.4
"""A sentence is done when this many times `beams` hypotheses have ended. The usual 1 stops before better ones end: 12
of 500 captions scored worse than with Segue's rule; with 1.4 one did, with 2 none, in 10 % more time."""
IMPOSSIBLE = -1e9
"""Log-probabilities below this mark hypotheses that only fill CTranslate2's beams: it gives them -1e10 or -infinity."""
SCORED_AT_ONCE = 32
"""Number of rows scored at once, which limits memory: rows x tokens x vocabulary."""


def open_translator(folder: Path, metadata: TranslationMetadata, threads: int | None = None) -> Translator:
    """Opens the translator in an exported directory. Raises a UserError if its files do not belong together."""
    vocabularies, backend = Vocabularies.load(folder), CTranslate2Backend(folder, threads)
    backend.check(vocabularies)
    return Translator(metadata, vocabularies, backend)


class CTranslate2Backend:
    """Runs a model written by `formats/ctranslate2`. It has no state between calls and is thread-safe."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """`threads` translate parts of a batch in parallel (None: as many as there are processors).

        Several threads per sentence would be slower than one: models are small, and threads would wait for each other.
        """
        try:
            import ctranslate2
        except ImportError:
            raise missing_extra("ctranslate2", "translate") from None
        try:
            self._folder = folder
            self._threads = threads or os.cpu_count() or 1
            self._translator: Any = ctranslate2.Translator(str(folder), inter_threads=self._threads, intra_threads=1)
        except (RuntimeError, ValueError) as problem:
            raise UserError(f"{folder}: not a CTranslate2 model: {problem}") from None
        shared = folder / "shared_vocabulary.json"
        files = [shared if shared.is_file() else folder / f"{side}_vocabulary.json" for side in ("source", "target")]
        try:
            self._source, self._target = (json.loads(each.read_text("utf-8")) for each in files)
        except OSError as problem:  # older models have their vocabularies in other files
            raise UserError(f"{folder}: not a CTranslate2 model of Segue: {problem.filename} is missing") from None
        self._number: dict[str, int] = {token: number for number, token in enumerate(self._target)}

    def check(self, vocabularies: Vocabularies) -> None:
        """Raises a UserError if these are not the model's vocabularies."""
        if (self._source, self._target) != (vocabularies.source.tokens, vocabularies.target.tokens):
            raise UserError(f"{self._folder}: its vocabularies are not those of its tokenizer.json; export it again")

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each row of source tokens, best first; each begins with its prefix."""
        longest = max(map(len, rows), default=0)
        if longest > POSITIONS:
            raise UserError(f"a source of {longest} tokens: this model reads {POSITIONS} at most")
        limits = [int(len(row) * section.longest_factor + section.longest_extra) for row in rows]
        if prefixes is not None:
            limits = [limit + len(prefix) for limit, prefix in zip(limits, prefixes, strict=True)]
        limits = [min(limit, POSITIONS - 1) for limit in limits]
        found: list[list[Hypothesis]] = [[] for _ in rows]

        def look(numbers: Sequence[int], limit: int) -> None:
            given = None if prefixes is None else [prefixes[number] for number in numbers]
            best = self._search([rows[number] for number in numbers], limit, section, num_best, given)
            for number, hypotheses in zip(numbers, best, strict=True):
                found[number] = hypotheses

        # CTranslate2 has one length limit per call. Searching with the largest one gives the same result for rows that
        # have enough hypotheses within their own limits; the others, which are few, are searched again.
        if rows:
            look(range(len(rows)), max(limits))
        short: dict[int, list[int]] = {}
        for number, limit in enumerate(limits):
            found[number] = [each for each in found[number] if each.is_complete and len(each.tokens) <= limit]
            if len(found[number]) < num_best:
                short.setdefault(limit, []).append(number)
        for limit, numbers in short.items():
            look(numbers, limit)
        return [hypotheses[:num_best] for hypotheses in found]

    def attention(self, source: Sequence[int], target: Sequence[int]) -> None:
        """None: CTranslate2 returns only the mean of some heads."""
        del source, target

    def _search(
        self,
        rows: Sequence[Sequence[int]],
        limit: int,
        section: SearchSection,
        num_best: int,
        prefixes: Sequence[Sequence[int]] | None,
    ) -> list[list[Hypothesis]]:
        """All complete hypotheses of each row, best first; then those that had not ended at `limit` tokens."""
        beams = max(section.beams, num_best)
        patience = PATIENCE if beams > 1 else 1.0
        results = self._translator.translate_batch(
            _named(rows, self._source),
            None if prefixes is None else _named(prefixes, self._target),
            beam_size=beams,
            patience=patience,
            num_hypotheses=round(beams * patience),
            length_penalty=section.alpha,
            no_repeat_ngram_size=section.no_repeat_ngram,
            return_end_token=True,  # so that it counts as a token, as in Segue
            return_scores=True,
            max_batch_size=math.ceil(len(rows) / self._threads),
            max_input_length=0,  # no limit
            max_decoding_length=limit + 1,  # plus the end token
            min_decoding_length=0,
        )
        totals: dict[_Output, float] = {}
        for row, result in enumerate(results):
            for output, score in zip(result.hypotheses, result.scores, strict=True):
                total = score * len(output) ** section.alpha
                if total < IMPOSSIBLE:
                    continue
                is_complete = output[-1:] == [END]  # the output of an empty source may be empty
                tokens = tuple(self._number[token] for token in output[: -1 if is_complete else limit])
                totals[_Output(row, tokens, is_complete)] = total
        # The log-probability has to be computed separately with a prefix, which CTranslate2 does not score; with
        # forbidden n-grams, whose probability it redistributes; and if a token was cut off above.
        is_other = prefixes is not None or section.no_repeat_ngram > 0
        others = [output for output in totals if is_other or not output.is_complete]
        totals.update(zip(others, self._log_probabilities(rows, others), strict=True))
        found: list[list[Hypothesis]] = [[] for _ in rows]
        for (row, output_tokens, is_complete), total in totals.items():
            length = max(1, len(output_tokens) + is_complete)
            found[row].append(Hypothesis(list(output_tokens), total / length**section.alpha, total, is_complete))
        for hypotheses in found:
            hypotheses.sort(key=lambda each: (each.is_complete, each.score), reverse=True)
        return found

    def _log_probabilities(self, rows: Sequence[Sequence[int]], outputs: "Sequence[_Output]") -> list[float]:
        """The log-probability of each output given its row, including the end token of complete ones."""
        results = self._translator.score_batch(
            _named([rows[output.row] for output in outputs], self._source),
            _named([output.tokens for output in outputs], self._target),
            max_batch_size=SCORED_AT_ONCE,
            max_input_length=0,
        )
        return [
            # A prefix may contain tokens that are impossible here: they are not counted.
            sum(value for value in result.log_probs[: len(output.tokens) + output.is_complete] if value > -math.inf)
            for output, result in zip(outputs, results, strict=True)
        ]


class _Output(NamedTuple):
    row: int
    tokens: tuple[int, ...]
    is_complete: bool


def _named(rows: Iterable[Sequence[int]], tokens: Sequence[str]) -> list[list[str]]:
    return [[tokens[number] for number in row] for row in rows]
