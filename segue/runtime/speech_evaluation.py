"""How good is a recognizer? Its outputs on a manifest, their scores, and the data of a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segue import metrics
from segue.data import audio, reading, recordings
from segue.data import text as texts
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.errors import UserError, count_of, warn
from segue.evaluation import Evaluation, Example, chosen, length_groups
from segue.metrics.confusions import confusions, right_words
from segue.metrics.normalizers import Normalize, Normalizer
from segue.metrics.normalizers import chosen as chosen_normalizer
from segue.progress import Bar, progress
from segue.runtime.recognizer import Recognizer
from segue.runtime.words import Word, text_of

LEAST_BY_LENGTH = 40
"""Number of utterances from which scores by length are shown."""
MOST_LENGTHS = 5


class UtteranceResult(NamedTuple):
    """The result of an utterance or recording of a manifest."""

    id: str
    reference: str
    """Normalized reference."""
    hypothesis: str
    """The model's output, not normalized."""
    seconds: float
    origin: str = ""
    """`file:line` in the manifest."""
    speaker: str | None = None
    num_utterances: int = 1
    text: str = ""
    """The reference as written."""
    language: str | None = None
    words: tuple[Word, ...] = ()
    """The words of the hypothesis."""


class SpeechEvaluator:
    """Evaluates a model."""

    def __init__(self, model: Recognizer) -> None:
        self._model, self._metadata = model, model.metadata

    def explain(
        self,
        manifest: Path,
        skip_bad: bool = False,
        *,
        has_media: bool = True,
        as_transcribed: bool = False,
        normalizer: Normalizer = "ours",
    ) -> Evaluation:
        """Scores on a manifest and the result of each utterance or recording; `has_media` adds the sound of some.

        `normalizer` is used for scores only: texts are shown as they are.
        """
        normalize = self.normalizer(normalizer)
        utterances = Manifest(Utterance, [manifest], skip_bad=skip_bad)
        results = self.results(utterances, normalize)
        beside: dict[str, float] = {}
        if as_transcribed:
            alone = self.score(results, normalize)
            usable = {each.origin for each in results}
            used = [each for each in utterances if each.origin in usable]
            results, in_time = self._as_transcribed(used, skip_bad, normalize)
            name = alone.chosen.name
            beside = {f"alone_{name}": alone.overall()[name], **in_time, "recordings": len(results)}
        place = {utterance.origin: number for number, utterance in enumerate(utterances)}
        results.sort(key=lambda each: place[each.origin])
        num_recognized = sum(each.num_utterances for each in results)
        num_skipped = utterances.num_skipped + len(utterances) - num_recognized
        self._check(manifest, results)
        speakers = [each.speaker for each in results]
        with Bar(f"scores {manifest.name}"):
            hypotheses = [normalize(each.hypothesis, each.language) for each in results]
            found = metrics.speech(self._metadata.metric, [each.reference for each in results], hypotheses)
            rates, of_speakers = found.of_each(), found.by_speaker(speakers)
            of_lengths = self._by_length(found, [each.seconds for each in results])
            confused = confusions([each.reference for each in results], hypotheses)
            # Nothing where words are not units of the score, or where a normalizer makes one of several.
            has_words = found.chosen.name != "character_error_rate" and normalizer != "whisper"
            sureness = self._confidence(results, normalize) if has_words else {}
            resampled = found.resampling("recordings" if as_transcribed else "utterances", speakers)
        name = found.chosen.name
        examples = [
            Example(
                each.id,
                each.reference if normalizer == "ours" else each.text,
                each.hypothesis,
                own[name],
                length=each.seconds,
                scores=own,
                details={} if each.speaker is None else {"speaker": each.speaker},
            )
            for each, own in zip(results, rates, strict=True)
        ]
        for index in chosen(examples, "min") if has_media and not as_transcribed else ():
            samples = utterances[place[results[index].origin]].samples(self._metadata.sample_rate_hz)
            examples[index] = examples[index]._replace(audio=audio.encoded(samples, self._metadata.sample_rate_hz))
        return Evaluation(
            title=f"Speech recognition of {manifest.name}",
            scores={
                **found.overall(),
                "normalizer": normalizer,
                **beside,
                **sureness,
                "utterances": num_recognized,
                "skipped": num_skipped,
            },
            examples=examples,
            score_name=name.replace("_", " "),
            direction="min",
            length_name="seconds",
            facts={"manifest": str(manifest), "parameters": f"{self._metadata.parameters:,}"},
            intervals=resampled.intervals,
            interval_note=resampled.note,
            measured=found,
            groups={name: each for name, each in (("speakers", of_speakers), ("lengths", of_lengths)) if each},
            confusions=confused.as_json(),
        )

    def normalizer(self, name: Normalizer) -> Normalize:
        """The normalizer of this name (`metrics/normalizers.py`)."""
        return chosen_normalizer(name, lambda text, language: texts.normalize(text, self._metadata.text, language))

    def sureness(self, manifest: Manifest[Utterance]) -> tuple[list[float], list[bool]]:
        """The confidence of each recognized word of a manifest, and whether the word is right.

        In scripts without spaces these are characters.
        """
        return self._sureness(self.results(manifest), self.normalizer("ours"))

    @staticmethod
    def _sureness(results: Sequence[UtteranceResult], normalize: Normalize) -> tuple[list[float], list[bool]]:
        confidences: list[float] = []
        right: list[bool] = []
        is_spaced = metrics.speech_metric("auto", [each.reference for each in results]) == "word_error_rate"

        def units(text: str) -> list[str]:
            return text.split() if is_spaced else list("".join(text.split()))

        for each in results:
            # Each word by itself, so that its confidence is known; it may become several, or none.
            parts = [(units(normalize(word.word, each.language)), word.confidence) for word in each.words]
            confidences += [confidence for said, confidence in parts for _ in said]
            right += right_words(" ".join(units(each.reference)), " ".join(" ".join(said) for said, _ in parts if said))
        return confidences, right

    def _confidence(self, results: Sequence[UtteranceResult], normalize: Normalize) -> dict[str, float]:
        """How good the confidences of words are; empty if there are no words."""
        confidences, right = self._sureness(results, normalize)
        if not confidences:
            return {}
        area = metrics.area_under_roc(confidences, right)
        found = {"calibration_error": metrics.calibration_error(confidences, right)}
        return found if area is None else {**found, "confidence_auc": area}

    @staticmethod
    def _by_length(found: metrics.Scores, seconds: Sequence[float]) -> dict[str, dict[str, float]]:
        """Scores by length, shortest first; empty if there are few utterances."""
        if len(seconds) < LEAST_BY_LENGTH:
            return {}
        lengths = np.array(seconds)
        names: list[str] = [""] * len(seconds)
        for rows in length_groups(lengths, MOST_LENGTHS):
            low, high = (f"{value:.1f}" for value in (lengths[rows].min(), lengths[rows].max()))
            for row in rows.tolist():
                names[row] = f"{low} s" if low == high else f"{low}-{high} s"
        order = {names[row]: None for row in np.argsort(lengths, kind="stable").tolist()}
        each = found.by_group(names)
        return {name: each[name] for name in order} if len(each) > 1 else {}

    def results(self, manifest: Manifest[Utterance], normalize: Normalize | None = None) -> list[UtteranceResult]:
        """The result of each utterance of a manifest, short ones first; utterances are not divided into windows.

        References are normalized as for training, or by `normalize`. Bad examples raise a UserError, or are left out if
        the manifest has `skip_bad`.
        """
        normalize = normalize or self.normalizer("ours")
        results: list[UtteranceResult] = []
        sounds = progress(
            self.sounds(manifest),
            f"evaluates {', '.join(path.name for path in manifest.paths)}",
            float(manifest.sizes.sum()),
            "s",
            lambda group: sum(utterance.seconds for utterance in group[0]),
        )
        for utterances, waveforms in sounds:
            for utterance, words in zip(utterances, self._model.recognize_words(waveforms), strict=True):
                result = UtteranceResult(
                    utterance.id,
                    normalize(utterance.text, utterance.language),
                    text_of(words),
                    utterance.seconds,
                    utterance.origin,
                    utterance.speaker,
                    text=utterance.text,
                    language=utterance.language,
                    words=tuple(words),
                )
                results.append(result)
        return results

    def _as_transcribed(
        self, utterances: Sequence[Utterance], skip_bad: bool, normalize: Normalize
    ) -> tuple[list[UtteranceResult], dict[str, float]]:
        """The results of `transcribe` for their recordings; and of whole files the time-constrained error rate.

        Of whole files, only words inside of utterances count.
        """
        results: list[UtteranceResult] = []
        num_wrong = num_words = 0
        rate, total = self._metadata.sample_rate_hz, sum(each.seconds for each in utterances)
        for recording in progress(recordings.of(utterances), "transcribes", total, "s", lambda each: each.seconds):
            origin = recording.utterances[0].origin
            try:
                if recording.path is None:
                    clips = (each.samples(rate) for each in recording.utterances)
                    found = self._model.transcribe(recordings.join(clips, rate), rate).words
                else:
                    found = self._model.transcribe(recording.path, channel=recording.utterances[0].channel).words
                    found = [word for word in found if recording.covers((word.start + word.end) / 2)]
            except UserError as problem:
                if not skip_bad:
                    raise UserError(f"{origin}: {problem} (--skip-bad leaves such recordings out)") from None
                continue
            language = recording.utterances[0].language
            result = UtteranceResult(
                recording.id,
                normalize(recording.text, language),
                text_of(found),
                recording.seconds,
                origin,
                recording.speaker,
                len(recording.utterances),
                recording.text,
                language,
                tuple(found),
            )
            results.append(result)
            if recording.path is not None:
                right = [
                    word
                    for each in recording.utterances
                    for word in _placed(each.text, each.offset_seconds, each.seconds, each.language, normalize)
                ]
                said = [
                    each
                    for word in found
                    for each in _placed(word.word, word.start, word.end - word.start, language, normalize)
                ]
                num_wrong, num_words = num_wrong + metrics.in_time(right, said), num_words + len(right)
        return results, {"time_constrained_word_error_rate": num_wrong / num_words} if num_words else {}

    def _check(self, manifest: Path, results: Sequence[UtteranceResult]) -> None:
        """Raises a UserError if all references are empty; warns about some empty ones."""
        num_empty = sum(not each.reference for each in results)
        if results and num_empty == len(results):
            raise UserError(f"{manifest}: nothing to score: all references are empty after normalization")
        if num_empty:
            warn(
                f"{manifest}: empty after normalization: {num_empty:,} of {count_of(len(results), 'reference')}; "
                "whatever is recognized there counts as insertions"
            )

    def score(self, results: Sequence[UtteranceResult], normalize: Normalize | None = None) -> metrics.Scores:
        """Word and character error rates of normalized texts."""
        if not results:
            raise UserError("nothing to score: no example could be used")
        normalize = normalize or self.normalizer("ours")
        hypotheses = [normalize(each.hypothesis, each.language) for each in results]
        return metrics.speech(self._metadata.metric, [each.reference for each in results], hypotheses)

    def sounds(self, manifest: Manifest[Utterance]) -> Iterator[tuple[list[Utterance], list[Samples]]]:
        """All utterances and their samples, in groups of similar length, short ones first.

        Bad ones raise a UserError, or are left out if the manifest has `skip_bad`.
        """
        yield from reading.groups(manifest, self._metadata.sample_rate_hz)


def _placed(
    text: str, start: float, seconds: float, language: str | None, normalize: Normalize
) -> list[metrics.Spoken]:
    """The normalized words of a text, with their times if they are spread evenly over its own."""
    return metrics.spread(normalize(text, language).split(), start, start + seconds)
