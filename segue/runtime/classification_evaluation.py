"""How good is a classifier? Its outputs on a manifest, their scores, and the data of a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segue import metrics
from segue.data import audio, reading
from segue.data.examples import Labeled
from segue.data.manifest import Manifest
from segue.errors import SKIP_BAD, UserError, count_of, some_of, warn
from segue.evaluation import Evaluation, Example, chosen
from segue.progress import Bar, progress
from segue.runtime.classifier import Classifier, Scores, problem


class ClassResult(NamedTuple):
    """The result of an example of a manifest."""

    example: Labeled
    hypothesis: str
    probability: float
    """Probability of the correct class."""


class ClassificationEvaluator:
    """Evaluates a model."""

    TEXTS = 4 * Classifier.BATCH  # number of texts at once

    def __init__(self, model: Classifier) -> None:
        self._model, self._metadata = model, model.metadata

    def explain(self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True) -> Evaluation:
        """Scores on a manifest and the result of each example; `has_media` adds the sound of some recordings."""
        examples = self.usable(Manifest(Labeled, [manifest], skip_bad=skip_bad))
        noun = "sounds" if self._model.is_of_sounds else "texts"
        results = self.classified(examples)
        place = {each.origin: number for number, each in enumerate(examples)}
        results.sort(key=lambda each: place[each.example.origin])
        num_skipped = examples.num_skipped + len(examples) - len(results)
        references, hypotheses = [each.example.label for each in results], [each.hypothesis for each in results]
        speakers = [each.example.speaker for each in results]
        with Bar(f"scores {manifest.name}"):
            found = self.score(results)
            resampled = found.resampling(noun, speakers if self._model.is_of_sounds else None)
            of_speakers = found.by_speaker(speakers)
        shown = [
            Example(
                each.example.id,
                each.example.label,
                each.hypothesis,
                each.probability,
                source=each.example.text or None,
                length=each.example.size,
                scores={"accuracy": float(each.hypothesis == each.example.label), "probability": each.probability},
                details={} if each.example.speaker is None else {"speaker": each.example.speaker},
            )
            for each in results
        ]
        for index in chosen(shown, "max") if has_media and self._model.is_of_sounds else ():
            samples = results[index].example.samples(self._model.sample_rate_hz)
            shown[index] = shown[index]._replace(audio=audio.encoded(samples, self._model.sample_rate_hz))
        groups = {"speakers": of_speakers} if of_speakers else {}
        return Evaluation(
            title=f"Classification of {manifest.name}",
            scores={**found.overall(), noun: len(results), "skipped": num_skipped},
            examples=shown,
            score_name="probability of the reference",
            direction="max",
            length_name="seconds" if self._model.is_of_sounds else "characters",
            facts={"manifest": str(manifest), "parameters": f"{self._metadata.parameters:,}"},
            intervals=resampled.intervals,
            interval_note=resampled.note,
            measured=found,
            groups={"labels": metrics.by_label(references, hypotheses), **groups},
            classes=self._metadata.classes,
        )

    def usable(self, examples: Manifest[Labeled]) -> Manifest[Labeled]:
        """The examples that can be scored. Others raise a UserError, or are left out with a warning if the manifest
        has `skip_bad`."""
        problems: dict[int, str] = {}
        for number, each in enumerate(examples):
            found = problem(each, self._metadata.classes, is_of_sounds=self._model.is_of_sounds)
            if found is None and not self._model.is_of_sounds and not self._model.normalized(each.text):
                found = f"{each.origin}: text: nothing is left of {each.text!r} after normalization"
            if found is not None:
                problems[number] = found
        listed = list(problems.values())
        if problems and not examples.skip_bad:
            raise UserError(f"{some_of(listed)}\n{SKIP_BAD}")
        if problems:
            warn(f"{count_of(len(problems), 'unusable example')} left out:\n{some_of(listed, 3)}")
            examples.without(problems)
        return examples

    def classified(self, examples: Manifest[Labeled]) -> list[ClassResult]:
        """The results of usable examples, short ones first. Bad sound raises a UserError, or is left out if the
        manifest has `skip_bad`."""
        what = f"evaluates {', '.join(path.name for path in examples.paths)}"
        batches = progress(self.batches(examples), what, len(examples), "examples", lambda batch: len(batch[0]))
        results: list[ClassResult] = []
        for some, given in batches:
            results += self.results(some, self.of(given))
        return results

    def batches(self, examples: Manifest[Labeled]) -> Iterator[tuple[list[Labeled], list[audio.Samples] | list[str]]]:
        """Usable examples in groups that are classified at once, with their sounds or texts."""
        if self._model.is_of_sounds:
            yield from reading.groups(examples, self._model.sample_rate_hz)
            return
        for start in range(0, len(examples), self.TEXTS):
            some = examples[start : start + self.TEXTS]
            yield some, [each.text for each in some]

    def of(self, given: list[audio.Samples] | list[str]) -> Scores:
        """Sounds or texts -> (B, C) log-probabilities."""
        model = self._model
        return model.of_sounds(given) if model.is_of_sounds else model.of_texts(given)  # type: ignore[arg-type]

    def results(self, examples: Sequence[Labeled], rows: Scores) -> list[ClassResult]:
        """The results of examples, from their (B, C) log-probabilities."""
        classes = self._metadata.classes
        return [
            ClassResult(each, classes[int(row.argmax())], float(np.exp(row[classes.index(each.label)])))
            for each, row in zip(examples, rows, strict=True)
        ]

    def score(self, results: Sequence[ClassResult]) -> metrics.Scores:
        """Accuracy and macro F1."""
        if not results:
            raise UserError("nothing to score: no example could be used")
        references = [each.example.label for each in results]
        return metrics.classes(self._metadata.metric, references, [each.hypothesis for each in results])
