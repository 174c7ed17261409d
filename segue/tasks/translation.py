"""How is text translated? Pairs to batches, the Transformer, smoothed cross-entropy, beam search, BLEU.

Read this file first: it holds the whole task. Its recipe is at the top, then the batches, what the engine asks for
(`Translation`), and what a user of a trained model asks for (`Translator`). Spelling to phonemes is the same task.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch, V vocabulary.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from zlib import crc32

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from segue import metrics, recipe
from segue.data import sentences
from segue.data.batching import BatchPlan, MicroBatch
from segue.data.examples import Pair
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.sizes import stand_in
from segue.data.subwords import RandomCuts, SubwordsSection
from segue.data.text import TextSection
from segue.data.text import normalize as normalize_text
from segue.data.tokenizer import TokenizerSection
from segue.data.vocabularies import END, PADDING, Vocabularies
from segue.decoding.autoregressive import Hypothesis, SearchSection, beam_search
from segue.engine import trainer
from segue.engine.checkpoint import load_weights, write_text
from segue.engine.estimate import Sketch
from segue.engine.loading import holding
from segue.engine.optimizer import OptimizerSection
from segue.engine.parallel import World, choose_device
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.task import Loss, Split
from segue.errors import UserError, some_of, warn
from segue.evaluation import NUM_MAPS, AttentionMap, Direction, Evaluation, Example, chosen
from segue.layers.attention import Attention
from segue.layers.loss import cross_entropy
from segue.layers.mask import length_mask
from segue.models.transformer import Transformer, TransformerSection

BUDGET = "tokens"
"""What `batch` bounds a micro-batch by."""


class DataSection(ManifestsSection):
    """Where the pairs are."""

    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training pairs with more tokens on a side are left out, and counted; longer lines are translated in parts."""


class BatchSection(recipe.Section):
    """How much is learnt from at once."""

    tokens: Annotated[int, Field(gt=0)] | Literal["auto"]
    """Budget of one micro-batch: pairs times the longest side of any of them, random cuts not counted. "auto" tries
    what fits in memory, once, and writes the number into the run's recipe."""
    micro_batches: Annotated[int, Field(gt=0)] = 1
    """Micro-batches in a step; devices share them out."""
    buckets: Annotated[int, Field(gt=0)] = 16
    """Groups of similar length that micro-batches are drawn from."""


class Recipe(recipe.Section):
    """Translation by an encoder-decoder Transformer."""

    task: Literal["translation"]
    """The task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order, random cuts and dropout."""
    data: DataSection = DataSection()
    """Text pairs."""
    text: TextSection = TextSection(case="keep", punctuation="keep", unicode_form="NFC")
    """Text normalisation, of both sides."""
    tokenizer: TokenizerSection
    """Tokens of both languages, or of the target where `source_tokenizer` is given."""
    source_tokenizer: TokenizerSection | None = None
    """Tokens of the source; without it both sides share one tokenizer, learnt from both."""
    subwords: SubwordsSection = SubwordsSection()
    """Random cuts of the training texts."""
    model: TransformerSection
    """Architecture."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target distribution that is spread over all tokens."""
    search: SearchSection = SearchSection()
    """How outputs are looked for; evaluations while training search with one beam."""
    metric: Literal["bleu", "chrf", "word_error_rate"] = "bleu"
    """What chooses the best model. `word_error_rate` counts tokens between spaces: phonemes, for instance."""
    batch: BatchSection
    """Batches."""
    optimizer: OptimizerSection
    """Optimizer."""
    schedule: ScheduleSection
    """Learning rate over time."""
    engine: EngineSection
    """Training."""


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of pairs, padded."""

    ids: list[str]
    sources: list[str]
    target_languages: list[str | None]
    references: list[tuple[str, ...]]
    """Right translations of each, normalised."""
    amount: float
    """Target tokens."""
    num_skipped: int
    source: Tensor
    """(B, S)"""
    source_lengths: Tensor
    """(B)"""
    target: Tensor
    """(B, T + 1): begin, the tokens, end"""
    target_lengths: Tensor
    """(B) of what is predicted: the tokens and the end"""

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        names = ("source", "source_lengths", "target", "target_lengths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class PairPrediction(NamedTuple):
    """How a sentence was translated."""

    id: str
    source: str
    target_language: str | None
    references: tuple[str, ...]
    hypothesis: str
    loss: float
    """Negative log-likelihood of the reference, in nats."""
    num_targets: int


class Translation:
    """The task, as the engine asks for it (`engine/task.py`)."""

    unit = "tokens"

    def __init__(
        self,
        section: Recipe,
        vocabularies: Vocabularies,
        manifests: dict[Split, Manifest[Pair]],
        search: SearchSection | None = None,
    ) -> None:
        """`search` is how predictions are looked for; one beam without it."""
        self.recipe, self.vocabularies, self.manifests = section, vocabularies, manifests
        self.search = search or section.search.model_copy(update={"beams": 1})
        self.best_metric: tuple[str, Literal["min", "max"]] = (
            section.metric,
            "min" if section.metric == "word_error_rate" else "max",
        )
        self._lengths = {split: self._measure(split) for split in manifests}
        self._plans = {split: self._build_plan(split) for split in manifests}
        self._cuts: tuple[RandomCuts, RandomCuts] | None = None
        if "train" in manifests:
            source, target = vocabularies.source, vocabularies.target
            cuts = RandomCuts(target, section.subwords, section.seed)
            self._cuts = (cuts if source is target else RandomCuts(source, section.subwords, section.seed), cuts)

    def build_model(self) -> nn.Module:
        """The model with fresh weights."""
        return build_model(self.recipe, self.vocabularies)

    def plan(self, split: Split) -> BatchPlan:
        """Training data in buckets, shuffled; development data sorted by length."""
        return self._plans[split]

    def budgets(self) -> tuple[float, float]:
        """The longest pair; all pairs, each as long."""
        lengths = self._lengths["train"]
        return float(lengths.max()), float(lengths.max() * len(lengths))

    def with_budget(self, budget: float) -> Self:
        """The same task with other training micro-batches."""
        other = copy(self)
        batch = self.recipe.batch.model_copy(update={"tokens": int(budget)})
        other.recipe = self.recipe.model_copy(update={"batch": batch})
        other._plans = {split: other._build_plan(split) for split in self._plans}
        return other

    def load(self, split: Split, micro_batch: MicroBatch) -> PairBatch:
        """Reads, cuts and pads the pairs of a micro-batch."""
        pairs = [self.manifests[split][index] for index in micro_batch.indices.tolist()]
        both = [self._tokens(split, pair, micro_batch.epoch) for pair in pairs]
        vocabularies = self.vocabularies
        targets = [[vocabularies.begin, *target, vocabularies.end] for _, target in both]
        target_lengths = torch.tensor([len(target) - 1 for target in targets], dtype=torch.int64)
        return PairBatch(
            ids=[pair.id for pair in pairs],
            sources=[self._normalized(pair.source) for pair in pairs],
            target_languages=[pair.target_language for pair in pairs],
            references=[tuple(map(self._normalized, (pair.target, *pair.alternatives))) for pair in pairs],
            amount=float(target_lengths.sum()),
            num_skipped=0,
            source=_padded([source for source, _ in both], vocabularies.source.special[PADDING]),
            source_lengths=torch.tensor([len(source) for source, _ in both], dtype=torch.int64),
            target=_padded(targets, vocabularies.padding),
            target_lengths=target_lengths,
        )

    def num_targets(self, batch: PairBatch) -> int:
        """Target tokens, ends included."""
        return int(batch.target_lengths.sum())

    def loss(self, model: nn.Module, batch: PairBatch) -> Loss:
        """Smoothed cross-entropy of the references."""
        loss, likelihood = self._cross_entropy(model, batch, self.recipe.label_smoothing)
        count = torch.tensor(float(len(loss)), device=loss.device)
        return Loss(loss.sum(), {"likelihood_loss": (likelihood.detach().sum(), count)})

    def predict(self, model: nn.Module, batch: PairBatch) -> list[PairPrediction]:
        """Translations, and the likelihood of the references."""
        assert isinstance(model, Transformer)
        each, _ = self._cross_entropy(model, batch, 0.0)
        losses = [part.sum().item() for part in torch.split(each, batch.target_lengths.tolist())]
        found = search(model, self.vocabularies, batch.source, batch.source_lengths, self.search)
        hypotheses = [self.vocabularies.target.decode(best[0].tokens) for best in found]
        counts = batch.target_lengths.tolist()
        said = (batch.ids, batch.sources, batch.target_languages, batch.references)
        return [PairPrediction(*row) for row in zip(*said, hypotheses, losses, counts, strict=True)]

    def score(self, predictions: Sequence[PairPrediction]) -> dict[str, float]:
        """BLEU and chrF, or error rates against the nearest reference; mean loss per target token, in nats."""
        scores = score(self.recipe, predictions, is_full=False)
        return {name: value for name, value in scores.items() if not isinstance(value, str)}

    def fingerprint(self) -> str:
        """Changes when an example of the training or development data does."""
        return " ".join(f"{split} {len(each)} {each.checksum():08x}" for split, each in self.manifests.items())

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizers and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.vocabularies.save(folder)
        write_text(folder / "README.md", _model_card(self.recipe, self.vocabularies, scores))

    def _cross_entropy(self, model: nn.Module, batch: PairBatch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Twice (P): loss and negative log-likelihood of each real target token, row by row."""
        logits = model(batch.source, batch.source_lengths, batch.target[:, :-1], batch.target_lengths)
        labels = batch.target[:, 1:]
        return cross_entropy(logits, labels[length_mask(batch.target_lengths, labels.shape[1]).squeeze(1)], smoothing)

    def _normalized(self, text: str) -> str:
        return normalize_text(text, self.recipe.text)

    def _tokens(self, split: Split, pair: Pair, epoch: int) -> tuple[list[int], list[int]]:
        """What the encoder reads, and the target's tokens."""
        holding(pair.id)
        vocabularies, texts = self.vocabularies, (self._normalized(pair.source), self._normalized(pair.target))
        if split == "train" and self._cuts is not None and self._cuts[1].is_random:
            draw = np.random.default_rng([self.recipe.seed, epoch, crc32(pair.id.encode())])
            source, target = (cuts.encode(text, draw) for cuts, text in zip(self._cuts, texts, strict=True))
        else:
            source, target = vocabularies.source.encode(texts[0]), vocabularies.target.encode(texts[1])
        return vocabularies.source_tokens(source, pair.target_language), target

    def _measure(self, split: Split) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The longer side of each pair, in tokens; training pairs that cannot be used are left out, and counted."""
        manifest, data, vocabularies = self.manifests[split], self.recipe.data, self.vocabularies
        lengths: list[int] = []
        problems: list[str] = []
        too_long: list[int] = []
        unusable: list[int] = []
        pairs = iter(manifest)
        while block := list(islice(pairs, 10_000)):
            texts = [(self._normalized(pair.source), self._normalized(pair.target)) for pair in block]
            sources = vocabularies.source.num_tokens([source for source, _ in texts])
            targets = vocabularies.target.num_tokens([target for _, target in texts])
            for pair, source, target in zip(block, sources, targets, strict=True):
                problem = self._problem(pair, source, target)
                if problem is not None:
                    problems.append(f"{pair.origin}: {problem}")
                    unusable.append(len(lengths))
                elif split == "train" and max(source, target) > data.longest_tokens:
                    too_long.append(len(lengths))
                # One more on each side: the end; and the language that may stand before the source.
                lengths.append(max(source + 1 + (len(vocabularies.languages) > 1), target + 1))
        if problems and not data.skip_bad:
            raise UserError(some_of(problems) + "\n(--skip-bad leaves such examples out and counts them)")
        if problems:
            warn(f"{len(problems)} unusable examples left out:\n{some_of(problems, 3)}")
        if too_long:
            warn(f"{len(too_long)} pairs longer than data.longest_tokens ({data.longest_tokens}) left out")
        left_out = sorted({*too_long, *unusable})
        manifest.without(left_out)
        if not len(manifest):
            raise UserError(f"{', '.join(map(str, manifest.paths))}: no usable example")
        return np.delete(np.array(lengths, np.float64), left_out)

    def _problem(self, pair: Pair, num_source: int, num_target: int) -> str | None:
        """Why nothing can be learnt from this pair, or scored with it."""
        for name, text, number in (("source", pair.source, num_source), ("target", pair.target, num_target)):
            if not number:
                return f"{name}: nothing is left of {text!r} after normalisation"
        try:
            self.vocabularies.check(pair.target_language)
        except UserError as problem:
            return f"target_language: {problem}"
        return None

    def _build_plan(self, split: Split) -> BatchPlan:
        lengths, batch = self._lengths[split], self.recipe.batch
        longest = float(lengths.max())
        tokens = longest if batch.tokens == "auto" else batch.tokens  # not resolved yet
        if split != "train":
            return BatchPlan(lengths, max(tokens, longest), buckets=16, seed=0, is_shuffled=False)
        if longest > tokens:
            raise UserError(
                f"batch.tokens: {tokens} cannot hold the longest pair: {longest:.0f} tokens; raise it, or lower "
                "data.longest_tokens"
            )
        return BatchPlan(lengths, tokens, buckets=batch.buckets, seed=self.recipe.seed)


def build_model(section: Recipe, vocabularies: Vocabularies) -> Transformer:
    """The model with fresh weights."""
    if section.model.tied == "all" and section.source_tokenizer is not None:
        raise UserError('model.tied: "all" needs one tokenizer for both sides; with source_tokenizer, use "target"')
    return Transformer(section.model, len(vocabularies.source), len(vocabularies.target))


def search(
    model: Transformer,
    vocabularies: Vocabularies,
    source: Tensor,
    lengths: Tensor,
    section: SearchSection,
    *,
    num_best: int = 1,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """(B, S) sources, (B) lengths -> the best outputs of each."""
    longest = (lengths * section.longest_factor + section.longest_extra).long().tolist()
    if prefixes is not None:
        longest = [limit + len(prefix) for limit, prefix in zip(longest, prefixes, strict=True)]
    special = vocabularies.target.special
    with torch.inference_mode():
        return beam_search(
            _Writer(model, source, lengths),
            longest,
            begin=vocabularies.begin,
            end=vocabularies.end,
            beams=max(section.beams, num_best),
            alpha=section.alpha,
            num_best=num_best,
            forbidden=[number for token, number in special.items() if token != END],
            prefixes=prefixes,
            no_repeat_ngram=section.no_repeat_ngram,
            device=source.device,
        )


class _Writer:
    """The model as search sees it."""

    def __init__(self, model: Transformer, source: Tensor, lengths: Tensor) -> None:
        self._model = model
        self._cache = model.begin(source, lengths)

    def step(self, tokens: Tensor) -> Tensor:
        return self._model.step(tokens, self._cache)

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        self._cache.select(rows, sentences)


def score(section: Recipe, predictions: Sequence[PairPrediction], *, is_full: bool) -> dict[str, float | str]:
    """Scores of all predictions together; `is_full` adds TER and signatures."""
    if not predictions:
        raise UserError("nothing to score: no example could be used")
    hypotheses = [each.hypothesis for each in predictions]
    scores: dict[str, float | str]
    if section.metric == "word_error_rate":
        nearest = [metrics.nearest(each.references, each.hypothesis) for each in predictions]
        scores = {**metrics.error_rates(nearest, hypotheses)}
        wrong = sum(a != b for a, b in zip(nearest, hypotheses, strict=True))
        scores["sentence_error_rate"] = wrong / len(predictions)
    else:
        scores = metrics.translation_scores(
            [each.references for each in predictions], hypotheses, has_edit_rate=is_full
        )
        scores["sentences"] = len(predictions)
    loss = sum(each.loss for each in predictions) / max(1, sum(each.num_targets for each in predictions))
    return {**scores, "loss": loss}


def _padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """(B, longest)"""
    result = torch.full((len(rows), max(map(len, rows), default=0)), padding, dtype=torch.int64)
    for row, tokens in zip(result, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return result


def _model_card(section: Recipe, vocabularies: Vocabularies, scores: dict[str, float]) -> str:
    listed = ", ".join(vocabularies.languages) or "not said"
    found = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items())
    return f"""# Translation model

Trained with [Segue](https://pypi.org/project/segue/); the recipe beside this file says how and on what.

- Target languages: {listed}.
- On {", ".join(section.data.dev)}, searched with one beam: {found}.

    echo "a line of text" | segue translate THIS_FOLDER
"""


def build_task(section: Recipe, run: Path, world: World) -> Translation:
    """The task of a run; its tokenizer is learnt and kept there. Every rank calls it."""
    data = section.data
    manifests: dict[Split, Manifest[Pair]] = {
        "train": Manifest(Pair, [Path(data.root) / name for name in data.train], skip_bad=data.skip_bad),
        "dev": Manifest(Pair, [Path(data.root) / name for name in data.dev], skip_bad=data.skip_bad),
    }

    # Learnt once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    def build() -> None:
        if not (run / "tokenizer.json").is_file():
            sections = (section.tokenizer, section.source_tokenizer, section.text)
            Vocabularies.build(*sections, manifests["train"]).save(run)

    world.first(build)
    vocabularies = Vocabularies.load(run)
    return Translation(section, vocabularies, manifests)


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data: the longest pairs, as many as use up the budget."""
    budget, source = section.batch.tokens, section.source_tokenizer
    if budget == "auto":
        raise UserError("batch.tokens: auto is found on the device itself; give a number, like batch.tokens=4096")
    rows = -(-budget // (section.data.longest_tokens + 1))  # and the end
    length = budget // rows

    num_special = 4  # padding, begin, end, unknown
    both = ("source", "target") if source is None else ("target",)
    tokenizer, notes = stand_in(section.tokenizer, section.data, section.text, Pair, both, num_special)
    if source is not None:
        source, more = stand_in(source, section.data, section.text, Pair, ("source",), num_special)
        notes = (*notes, *more)
    task = Translation(section, Vocabularies.build(tokenizer, source, section.text, ()), {})

    def batch() -> PairBatch:
        lengths = torch.full((rows,), length)
        return PairBatch(
            ids=[""] * rows,
            sources=[""] * rows,
            target_languages=[None] * rows,
            references=[()] * rows,
            amount=float(rows * length),
            num_skipped=0,
            source=torch.zeros(rows, length, dtype=torch.int64),
            source_lengths=lengths,
            target=torch.zeros(rows, length + 1, dtype=torch.int64),
            target_lengths=lengths,
        )

    return Sketch(task, batch, f"{rows} pairs of {length} tokens on both sides", "batch.tokens", notes)


class Translator:
    """A trained model, ready for texts of any length. It holds no state between calls."""

    BATCH = 32  # sentences at once
    WINDOW = 1024  # lines at once: bounds memory, and gives sentences of like length to batch

    def __init__(self, folder: Path, device: str = "auto") -> None:
        """`folder` is a model directory."""
        self.recipe = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
        self.vocabularies = Vocabularies.load(folder)
        self.device = choose_device(device)
        self.model = build_model(self.recipe, self.vocabularies)
        load_weights(self.model, folder / "model.safetensors")
        self.model.eval().to(self.device)

    @property
    def languages(self) -> list[str]:
        """The target languages that the training data named."""
        return self.vocabularies.languages

    def check_language(self, target_language: str | None) -> None:
        """Raises a UserError where the model cannot write this language, or needs one."""
        self.vocabularies.check(target_language)

    def translate(
        self, texts: Sequence[str], target_language: str | None = None, search: SearchSection | None = None
    ) -> list[str]:
        """The translation of each text, in order; "" of one that holds no word.

        Texts with more tokens than any that the model learnt from are translated by sentences. Characters that the
        model does not know are warned about. A UserError if the model cannot write the target language.
        """
        self.vocabularies.check(target_language)
        pieces: list[str] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for piece in self._pieces(normalize_text(text, self.recipe.text)):
                pieces.append(piece)
                owners.append(number)
        self._warn_of_unknown(pieces)
        results = [""] * len(texts)
        for number, piece, best in zip(owners, pieces, self._search(pieces, target_language, search), strict=True):
            gap = " " if piece.endswith(" ") else ""
            results[number] += self.vocabularies.target.decode(best[0].tokens) + gap
        return [result.rstrip(" ") for result in results]

    def translate_lines(
        self,
        lines: Iterable[str],
        target_language: str | None = None,
        *,
        search: SearchSection | None = None,
        context: int = 0,
        window: int = WINDOW,
    ) -> Iterator[str]:
        """The translation of each line, in order, in bounded memory.

        With `context`, a line is read together with so many lines before it, and its translation goes on from theirs:
        for models that learnt from more than one sentence at a time. That goes line by line, and is slow.
        """
        lines = iter(lines)
        if not context:
            while block := list(islice(lines, window)):
                yield from self.translate(block, target_language, search)
            return
        before: deque[tuple[str, str]] = deque(maxlen=context)
        for line in lines:
            translation = self._in_context(line, list(before), target_language, search)
            if line.strip():
                before.append((line, translation))
            yield translation

    def best(
        self, text: str, count: int, target_language: str | None = None, search: SearchSection | None = None
    ) -> list[tuple[str, float]]:
        """The `count` best translations of one sentence, best first, with their scores (`decoding/autoregressive`)."""
        self.vocabularies.check(target_language)
        [found] = self._search([normalize_text(text, self.recipe.text)], target_language, search, num_best=count)
        return [(self.vocabularies.target.decode(each.tokens), each.score) for each in found]

    def evaluate(self, manifest: Path, skip_bad: bool = False) -> dict[str, float | str]:
        """Scores on a manifest, and how many bad examples were left out."""
        return self._translated(Manifest(Pair, [manifest], skip_bad=skip_bad))[0]

    def explain(self, manifest: Path, skip_bad: bool = False) -> Evaluation:
        """Scores on a manifest, and what became of each example; with attention maps of some."""
        scores, predictions = self._translated(Manifest(Pair, [manifest], skip_bad=skip_bad))
        is_by_edits = self.recipe.metric == "word_error_rate"
        examples = []
        for each in predictions:
            length = len(each.source) if is_by_edits else len(self.vocabularies.source.encode(each.source))
            value = metrics.sentence_score(each.references, each.hypothesis, is_by_edits=is_by_edits)
            first, *others = each.references
            examples.append(
                Example(each.id, first, each.hypothesis, value, each.source, tuple(others), length=float(length))
            )
        direction: Direction = "min" if is_by_edits else "max"
        indices = chosen(examples, direction)
        mapped = indices[:: max(1, len(indices) // NUM_MAPS)][:NUM_MAPS]
        return Evaluation(
            title=f"Translation of {manifest.name}",
            scores=scores,
            examples=examples,
            score_name="word error rate" if is_by_edits else "chrF",
            direction=direction,
            length_name="characters" if is_by_edits else "source tokens",
            facts={"manifest": str(manifest), "parameters": f"{sum(p.numel() for p in self.model.parameters()):,}"},
            attention=[self._attention(predictions[index]) for index in mapped],
        )

    def _pieces(self, text: str) -> list[str]:
        """The text, or its sentences where it is longer than what the model learnt from."""
        length = self.vocabularies.source.num_tokens
        longest = self.recipe.data.longest_tokens
        if not text:
            return []
        # No token is shorter than a byte: most lines need not be counted.
        if len(text.encode()) <= longest or length([text])[0] <= longest:
            return [text]
        return sentences.pieces(text, longest, lambda piece: length([piece])[0])

    def _search(
        self,
        texts: Sequence[str],
        target_language: str | None,
        section: SearchSection | None,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each normalised text; like lengths are searched together."""
        vocabularies = self.vocabularies
        rows = [vocabularies.source_tokens(vocabularies.source.encode(text), target_language) for text in texts]
        results: list[list[Hypothesis]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(order), self.BATCH):
            numbers = order[start : start + self.BATCH]
            found = search(
                self.model,
                vocabularies,
                _padded([rows[number] for number in numbers], vocabularies.source.special[PADDING]).to(self.device),
                torch.tensor([len(rows[number]) for number in numbers], device=self.device),
                section or self.recipe.search,
                num_best=num_best,
                prefixes=None if prefixes is None else [prefixes[number] for number in numbers],
            )
            for number, best in zip(numbers, found, strict=True):
                results[number] = best
        return results

    def _in_context(
        self,
        line: str,
        before: list[tuple[str, str]],
        target_language: str | None,
        section: SearchSection | None,
    ) -> str:
        """The translation of a line that goes on from lines before it and their translations."""
        length, longest = self.vocabularies.source.num_tokens, self.recipe.data.longest_tokens
        text, *sources = (normalize_text(each, self.recipe.text) for each in (line, *(source for source, _ in before)))
        translations = [translation for _, translation in before]
        while sources and length([" ".join([*sources, text])])[0] > longest:  # more than the model learnt from
            del sources[0], translations[0]
        if not text or not sources:
            return self.translate([line], target_language, section)[0]
        self._warn_of_unknown([text])
        prefix = self.vocabularies.target.encode(" ".join(translations))
        [[best]] = self._search([" ".join([*sources, text])], target_language, section, prefixes=[prefix])
        return self.vocabularies.target.decode(best.tokens[len(prefix) :])

    def _warn_of_unknown(self, texts: Sequence[str]) -> None:
        unknown = dict.fromkeys(
            character for text in texts for character in self.vocabularies.source.unknown_characters(text)
        )
        if unknown:
            shown = " ".join(map(repr, list(unknown)[:10])) + (" ..." if len(unknown) > 10 else "")
            plural = "s" * (len(unknown) > 1)
            warn(f"{len(unknown)} character{plural} that the model does not know, and can only guess at: {shown}")

    def _translated(self, manifest: Manifest[Pair]) -> tuple[dict[str, float | str], list[PairPrediction]]:
        data = self.recipe.data.model_copy(update={"skip_bad": manifest.skip_bad})
        section = self.recipe.model_copy(update={"data": data})
        task = Translation(section, self.vocabularies, {"dev": manifest}, self.recipe.search)
        predictions, num_skipped = trainer.predict(task, self.model, "dev", self.recipe.engine, self.device)
        scores = score(self.recipe, predictions, is_full=True)
        return {**scores, "skipped": num_skipped + manifest.num_skipped}, predictions

    @torch.inference_mode()
    def _attention(self, prediction: PairPrediction) -> AttentionMap:
        """Where the decoder looked while it wrote its translation: all heads of all layers, watched by a hook."""
        vocabularies = self.vocabularies
        language = prediction.target_language
        source = vocabularies.source_tokens(vocabularies.source.encode(prediction.source), language)
        target = [vocabularies.begin, *vocabularies.target.encode(prediction.hypothesis)]
        seen: list[Tensor] = []

        def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, Attention)
            del output
            seen.append(module.weights(*inputs)[0])  # (B = 1, H, T, S) -> (H, T, S)

        handles = [layer.cross_attention.register_forward_hook(watch) for layer in self.model.decoder_layers()]
        try:
            self.model(
                *(torch.tensor(each, device=self.device) for each in ([source], [len(source)], [target], [len(target)]))
            )
        finally:
            for handle in handles:
                handle.remove()
        rows = [*(vocabularies.target.tokens[token] for token in target[1:]), END]
        columns = [vocabularies.source.tokens[token] for token in source]
        return AttentionMap(prediction.id, rows, columns, torch.cat(seen).float().cpu().numpy())


def load(folder: Path, device: str) -> Translator:
    """The model in a model directory."""
    return Translator(folder, device)
