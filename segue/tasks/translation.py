"""How is text translated? Pairs to batches, the Transformer, smoothed cross-entropy, beam search, BLEU.

Read this file first: it holds the whole task. Its recipe is at the top, then the batches, what the engine asks for
(`Translation`), and what a user of a trained model asks for (`Translator`). Spelling to phonemes is the same task.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch, V vocabulary.
"""

from collections.abc import Iterable, Sequence
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
from segue.data import tokenizer as tokenizers
from segue.data.batching import BatchPlan, MicroBatch
from segue.data.examples import Pair
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.subwords import RandomCuts, SubwordsSection
from segue.data.text import TextSection
from segue.data.text import normalize as normalize_text
from segue.data.tokenizer import UNKNOWN, Tokenizer, TokenizerSection
from segue.decoding.autoregressive import Hypothesis, SearchSection, beam_search
from segue.engine import trainer
from segue.engine.checkpoint import write_text
from segue.engine.optimizer import OptimizerSection, ScheduleSection
from segue.engine.task import Loss, Split
from segue.engine.trainer import EngineSection
from segue.errors import UserError, some_of, warn
from segue.layers.loss import cross_entropy
from segue.layers.mask import length_mask
from segue.models.transformer import Transformer, TransformerSection

PADDING, BEGIN, END = "<pad>", "<s>", "</s>"
TO_LANGUAGE = "<2{}>"  # before the source (Johnson et al. 2017, arXiv:1611.04558, section 3)


class DataSection(ManifestsSection):
    """Where the pairs are."""

    longest_tokens: Annotated[int, Field(gt=0)] = 256
    """Training pairs with more tokens on a side are left out, and counted; longer lines are translated in parts."""


class BatchSection(recipe.Section):
    """How much is learnt from at once."""

    tokens: Annotated[int, Field(gt=0)]
    """Budget of one micro-batch: pairs times the longest side of any of them, random cuts not counted."""
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


class Vocabularies:
    """The tokenizers of both sides, and the languages that a multilingual model can write."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        self.source, self.target = source, target
        before, after = TO_LANGUAGE.split("{}")
        self.languages = [
            token.removeprefix(before).removesuffix(after) for token in source.special if token.startswith(before)
        ]
        """Target languages of the training data, none where they did not say."""
        for tokenizer in (source, target):
            for token in (PADDING, BEGIN, END, UNKNOWN):
                if token not in tokenizer.special:
                    raise UserError(f"tokenizer: it lacks the special token {token}; it belongs to another task")
        self.padding, self.begin, self.end = (target.special[token] for token in (PADDING, BEGIN, END))

    def source_tokens(self, tokens: list[int], language: str | None) -> list[int]:
        """What the encoder reads: the target language where there are several, the tokens, the end."""
        first = [self.source.special[TO_LANGUAGE.format(language)]] if len(self.languages) > 1 else []
        return [*first, *tokens, self.source.special[END]]

    def check(self, language: str | None) -> None:
        """Raises a UserError where the model cannot write this language."""
        if language is None and len(self.languages) > 1:
            raise UserError(f"a target language is needed (languages: {', '.join(self.languages)})")
        if language is not None and self.languages and language not in self.languages:
            raise UserError(f"unknown target language {language!r} (languages: {', '.join(self.languages)})")

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, and `source_tokenizer.json` where the source has its own."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.source is not self.target:
            self.source.save(folder / "source_tokenizer.json")
        self.target.save(folder / "tokenizer.json")  # last: where it is, all is

    @staticmethod
    def load(folder: Path) -> "Vocabularies":
        """Reads what `save` wrote."""
        target, source = Tokenizer.load(folder / "tokenizer.json"), folder / "source_tokenizer.json"
        return Vocabularies(Tokenizer.load(source) if source.is_file() else target, target)

    @staticmethod
    def build(section: Recipe, pairs: Iterable[Pair]) -> "Vocabularies":
        """Learnt from the training pairs."""
        sources, targets, languages = list[str](), list[str](), set[str]()
        for pair in pairs:
            sources.append(normalize_text(pair.source, section.text))
            targets.append(normalize_text(pair.target, section.text))
            if pair.target_language is not None:
                languages.add(pair.target_language)
        special = [PADDING, BEGIN, END, UNKNOWN, *(TO_LANGUAGE.format(each) for each in sorted(languages))]
        if section.source_tokenizer is not None:
            source = tokenizers.build(section.source_tokenizer, sources, special)
            return Vocabularies(source, tokenizers.build(section.tokenizer, targets, special))
        joint = tokenizers.build(section.tokenizer, sources + targets, special)
        return Vocabularies(joint, joint)


@dataclass(frozen=True)
class PairBatch:
    """A micro-batch of pairs, padded."""

    ids: list[str]
    sources: list[str]
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
        columns = zip(batch.ids, batch.sources, batch.references, hypotheses, losses, counts, strict=True)
        return [PairPrediction(*row) for row in columns]

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
            sources = vocabularies.source.num_tokens([self._normalized(pair.source) for pair in block])
            targets = vocabularies.target.num_tokens([self._normalized(pair.target) for pair in block])
            for pair, source, target in zip(block, sources, targets, strict=True):
                try:
                    vocabularies.check(pair.target_language)
                except UserError as problem:
                    problems.append(f"{pair.origin}: target_language: {problem}")
                    unusable.append(len(lengths))
                # One more on each side: the end; and the language that may stand before the source.
                lengths.append(max(source + 1 + (len(vocabularies.languages) > 1), target + 1))
                if split == "train" and max(source, target) > data.longest_tokens:
                    too_long.append(len(lengths) - 1)
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

    def _build_plan(self, split: Split) -> BatchPlan:
        lengths, batch = self._lengths[split], self.recipe.batch
        longest = float(lengths.max())
        if split != "train":
            return BatchPlan(lengths, max(batch.tokens, longest), buckets=16, seed=0, is_shuffled=False)
        if longest > batch.tokens:
            raise UserError(
                f"batch.tokens: {batch.tokens} cannot hold the longest pair: {longest:.0f} tokens; raise it, or lower "
                "data.longest_tokens"
            )
        return BatchPlan(lengths, batch.tokens, buckets=batch.buckets, seed=self.recipe.seed)


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


def train(section: Recipe, run: Path) -> trainer.Result:
    """Trains in the directory `run`, or goes on there."""
    data = section.data
    manifests: dict[Split, Manifest[Pair]] = {
        "train": Manifest(Pair, [Path(data.root) / name for name in data.train], skip_bad=data.skip_bad),
        "dev": Manifest(Pair, [Path(data.root) / name for name in data.dev], skip_bad=data.skip_bad),
    }
    # Learnt once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    if (run / "tokenizer.json").is_file():
        vocabularies = Vocabularies.load(run)
    else:
        vocabularies = Vocabularies.build(section, manifests["train"])
        vocabularies.save(run)
    task = Translation(section, vocabularies, manifests)
    return trainer.Trainer(
        task, run, section.engine, section.optimizer, section.schedule, section.batch.micro_batches, section.seed
    ).train()
