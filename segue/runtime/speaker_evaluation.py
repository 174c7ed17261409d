"""How well does a model tell voices apart? The equal error rate over the pairs of a manifest's recordings.

Shape letters: N recordings, D dimensions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segue.data import audio, reading
from segue.data.audio import Samples
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.errors import SKIP_BAD, UserError, count_of, some_of, warn
from segue.evaluation import Evaluation, Example, chosen
from segue.metrics import verification
from segue.metrics.verification import Verification
from segue.progress import Bar, progress
from segue.runtime.speaker_embedder import SpeakerEmbedder, Vectors

SEEN, UNSEEN = "in training", "not in training"


class SpeakerEvaluator:
    """Evaluates a model."""

    def __init__(self, model: SpeakerEmbedder) -> None:
        self._model = model

    def explain(self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True) -> Evaluation:
        """Scores on a manifest of recordings with speakers; `has_media` adds the sound of some recordings.

        If some of the speakers were in the training data and some were not, both groups have scores of their own.
        """
        recordings = self.usable(Manifest(Utterance, [manifest], skip_bad=skip_bad))
        what, rows = f"evaluates {manifest.name}", dict[str, np.ndarray]()
        batches = progress(self.batches(recordings), what, len(recordings), "recordings", lambda batch: len(batch[0]))
        for some, waveforms in batches:
            rows |= {each.id: row for each, row in zip(some, self._model.embed(waveforms), strict=True)}
        found = [each for each in recordings if each.id in rows]
        vectors, speakers = np.stack([rows[each.id] for each in found]), [str(each.speaker) for each in found]
        with Bar(f"scores {manifest.name}"):
            overall = score(vectors, speakers, manifest)
        known = set(self._model.metadata.speakers)
        is_seen = np.array([each in known for each in speakers])
        groups = {}
        for name, part in ((SEEN, is_seen), (UNSEEN, ~is_seen)):
            own = verification.of_pairs(
                vectors[part], [each for each, is_in in zip(speakers, part, strict=True) if is_in]
            )
            if own is not None and not part.all():
                groups[name] = {"recordings": int(part.sum()), "equal_error_rate": own.rate}
        shown = list(_examples(found, vectors, speakers))
        for index in chosen(shown, "max") if has_media else ():
            samples = found[index].samples(self._model.sample_rate_hz)
            shown[index] = shown[index]._replace(audio=audio.encoded(samples, self._model.sample_rate_hz))
        parameters = self._model.metadata.parameters
        return Evaluation(
            title=f"Speakers of {manifest.name}",
            scores={
                "equal_error_rate": overall.rate,
                "distance_at_equal_error": 1 - overall.threshold,
                "recordings": len(found),
                "speakers": len(set(speakers)),
                "skipped": recordings.num_skipped + len(recordings) - len(found),
            },
            examples=shown,
            score_name="similarity to the own speaker, less that to the nearest other",
            direction="max",
            length_name="seconds",
            facts={
                "manifest": str(manifest),
                "pairs": f"{overall.num_same:,} of one speaker, {overall.num_different:,} of two",
                **({} if parameters is None else {"parameters": f"{parameters:,}"}),
            },
            intervals={} if overall.interval is None else {"equal_error_rate": overall.interval},
            interval_note="no interval: fewer than three speakers"
            if overall.interval is None
            else f"95 % interval: bootstrap, {verification.NUM_RESAMPLES} draws of {len(set(speakers))} speakers",
            groups={"voices": groups} if groups else {},
        )

    def usable(self, recordings: Manifest[Utterance]) -> Manifest[Utterance]:
        """The recordings that have a speaker. Others raise a UserError, or are left out with a warning if the manifest
        has `skip_bad`."""
        lacking = {
            number: f"{each.origin}: speaker: missing" for number, each in enumerate(recordings) if each.speaker is None
        }
        if lacking and not recordings.skip_bad:
            raise UserError(f"{some_of(list(lacking.values()))}\n{SKIP_BAD}")
        if lacking:
            said = count_of(len(lacking), "recording")
            warn(f"{said} without a speaker left out:\n{some_of(list(lacking.values()), 3)}")
            recordings.without(lacking)
        return recordings

    def batches(self, recordings: Manifest[Utterance]) -> Iterator[tuple[list[Utterance], list[Samples]]]:
        """Usable recordings in groups of similar length, with their waveforms."""
        return reading.groups(recordings, self._model.sample_rate_hz)


def score(vectors: Vectors, speakers: Sequence[str], manifest: Path | str) -> Verification:
    """The equal error rate of (N, D) unit vectors. Raises a UserError if there are no pairs to tell apart."""
    found = verification.of_pairs(vectors, speakers)
    if found is None:
        raise UserError(
            f"{manifest}: speaker: {len(set(speakers))} in {count_of(len(speakers), 'recording')}; pairs of two "
            "speakers and pairs of one are needed: at least two speakers, one of them with two recordings"
        )
    return found


def _examples(found: Sequence[Utterance], vectors: Vectors, speakers: Sequence[str]) -> Iterator[Example]:
    """Each recording, with the speaker of the recording that is nearest to it as the hypothesis."""
    names = np.array(speakers)
    for number, each in enumerate(found):
        similarities = vectors @ vectors[number]
        similarities[number] = -np.inf
        is_own = names == names[number]
        is_own[number] = False
        own = float(similarities[is_own].mean()) if is_own.any() else 0.0
        other = max(float(similarities[names == name].mean()) for name in set(speakers) - {speakers[number]})
        nearest = speakers[int(similarities.argmax())]
        yield Example(
            each.id,
            speakers[number],
            nearest,
            own - other,
            length=each.seconds,
            scores={"similarity": own, "similarity_to_others": other},
            details={"speaker": speakers[number]},
        )
