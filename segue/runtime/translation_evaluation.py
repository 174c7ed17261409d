"""How good is a translator? Its outputs on a manifest, their scores, and the data of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segue import metrics
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.data.text import normalize
from segue.data.vocabularies import END
from segue.errors import SKIP_BAD, UserError, count_of, some_of, warn
from segue.evaluation import NUM_MAPS, AttentionMap, Direction, Evaluation, Example, chosen
from segue.progress import Bar
from segue.runtime.translator import Translator


class Translated(NamedTuple):
    """The result of a pair of a manifest."""

    id: str
    source: str
    """Normalized source; the references are normalized, too."""
    target_language: str | None
    references: tuple[str, ...]
    hypothesis: str


class TranslationEvaluator:
    """Evaluates a model."""

    def __init__(self, model: Translator) -> None:
        self._model, self._metadata, self._vocabularies = model, model.metadata, model.vocabularies

    def explain(self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True) -> Evaluation:
        """Scores on a manifest and the result of each example; `has_media` adds attention maps of some."""
        pairs = Manifest(Pair, [manifest], skip_bad=skip_bad)
        results = self.translated(pairs)
        num_skipped = pairs.num_skipped + len(pairs) - len(results)
        is_by_edits = self._metadata.metric == "word_error_rate"
        with Bar(f"scores {manifest.name}"):
            found = self.score(results)
            scores_of_each, of_languages = found.of_each(), found.by_language("sentences")
            resampled = found.resampling("sentences")
        name = "word_error_rate" if is_by_edits else "chrf"  # BLEU of single sentences is not meaningful
        examples = []
        for each, own in zip(results, scores_of_each, strict=True):
            length = len(each.source) if is_by_edits else len(self._vocabularies.source.encode(each.source))
            first, *others = each.references
            details = {} if each.target_language is None else {"language": each.target_language}
            said = (each.id, first, each.hypothesis, own[name], each.source, tuple(others))
            examples.append(Example(*said, length=float(length), scores=own, details=details))
        direction: Direction = "min" if is_by_edits else "max"
        indices = chosen(examples, direction) if has_media else []
        mapped = indices[:: max(1, len(indices) // NUM_MAPS)][:NUM_MAPS]
        maps = [self._attention(results[index]) for index in mapped]
        counts = {"sentences": len(results), "skipped": num_skipped}
        return Evaluation(
            title=f"Translation of {manifest.name}",
            scores={**found.overall(), **found.signatures(), **counts},
            examples=examples,
            score_name="word error rate" if is_by_edits else "chrF",
            direction=direction,
            length_name="characters" if is_by_edits else "source tokens",
            facts={"manifest": str(manifest), "parameters": f"{self._metadata.parameters:,}"},
            attention=[each for each in maps if each is not None],
            intervals=resampled.intervals,
            interval_note=resampled.note,
            measured=found,
            groups={"languages": of_languages} if of_languages else {},
        )

    def translated(self, manifest: Manifest[Pair]) -> list[Translated]:
        """The result of each pair of a manifest, in order; sources are not divided into sentences.

        Bad examples raise a UserError, or are left out if the manifest has `skip_bad`.
        """
        usable = self.usable(manifest)
        of_language: dict[str | None, list[int]] = {}
        for number, each in enumerate(usable):
            of_language.setdefault(each.target_language, []).append(number)
        hypotheses = [each.source if self._model.stays(each.source) else "" for each in usable]
        with Bar(f"evaluates {', '.join(path.name for path in manifest.paths)}", len(usable), "sentences") as bar:
            for language, numbers in of_language.items():
                asked = [number for number in numbers if not self._model.stays(usable[number].source)]
                asked.sort(key=lambda number: len(usable[number].source))  # similar lengths are searched together
                for start in range(0, len(asked), 4 * Translator.BATCH):
                    some = asked[start : start + 4 * Translator.BATCH]
                    found = self._model.search([usable[number].source for number in some], language)
                    for number, best in zip(some, found, strict=True):
                        hypotheses[number] = self._vocabularies.target.decode(best[0].tokens)
                    bar.advance(len(some))
        return [each._replace(hypothesis=hypothesis) for each, hypothesis in zip(usable, hypotheses, strict=True)]

    def usable(self, manifest: Manifest[Pair]) -> list[Translated]:
        """The pairs that can be scored, normalized, without hypotheses yet.

        Others raise a UserError, or are left out with a warning if the manifest has `skip_bad`.
        """
        found: list[Translated] = []
        problems: list[str] = []
        for pair in manifest:
            source, targets = normalize(pair.source, self._metadata.text), (pair.target, *pair.alternatives)
            references = [normalize(text, self._metadata.text, pair.target_language) for text in targets]
            problem = self._vocabularies.problem(pair, source, references[0])
            if problem is None:
                found.append(Translated(pair.id, source, pair.target_language, tuple(references), ""))
            else:
                problems.append(f"{pair.origin}: {problem}")
        if problems and not manifest.skip_bad:
            raise UserError(f"{some_of(problems)}\n{SKIP_BAD}")
        if problems:
            warn(f"{count_of(len(problems), 'unusable example')} left out:\n{some_of(problems, 3)}")
        return found

    def score(self, results: Sequence[Translated]) -> metrics.Scores:
        """The model's metric and related scores."""
        if not results:
            raise UserError("nothing to score: no example could be used")
        return metrics.texts(
            self._metadata.metric,
            self._metadata.bleu_tokenizer,
            [each.references for each in results],
            [each.hypothesis for each in results],
            [self._vocabularies.language(each.target_language) for each in results],
            has_edit_rate=True,
        )

    def _attention(self, translated: Translated) -> AttentionMap | None:
        """The cross-attention for an output; None if the runtime does not provide it."""
        vocabularies = self._vocabularies
        source = vocabularies.source_tokens(vocabularies.source.encode(translated.source), translated.target_language)
        target = vocabularies.target.encode(translated.hypothesis)
        weights = self._model.backend.attention(source, target)
        if weights is None:
            return None
        rows = [*(vocabularies.target.tokens[token] for token in target), END]
        columns = [vocabularies.source.tokens[token] for token in source]
        return AttentionMap(translated.id, rows, columns, weights)
