"""How is a subtitle file translated, keeping its timing and layout?"""

# ruff: noqa: RUF001 (punctuation of many scripts, on purpose)

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from segue.data import sentences
from segue.data.encodings import encoding_of
from segue.data.subtitles import files, layout
from segue.data.subtitles.lines import Form
from segue.data.text import has_letters
from segue.errors import count_of

LONGEST_GAP_MS = 1500  # longest pause over which a sentence may continue in the next cue
LONGEST_OVERLAP_MS = 200  # longest overlap of cues over which it may
MOST_CUES_OF_A_SENTENCE = 6
LEAST_SHARE_OF_STOPS = 0.1  # fraction of cues; with fewer, the file has no punctuation from which to find sentence ends
WORTH_OF_PUNCTUATION = 0.4  # of a cue's share: how far a cut may move to be after punctuation
SHOWN = 5  # cues that a warning names

_BROKEN_OFF = re.compile(r"(?:[-–—:;]|[\"'”’»)\]」』）])\Z")
_DOTS_AFTER = re.compile(r"(?<=[^ .…]) ?(?:\.\.+|…+)\Z")
_DOTS_BEFORE = re.compile(r"(?:\.\.+|…+) ?(?=[^ .…])")


class Shape(NamedTuple):
    """Limits of readable cues, as usual with broadcasters."""

    line_length: int = 42
    """Characters."""

    lines: int = 2
    reading_speed: float = 17.0
    """Characters a second."""


class Translated(NamedTuple):
    """A translated file, and warnings about what to check by hand."""

    text: str
    warnings: list[str]
    num_cues: int
    num_sentences: int
    """Number of sentences that were given to `translator`."""


class _Segment(NamedTuple):
    """Consecutive words of one cue."""

    cue: int
    part: int
    text: str
    before: str = ""
    """An ellipsis that marks a continued sentence; not given to the translator. `after` likewise."""

    after: str = ""


class _Sentence(NamedTuple):
    """A sentence, and the number of its characters in each segment of its group."""

    text: str
    shares: dict[int, int]


class _Group(NamedTuple):
    """Segments that share sentences, in temporal order."""

    segments: list[_Segment]
    sentences: list[_Sentence]


def translate(
    content: bytes,
    form: Form,
    translator: Callable[[list[str]], list[str]],
    shape: Shape,
    name: str = "the file",
) -> Translated:
    """Translates the subtitles of the file `name`.

    Times, the order of cues and everything but text stay unchanged. A sentence that spans several cues is translated as
    a whole and distributed over them again. `translator` maps a list of sentences to their translations, in order; it
    is called at most once, and has to handle batching and long sentences. Raises a UserError with the line if the file
    cannot be parsed.
    """
    encoding = encoding_of(content, name)
    file = files.read(content.decode(encoding), form, name)
    form = file.form
    cues = [layout.read(cue.body, form) for cue in file.cues]
    groups = _groups(file.cues, cues)
    asked = [sentence.text for group in groups for sentence in group.sentences if has_letters(sentence.text)]
    answers = translator([text.rstrip() for text in asked]) if asked else []
    assert len(answers) == len(asked), "a translator returns as many sentences as it is given"
    texts: list[dict[int, layout.Words]] = [{} for _ in cues]
    left: set[int] = set()
    position = 0
    for group in groups:
        translations: list[str] = []
        for sentence in group.sentences:
            translation = sentence.text.rstrip()
            if has_letters(sentence.text):
                is_escaped = all(cues[group.segments[index].cue].is_escaped for index in sentence.shares)
                translation = layout.clean(answers[position], form, is_escaped)
                position += 1
                if not translation:
                    translation = sentence.text.rstrip()
                    left |= {group.segments[index].cue for index in sentence.shares}
            translations.append(translation)
        for segment, text in zip(group.segments, _shared_out(group, translations, file.cues, shape), strict=True):
            texts[segment.cue][segment.part] = text
    laid = [
        layout.write(cue, of_cue, shape.line_length) if of_cue else None
        for cue, of_cue in zip(cues, texts, strict=True)
    ]
    would_end = [index for index, each in enumerate(laid) if each and form != "ass" and files.holds_times(each.body)]
    for index in would_end:
        laid[index] = None
    bodies = [None if new is None else new.body for new in laid]
    warnings = [
        *_of_file(file, encoding),
        *_of_shape(file.cues, cues, laid, shape),
        _told(sorted(left), "left untranslated, since the translation came back empty", file.cues),
        _told(would_end, "left untranslated, since the translation looks like the times of another cue", file.cues),
    ]
    return Translated(files.write(file, bodies), list(filter(None, warnings)), len(cues), len(asked))


def _groups(file_cues: Sequence[files.Cue], cues: Sequence[layout.Cue]) -> list[_Group]:
    """The segments of a file, those with a common sentence in one group."""
    order = sorted(range(len(cues)), key=lambda index: (file_cues[index].start, file_cues[index].end, index))
    chains: list[list[_Segment]] = []
    last: dict[tuple[object, ...], tuple[int, int]] = {}  # by place: last chain, number of cues in its last sentence
    spoken = [
        [
            _Segment(index, number, cue.text_of(part))
            for number, part in enumerate(cue.parts)
            if part.kind == "words" and not file_cues[index].is_generated
        ]
        for index, cue in enumerate(cues)
    ]
    num_stops = sum(bool(segments and sentences.has_stop(segments[-1].text)) for segments in spoken)
    may_join = num_stops >= LEAST_SHARE_OF_STOPS * sum(map(bool, spoken))
    for index in order:
        segments = spoken[index]
        if not segments:
            continue
        kinds = [part.kind for part in cues[index].parts if part.kind not in ("space", "note")]
        is_music = any(part.kind == "note" for part in cues[index].parts)
        first_tags, last_tags = layout.lasting_tags(cues[index])
        place, last_place = ((file_cues[index].place, tags, is_music) for tags in (first_tags, last_tags))
        is_aside = kinds[0] == "opening" and kinds.index("closing") == len(kinds) - 1
        before, num_cues = (-1, 0) if is_aside else last.pop(place, (-1, 0))
        follows = may_join and kinds[0] == "words" and 0 < num_cues < MOST_CUES_OF_A_SENTENCE
        if follows:
            previous = chains[before][-1]
            gap = file_cues[index].start - file_cues[previous.cue].end
            is_near = -LONGEST_OVERLAP_MS <= gap < LONGEST_GAP_MS
            follows = is_near and _goes_on(previous.text, segments[0].text, is_music)
        for number, segment in enumerate(segments):
            if number == 0 and follows:
                chains[before][-1:] = _without_dots(chains[before][-1], segment)
            else:
                chains.append([segment])
        if kinds[-1] == "words":
            is_one = follows and len(segments) == 1 and len(sentences.split(segments[0].text)) == 1
            chain = before if follows and len(segments) == 1 else len(chains) - 1
            last[last_place] = chain, num_cues + 1 if is_one else 1
    return [_grouped(chain) for chain in chains]


def _goes_on(before: str, after: str, is_music: bool) -> bool:
    """Whether a sentence of one cue continues in the next."""
    first = after.lstrip("\"'“„‚‘«»‹›([{¿¡….")[:1]
    if before.isupper() != after.isupper() and len(before) > 1 and len(after) > 1:  # a sign or title next to speech
        return False
    if (is_music or _BROKEN_OFF.search(before)) and not first.islower():
        return False
    return len(sentences.split(f"{before} {after}")) < len(sentences.split(before)) + len(sentences.split(after))


def _without_dots(before: _Segment, after: _Segment) -> tuple[_Segment, _Segment]:
    """Two segments of one sentence, without the ellipses at their boundary."""
    if dots := _DOTS_AFTER.search(before.text):
        before = before._replace(text=before.text[: dots.start()], after=dots[0])
    if dots := _DOTS_BEFORE.match(after.text):
        after = after._replace(text=after.text[dots.end() :], before=dots[0])
    return before, after


def _grouped(segments: list[_Segment]) -> _Group:
    """The sentences of segments, with the number of characters in each segment."""
    text = ""
    ends: list[int] = []
    for segment in segments:
        text += " " * bool(text and sentences.are_apart(text, segment.text)) + segment.text
        ends.append(len(text))
    found: list[_Sentence] = []
    start = index = 0
    for sentence in sentences.split(text):
        end = start + len(sentence)
        shares: dict[int, int] = {}
        while start < end:
            stop = min(end, ends[index])
            size = _solid(text[start:stop])
            if size:
                shares[index] = size
            start = stop
            index += start == ends[index]
        found.append(_Sentence(sentence, shares))
    return _Group(segments, found)


def _shared_out(
    group: _Group, translations: Sequence[str], cues: Sequence[files.Cue], shape: Shape
) -> list[layout.Words]:
    """The text of each segment: by its share of the source, or if a cue would be too fast, also by its duration."""
    seconds = [max(0, cues[segment.cue].end - cues[segment.cue].start) / 1000 for segment in group.segments]

    def with_weights(by_seconds: float) -> list[layout.Words]:
        parts: list[list[tuple[str, str, int]]] = [[] for _ in group.segments]
        for sentence, translation in zip(group.sentences, translations, strict=True):
            size, duration = sum(sentence.shares.values()), sum(seconds[index] for index in sentence.shares)
            weights = [
                (1 - by_seconds) * share / size + by_seconds * (seconds[index] / duration if duration else share / size)
                for index, share in sentence.shares.items()
            ]
            for index, text in zip(sentence.shares, _portions(translation, weights), strict=True):
                parts[index].append((sentence.text, text, sentence.shares[index]))
        return [_worded(segment, part) for segment, part in zip(group.segments, parts, strict=True)]

    def speed(texts: Sequence[layout.Words]) -> float:
        return max(len(words.text) / each if each else 0.0 for words, each in zip(texts, seconds, strict=True))

    texts = with_weights(0.0)
    if len(texts) > 1 and speed(texts) > shape.reading_speed:
        texts = min(texts, with_weights(0.5), key=speed)
    return texts


def _worded(segment: _Segment, parts: Sequence[tuple[str, str, int]]) -> layout.Words:
    """A segment's words, from its sentences, their translations and their numbers of characters in the segment."""
    text = sentences.join([source for source, _, _ in parts], [translation for _, translation, _ in parts])
    dots = _solid(segment.before)
    sources = accumulate((share for _, _, share in parts), initial=dots)
    targets = accumulate((_solid(translation) for _, translation, _ in parts), initial=dots)
    return layout.Words(f"{segment.before}{text}{segment.after}", list(zip(sources, targets, strict=True))[1:-1])


def _solid(text: str) -> int:
    """Number of characters other than white space."""
    return len(text) - sum(map(str.isspace, text))


def _portions(text: str, weights: Sequence[float]) -> list[str]:
    """`text` cut between words in proportion to `weights`, preferably after punctuation; no part is empty if possible.

    A cut that exactly matches the proportions is kept, so an unchanged text is distributed as it was.
    """
    if len(weights) == 1:
        return [text]
    words = sentences.words(text)
    reached = list(accumulate((len(word.rstrip()) for word in words), initial=0))
    worst = WORTH_OF_PUNCTUATION * reached[-1] / len(weights)
    cuts = [0]
    least = 1 if len(words) >= len(weights) else 0
    for number, share in enumerate(list(accumulate(weights))[:-1], 1):
        costs: dict[int, float] = {}
        for cut in range(cuts[-1] + least, len(words) + 1 - least * (len(weights) - number)):
            distance = abs(reached[cut] - share * reached[-1])
            word = words[cut - 1] if cut else ""
            penalty = 0.0 if sentences.ends_clause(word) else 1.5 * worst if sentences.is_short(word) else worst
            costs[cut] = distance + penalty if distance > 1e-6 else 0.0
        cuts.append(min(costs, key=lambda cut: costs[cut]))
    return ["".join(words[a:b]).rstrip() for a, b in zip(cuts, [*cuts[1:], len(words)], strict=True)]


def _told(numbers: Sequence[int], what: str, cues: Sequence[files.Cue], notes: Sequence[str] = ()) -> str:
    """A warning about some cues: their number, and the first of them; "" if there are none."""
    if not numbers:
        return ""
    named = [
        f"{number + 1} ({notes[at] if notes else _clock(cues[number].start)})"
        for at, number in enumerate(numbers[:SHOWN])
    ]
    more = ", ..." if len(numbers) > SHOWN else ""
    return f"{count_of(len(numbers), 'cue is', 'cues are')} {what}: {', '.join(named)}{more}"


def _clock(milliseconds: int) -> str:
    seconds = abs(milliseconds) // 1000
    return f"{'-' * (milliseconds < 0)}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _of_file(file: files.File, encoding: str) -> list[str]:
    """Warnings about irregularities of the file itself, which are not changed."""
    cues = file.cues
    order = sorted(range(len(cues)), key=lambda index: (cues[index].start, cues[index].end, index))
    overlapping: list[int] = []
    latest = 0
    for index in order:
        if cues[index].start < latest and cues[index].end > cues[index].start:
            overlapping.append(index)
        latest = max(latest, cues[index].end)
    every = range(len(cues))
    told = [
        _told([i for i in every[1:] if cues[i].start < cues[i - 1].start], "earlier than the one before", cues),
        _told(sorted(overlapping), "shown while another still is", cues),
        _told([i for i in every if cues[i].end <= cues[i].start], "of zero duration", cues),
        _told([i for i in every if not cues[i].body], "empty", cues),
        _told([i for i in every if cues[i].is_generated], "a generated effect, and left as it was", cues),
        _told([i for i in every if cues[i].is_odd], "with times in a format that not every player reads", cues),
    ]
    if not encoding.startswith("utf"):
        told.append(f"the file is not Unicode, and is read as {encoding}: if letters are wrong, save it as UTF-8 first")
    return told + file.remarks


def _of_shape(
    file_cues: Sequence[files.Cue],
    cues: Sequence[layout.Cue],
    laid: Sequence[layout.Laid | None],
    shape: Shape,
) -> list[str]:
    """Warnings about cues that are too fast or too large to read."""
    fast: dict[int, str] = {}
    large: dict[int, str] = {}
    empty: list[int] = []
    for index, (times, cue, new) in enumerate(zip(file_cues, cues, laid, strict=True)):
        if times.is_generated:
            continue
        num_characters = len(cue.plain) if new is None else new.num_characters
        seconds = (times.end - times.start) / 1000
        if seconds > 0 and num_characters / seconds > shape.reading_speed:
            fast[index] = f"{num_characters / seconds:.1f}"
        if new is None:
            continue
        if not new.num_characters:
            empty.append(index)
        if new.widest > shape.line_length:
            large[index] = count_of(new.widest, "character")
        elif new.num_lines > shape.lines:
            large[index] = count_of(new.num_lines, "line")
    limit = f"{count_of(shape.lines, 'line')} of {count_of(shape.line_length, 'character')}"
    return [
        _told(list(fast), f"faster than {shape.reading_speed:g} characters a second", file_cues, list(fast.values())),
        _told(list(large), f"larger than {limit}", file_cues, list(large.values())),
        _told(empty, "empty now: the translated sentence has fewer words than cues", file_cues),
    ]
