"""How is a text found in the scores of a speech model? Its settings beside the model, and what a request adds to them.

A backend returns scores; the search is applied to each recording's scores, so that requests with different phrases or
language models share the batches of one model.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from segue.data import scripts
from segue.data.text import TextSection, normalize
from segue.decoding.ctc import greedy
from segue.decoding.emissions import Emission
from segue.decoding.ngram import NGram, TextModel
from segue.decoding.phrases import Phrase, Phrases, Spelling, numbered
from segue.decoding.prefix_beam import Candidate, Knowledge, placed, search
from segue.decoding.word_knowledge import Together, WordKnowledge
from segue.errors import UserError
from segue.files import replacing
from segue.recipe import Section

NAME = "search.json"
"""File of the settings, in the directory of the model."""
LANGUAGE_MODEL = "language_model.arpa"
"""File of the language model beside it, or the same with .gz."""
_SAMPLE = 1000  # likeliest words, to see whether a language model fits
_FITTING = 0.5


class SpeechSearchSection(Section):
    """Search in the scores of a speech model."""

    kind: Literal["greedy", "beam"] = "beam"
    """greedy: the likeliest token of each frame. beam: the likeliest text, with a language model and phrases."""
    beams: Annotated[int, Field(gt=0, le=10_000)] = 16
    """Texts that are followed at the same time. With phrases, greedy search is replaced by a search of so many."""
    language_model: str | None = None
    """File of an n-gram model of words (ARPA, also packed as .gz), in the directory of these settings."""
    weight: Annotated[float, Field(ge=0)] = 0.5
    """Factor of the language model's log-probabilities (natural logarithm)."""
    word_bonus: float = 1.5
    """Gain a word, in nats, since language models prefer fewer words. Only with a language model."""
    unknown_word_score: float = -10.0
    """Of a word that the language model does not know, in nats, in place of its weighted log-probability. No word
    counts less."""
    phrase_score: Annotated[float, Field(ge=0)] = 1.0
    """Gain a letter of a phrase, in nats; less for its first three letters."""


class Rescoring:
    """A second language model, of any kind, which orders the texts that a search found."""

    def __init__(self, model: TextModel, weight: float, word_bonus: float = 0.0) -> None:
        self._model, self._weight, self._bonus = model, weight, word_bonus

    def __call__(self, candidates: Sequence[Candidate], texts: Sequence[str]) -> list[Candidate]:
        """The candidates with these texts, best first, with the second model's share in their scores."""
        found = self._model.log_probabilities(texts)
        rescored = [
            each._replace(score=each.score + self._weight * more + self._bonus * len(text.split()))
            for each, more, text in zip(candidates, found, texts, strict=True)
        ]
        return sorted(rescored, key=lambda each: (-each.score, each.tokens))


@dataclass(frozen=True)
class SpeechSearch:
    """A search for the tokens of one model. It does not change, and is thread-safe."""

    section: SpeechSearchSection
    pieces: Sequence[bytes]
    """The text of each token; the blank follows the last one."""
    text: TextSection
    """How the model writes."""
    words: WordKnowledge | None = None
    """What a language model knows (`with_language_model`)."""
    phrases: Phrases | None = None
    """What a request adds (`with_phrases`)."""
    rescoring: Rescoring | None = None
    source: Path | None = None
    """The file of the language model."""

    def with_language_model(self, path: Path) -> "SpeechSearch":
        """The same search with the language model in an ARPA file. Raises a UserError if it does not fit the tokens."""
        model = NGram(path, partial(normalize, rule=self.text))
        _check(model, self.pieces)
        return replace(self, source=path)._with_model(model)

    def without_language_model(self) -> "SpeechSearch":
        """The same search without its language model."""
        section = self.section.model_copy(update={"language_model": None})
        return replace(self, section=section, words=None, source=None)

    def with_section(self, section: SpeechSearchSection) -> "SpeechSearch":
        """The same search with other settings and the same language model."""
        assert self.phrases is None
        found = replace(self, section=section)
        return found if self.words is None else found._with_model(self.words.model)

    def with_phrases(self, given: Sequence[str] | Sequence[Phrase]) -> "SpeechSearch":
        """The same search that prefers phrases. Raises a UserError that names those that the tokens cannot spell."""
        if not given:
            return self
        read = [each for each in given if isinstance(each, Phrase)]
        if len(read) < len(given):
            read = numbered(given)
        form = partial(normalize, rule=self.text)
        score = self.section.phrase_score
        return replace(self, phrases=Phrases(read, self.pieces, score, form, scripts.is_unspaced))

    @property
    def is_greedy(self) -> bool:
        """Whether it is the search that a backend itself does."""
        return self.section.kind == "greedy" and self.phrases is None and self.rescoring is None

    @property
    def deciding(self) -> dict[str, float] | None:
        """The settings on which it depends which words are found, without phrases; None: the greedy search."""
        section = self.section
        if section.kind == "greedy":
            return None
        found: dict[str, float] = {"beams": section.beams}
        if self.words is not None:
            found |= {"weight": section.weight, "word_bonus": section.word_bonus}
            found["unknown_word_score"] = section.unknown_word_score
        return found

    def emissions(self, scores: NDArray[np.float32]) -> list[Emission]:
        """(T, V) log-probabilities -> the tokens of the best text, with times and confidences from the scores alone."""
        if self.is_greedy:
            return greedy(scores, len(self.pieces))
        return placed(scores, self.candidates(scores)[0].tokens, len(self.pieces))

    def candidates(self, scores: NDArray[np.float32]) -> list[Candidate]:
        """(T, V) log-probabilities -> the texts that the beam search found, best first."""
        found = search(scores, len(self.pieces), self.section.beams, self._knowledge)
        if self.rescoring is not None:
            found = self.rescoring(found, [self.text_of(each) for each in found])
        return found

    def text_of(self, candidate: Candidate) -> str:
        """The text of a candidate."""
        return b"".join(self.pieces[token] for token in candidate.tokens).decode(errors="replace").strip()

    def save(self, folder: Path) -> None:
        """Writes the settings, and the language model, into the directory of a model."""
        section = self.section
        if self.source is not None:
            name = LANGUAGE_MODEL + (".gz" if self.source.suffix == ".gz" else "")
            section = section.model_copy(update={"language_model": name})
            if not (folder / name).exists() or not self.source.samefile(folder / name):
                with replacing(folder / name) as partial_file:
                    shutil.copyfile(self.source, partial_file)
        with replacing(folder / NAME) as partial_file:
            values = section.model_dump(mode="json", exclude_none=True)
            partial_file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @cached_property
    def _knowledge(self) -> Knowledge | None:
        parts: list[Knowledge] = [each for each in (self.words, self.phrases) if each is not None]
        return None if not parts else parts[0] if len(parts) == 1 else Together(parts)

    def _with_model(self, model: NGram) -> "SpeechSearch":
        section = self.section
        words = WordKnowledge(
            model,
            self.pieces,
            weight=section.weight,
            word_bonus=section.word_bonus,
            unknown_score=section.unknown_word_score,
        )
        return replace(self, words=words)


def load(folder: Path, pieces: Sequence[bytes], text: TextSection) -> SpeechSearch:
    """The search whose settings lie in the directory of a model; greedy if there are none. Raises a UserError."""
    section = _read(folder)
    if section is None:
        return SpeechSearch(SpeechSearchSection(kind="greedy"), pieces, text)
    found = SpeechSearch(section, pieces, text)
    return found if section.language_model is None else found.with_language_model(folder / section.language_model)


def copy(source: Path, target: Path) -> None:
    """Copies the settings and the language model of a model to another directory of it, if there are any.

    Raises a UserError if the settings cannot be read, or name a language model that is not there.
    """
    section = _read(source)
    if section is None:
        return
    for name in filter(None, (NAME, section.language_model)):
        if not (source / name).is_file():
            raise UserError(f"{source / NAME}: language_model: there is no file {name!r} beside it")
        shutil.copyfile(source / name, target / name)


def _read(folder: Path) -> SpeechSearchSection | None:
    """The settings in the directory of a model; None if there are none. Raises a UserError."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        section = SpeechSearchSection.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {key + ': ' if key else ''}{first['msg']}; segue tune writes it anew") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path}: {problem}") from None
    name = section.language_model
    if name is not None and Path(name).name != name:
        raise UserError(f"{path}: language_model: the name of a file in the same directory is wanted, not a path")
    return section


def _check(model: NGram, pieces: Sequence[bytes]) -> None:
    """Raises a UserError if the words of a language model are not those of a speech model."""
    likeliest = sorted(model.words, key=lambda word: -model.words[word])[:_SAMPLE]
    if not likeliest:
        raise UserError(f"{model.path}: a language model without words")
    spelling = Spelling(pieces)
    strange = [word for word in likeliest if not spelling.can(word)]
    if len(strange) > (1 - _FITTING) * len(likeliest):
        some = ", ".join(map(repr, strange[:3]))
        raise UserError(
            f"{model.path}: a language model of other tokens: the speech model can spell "
            f"{len(likeliest) - len(strange)} of its {len(likeliest)} likeliest words, but not {some}; "
            "`segue prepare ngram` makes one of texts"
        )
    if all(len(word) == 1 for word in model.words) and not any(map(scripts.is_unspaced, model.words)):
        raise UserError(f"{model.path}: a language model of single letters; one of words is wanted")
