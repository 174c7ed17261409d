"""Looks at a recipe and its data, or at manifests, before any device is used: what is wrong, and what to do about it.

What training itself checks comes from the sources (`data/source.py`): training stops at it or warns, here it is listed.
The other files each answer one question: `audio.py`, `texts.py`, `pairs.py`, `classes.py`, `splits.py`; `steps.py` and
`model.py` run models. `looking.py` shows all examples to them, on all cores.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.card import length
from segue.data import examples as kinds
from segue.data import manifests
from segue.data.examples import CONTENTS, Labeled, Pair, Utterance, sound_of
from segue.data.manifest import Manifest, ManifestsSection, first_values
from segue.data.tokenizer import CharactersSection
from segue.diagnosis import Diagnosis, Sample, Symptom, of_all
from segue.doctor import splits as between
from segue.doctor.audio import LONGEST_SECONDS, SoundCheck, playable
from segue.doctor.classes import ClassCheck
from segue.doctor.looking import Split, over
from segue.doctor.pairs import LEAST_PAIRS, LanguageCheck, PairCheck
from segue.doctor.splits import SpeakerCheck
from segue.doctor.texts import TextCheck
from segue.errors import Problems, UserError, Warned, count_of, gathered
from segue.recipe import AUTO

MOST_CLIPS = 80
"""Recordings that can be played in a report."""
SOUND_CHUNK, TEXT_CHUNK = 64, 2000


@dataclass
class _Case:
    """What is known so far."""

    title: str
    splits: list[Split] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    symptoms: list[Symptom] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def of_manifests(paths: Sequence[Path], *, has_media: bool = False, model: Path | None = None) -> Diagnosis:
    """Examines manifests of one kind; each is a split. `has_media` adds recordings to play.

    Raises a UserError for a file that is no manifest, or manifests of several kinds.
    """
    case = _Case(", ".join(map(str, paths)))
    kind, *_ = [_kind_of(path) for path in paths]
    for path in paths:
        _open(case, kind, _name(path, case), [path], is_error=True)
    case.unseen.append("what a recipe needs: its alphabet, lengths, a batch (segue doctor RECIPE)")
    _look(case, None, None)
    return _concluded(case, model, has_media=has_media)


def of_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    has_media: bool = False,
    has_batch: bool = True,
    model: Path | None = None,
    title: str = "",
) -> Diagnosis:
    """Examines a recipe with its manifests; `has_batch` also takes steps with its model, for about a minute.

    Raises a UserError for mistakes in the recipe itself, or if its manifests do not exist.
    """
    from segue import training  # imports torch
    from segue.doctor import steps

    section, module = training.read(path, overrides)
    module.check_data(section.data)
    case = _Case(title or str(path))
    is_error = not section.data.skip_bad
    lenient = section.model_copy(update={"data": section.data.model_copy(update={"skip_bad": True})})
    with tempfile.TemporaryDirectory() as folder:
        begun = None
        with gathered() as warned:
            try:
                begun = training.begin(lenient, module, Path(folder))
            except UserError as problem:
                case.symptoms.append(Symptom("error", "manifests", str(problem)))
        case.symptoms += _told(warned, is_error=is_error)
        if isinstance(section.data, ManifestsSection):
            _open_all(case, section.data, module.EXAMPLE, begun, is_error=is_error)
        else:  # texts of any kind, which training has read already
            if begun is not None:
                sizes = (f"{count_of(file.num_tokens, 'token')} of {name}" for name, file in begun.own.files.items())
                case.facts["examined"] = ", ".join(sizes)
            case.unseen.append("what the texts say: only that they can be read and tokenized was examined")
        if section.data.rehearsal:
            case.unseen.append(
                f"of the rehearsed data ({', '.join(section.data.rehearsal)}) all but what training checks"
            )
        reader = None if begun is None else getattr(begun.own, "reader", None)
        rate = getattr(getattr(section, "features", None), "sample_rate_hz", None)
        _look(case, reader, rate)
        if begun is None:
            case.unseen.append("a batch, as long as the data cannot be used")
        elif has_batch:
            facts, found = steps.examine(begun)
            case.facts |= facts
            case.symptoms += found
        else:
            case.unseen.append("a batch (--no-batch)")
        return _concluded(case, model, has_media=has_media)


def _open_all(case: _Case, section: ManifestsSection, kind: Any, begun: Any, *, is_error: bool) -> None:
    """Adds the manifests of a recipe as splits, with what training found, if it could begin, and those of test data."""
    if begun is not None:
        case.symptoms += _advice(begun.own)
        case.splits += [Split(name, manifest) for name, manifest in begun.own.whole.items()]
    else:
        data = manifests.resolved(section)
        for name, paths in (("train", manifests.training_paths(data)), ("dev", manifests.dev_paths(data))):
            _open(case, kind, name, paths, is_error=is_error)
    for each in manifests.paths_of_test(section):
        if each not in (*manifests.training_paths(section), *manifests.dev_paths(section)):
            _open(case, kind, _name(each, case), [each], is_error=False)


def _kind_of(path: Path) -> Any:
    """The kind of examples in a manifest."""
    values = first_values(path)
    contents = [kinds.content_of(each) for each in values]
    found = next((kind for each in contents if each is not None and (kind := kinds.kind_of(each)) is not None), None)
    if found is None:
        known = "; ".join(name for name in CONTENTS if kinds.kind_of(name) is not None)
        has = f"its first line has {', '.join(map(repr, values[0]))[:200]}, where " if values else ""
        raise UserError(f"{path}: not a manifest of examples: {has}one of these is needed: {known}")
    return found


def _name(path: Path, case: _Case) -> str:
    """train for train.jsonl; the path, if several have the same name."""
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return str(path) if any(name == split.name for split in case.splits) else name


def _open(case: _Case, kind: Any, name: str, paths: Sequence[Path], *, is_error: bool) -> None:
    """Adds manifests as a split, with the findings on their lines."""
    if not paths:
        return
    with gathered() as warned:
        try:
            case.splits.append(Split(name, Manifest(kind, paths, skip_bad=True)))
        except UserError as problem:
            if all(each.what != str(problem) for each in case.symptoms):
                case.symptoms.append(Symptom("error" if is_error else "warning", "manifests", str(problem)))
    case.symptoms += [each for each in _told(warned, is_error=is_error) if each not in case.symptoms]


def _told(warned: Sequence[Warned], *, is_error: bool) -> Iterator[Symptom]:
    """What training warns of; problems that it only skips if it may are errors."""
    for message, about in warned:
        if about is None:
            yield Symptom("warning", "manifests", message)
        else:
            yield from _listed(about, "manifests", is_error=is_error)


def _listed(problems: Problems, about: str, *, is_error: bool) -> Iterator[Symptom]:
    for name, kind in problems.kinds.items():
        yield Symptom(
            "error" if is_error else "warning",
            about,
            name,
            "correct or remove these lines; segue train --skip-bad leaves them out",
            kind.count,
            samples=[Sample(*_divided(problem)) for problem in kind.first[:5]],
        )


def _divided(problem: str) -> tuple[str, str]:
    """`file:line`, and the rest of a problem."""
    where, _, text = problem.partition(": ")
    return (where, text) if where.rpartition(":")[2].isdigit() else ("", problem)


def _advice(source: Any) -> Iterator[Symptom]:
    lines = source.reader.advice()
    if lines:
        yield Symptom("note", "texts", "the alphabet lacks characters of the training texts", "\n".join(lines))


def _look(case: _Case, reader: Any, rate: int | None) -> None:
    """Shows all examples to the checks that fit what they are."""
    if not case.splits:
        return
    splits = case.splits
    first = [split.examples[0] for split in splits]
    has_sound = any(sound_of(each) is not None for each in first)
    tokenizer = getattr(getattr(reader, "recipe", None), "tokenizer", None)
    is_open = not isinstance(tokenizer, CharactersSection) or tokenizer.alphabet == AUTO
    texts = TextCheck(None if reader is None else reader.seen, is_open)
    sounds, speakers = SoundCheck(rate), SpeakerCheck()
    pairs = [PairCheck()] if isinstance(first[0], Pair) else []
    classes = [ClassCheck()] if isinstance(first[0], Labeled) else []
    checks: list[Any] = [texts, *pairs, *classes, *([sounds, speakers] if has_sound else [])]
    over(
        splits,
        checks,
        "decodes every recording" if has_sound else "reads every text",
        SOUND_CHUNK if has_sound else TEXT_CHUNK,
    )
    languages = [LanguageCheck(each) for each in pairs]
    if languages:
        over(splits, languages, "compares languages", TEXT_CHUNK)
    case.facts["examined"] = ", ".join(f"{len(split.examples):,} of {split.name}" for split in splits)
    if has_sound:
        seconds = sum(float(split.examples.sizes.sum()) for split in splits)
        case.facts["sound"] = f"{length(seconds)}, all decoded"
        num_cut = sum(int(sounds.of(split.name)["is_cut"].sum()) for split in splits)
        if num_cut:
            case.unseen.append(f"the rest of {count_of(num_cut, 'recording')} after {LONGEST_SECONDS:g} s")
    total = sum(len(split.examples) for split in splits)
    if pairs and total < LEAST_PAIRS:
        case.unseen.append(
            f"the languages of the sides: {count_of(total, 'pair is', 'pairs are')} too few to know them by"
        )
    known = {each.what for each in case.symptoms}  # what training checks as well
    case.symptoms += [each for each in _listed(sounds.problems, "audio", is_error=True) if each.what not in known]
    for check in (*checks, *languages):
        case.symptoms += check.symptoms() if not isinstance(check, SpeakerCheck) else ()
    case.symptoms += speakers.symptoms()
    case.symptoms += between.symptoms(splits, texts, sounds)


def _concluded(case: _Case, model: Path | None, *, has_media: bool) -> Diagnosis:
    if model is not None and case.splits:
        from segue.doctor import model as models

        case.symptoms += models.symptoms(model, case.splits, "auto")
    found = of_all(case.title, case.facts, case.symptoms, case.unseen)
    return found._replace(symptoms=_with_sound(found.symptoms, case.splits)) if has_media else found


def _with_sound(symptoms: Sequence[Symptom], splits: Sequence[Split]) -> list[Symptom]:
    """The findings, with recordings to play where these help, up to MOST_CLIPS."""
    wanted = {one.where for each in symptoms if each.about in ("audio", "splits") for one in each.samples}
    clips = dict[str, bytes | None]()
    for split in splits:
        for origin, sound in _sounds_of(split, wanted):
            if len(clips) < MOST_CLIPS:
                clips[origin] = playable(sound)
    return [
        each._replace(samples=[one._replace(audio=one.audio or clips.get(one.where)) for one in each.samples])
        for each in symptoms
    ]


def _sounds_of(split: Split, wanted: set[str]) -> Iterator[tuple[str, Utterance]]:
    for example in split.examples if sound_of(split.examples[0]) is not None else ():
        sound = sound_of(example)
        if sound is not None and example.origin in wanted:
            yield example.origin, sound
