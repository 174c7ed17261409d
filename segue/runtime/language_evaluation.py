"""How well does a language model predict texts? Loss per token, byte, word and step, with intervals.

Windows overlap: each scores `stride` tokens, and reads those before them, as far as the context reaches. So a token is
predicted from a long context, whatever its place in the text.
"""

import codecs
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.data import document_files
from segue.errors import SKIP_BAD, Problems, UserError, count_of, warn
from segue.evaluation import Evaluation, Example
from segue.metrics.language import Counted, counted_words, of_counts
from segue.progress import Bar
from segue.runtime.language_model import LanguageModel, step_of

BATCH_TOKENS = 8192
"""Tokens that are scored at once."""
FEW_DOCUMENTS = 20
"""With fewer documents, intervals are from parts of them."""
PART = 50
"""Windows in such a part."""
PIECE, PIECES = 16_384, 64
"""Characters of a long document that are encoded together, and number of such pieces at once."""
SHOWN, SHOWN_TOKENS = 2000, 500
"""Characters of a document that comparisons read; tokens, at least, of which a report shows the losses."""


class _Text(NamedTuple):
    """A whole document."""

    text: str
    origin: str


class _Window(NamedTuple):
    """Some tokens of a document, the last ones of which are scored."""

    document: int
    inputs: list[int]
    targets: list[int]
    num_scored: int
    is_last: bool
    """Whether the last target is the end of the document."""


class LanguageEvaluator:
    """Evaluates a model."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._step = step_of(model.tokenizer, model.metadata.step_token)

    def explain(self, manifest: Path, skip_bad: bool = False, *, has_media: bool = True) -> Evaluation:
        """Scores on a file of texts, and the scores of each document. The end of a document is predicted, too."""
        texts, problems = list[_Text](), Problems()
        rows: list[list[int]] = []
        for each in self._texts(manifest):
            if isinstance(each, UserError):
                problems.add(str(each))
                continue
            try:
                rows.append(self._encoded(each.text))
                texts.append(each)
            except UserError as problem:
                problems.add(f"{each.origin}: {problem}")
        if problems and not skip_bad:
            raise UserError(f"{problems.some()}\n{SKIP_BAD}")
        if problems:
            warn(f"{count_of(len(problems), 'unusable document')} left out:\n{problems.some(3)}", problems)
        if not texts:
            raise UserError(f"{manifest}: no text to score")
        nats, ends, first, per_window = self._scored(rows, manifest)
        counts = [
            Counted(
                float(nats[number]),
                len(row) + 1,
                len(each.text.encode()),
                counted_words(each.text),
                0 if self._step is None else row.count(self._step),
                float(nats[number] - ends[number]),
            )
            for number, (row, each) in enumerate(zip(rows, texts, strict=True))
        ]
        found = of_counts(counts)
        is_in_parts = len(texts) < FEW_DOCUMENTS
        resampled = of_counts(_parts(per_window, counts) if is_in_parts else counts).resampling(
            f"parts of {PART} windows" if is_in_parts else "documents"
        )
        examples = []
        for each, row, of_text, own, losses in zip(texts, rows, counts, found.of_each(), first, strict=True):
            text, length = each.text[:SHOWN], float(of_text.tokens)
            example = Example(each.origin, text, text, own["bits_per_byte"], length=length, scores=own)
            examples.append(example._replace(pieces=self._pieces(row, losses) if has_media else ()))
        total = {"documents": len(texts), "skipped": len(problems)}
        return Evaluation(
            title=f"Language model on {manifest.name}",
            scores={**found.overall(), **total},
            examples=examples,
            score_name="bits per byte",
            direction="min",
            length_name="tokens",
            facts={"manifest": str(manifest), "parameters": f"{self._model.metadata.parameters:,}"},
            intervals=resampled.intervals,
            interval_note=resampled.note,
            measured=found,
        )

    def _encoded(self, text: str) -> list[int]:
        """The tokens of a document; the package needs 20 times the memory of what it encodes at once."""
        pieces, row = list(document_files.cuts(text, PIECE)), list[int]()
        for start in range(0, len(pieces), PIECES):
            for tokens in self._model.tokenizer.encode_batch(pieces[start : start + PIECES]):
                row += tokens.tolist()
        return row

    def _pieces(self, row: Sequence[int], losses: Sequence[float]) -> list[tuple[str, float]]:
        """The first tokens of a document as text, with their losses; those that are part of a character together."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        pieces, pending = list[tuple[str, float]](), 0.0
        for token, loss in zip(row, losses, strict=False):  # losses are of the first tokens, or of all and the end
            text, pending = decoder.decode(self._model.tokenizer.pieces[token]), pending + loss
            if text:
                pieces.append((text, pending))
                pending = 0.0
        return pieces

    def _texts(self, path: Path) -> Iterator[_Text | UserError]:
        """The documents of a file; their parts, if they come in parts, joined."""
        metadata, parts = self._model.metadata, list[str]()
        for found in document_files.read(path, metadata.split, metadata.text_key):
            if isinstance(found, UserError):
                yield found
                continue
            parts.append(found.text)
            if found.is_last:
                yield _Text("".join(parts), found.origin)
                parts = []

    def _scored(
        self, rows: Sequence[Sequence[int]], manifest: Path
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[list[float]], list[Counted]]:
        """(documents) sums of losses in nats, (documents) the losses of their ends, the losses of their first tokens,
        and each window's."""
        metadata = self._model.metadata
        nats, ends = np.zeros(len(rows)), np.zeros(len(rows))
        first: list[list[float]] = [[] for _ in rows]
        each: list[Counted] = []
        num_tokens = sum(map(len, rows)) + len(rows)
        windows = (
            window
            for number, row in enumerate(rows)
            for window in _windows(number, row, self._model.end, metadata.context, metadata.stride)
        )
        with Bar(f"evaluates {manifest.name}", num_tokens, "tokens") as bar:
            while batch := list(islice(windows, max(1, BATCH_TOKENS // metadata.context))):
                longest = max(len(window.inputs) for window in batch)
                inputs, targets = (np.full((len(batch), longest), self._model.end) for _ in range(2))
                for row, window in enumerate(batch):
                    inputs[row, : len(window.inputs)] = window.inputs
                    targets[row, : len(window.targets)] = window.targets
                losses = self._model.backend.losses(inputs, targets)
                for row, window in enumerate(batch):
                    size = len(window.inputs)
                    loss = float(losses[row, size - window.num_scored : size].sum(dtype=np.float64))
                    nats[window.document] += loss
                    beginning = first[window.document]
                    if len(beginning) < SHOWN_TOKENS:
                        beginning += losses[row, size - window.num_scored : size].tolist()
                    end = float(losses[row, size - 1]) if window.is_last else 0.0
                    ends[window.document] += end
                    scored = window.targets[size - window.num_scored :]
                    num_steps = 0 if self._step is None else scored.count(self._step)
                    each.append(Counted(loss, window.num_scored, 0, 0, num_steps, loss - end))
                bar.advance(sum(window.num_scored for window in batch))
        return nats, ends, first, each


def _windows(number: int, tokens: Sequence[int], end: int, context: int, stride: int) -> Iterator[_Window]:
    """Windows of a document that score each of its tokens, and its end, exactly once."""
    stride = min(stride, context)
    stream = [end, *tokens, end]  # each but the first is predicted from those before it
    num_targets = len(stream) - 1
    scored = 0
    while scored < num_targets:
        last = min(num_targets, max(context, scored + stride) if scored else context)
        first = max(0, last - context)
        yield _Window(number, stream[first:last], stream[first + 1 : last + 1], last - scored, last == num_targets)
        scored = last


def _parts(windows: Sequence[Counted], whole: Sequence[Counted]) -> list[Counted]:
    """Sums over `PART` windows each, with bytes and words in proportion to tokens."""
    tokens, size, words = (sum(each) for each in list(zip(*whole, strict=True))[1:4])
    parts = []
    for start in range(0, len(windows), PART):
        some = windows[start : start + PART]
        own = sum(each.tokens for each in some)
        nats, _, _, _, steps, step_nats = (sum(column) for column in zip(*some, strict=True))
        parts.append(Counted(nats, own, size * own / tokens, words * own / tokens, steps, step_nats))
    return parts
