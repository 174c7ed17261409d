"""How is text translated? Pairs to batches, the Transformer, smoothed cross-entropy, beam search, BLEU.

Read this file first: it holds the whole task. Its recipe is at the top, then the batches, what the engine asks for
(`Translation`), and what a user of a trained model asks for (`Translator`). Spelling to phonemes is the same task.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch, V vocabulary.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from segue import metrics, recipe
from segue.card import LicenseId, card, translation_use
from segue.data import automatic, manifests
from segue.data.batching import BatchPlan, MicroBatch
from segue.data.examples import Pair
from segue.data.manifest import Manifest, ManifestsSection
from segue.data.sizes import stand_in, stand_in_model
from segue.data.subwords import RandomCuts, SubwordsSection
from segue.data.text import TextSection
from segue.data.text import normalize as normalize_text
from segue.data.tokenizer import TokenizerSection
from segue.data.vocabularies import END, PADDING, Vocabularies
from segue.decoding.autoregressive import Steps, beam_search
from segue.decoding.search import Hypothesis, SearchSection
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.loading import holding, with_tensors
from segue.engine.optimizer import OptimizerSection
from segue.engine.planning.estimate import Sketch
from segue.engine.schedule import ScheduleSection
from segue.engine.settings import EngineSection
from segue.engine.state.checkpoint import load_weights, write_text
from segue.engine.task import Loss, Split
from segue.errors import UserError, some_of, warn
from segue.layers.attention import Attention
from segue.layers.loss import cross_entropy
from segue.layers.mask import real_places
from segue.models.transformer import Transformer, TransformerSection
from segue.progress import progress
from segue.runtime.translator import TranslationFacts, Translator

BUDGET = "tokens"
"""What `batch` bounds a micro-batch by."""

FEW_PAIRS, MANY_PAIRS = 1000, 200_000
"""For training: up to which they are learnt from 100 times, and from which on the model is wider, for "auto"."""


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
    license: LicenseId = "unknown"
    """Licence of the trained model, for its card: an SPDX identifier in small letters, such as apache-2.0."""
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
    metric: metrics.TextMetric = "bleu"
    """What chooses the best model. `word_error_rate` counts tokens between spaces: phonemes, for instance. Of several
    target languages it is the mean."""
    bleu_tokenizer: metrics.BleuTokenizer = "auto"
    """How BLEU cuts texts into words, by sacrebleu's names. "auto" goes by the target language, or by what the
    references look like: zh, ja-mecab, ko-mecab, char for scripts like Thai, else 13a."""
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
    places: Tensor
    """(P): where those lie in the padded targets, row after row"""

    def pin_memory(self) -> Self:
        """The same batch with its tensors in memory that a GPU can read."""
        return with_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))


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
        self._signatures = self._signed() if "dev" in manifests else {}
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
        batch = self.recipe.batch.model_copy(update={"tokens": int(budget)})
        return self.with_recipe(self.recipe.model_copy(update={"batch": batch}))

    def with_recipe(self, section: Recipe) -> Self:
        """The same task with a recipe that differs in `batch` and `engine` alone."""
        other = copy(self)
        other.recipe = section
        other._plans = {split: other._build_plan(split) for split in self._plans}
        return other

    def epochs(self) -> float:
        """How often to learn from the training data where the recipe leaves it open."""
        return automatic.epochs(len(self.manifests["train"]), FEW_PAIRS)

    def load(self, split: Split, micro_batch: MicroBatch) -> PairBatch:
        """Reads, cuts and pads the pairs of a micro-batch."""
        pairs = [self.manifests[split][index] for index in micro_batch.indices.tolist()]
        texts = [self._normalized(pair) for pair in pairs]
        both = [
            self._tokens(split, pair, *of_pair, micro_batch.epoch) for pair, of_pair in zip(pairs, texts, strict=True)
        ]
        vocabularies = self.vocabularies
        targets = [[vocabularies.begin, *target, vocabularies.end] for _, target in both]
        source, source_lengths = padded([source for source, _ in both], vocabularies.source.special[PADDING])
        target, written = padded(targets, vocabularies.padding)
        target_lengths = written - 1
        return PairBatch(
            ids=[pair.id for pair in pairs],
            sources=[source for source, _ in texts],
            target_languages=[pair.target_language for pair in pairs],
            references=[
                (target, *(normalize_text(each, self.recipe.text, pair.target_language) for each in pair.alternatives))
                for pair, (_, target) in zip(pairs, texts, strict=True)
            ],
            amount=float(target_lengths.sum()),
            num_skipped=0,
            source=source,
            source_lengths=source_lengths,
            target=target,
            target_lengths=target_lengths,
            places=real_places(target_lengths, target.shape[1] - 1),
        )

    def num_targets(self, batch: PairBatch) -> int:
        """Target tokens, ends included."""
        return int(batch.target_lengths.sum())

    def loss(self, model: nn.Module, batch: PairBatch) -> Loss:
        """Smoothed cross-entropy of the references."""
        loss, likelihood = self._cross_entropy(model, batch, self.recipe.label_smoothing)
        count = loss.new_full((), len(loss))  # torch.tensor would make a GPU wait
        return Loss(loss.sum(), {"likelihood_loss": (likelihood.detach().sum(), count)})

    def predict(self, model: nn.Module, batch: PairBatch) -> list[PairPrediction]:
        """Translations, and the likelihood of the references."""
        assert isinstance(model, Transformer)
        each, _ = self._cross_entropy(model, batch, 0.0)
        counts = batch.target_lengths.tolist()
        losses = torch.stack([part.sum() for part in torch.split(each, counts)]).tolist()
        steps = TorchSteps(model, batch.source, batch.source_lengths)
        found = search(steps, self.vocabularies, batch.source_lengths, self.search)
        hypotheses = [self.vocabularies.target.decode(best[0].tokens) for best in found]
        said = (batch.ids, batch.sources, batch.target_languages, batch.references)
        return [PairPrediction(*row) for row in zip(*said, hypotheses, losses, counts, strict=True)]

    def score(self, predictions: Sequence[PairPrediction]) -> dict[str, float]:
        """BLEU and chrF, or error rates against the nearest reference; mean loss per target token, in nats."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        found = metrics.texts(
            self.recipe.metric,
            self.recipe.bleu_tokenizer,
            [each.references for each in predictions],
            [each.hypothesis for each in predictions],
            [self.vocabularies.language(each.target_language) for each in predictions],
        )
        loss = sum(each.loss for each in predictions) / max(1, sum(each.num_targets for each in predictions))
        of_languages = {
            f"{found.chosen.name}_{language}": scores[found.chosen.name]
            for language, scores in found.by_language("sentences").items()
        }
        return {**found.overall(), **of_languages, "sentences": len(predictions), "loss": loss}

    def fingerprint(self) -> str:
        """Changes when an example of the training or development data does."""
        return " ".join(f"{split} {len(each)} {each.checksum():08x}" for split, each in self.manifests.items())

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizers and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.vocabularies.save(folder)
        write_text(folder / "README.md", self._card(scores))

    def _signed(self) -> dict[str | None, str | None]:
        """How the metric is counted in each language of the development data. A UserError if it cannot be."""
        languages, references = [], []
        for pair in self.manifests["dev"]:
            languages.append(self.vocabularies.language(pair.target_language))
            rights = (pair.target, *pair.alternatives)
            references.append([normalize_text(right, self.recipe.text, pair.target_language) for right in rights])
        return metrics.signatures(self.recipe.metric, self.recipe.bleu_tokenizer, references, languages)

    def _card(self, scores: dict[str, float]) -> str:
        data, name, train, dev = self.recipe.data, self.recipe.metric, self.manifests["train"], self.manifests["dev"]
        languages = self.vocabularies.languages
        sources = sorted({pair.source_language for pair in dev if pair.source_language is not None})
        plain, is_mean = name.replace("_", " "), len(self._signatures) > 1

        def shown(value: float) -> str:
            return f"{value:.2%}" if name == "word_error_rate" else f"{value:.2f}"

        counted = []
        for language, signature in self._signatures.items():
            said = f"{plain} of {language}: {shown(scores[f'{name}_{language}'])}" if is_mean else f"{plain} signature"
            if is_mean or signature is not None:
                counted.append(said if signature is None else f"{said}: {signature}")
        return card(
            "Translation model",
            kind="translation",
            license_id=self.recipe.license,
            languages=[*sources, *(each for each in languages if each not in sources)],
            facts=[
                f"Trained on {', '.join(data.train)}: {len(train):,} pairs.",
                f"From {', '.join(sources) or '(not said)'} to {', '.join(languages) or '(not said)'}.",
                f"{'mean ' * is_mean}{plain} on {manifests.dev_name(data)}, which chose this state of the model: "
                f"{shown(scores[name])} ({len(dev):,} pairs, one beam).",
                *counted,
            ],
            use=translation_use("model", languages),
        )

    def _cross_entropy(self, model: nn.Module, batch: PairBatch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Twice (P): loss and negative log-likelihood of each real target token, row by row."""
        logits = model(batch.source, batch.source_lengths, batch.target[:, :-1], batch.places)
        return cross_entropy(logits, batch.target[:, 1:].flatten()[batch.places], smoothing)

    def _normalized(self, pair: Pair) -> tuple[str, str]:
        # Who translates later does not say which language a source is in.
        rule = self.recipe.text
        return normalize_text(pair.source, rule), normalize_text(pair.target, rule, pair.target_language)

    def _tokens(
        self, split: Split, pair: Pair, source_text: str, target_text: str, epoch: int
    ) -> tuple[list[int], list[int]]:
        """What the encoder reads, and the target's tokens."""
        holding(pair.id)
        vocabularies, texts = self.vocabularies, (source_text, target_text)
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
        pairs = progress(manifest, "counts tokens", unit="pairs")
        while block := list(islice(pairs, 10_000)):
            texts = [self._normalized(pair) for pair in block]
            sources = vocabularies.source.num_tokens([source for source, _ in texts])
            targets = vocabularies.target.num_tokens([target for _, target in texts])
            for pair, both, source, target in zip(block, texts, sources, targets, strict=True):
                problem = vocabularies.problem(pair, *both)
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

    def _build_plan(self, split: Split) -> BatchPlan:
        lengths, batch = self._lengths[split], self.recipe.batch
        longest = float(lengths.max())
        tokens = longest if batch.tokens == "auto" else batch.tokens  # not resolved yet
        if split != "train":
            return BatchPlan(lengths, max(tokens, longest), buckets=16, seed=0, is_shuffled=False)
        if longest > tokens:
            raise UserError(
                f"batch.tokens: {tokens} cannot hold the longest pair: {longest:.0f} tokens "
                f"({self.manifests[split][int(lengths.argmax())].origin}); raise it, or lower data.longest_tokens"
            )
        return BatchPlan(lengths, tokens, buckets=batch.buckets, seed=self.recipe.seed)


def build_model(section: Recipe, vocabularies: Vocabularies) -> Transformer:
    """The model with fresh weights."""
    if section.model.tied == "all" and section.source_tokenizer is not None:
        raise UserError('model.tied: "all" needs one tokenizer for both sides; with source_tokenizer, use "target"')
    return Transformer(section.model, len(vocabularies.source), len(vocabularies.target))


def search(
    steps: Steps,
    vocabularies: Vocabularies,
    lengths: Tensor,
    section: SearchSection,
    *,
    num_best: int = 1,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """The best outputs of each of B sources, which `steps` has read; (B) their lengths."""
    longest = (lengths * section.longest_factor + section.longest_extra).long().tolist()
    if prefixes is not None:
        longest = [limit + len(prefix) for limit, prefix in zip(longest, prefixes, strict=True)]
    special = vocabularies.target.special
    with torch.inference_mode():
        return beam_search(
            steps,
            longest,
            begin=vocabularies.begin,
            end=vocabularies.end,
            beams=max(section.beams, num_best),
            alpha=section.alpha,
            num_best=num_best,
            forbidden=[number for token, number in special.items() if token != END],
            prefixes=prefixes,
            no_repeat_ngram=section.no_repeat_ngram,
            device=lengths.device,
        )


class TorchSteps:
    """The model as search sees it."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, source: Tensor, lengths: Tensor) -> None:
        """(B, S) source tokens, (B) their numbers: read at once."""
        self._model = model
        self._cache = model.begin(source, lengths)

    def step(self, tokens: Tensor) -> Tensor:
        """(N) last tokens -> (N, V) scores of the next ones."""
        return self._model.step(tokens, self._cache)

    def select(self, rows: Tensor, sentences: Tensor | None) -> None:
        """Goes on with these rows in this order, and with these sentences alone (None: all)."""
        self._cache.select(rows, sentences)


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """(B, longest) tokens, (B) their numbers."""
    result = torch.full((len(rows), max(map(len, rows), default=0)), padding, dtype=torch.int64)
    for row, tokens in zip(result, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return result, torch.tensor([len(row) for row in rows], dtype=torch.int64)


def build_task(section: Recipe, run: Path, world: World) -> Translation:
    """The task of a run, with what its recipe leaves to the data; tokenizers are learnt and kept there.

    Every rank calls it.
    """
    data = world.first(lambda: manifests.resolved(section.data))
    splits = manifests.splits(Pair, data)
    section = section.model_copy(
        update={
            "data": data,
            "model": automatic.widened(section.model, len(splits.train), MANY_PAIRS),
            **Vocabularies.resolved(section.tokenizer, section.source_tokenizer, section.text, splits.train),
        }
    )

    # Learnt once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    def build() -> None:
        if not (run / "tokenizer.json").is_file():
            sections = (section.tokenizer, section.source_tokenizer, section.text)
            Vocabularies.build(*sections, splits.train).save(run)

    world.first(build)
    vocabularies = Vocabularies.load(run)
    return Translation(section, vocabularies, splits.by_name())


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
    model, more = stand_in_model(section.model, section.data, Pair, len, MANY_PAIRS)
    notes, section = (*notes, *more), section.model_copy(update={"model": model})
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
            places=torch.arange(rows * length),
        )

    return Sketch(task, batch, f"{rows} pairs of {length} tokens on both sides", "batch.tokens", notes)


class TorchWriter:
    """The model, as a `Translator` sees it."""

    def __init__(self, model: Transformer, vocabularies: Vocabularies, device: torch.device) -> None:
        self.model, self._vocabularies, self._device = model.eval().to(device), vocabularies, device

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs of each row of source tokens."""
        padding = self._vocabularies.source.special[PADDING]
        source, lengths = (tensor.to(self._device) for tensor in padded(rows, padding))
        steps = TorchSteps(self.model, source, lengths)
        return search(steps, self._vocabularies, lengths, section, num_best=num_best, prefixes=prefixes)

    @torch.inference_mode()
    def attention(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """(heads of all layers, T, S): cross-attention, watched by a hook."""
        seen: list[Tensor] = []

        def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, Attention)
            del output
            seen.append(module.weights(*inputs)[0])  # (B = 1, H, T, S) -> (H, T, S)

        handles = [layer.cross_attention.register_forward_hook(watch) for layer in self.model.decoder_layers()]
        written = [self._vocabularies.begin, *target]
        try:
            last = [len(written) - 1]  # scores are not the question
            inputs = ([source], [len(source)], [written], last)
            self.model(*(torch.tensor(each, device=self._device) for each in inputs))
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat(seen).float().cpu().numpy()


class Trained(NamedTuple):
    """What a model directory holds."""

    recipe: Recipe
    vocabularies: Vocabularies
    model: Transformer

    def facts(self) -> TranslationFacts:
        """What is to be known of the model to use it."""
        return TranslationFacts(
            languages=tuple(self.vocabularies.languages),
            longest_tokens=self.recipe.data.longest_tokens,
            text=self.recipe.text,
            search=self.recipe.search,
            metric=self.recipe.metric,
            bleu_tokenizer=self.recipe.bleu_tokenizer,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )


def restore(folder: Path) -> Trained:
    """The model in a model directory, for evaluation."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    vocabularies = Vocabularies.load(folder)
    model = build_model(section, vocabularies)
    load_weights(model, folder / "model.safetensors")
    return Trained(section, vocabularies, model.eval())


def load(folder: Path, device: str) -> Translator:
    """The model in a model directory, ready for use."""
    trained = restore(folder)
    writer = TorchWriter(trained.model, trained.vocabularies, choose_device(device))
    return Translator(trained.facts(), trained.vocabularies, writer)
