"""How is a language model trained? Windows of a corpus to losses of each next token; a decoder-only Transformer.

Suggested reading order: `settings.py` (the recipe), `data/windows.py` (loader processes), then here the engine's
interface (`LanguageModeling`) and trained models (`load`), and `backend.py`. Inference is in
`runtime/language_model.py`.

Shape letters: B windows, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segue import metrics, recipe
from segue.card import card, in_segue
from segue.data import documents, manifests, music, tokenizing
from segue.data import tokenizer as tokenizers
from segue.data.document_files import Document
from segue.data.documents import END, Corpus
from segue.data.manifests import Split
from segue.data.sizes import of_size, size_of
from segue.data.token_files import TokenFile
from segue.data.tokenizer import Tokenizer
from segue.data.windows import Windows, WindowSource
from segue.engine.distributed.materialize import blueprint, make_room
from segue.engine.distributed.parallel import World, choose_device
from segue.engine.planning.estimate import Sketch
from segue.engine.state.checkpoint import write_text
from segue.engine.state.start import prepared, restore_weights
from segue.engine.task import LOSS, Phase, Term
from segue.errors import UserError, count_of
from segue.metrics.language import Counted, of_counts
from segue.runtime.language_model import LanguageMetadata, LanguageModel, step_of
from segue.tasks.language_modeling.backend import Model, TorchBackend
from segue.tasks.language_modeling.comparison import LEAST_IDENTICAL, compare
from segue.tasks.language_modeling.comparison import read as examples
from segue.tasks.language_modeling.settings import Recipe
from segue.tasks.language_modeling.start import START

__all__ = [
    "EXAMPLE",
    "LEAST_IDENTICAL",
    "START",
    "LanguageModeling",
    "Recipe",
    "build_source",
    "build_task",
    "check_data",
    "compare",
    "examples",
    "load",
    "restore",
    "sketch",
]

SPECIAL = (END,)
FEW_TOKENS = 2_000
"""Threshold for "auto": up to so many training tokens a run has 100 epochs."""
EXAMPLE = Document
check_data = documents.check


class WindowBatch(NamedTuple):
    """A micro-batch of windows."""

    ids: list[str]
    amount: float
    """Targets."""
    num_skipped: int
    tokens: Tensor
    """(B, T)"""
    targets: Tensor
    """(B, T) the next tokens"""
    documents: Tensor | None
    """(B, T) numbers that change where a document begins; None if each window is of one document"""
    lengths: Tensor
    """(B) real targets; the others are padding, which only the last window of an evaluation has"""


TextSource = WindowSource[WindowBatch]


class WindowPrediction(NamedTuple):
    """The losses of a window."""

    id: str
    nats: float
    num_targets: int
    num_steps: int
    """Targets that end a step."""
    step_nats: float
    """Of all targets but end tokens."""


class LanguageModeling:
    """Implements the engine's `Task` protocol (`engine/task.py`)."""

    best_metric: tuple[str, metrics.Direction] = ("loss", "min")

    def __init__(self, section: Recipe, source: TextSource) -> None:
        self.recipe, self.source, self.tokenizer = section, source, source.tokenizer
        self._step = step_of(self.tokenizer, section.step_token)
        self.phases = (Phase("", "", section.optimizer, section.schedule, section.start.by_depth),)

    def build_model(self) -> nn.Module:
        """A new model."""
        return prepared(self.recipe.model.build(len(self.tokenizer)), self.recipe.start)

    def counts(self, batch: WindowBatch) -> dict[str, float]:
        """Number of targets."""
        return {"targets": int(batch.lengths.sum())}

    def loss(self, model: nn.Module, batch: WindowBatch, phase: str = "") -> dict[str, Term]:
        """Cross-entropy of the next tokens."""
        del phase
        total, _ = model(batch.tokens, batch.targets, batch.documents)
        return {LOSS: Term(total)}

    def predict(
        self, model: nn.Module, batch: WindowBatch, any_rank: Callable[[bool], bool] | None = None
    ) -> list[WindowPrediction]:
        """The losses of the windows."""
        del any_rank  # one forward pass
        _, each = model(batch.tokens, batch.targets, batch.documents)
        end, found = self.tokenizer.special[END], []
        rows = zip(batch.ids, each.double(), batch.targets, batch.lengths.tolist(), strict=True)
        for name, whole, targets, size in rows:
            losses, own = whole[:size], targets[:size]
            num_steps = 0 if self._step is None else int((own == self._step).sum())
            nats, of_steps = float(losses.sum()), float(losses[own != end].sum())
            found.append(WindowPrediction(name, nats, size, num_steps, of_steps))
        return found

    def score(self, predictions: Sequence[WindowPrediction]) -> dict[str, float]:
        """Mean loss per token and per step, in nats; bits per byte and word perplexity of the development texts."""
        if not predictions:
            raise UserError("nothing to score: no example could be used")
        dev = self.source.files["dev"]
        nats, tokens, steps, of_steps = (sum(column) for column in list(zip(*predictions, strict=True))[1:])
        return of_counts([Counted(nats, tokens, dev.num_bytes or 0, dev.num_words or 0, steps, of_steps)]).overall()

    def save_assets(self, folder: Path, scores: dict[str, float]) -> None:
        """Recipe, tokenizer and model card."""
        write_text(folder / "recipe.toml", recipe.dump(self.recipe))
        self.tokenizer.save(folder / "tokenizer.json")
        write_text(folder / "README.md", self._card(scores))

    def _card(self, scores: dict[str, float]) -> str:
        data, train, dev = self.recipe.data, self.source.files["train"], self.source.files["dev"]
        return card(
            "Language model",
            kind="text-generation",
            license_id=self.recipe.license,
            languages=[],
            facts=[
                f"Trained on {manifests.training_name(data)}: {count_of(train.num_documents, 'document')}, "
                f"{count_of(train.num_tokens, 'token')}.",
                *self.recipe.start.facts(),
                f"On {manifests.dev_name(data)} ({dev.num_tokens:,} tokens), which chose this state of the model: "
                f"{scores['loss']:.4f} nats a token"
                + (f", {scores['bits_per_byte']:.4f} bits a byte" if "bits_per_byte" in scores else "")
                + (f", {scores['nats_per_step']:.4f} nats a step" if "nats_per_step" in scores else "")
                + ".",
                *([] if self.recipe.step_token is None else [f"A step ends with {self.recipe.step_token!r}."]),
                *([] if self.recipe.notation is None else [f"Music in the notation {self.recipe.notation!r}."]),
                f"Context of {self.recipe.model.context:,} tokens.",
            ],
            use=use("model", is_music=self.recipe.notation is not None),
        )


def use(folder: str, *, is_music: bool = False) -> str:
    """The section of the model card that shows how to use the model in `folder` with Segue."""
    if is_music:
        return in_segue(folder, f"segue generate {folder} --tokens 400 --midi new.mid", "generate()[0][0].text")
    return in_segue(folder, f'segue generate {folder} "Once upon a time"', 'generate("Once upon a time")[0][0].text')


def build_source(section: Recipe, run: Path, world: World) -> tuple[Recipe, TextSource]:
    """The recipe with every "auto" resolved from the data, and the data of a run. Collective.

    The tokenizer is learned at the first call and saved in the run directory; the tokens of the texts are kept beside
    them, for later runs with the same texts and tokenizer.
    """
    corpus = world.first(lambda: Corpus(section.data))
    kept = run / "tokenizer.json"

    # Learned once and kept: a resumed run must not depend on the tokenizer's training being repeatable.
    def build() -> Any:
        found = section.tokenizer
        if not kept.is_file():
            found = tokenizers.resolved(section.tokenizer, corpus.sample(), len(SPECIAL))
            run.mkdir(parents=True, exist_ok=True)
            tokenizers.build(found, corpus.sample(), SPECIAL).save(kept)
        return found

    found = world.first(build)
    section = section.model_copy(update={"data": corpus.section, "tokenizer": found})
    tokenizer = Tokenizer.load(kept)
    check_words(section, tokenizer)
    files = world.first(lambda: tokenizing.build(corpus, tokenizer, end_of(tokenizer, kept), run))
    return section, source_of(section, tokenizer, files)


def source_of(section: Recipe, tokenizer: Tokenizer, files: Mapping[Split, TokenFile]) -> TextSource:
    """The data of these token files, read according to the recipe."""
    budget, seed = section.batch.tokens, section.seed
    return TextSource(files, section.model.context, budget, collated, tokenizer=tokenizer, seed=seed, few=FEW_TOKENS)


def collated(windows: Windows) -> WindowBatch:
    """A micro-batch of windows as tensors."""
    documents = windows.documents
    is_one = bool((documents == documents[:, :1]).all())
    return WindowBatch(
        ids=windows.ids,
        amount=windows.amount,
        num_skipped=windows.num_skipped,
        tokens=torch.from_numpy(windows.inputs),
        targets=torch.from_numpy(windows.targets),
        documents=None if is_one else torch.from_numpy(documents),
        lengths=torch.from_numpy(windows.lengths),
    )


def build_task(section: Recipe, source: TextSource) -> LanguageModeling:
    """The task for these data."""
    return LanguageModeling(section, source)


def sketch(section: Recipe) -> Sketch:
    """The recipe without its data, for an estimate: a full micro-batch of windows of one document each."""
    budget = section.batch.tokens
    if budget == "auto":
        raise UserError("batch.tokens: auto is found on the device itself; give a number, like batch.tokens=8192")
    length = min(section.model.context, budget)
    rows = budget // length
    size, note = size_of(section.tokenizer)
    tokenizer = tokenizers.build(of_size(size - len(SPECIAL)), (), SPECIAL)
    section = section.model_copy(update={"step_token": None})  # which these made-up tokens do not have
    task = LanguageModeling(section, source_of(section, tokenizer, {}))

    def batch() -> WindowBatch:
        tokens = torch.zeros(rows, length, dtype=torch.int64)
        lengths = torch.full((rows,), length)
        return WindowBatch([""] * rows, float(rows * length), 0, tokens, tokens.clone(), None, lengths)

    said = f"{count_of(rows, 'window')} of {count_of(length, 'token')}"
    return Sketch(task, batch, "tokens", said, "batch.tokens", note)


class Trained(NamedTuple):
    """The contents of a model directory."""

    recipe: Recipe
    tokenizer: Tokenizer
    model: Model
    folder: Path

    @property
    def end(self) -> int:
        """The number of the end token."""
        return self.tokenizer.special[END]

    def backend(self) -> TorchBackend:
        """The model on the CPU, to run it."""
        return TorchBackend(self.model, torch.device("cpu"))

    def metadata(self) -> LanguageMetadata:
        """What a runtime needs to know about the model."""
        context = self.recipe.model.context
        return LanguageMetadata(
            context=context,
            stride=self.recipe.stride or max(1, context // 4),
            split=self.recipe.data.split,
            text_key=self.recipe.data.text_key,
            step_token=self.recipe.step_token,
            notation=self.recipe.notation,
            sampling=self.recipe.sampling,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )


def restore(folder: Path) -> Trained:
    """Loads a model directory: recipe, tokenizer, and the model in evaluation mode on the CPU."""
    section = recipe.validate(recipe.read(folder / "recipe.toml"), Recipe)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    end_of(tokenizer, folder / "tokenizer.json")
    check_words(section, tokenizer)
    model = blueprint(lambda: section.model.build(len(tokenizer)))
    make_room(model, torch.device("cpu"))
    restore_weights(model, folder, section.start)
    return Trained(section, tokenizer, model.eval(), folder)


def load(folder: Path, device: str) -> LanguageModel:
    """Loads a model directory for inference."""
    trained = restore(folder)
    backend = TorchBackend(trained.model, choose_device(device))
    return LanguageModel(trained.metadata(), trained.tokenizer, backend)


def check_words(section: Recipe, tokenizer: Tokenizer) -> None:
    """Raises a UserError if the tokenizer lacks `step_token`, or has words that are not of the `notation`."""
    step_of(tokenizer, section.step_token)
    if section.notation is not None:
        music.check((token for token in tokenizer.tokens if token not in tokenizer.special), section.notation)


def end_of(tokenizer: Tokenizer, path: Path) -> int:
    """The number of the end token. Raises a UserError if the tokenizer at `path` has none."""
    if END not in tokenizer.special:
        raise UserError(f"{path}: it lacks the special token {END}; it belongs to another task")
    return tokenizer.special[END]
