"""How good is a recognizer? Its outputs on a manifest, their scores, and the data of a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segue import metrics
from segue.data import audio, reading, recordings
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.text import normalize
from segue.errors import UserError, warn
from segue.evaluation import Evaluation, Example, chosen
from segue.progress import Bar, progress
from segue.runtime.recognizer import Recognizer
from segue.runtime.words import text_of


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


class SpeechEvaluator:
    """Evaluates a model."""

    def __init__(self, model: Recognizer) -> None:
        self._model, self._metadata = model, model.metadata

    def explain(
        self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True, as_transcribed: bool = False
    ) -> Evaluation:
        """Scores on a manifest and the result of each utterance or recording; `has_media` adds the sound of some."""
        utterances = Manifest(Utterance, [manifest], skip_bad=skip_bad)
        results = self.results(utterances)
        beside: dict[str, float] = {}
        if as_transcribed:
            alone = self.score(results)
            usable = {each.origin for each in results}
            results = self._as_transcribed([each for each in utterances if each.origin in usable], skip_bad)
            name = alone.chosen.name
            beside = {f"alone_{name}": alone.overall()[name], "recordings": len(results)}
        place = {utterance.origin: number for number, utterance in enumerate(utterances)}
        results.sort(key=lambda each: place[each.origin])
        num_recognized = sum(each.num_utterances for each in results)
        num_skipped = utterances.num_skipped + len(utterances) - num_recognized
        self._check(manifest, results)
        speakers = [each.speaker for each in results]
        with Bar(f"scores {manifest.name}"):
            found = self.score(results)
            rates, of_speakers = found.of_each(), found.by_speaker(speakers)
            resampled = found.resampling("recordings" if as_transcribed else "utterances", speakers)
        name = found.chosen.name
        examples = [
            Example(
                each.id,
                each.reference,
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
            scores={**found.overall(), **beside, "utterances": num_recognized, "skipped": num_skipped},
            examples=examples,
            score_name=name.replace("_", " "),
            direction="min",
            length_name="seconds",
            facts={"manifest": str(manifest), "parameters": f"{self._metadata.parameters:,}"},
            intervals=resampled.intervals,
            interval_note=resampled.note,
            measured=found,
            groups={"speakers": of_speakers} if of_speakers else {},
        )

    def results(self, manifest: Manifest[Utterance]) -> list[UtteranceResult]:
        """The result of each utterance of a manifest, short ones first; utterances are not divided into windows.

        Bad examples raise a UserError, or are left out if the manifest has `skip_bad`.
        """
        results: list[UtteranceResult] = []
        sounds = progress(
            self.sounds(manifest),
            f"evaluates {', '.join(path.name for path in manifest.paths)}",
            float(manifest.sizes.sum()),
            "s",
            lambda group: sum(utterance.seconds for utterance in group[0]),
        )
        for utterances, waveforms in sounds:
            texts, _ = self._model.recognize(waveforms)
            for utterance, hypothesis in zip(utterances, texts, strict=True):
                reference = normalize(utterance.text, self._metadata.text, utterance.language)
                seconds, speaker = utterance.seconds, utterance.speaker
                results.append(UtteranceResult(utterance.id, reference, hypothesis, seconds, utterance.origin, speaker))
        return results

    def _as_transcribed(self, utterances: Sequence[Utterance], skip_bad: bool) -> list[UtteranceResult]:
        """The results of `transcribe` for their recordings; of whole files, only words inside of utterances count."""
        results: list[UtteranceResult] = []
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
            reference = normalize(recording.text, self._metadata.text)
            sizes = recording.seconds, origin, recording.speaker, len(recording.utterances)
            results.append(UtteranceResult(recording.id, reference, text_of(found), *sizes))
        return results

    def _check(self, manifest: Path, results: Sequence[UtteranceResult]) -> None:
        """Raises a UserError if all references are empty; warns about some empty ones."""
        num_empty = sum(not each.reference for each in results)
        if results and num_empty == len(results):
            raise UserError(f"{manifest}: nothing to score: all references are empty after normalization")
        if num_empty:
            warn(
                f"{manifest}: {num_empty} of {len(results)} references are empty after normalization; whatever is "
                "recognized there counts as insertions"
            )

    def score(self, results: Sequence[UtteranceResult]) -> metrics.Scores:
        """Word and character error rates of normalized texts."""
        if not results:
            raise UserError("nothing to score: no example could be used")
        hypotheses = [normalize(each.hypothesis, self._metadata.text) for each in results]
        return metrics.speech(self._metadata.metric, [each.reference for each in results], hypotheses)

    def sounds(self, manifest: Manifest[Utterance]) -> Iterator[tuple[list[Utterance], list[Samples]]]:
        """All utterances and their samples, in groups of similar length, short ones first.

        Bad ones raise a UserError, or are left out if the manifest has `skip_bad`.
        """
        yield from reading.groups(manifest, self._metadata.sample_rate_hz)
