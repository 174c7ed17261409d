"""How does a corpus become manifests? One module per corpus; this one has their table and writes the manifests.

A corpus module has `Options`, a Section, and `examples(source, out, options)`, which yields (split, example) with an
utterance, a pair, a labeled example or a text, or a UserError in place of a bad one. Nothing else in Segue depends on
the corpus. A module whose SOURCE need not be a file or folder has `is_there(source)`. One that writes something else
than manifests has, in place of `examples`, `write(source, out, options, skip_bad=)` and `next_command(out)`.
"""

import difflib
import importlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from segue import files, recipe
from segue.data import audio
from segue.data.channels import Channel
from segue.data.encodings import decode, split_lines
from segue.data.examples import Labeled, Pair, Text, Utterance, sound_of
from segue.data.manifest import named, open_manifest, read_content
from segue.errors import SKIP_BAD, UserError, count_of, gathered, note, some_of, warn
from segue.progress import progress

Found = Utterance | Pair | Labeled | Text
Example = tuple[str, Found | UserError]

CORPORA = {
    "fsdd": "fsdd",
    "ljspeech": "ljspeech",
    "librispeech": "librispeech",
    "csv": "table",
    "tsv": "table",
    "nemo": "nemo",
    "kaldi": "kaldi",
    "folders": "folders",
    "synthesized": "synthesized",
    "multi30k": "multi30k",
    "parallel": "parallel",
    "written": "written",
    "wmt14": "wmt14",
    "cmudict": "cmudict",
    "jsb": "jsb",
    "midi": "midi",
    "ngram": "ngram",
}
"""Name on the command line -> module in this folder."""


RECIPES = {
    ("fsdd", "utterance"): "digits_jasper",
    ("fsdd", "sound"): "digits_sounds",
    ("librispeech", "utterance"): "librispeech_jasper10x5",
    ("multi30k", "pair"): "multi30k_transformer",
    ("multi30k", "text"): "multi30k_languages",
    ("wmt14", "pair"): "wmt14_transformer_base",
    ("written", "pair"): "plain_to_written",
    ("cmudict", "pair"): "cmudict_grapheme_to_phoneme",
    ("jsb", "document"): "jsb_chorales",
}
"""(corpus, noun for one of its examples) -> the recipe made for it."""
YOURS = {
    "utterance": "your_speech",
    "pair": "your_translation",
    "sound": "your_sounds",
    "text": "your_texts",
    "document": "your_music",
}
"""Noun for an example -> the recipe for any other corpus."""


class Written(NamedTuple):
    """A manifest that `prepare` wrote."""

    path: Path
    num_examples: int
    summary: str
    """For example "2,050 utterances, 15.2 minutes" or "29,000 pairs"."""
    noun: str
    """The kind of example: a key of `YOURS`, if it is a manifest."""


def module_of(corpus: str) -> ModuleType:
    """The module of a corpus by its name on the command line. Raises a UserError for unknown names."""
    if corpus not in CORPORA:
        near = difflib.get_close_matches(corpus, CORPORA, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no such corpus: {corpus!r} (corpora: {', '.join(CORPORA)}{hint})")
    return importlib.import_module(f"segue.data.corpora.{CORPORA[corpus]}")


def prepare(
    corpus: str, source: Path, out: Path, overrides: Sequence[str] = (), *, skip_bad: bool = False
) -> list[Written]:
    """Writes `out/SPLIT.jsonl` for each split of the corpus at `source`, or what else its module writes, to `out`;
    `overrides` are key=value options.

    A note names what is replaced. Raises a UserError that lists unusable examples, or with `skip_bad` leaves them out
    with a warning.
    """
    module = module_of(corpus)
    options = recipe.validate(recipe.from_overrides(overrides), module.Options)
    is_there: Callable[[Path], bool] = getattr(module, "is_there", Path.exists)
    if not is_there(source):
        raise UserError(f"{source}: no such file or folder")
    if hasattr(module, "write"):
        written: list[Written] = module.write(source, out, options, skip_bad=skip_bad)
        return written
    files.check_folder("OUT_DIR", out)
    splits: dict[str, _Split] = {}
    problems: list[str] = []
    # On an error, existing manifests stay unchanged, and warnings about their content say nothing.
    with ExitStack() as stack, _delayed_warnings():
        for split, found in progress(module.examples(source, out, options), f"prepares {source}", unit="examples"):
            if isinstance(found, UserError):
                problems.append(str(found))
                continue
            if split not in splits:
                path = out / f"{split}.jsonl"
                splits[split] = _Split(path, stack.enter_context(open_manifest(path)))
            try:
                splits[split].add(found)
            except UserError as problem:
                problems.append(str(problem))
        if problems and not skip_bad:
            raise UserError(f"{some_of(problems)}\n{SKIP_BAD}")
        if problems:
            warn(f"{count_of(len(problems), 'bad example')} left out:\n{some_of(problems, 3)}")
        if not splits:
            wrong = "no usable example" if problems else f"no example in it (segue prepare {corpus} says what it reads)"
            raise UserError(f"{source}: {wrong}")
        if "train" not in splits:
            warn(f"no example for training: all are for {', '.join(splits)}")
        paths = [split.path for split in splits.values()]
        files.say_replaced(paths, note)
        # What training and evaluation would find by its name.
        if kept := [path for path in named(out, "train", "dev", "test*") if path not in paths]:
            note(f"{out}: manifests from before that stay as they are: {', '.join(path.name for path in kept)}")
    return [split.written() for split in splits.values()]


@contextmanager
def _delayed_warnings() -> Iterator[None]:
    """Prints the warnings of the block at its end, and none if it raises: the error is to be read first."""
    with gathered() as warned:
        yield
    for each in warned:
        warn(each.message, each.about)


def check_source(source: Path, what: str) -> None:
    """Raises a UserError if `source` is not a folder, or may not be read; `what` says which one is wanted."""
    if not source.is_dir():
        raise UserError(f"{source}: not a folder; SOURCE is {what}")
    if not os.access(source, os.R_OK | os.X_OK):
        raise UserError(f"{source}: Permission denied")


def next_command(corpus: str, written: Sequence[Written], out: Path) -> str | None:
    """The command that uses what is at `out`: a training; None if train.jsonl or dev.jsonl is not there."""
    module = module_of(corpus)
    if hasattr(module, "next_command"):
        command: str = module.next_command(out)
        return command
    if not {"train.jsonl", "dev.jsonl"} <= {each.path.name for each in written}:
        return None
    noun = written[0].noun
    name = RECIPES.get((corpus, noun), YOURS[noun])
    return f"segue train {name} data.root={shlex.quote(str(out))}" if name in recipe.shipped() else None


@dataclass
class _Split:
    """A manifest being written; examples are not kept in memory."""

    path: Path
    write: Callable[[Found], None]
    count: int = 0
    seconds: float | None = None
    origins: dict[str, str] = field(default_factory=dict)
    """Origins of the ids that the corpus gives."""
    labels: set[str] = field(default_factory=set)
    is_of_documents: bool = False

    def add(self, example: Found) -> None:
        """Writes the example. Raises a UserError if its id was used before."""
        if example.has_id:
            earlier = self.origins.setdefault(example.id, example.origin)
            if earlier != example.origin:
                raise UserError(f"{example.origin}: id: {example.id!r} is already in {earlier}")
        self.write(example)
        self.count += 1
        sound = sound_of(example)
        if sound is not None:
            self.seconds = (self.seconds or 0.0) + sound.seconds
        if isinstance(example, Labeled):
            self.labels.add(example.label)
        self.is_of_documents = isinstance(example, Text)

    def written(self) -> Written:
        names = ("text", "sound") if self.labels else ("pair", "utterance")
        noun = "document" if self.is_of_documents else names[self.seconds is not None]
        summary = count_of(self.count, noun)
        if self.labels:
            summary += f" of {count_of(len(self.labels), 'class', 'classes')}"
        if self.seconds is not None:
            summary += f", {self.seconds / 60:.1f} minutes"
        return Written(self.path, self.count, summary, noun)


def measured(
    file: Path,
    text: str,
    origin: str,
    speaker: str | None = None,
    *,
    language: str | None = None,
    given_id: str | None = None,
    channel: Channel = None,
) -> Utterance | UserError:
    """An utterance of a whole audio file, with its actual duration; `origin` is "file:line".

    `given_id` is the corpus's own id, if it has one. If channels cancel each other, one is chosen and written into the
    manifest. A UserError is returned, not raised.
    """
    try:
        if not files.is_file(file):
            raise UserError(f"no such file: {file}")
        if channel is None:
            found, channel = audio.inspect(file)
        else:
            found = audio.properties(file)
        if isinstance(channel, int) and channel > found.num_channels:
            raise UserError(f"channel: {channel}, but {file} has {found.num_channels}")
    except UserError as problem:
        return UserError(f"{origin}: {problem}")
    return Utterance(
        id=given_id or str(file),
        audio=file,
        seconds=found.seconds,
        text=text,
        speaker=speaker,
        language=language,
        origin=origin,
        has_id=given_id is not None,
        channel=channel,
    )


def checked(utterance: Utterance) -> Utterance | UserError:
    """The utterance, with a channel chosen as in `measured`, or the UserError if its audio is missing or bad."""
    try:
        if utterance.check_audio().num_channels == 1 or utterance.channel is not None:
            return utterance
    except UserError as problem:
        return problem
    try:
        return replace(utterance, channel=audio.choose(utterance.audio, utterance.offset_seconds, utterance.seconds))
    except UserError as problem:
        return UserError(f"{utterance.origin}: {problem}")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", text) of each line that is not blank."""
    for number, line in enumerate(split_lines(decode(read_content(path, "file"), path)), 1):
        if line.strip():
            yield f"{path}:{number}", line
