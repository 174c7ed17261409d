"""How is text translated? Pairs to batches, the Transformer, smoothed cross-entropy, beam search, BLEU.

Suggested reading order: `settings.py` (the recipe), `pairs.py` (loader processes), then here the engine's interface
(`Translation`) and trained models (`load`), and `search.py`. Inference is in `runtime/translator.py`.
Grapheme-to-phoneme conversion is the same task.

Shape letters: B batch, S source tokens, T target tokens, P real target tokens of a batch, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segue import metrics, recipe
from segue.card import card, in_segue
from segue.data import automatic, manifests
from segue.data.examples import Pair
from segue.data.manifest import Manifest
from segue.data.manifests import Split
from segue.data.sizes import stand_in, stand_in_model
from segue.data.subwords import SubwordsSection
from segue.data.text import normalize
from segue.data.vocabularies import TO_LANGUAGE, Vocabularies
from segue.decoding.search import SearchSection
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.planning.estimate import Sketch
from segue.engine.state.checkpoint import write_text
from segue.engine.state.start import prepared, restore_weights
from segue.engine.task import LOSS, Phase, Term
from segue.errors import UserError, count_of
from segue.layers.loss import cross_entropy
from segue.models.transformer import Transformer
from segue.parity import Circumstances, Parity
from segue.runtime.translator import TranslationBackend, TranslationMetadata, Translator
from segue.tasks.translation import comparison
from segue.tasks.translation.comparison import LEAST_IDENTICAL
from segue.tasks.translation.pairs import PairBatch, PairReader, PairSource
from segue.tasks.translation.search import TorchBackend, TorchSteps, search
from segue.tasks.translation.settings import MANY_PAIRS, Recipe
from segue.tasks.translation.start import START

__all__ = [
    "EXAMPLE",
    "LEAST_IDENTICAL",
    "START",
    "Recipe",
    "Translation",
    "build_model",
    "build_source",
    "build_task",
    "check_data",
    "compare",
    "examples",
    "load",
    "restore",
    "sketch",
]

EXAMPLE = Pair
"""Type of the examples in manifests."""
check_data = manifests.check
examples = partial(manifests.for_comparison, Pair)


class PairPrediction(NamedTuple):
    """The translation of an example."""

    id: str
    source: str
    target_language: str | None
    references: tuple[str, ...]
    hypothesis: str
    loss: float
    """Negative log-likelihood of the reference, in nats."""
    num_targets: int


class Translation:
    """Implements the engine's `Task` protocol (`engine/task.py`)."""

    def __init__(self, section: Recipe, source: PairSource, search: SearchSection | None = None) -> None:
        """`search` configures the search of `predict`; None: the recipe's, with one beam."""
        reader = source.reader
        assert isinstance(reader, PairReader)
        self.recipe, self.source, self.vocabularies = section, source, reader.vocabularies
        self.search = search or section.search.model_copy(update={"beams": 1})
        self.best_metric: tuple[str, metrics.Direction] = section.metric, metrics.direction(section.metric)
        self.phases = (Phase("", "", section.optimizer, section.schedule, section.start.by_depth),)
        self._signatures = self._signed() if "dev" in source.manifests else {}

    def build_model(self) -> nn.Module:
        """A new model."""
        return prepared(build_model(self.recipe, self.vocabularies), self.recipe.start)

    def counts(self, batch: PairBatch) -> dict[str, float]:
        """Number of target tokens, including end tokens."""
        return {"targets": int(batch.target_lengths.sum())}

    def loss(self, model: nn.Module, batch: PairBatch, phase: str = "") -> dict[str, Term]:
        """Label-smoothed cross-entropy of the references, and their negative log-likelihood for the log."""
        del phase
        loss, likelihood = self._cross_entropy(model, batch, self.recipe.label_smoothing)
        return {LOSS: Term(loss.sum()), "likelihood_loss": Term(likelihood.detach().sum(), weight=0.0)}

    def predict(
        self, model: nn.Module, batch: PairBatch, any_rank: Callable[[bool], bool] | None = None
    ) -> list[PairPrediction]:
        """Translations, and the negative log-likelihoods of the references."""
        assert isinstance(model, Transformer)
        each, _ = self._cross_entropy(model, batch, 0.0)
        counts = batch.target_lengths.tolist()
        losses = torch.stack([part.sum() for part in torch.split(each, counts)]).tolist()
        steps = TorchSteps(model, batch.source, batch.source_lengths, any_rank)
        found = search(steps, self.vocabularies, batch.source_lengths, self.search)
        steps.finish()
        hypotheses = [self.vocabularies.target.decode(best[0].tokens) for best in found]
        said = (batch.ids, batch.sources, batch.target_languages, batch.references)
        return [PairPrediction(*row) for row in zip(*said, hypotheses, losses, counts, strict=True)]

    def score(self, predictions: Sequence[PairPrediction]) -> dict[str, float]:
        """BLEU and chrF, or error rates against the closest reference; mean loss per target token, in nats."""
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

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizers and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.vocabularies.save(folder)
        write_text(folder / "README.md", self._card(scores))

    def _signed(self) -> dict[str | None, str | None]:
        """The metric's signature for each language of the development data. Raises a UserError if it has none."""
        languages, references = [], []
        for pair in self.source.manifests["dev"]:
            languages.append(self.vocabularies.language(pair.target_language))
            rights = (pair.target, *pair.alternatives)
            references.append([normalize(right, self.recipe.text, pair.target_language) for right in rights])
        return metrics.signatures(self.recipe.metric, self.recipe.bleu_tokenizer, references, languages)

    def _card(self, scores: dict[str, float]) -> str:
        data, name, examples = self.recipe.data, self.recipe.metric, self.source.manifests
        train, dev = examples["train"], examples["dev"]
        languages = self.vocabularies.languages
        sources = sorted({pair.source_language for pair in dev if pair.source_language is not None})
        plain, is_mean = name.replace("_", " "), len(self._signatures) > 1

        def shown(value: float) -> str:
            return f"{value:.2%}" if metrics.METRICS[name].is_share else f"{value:.2f}"

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
                f"Trained on {manifests.training_name(data)}: {count_of(len(train), 'pair')}.",
                *self.recipe.start.facts(),
                f"From {', '.join(sources) or '(not said)'} to {', '.join(languages) or '(not said)'}.",
                f"{'mean ' * is_mean}{plain} on {manifests.dev_name(data)}, which chose this state of the model: "
                f"{shown(scores[name])} ({count_of(len(dev), 'pair')}, one beam).",
                *counted,
            ],
            use=use("model", languages),
        )

    def _cross_entropy(self, model: nn.Module, batch: PairBatch, smoothing: float) -> tuple[Tensor, Tensor]:
        """(P), (P): loss and negative log-likelihood of each real target token, row by row."""
        logits = model(batch.source, batch.source_lengths, batch.target[:, :-1], batch.places)
        return cross_entropy(logits, batch.target[:, 1:].flatten()[batch.places], smoothing)


def use(folder: str, languages: Sequence[str]) -> str:
    """The section of the model card that shows how to use the translator in `folder` with Segue."""
    option, argument = (f" --to {languages[0]}", f', "{languages[0]}"') if len(languages) > 1 else ("", "")
    command = f'echo "a line of text" | segue translate {folder}{option}'
    return in_segue(folder, command, f'translate(["a line of text"]{argument})')


def build_model(section: Recipe, vocabularies: Vocabularies) -> Transformer:
    """A new model. Raises a UserError if `model.tied` does not suit the tokenizers."""
    # Tokenizers of an imported model may have the same tokens, and only cut texts differently.
    if section.model.tied == "all" and vocabularies.source.tokens != vocabularies.target.tokens:
        raise UserError('model.tied: "all" needs one tokenizer for both sides; with source_tokenizer, use "target"')
    return Transformer(section.model, len(vocabularies.source), len(vocabularies.target))


def build_source(section: Recipe, run: Path, world: World) -> tuple[Recipe, PairSource]:
    """The recipe with every "auto" resolved from the data, and the data of a run. Collective.

    Tokenizers are learned at the first call and saved in the run directory.
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

    # Learned once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    def build() -> None:
        if not (run / "tokenizer.json").is_file():
            sections = (section.tokenizer, section.source_tokenizer, section.text)
            Vocabularies.build(*sections, splits.train).save(run)

    world.first(build)
    source = source_of(section, Vocabularies.load(run), splits.by_name())
    source.check()
    return section, source


def source_of(section: Recipe, vocabularies: Vocabularies, splits: dict[Split, Manifest[Pair]]) -> PairSource:
    """The data of these manifests, read according to the recipe."""
    batch, reader = section.batch, PairReader(section, vocabularies)
    skip_bad = section.data.skip_bad
    return PairSource(reader, splits, batch.tokens, buckets=batch.buckets, seed=section.seed, skip_bad=skip_bad)


def build_task(section: Recipe, source: PairSource) -> Translation:
    """The task for these data."""
    return Translation(section, source)


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data, for an estimate: the longest pairs, as many as fill the budget."""
    budget, source = section.batch.tokens, section.source_tokenizer
    if budget == "auto":
        raise UserError("batch.tokens: auto is found on the device itself; give a number, like batch.tokens=4096")
    rows = -(-budget // (section.data.longest_tokens + 1))  # plus the end token
    length = budget // rows

    num_special = 4  # padding, begin, end, unknown
    both = ("source", "target") if source is None else ("target",)
    tokenizer, notes = stand_in(section.tokenizer, section.data, section.text, Pair, both, num_special)
    if source is not None:
        source, more = stand_in(source, section.data, section.text, Pair, ("source",), num_special)
        notes = (*notes, *more)
    model, more = stand_in_model(section.model, section.data, Pair, len, MANY_PAIRS)
    notes, section = (*notes, *more), section.model_copy(update={"model": model})
    uncut = section.model_copy(update={"subwords": SubwordsSection()})  # the stand-in tokenizer cannot segment randomly
    task = Translation(section, source_of(uncut, Vocabularies.build(tokenizer, source, section.text, ()), {}))

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

    said = f"{count_of(rows, 'pair')} of {count_of(length, 'token')} on both sides"
    return Sketch(task, batch, "tokens", said, "batch.tokens", notes)


class Trained(NamedTuple):
    """The contents of a model directory."""

    recipe: Recipe
    vocabularies: Vocabularies
    model: Transformer
    folder: Path

    def metadata(self) -> TranslationMetadata:
        """What a runtime needs to know about the model."""
        return TranslationMetadata(
            languages=tuple(self.vocabularies.languages),
            longest_tokens=self.recipe.data.longest_tokens,
            text=self.recipe.text,
            search=self.recipe.search,
            metric=self.recipe.metric,
            bleu_tokenizer=self.recipe.bleu_tokenizer,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )


def source_side(trained: Trained) -> tuple[str, str]:
    """For code on a model card: name of the source tokenizer, and the code of the tokens before the source's tokens."""
    vocabularies = trained.vocabularies
    name = "tokenizer" if vocabularies.source is vocabularies.target else "source_tokenizer"
    several = len(vocabularies.languages) > 1
    return name, f'"{TO_LANGUAGE.format(vocabularies.languages[0])}", ' if several else ""


def compare(
    trained: Trained,
    backend: TranslationBackend,
    pairs: Manifest[Pair],
    where: Circumstances,
    least: tuple[str, TranslationBackend] | None = None,
) -> Parity:
    """Compares the PyTorch model with an export (`backend`), also with one on the oldest instruction set (`least`)."""
    ours = _translator(trained, TorchBackend(trained.model, trained.vocabularies, torch.device("cpu")))
    on_least = None if least is None else (least[0], _translator(trained, least[1]))
    return comparison.compare(ours, _translator(trained, backend), pairs, where, on_least)


def _translator(trained: Trained, backend: TranslationBackend) -> Translator:
    return Translator(trained.metadata(), trained.vocabularies, backend)


def restore(folder: Path) -> Trained:
    """Loads a model directory: recipe, tokenizers, and the model in evaluation mode on the CPU."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    section = section.model_copy(update={"model": section.model.widened()})
    vocabularies = Vocabularies.load(folder)
    model = blueprint(lambda: build_model(section, vocabularies))
    make_room(model, torch.device("cpu"))
    restore_weights(model, folder, section.start)
    return Trained(section, vocabularies, model.eval(), folder)


def load(folder: Path, device: str) -> Translator:
    """Loads a model directory for inference."""
    trained = restore(folder)
    return _translator(trained, TorchBackend(trained.model, trained.vocabularies, choose_device(device)))
