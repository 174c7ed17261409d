"""How are texts of any length translated? Sentences, batches, lines in a stream, context; scores on a manifest.

What writes, a `Writer`, is PyTorch's model or an exported one; all else is the same for both.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segue import metrics
from segue.data import sentences
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.data.text import TextSection, has_letters, normalize
from segue.data.vocabularies import END, Vocabularies
from segue.decoding.search import Hypothesis, SearchSection
from segue.errors import UserError, some_of, warn
from segue.evaluation import NUM_MAPS, AttentionMap, Direction, Evaluation, Example, chosen
from segue.progress import Bar
from segue.recipe import Section

PositiveInt = Annotated[int, Field(gt=0)]


class TranslationFacts(Section):
    """What is to be known of a translation model to use it."""

    task: Literal["translation"] = "translation"
    """The task."""
    languages: tuple[str, ...]
    """Target languages that the training data named."""
    longest_tokens: PositiveInt
    """Texts with more are translated by sentences."""
    text: TextSection
    """Text normalisation, of both sides."""
    search: SearchSection
    """How outputs are looked for."""
    metric: metrics.TextMetric
    """What the model is scored by."""
    bleu_tokenizer: metrics.BleuTokenizer = "auto"
    """How BLEU cuts texts into words (`metrics.bleu_tokenizer`)."""
    parameters: PositiveInt
    """Numbers that were trained."""


class Writer(Protocol):
    """What writes, in some runtime."""

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs of each row of source tokens, best first, where each begins with its prefix."""
        ...

    def attention(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32] | None:
        """(heads of all layers, target tokens, source tokens) where it looked for each token after those of `target`;
        None where the runtime does not say."""
        ...


class Translated(NamedTuple):
    """What became of a pair of a manifest."""

    id: str
    source: str
    """Normalised, like the references."""
    target_language: str | None
    references: tuple[str, ...]
    hypothesis: str


class Translator:
    """A trained model, ready for texts of any length. It holds no state between calls: threads may share it."""

    BATCH = 32  # sentences at once
    WINDOW = 1024  # lines at once: bounds memory, and gives sentences of like length to batch

    def __init__(self, facts: TranslationFacts, vocabularies: Vocabularies, writer: Writer) -> None:
        self.facts, self.vocabularies, self.writer = facts, vocabularies, writer
        source = vocabularies.source
        # Where no token does, the model learnt from numbers or codes.
        self._reads_letters = any(has_letters(token) for token in source.tokens if token not in source.special)

    @property
    def languages(self) -> list[str]:
        """The target languages that the training data named."""
        return self.vocabularies.languages

    def check_language(self, target_language: str | None) -> None:
        """Raises a UserError where the model cannot write this language, or needs one."""
        self.vocabularies.check(target_language)

    def translate(
        self, texts: Sequence[str], target_language: str | None = None, search: SearchSection | None = None
    ) -> list[str]:
        """The translation of each text, in order.

        A text without letters, such as "-" or "12:30", stays as it is; "" of a blank one.
        Texts with more tokens than any that the model learnt from are translated by sentences. Characters that the
        model does not know are warned about. A UserError if the model cannot write the target language.
        """
        if isinstance(texts, str):
            raise UserError("translate: a list of texts wanted, got one text")
        self.vocabularies.check(target_language)
        pieces: list[str] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for piece in [] if self._stays(text) else self._pieces(normalize(text, self.facts.text)):
                pieces.append(piece)
                owners.append(number)
        self._warn_of_unknown(pieces)
        results = [""] * len(texts)
        for number, piece, best in zip(owners, pieces, self.search(pieces, target_language, search), strict=True):
            gap = " " if piece.endswith(" ") else ""
            results[number] += self.vocabularies.target.decode(best[0].tokens) + gap
        return [
            text if self._stays(text) and text.strip() else result.rstrip(" ")
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

        With `context`, a line is read together with so many lines before it, and its translation goes on from theirs:
        for models that learnt from more than one sentence at a time. That goes line by line, and is slow.
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

        A text without letters has one, itself.
        """
        self.vocabularies.check(target_language)
        if self._stays(text):
            return [(text, 0.0)]
        [found] = self.search([normalize(text, self.facts.text)], target_language, search, num_best=count)
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
        """The best outputs for each normalised text, none of which is too long; like lengths are searched together."""
        encode, source_tokens = self.vocabularies.source.encode, self.vocabularies.source_tokens
        rows = [source_tokens(encode(text), target_language) for text in texts]
        results: list[list[Hypothesis]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(order), self.BATCH):
            numbers = order[start : start + self.BATCH]
            found = self.writer.search(
                [rows[number] for number in numbers],
                section or self.facts.search,
                num_best=num_best,
                prefixes=None if prefixes is None else [prefixes[number] for number in numbers],
            )
            for number, best in zip(numbers, found, strict=True):
                results[number] = best
        return results

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, Any]:
        """Scores on a manifest with their intervals, also by language where there are several, and how many bad
        examples were left out."""
        return self.explain(manifest, skip_bad, has_media=False).as_json()

    def explain(self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True) -> Evaluation:
        """Scores on a manifest, and what became of each example; `has_media` adds attention maps of some."""
        pairs = Manifest(Pair, [manifest], skip_bad=skip_bad)
        all_translated = self.translated(pairs)
        num_skipped = pairs.num_skipped + len(pairs) - len(all_translated)
        is_by_edits = self.facts.metric == "word_error_rate"
        with Bar(f"scores {manifest.name}"):
            found = self.score(all_translated)
            scores_of_each, of_languages = found.of_each(), found.by_language("sentences")
            resampled = found.resampling("sentences")
        name = "word_error_rate" if is_by_edits else "chrf"  # of one sentence BLEU says little
        examples = []
        for each, own in zip(all_translated, scores_of_each, strict=True):
            length = len(each.source) if is_by_edits else len(self.vocabularies.source.encode(each.source))
            first, *others = each.references
            details = {} if each.target_language is None else {"language": each.target_language}
            said = (each.id, first, each.hypothesis, own[name], each.source, tuple(others))
            examples.append(Example(*said, length=float(length), scores=own, details=details))
        direction: Direction = "min" if is_by_edits else "max"
        indices = chosen(examples, direction) if has_media else []
        mapped = indices[:: max(1, len(indices) // NUM_MAPS)][:NUM_MAPS]
        maps = [self._attention(all_translated[index]) for index in mapped]
        counts = {"sentences": len(all_translated), "skipped": num_skipped}
        return Evaluation(
            title=f"Translation of {manifest.name}",
            scores={**found.overall(), **found.signatures(), **counts},
            examples=examples,
            score_name="word error rate" if is_by_edits else "chrF",
            direction=direction,
            length_name="characters" if is_by_edits else "source tokens",
            facts={"manifest": str(manifest), "parameters": f"{self.facts.parameters:,}"},
            attention=[each for each in maps if each is not None],
            intervals=resampled.intervals,
            interval_note=resampled.note,
            groups={"languages": of_languages} if of_languages else {},
        )

    def translated(self, manifest: Manifest[Pair]) -> list[Translated]:
        """What became of each pair of a manifest, in order. Each source is translated as a whole.

        Bad examples raise a UserError, or are left out, as the manifest says.
        """
        usable = self.usable(manifest)
        of_language: dict[str | None, list[int]] = {}
        for number, each in enumerate(usable):
            of_language.setdefault(each.target_language, []).append(number)
        hypotheses = [each.source if self._stays(each.source) else "" for each in usable]
        with Bar(f"evaluates {', '.join(path.name for path in manifest.paths)}", len(usable), "sentences") as bar:
            for language, numbers in of_language.items():
                asked = [number for number in numbers if not self._stays(usable[number].source)]
                asked.sort(key=lambda number: len(usable[number].source))  # like lengths are searched together
                for start in range(0, len(asked), 4 * self.BATCH):
                    some = asked[start : start + 4 * self.BATCH]
                    found = self.search([usable[number].source for number in some], language)
                    for number, best in zip(some, found, strict=True):
                        hypotheses[number] = self.vocabularies.target.decode(best[0].tokens)
                    bar.advance(len(some))
        return [each._replace(hypothesis=hypothesis) for each, hypothesis in zip(usable, hypotheses, strict=True)]

    def usable(self, manifest: Manifest[Pair]) -> list[Translated]:
        """The pairs that can be scored, normalised and without hypotheses yet.

        Others raise a UserError, or are left out with a warning, as the manifest says.
        """
        found: list[Translated] = []
        problems: list[str] = []
        for pair in manifest:
            source, targets = normalize(pair.source, self.facts.text), (pair.target, *pair.alternatives)
            references = [normalize(text, self.facts.text, pair.target_language) for text in targets]
            problem = self.vocabularies.problem(pair, source, references[0])
            if problem is None:
                found.append(Translated(pair.id, source, pair.target_language, tuple(references), ""))
            else:
                problems.append(f"{pair.origin}: {problem}")
        if problems and not manifest.skip_bad:
            raise UserError(some_of(problems) + "\n(--skip-bad leaves such examples out and counts them)")
        if problems:
            warn(f"{len(problems)} unusable examples left out:\n{some_of(problems, 3)}")
        return found

    def score(self, all_translated: Sequence[Translated]) -> metrics.Scores:
        """The scores that the model's metric belongs to."""
        if not all_translated:
            raise UserError("nothing to score: no example could be used")
        return metrics.texts(
            self.facts.metric,
            self.facts.bleu_tokenizer,
            [each.references for each in all_translated],
            [each.hypothesis for each in all_translated],
            [self.vocabularies.language(each.target_language) for each in all_translated],
            has_edit_rate=True,
        )

    def _stays(self, text: str) -> bool:
        """Whether there is nothing to translate: a model that learnt from sentences would invent one."""
        return self._reads_letters and not has_letters(text)

    def _pieces(self, text: str) -> list[str]:
        """The text, or its sentences where it is longer than what the model learnt from."""
        length = self.vocabularies.source.num_tokens
        longest = self.facts.longest_tokens
        if not text:
            return []
        # No token is shorter than a byte: most lines need not be counted.
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
        """The translation of a line that goes on from lines before it and their translations."""
        length, longest = self.vocabularies.source.num_tokens, self.facts.longest_tokens
        text, *sources = (normalize(each, self.facts.text) for each in (line, *(source for source, _ in before)))
        translations = [translation for _, translation in before]
        while sources and length([" ".join([*sources, text])])[0] > longest:  # more than the model learnt from
            del sources[0], translations[0]
        if self._stays(line) or not text or not sources:
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
            plural = "s" * (len(unknown) > 1)
            warn(f"{len(unknown)} character{plural} that the model does not know, and can only guess at: {shown}")

    def _attention(self, translated: Translated) -> AttentionMap | None:
        """Where the model looked while it wrote."""
        vocabularies = self.vocabularies
        source = vocabularies.source_tokens(vocabularies.source.encode(translated.source), translated.target_language)
        target = vocabularies.target.encode(translated.hypothesis)
        weights = self.writer.attention(source, target)
        if weights is None:
            return None
        rows = [*(vocabularies.target.tokens[token] for token in target), END]
        columns = [vocabularies.source.tokens[token] for token in source]
        return AttentionMap(translated.id, rows, columns, weights)
