"""Which settings of a search make the fewest errors? Tried one after the other on scores that are computed once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue import metrics
from segue.data.examples import Utterance
from segue.data.manifest import Manifest
from segue.data.segments import Levels, levels
from segue.data.text import normalize
from segue.errors import UserError
from segue.progress import progress
from segue.runtime.recognizer import Recognizer
from segue.runtime.speech_search import SpeechSearch, SpeechSearchSection
from segue.runtime.words import after_silence, text_of, words

WEIGHTS = (0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
BONUSES = (0.0, 0.75, 1.5, 2.5)
UNKNOWN = (-20.0, -40.0, -30.0, -14.0, -10.0)
"""Log-probabilities of an unknown word, which count `weight` times, as those of known words do: with a fixed score, a
large weight lets unknown words win. The first one is tried with all weights."""
BEAMS = (8, 16, 32, 64)
LEAST_GAIN = 0.01
"""More beams, which take more time, must leave out at least this share of the errors."""


class Development(NamedTuple):
    """What a model computed for development data."""

    scores: list[NDArray[np.float32]]
    levels: list[Levels]
    """Of each waveform: silence ends words."""
    references: list[str]
    """Normalized."""
    languages: list[str | None]
    seconds: float


class Trial(NamedTuple):
    """Settings, and how many errors they make."""

    section: SpeechSearchSection
    scores: dict[str, float]
    errors: tuple[float, float]
    """The error rate that is the model's metric; among equal ones, letters decide."""
    search_seconds: float
    """Of CPU time, for all utterances."""


def development(model: Recognizer, manifest: Path, most_seconds: float, skip_bad: bool = False) -> Development:
    """The scores of the utterances of a manifest; of long ones an even choice of `most_seconds`. Raises a UserError."""
    utterances = Manifest(Utterance, [manifest], skip_bad=skip_bad)
    if not len(utterances):
        raise UserError(f"{manifest}: no utterances in it")
    total = float(utterances.sizes.sum())
    if total > most_seconds:
        utterances = utterances.part(_evenly(len(utterances), most_seconds / total))
    greedy = SpeechSearchSection(kind="greedy")  # quick, and the scores are the same
    model = model.with_search(SpeechSearch(greedy, model.metadata.pieces, model.metadata.text))
    found = Development([], [], [], [], float(utterances.sizes.sum()))
    scores, references = found.scores, found.references
    groups = progress(
        model.evaluator.sounds(utterances),
        f"recognizes {manifest.name}",
        found.seconds,
        "s",
        lambda each: _seconds(each[0]),
    )
    for group, waveforms in groups:
        scores.extend(model.recognize(waveforms)[1])
        found.levels.extend(levels(each, model.metadata.sample_rate_hz) for each in waveforms)
        references.extend(normalize(each.text, model.metadata.text, each.language) for each in group)
        found.languages.extend(each.language for each in group)
    if not any(references):
        raise UserError(f"{manifest}: nothing to tune on: all references are empty after normalization")
    return found


class Tuning:
    """Tries settings of a search for one model on development data."""

    def __init__(self, model: Recognizer, data: Development, clock: Callable[[], float]) -> None:
        self._model, self._data, self._clock = model, data, clock
        self.trials: list[Trial] = []

    def try_(self, search: SpeechSearch) -> Trial:
        """How many errors a search makes."""
        metadata = self._model.metadata
        frame, rate = metadata.samples_per_frame, metadata.sample_rate_hz
        before = self._clock()
        found = [search.emissions(each) for each in self._data.scores]
        seconds = self._clock() - before
        pieces, each_level = search.pieces, zip(found, self._data.levels, strict=True)
        parted = (after_silence(each, pieces, decibels, frame, rate) for each, decibels in each_level)
        texts = [text_of(words(each, pieces, frame / rate)) for each in parted]
        languages = self._data.languages
        texts = [normalize(text, metadata.text, each) for text, each in zip(texts, languages, strict=True)]
        scored = metrics.speech(metadata.metric, self._data.references, texts)
        rates = scored.overall()
        errors = (rates[scored.chosen.name], rates["character_error_rate"])
        trial = Trial(search.section, rates, errors, seconds)
        self.trials.append(trial)
        return trial

    def run(self, search: SpeechSearch) -> Iterator[Trial]:
        """Greedy search, then weight and bonus of a beam search, unknown words, and beams, each with the best before.

        `search` has the language model, if there is one. The best settings are `best`.
        """
        yield self.try_(search.with_section(search.section.model_copy(update={"kind": "greedy"})))
        section = search.section.model_copy(update={"kind": "beam", "beams": 16})
        best = self.try_(search.with_section(section))
        yield best
        if search.words is not None:
            for values in _of_words():
                section = best.section.model_copy(update=values)
                if not any(section == each.section for each in self.trials):
                    yield self.try_(search.with_section(section))
            best = min(self.trials[1:], key=_errors)
            for score in UNKNOWN[1:]:
                values = {"unknown_word_score": round(best.section.weight * score, 3)}
                yield self.try_(search.with_section(best.section.model_copy(update=values)))
            best = min(self.trials[1:], key=_errors)
        for beams in BEAMS:
            section = best.section.model_copy(update={"beams": beams})
            if not any(section == each.section for each in self.trials):
                yield self.try_(search.with_section(section))

    @property
    def num_equal(self) -> int:
        """Number of the trials that made as few errors as the best one."""
        return sum(each.errors == self.best.errors for each in self.trials)

    @property
    def best(self) -> Trial:
        """The trial to keep: the first with the fewest errors, with the fewest beams that lose hardly anything."""
        least = min(self.trials, key=_errors)
        if least.section.kind == "greedy":
            return least
        alike = [
            each
            for each in self.trials
            if each.section.kind == "greedy"
            or each.section.model_copy(update={"beams": least.section.beams}) == least.section
        ]
        enough = [each for each in alike if each.errors[0] <= least.errors[0] * (1 + LEAST_GAIN)]
        return min(enough, key=lambda each: 1 if each.section.kind == "greedy" else each.section.beams)


def _of_words() -> Iterator[dict[str, float]]:
    """Weights and bonuses."""
    for weight in WEIGHTS:
        unknown = round(weight * UNKNOWN[0], 3)
        yield from ({"weight": weight, "word_bonus": bonus, "unknown_word_score": unknown} for bonus in BONUSES)


def _errors(trial: Trial) -> tuple[float, float]:
    return trial.errors


def _evenly(count: int, share: float) -> NDArray[np.int64]:
    chosen = max(1, round(count * share))
    return np.linspace(0, count - 1, chosen).round().astype(np.int64)


def _seconds(utterances: Sequence[Utterance]) -> float:
    return sum(each.seconds for each in utterances)
