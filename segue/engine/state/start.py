"""With which weights does a training begin? Another model's, as far as they fit; and which parts stay as they are.

Nothing else is carried over: the optimizer's state belongs to the training that it comes from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.state.checkpoint import unchanged
from segue.errors import UserError, some_of
from segue.recipe import Section

Rows = Sequence[Sequence[int]]
"""For each token, the tokens of the base whose mean its row begins as; where there is none, it is drawn."""
Fate = Literal["loaded", "resized", "new", "left behind"]


class StartSection(Section):
    """Fine-tuning: another model's weights to begin with, and what stays as it is."""

    model: str | None = None
    """Run or model directory whose weights the training begins with, as far as they fit. Of the same task; classes of
    sounds may begin with a recognizer, whose encoder they take."""
    tokenizer: Literal["keep", "recipe"] = "keep"
    """Whose tokens the model has: its own as before, or those of this recipe's tokenizer. Tokens that both know keep
    their rows of the output layer and embeddings; new ones begin as the mean of the old tokens that spell them, or else
    are drawn with mean and spread of the old rows."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, by name, as in ["encoder.*"]; BatchNorm's statistics stay, too, where its weights do."""
    story: str | None = None
    """What the model was when this training took its weights; `segue train` fills it in, for the model card."""

    def facts(self) -> list[str]:
        """For the model card."""
        frozen = f", and these parts as they were: {', '.join(self.freeze)}" if self.freeze else ""
        return [f"Begun with the weights of {self.story}{frozen}."] if self.story else []


class Inheritance(NamedTuple):
    """What a task says about models to begin with."""

    tokenizers: Mapping[str, str]
    """Keys of its recipe that describe tokenizers, and their files in model directories."""
    same: Sequence[str]
    """Tables of its recipe that must be the base's: what the model reads."""
    rows: Callable[["Side", "Side"], Mapping[str, Rows]]
    """Of the base and the new model: by name, the tensors whose first dimension is tokens or classes."""
    renamed: Callable[[Iterable[str]], Mapping[str, str]] = unchanged
    """Maps names of today to those of earlier files, given these."""
    of_others: Mapping[str, str] = MappingProxyType({})
    """Other tasks whose models can be a base, and which part of the model both have."""


class Side(NamedTuple):
    """The base, or the new model."""

    recipe: Any
    folder: Path
    """With its tokenizers."""


class Base(NamedTuple):
    """A trained model, as another training sees it."""

    weights: Path
    """Its safetensors file."""
    renamed: Callable[[Iterable[str]], Mapping[str, str]]
    """Maps names of today to the file's, given these."""
    rows: Mapping[str, Rows]
    """For tensors whose first dimension is tokens or classes."""
    part: str = ""
    """Which part of it is taken, by the beginning of names: "" is all."""


class Inherited(NamedTuple):
    """What became of a tensor."""

    name: str
    fate: Fate
    detail: str = ""
    """How it was resized, or why it was not loaded."""


@torch.no_grad()
def load(model: nn.Module, base: Base, seed: int) -> list[Inherited]:
    """Fills a model, which has values and may be spread, with what fits of another; says what became of each tensor.

    Each rank reads its own parts, and one whole tensor at a time where rows change. A UserError if nothing fits.
    """
    found: list[Inherited] = []
    try:
        with safe_open(base.weights, framework="pt") as file:
            saved = base.renamed(file.keys())
            tensors = model.state_dict()
            for name, tensor in tensors.items():
                if name not in saved or not name.startswith(base.part):
                    why = "the base has none" if name not in saved else "the base's is of another task"
                    found.append(Inherited(name, "new", why))
                    continue
                slices: Any = file.get_slice(saved[name])
                shape, wanted, rows = tuple(slices.get_shape()), tuple(tensor.shape), base.rows.get(name)
                part = parts.local(tensor)
                if rows is not None and shape[1:] == wanted[1:] and not _are_same(rows, shape[0]):
                    generator = torch.Generator().manual_seed(seed ^ crc32(name.encode()))
                    whole = _resized(file.get_tensor(saved[name]).to(tensor.dtype), rows, generator)
                    part.copy_(parts.own_part(whole, tensor))
                    found.append(Inherited(name, "resized", _counted(rows)))
                elif shape != wanted:
                    found.append(Inherited(name, "new", f"of shape {wanted}, the base's is {shape}"))
                else:
                    own = slices[parts.own_slices(tensor)] if part.ndim else file.get_tensor(saved[name])
                    part.copy_(own)
                    found.append(Inherited(name, "loaded"))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{base.weights}: cannot be read ({error}); copy it again") from None
    found += [
        Inherited(name, "left behind", "this model has none" if name not in tensors else "of another task")
        for name in saved
        if name not in tensors or not name.startswith(base.part)
    ]
    fitting = [each.name for each in found if each.fate in ("loaded", "resized")]
    if not any(tensors[name].ndim > 1 for name in fitting):  # counters and a bias may fit by chance
        named = some_of([f"  {each.name}: {each.detail}" for each in found], 3)
        raise UserError(f"start.model: nothing of {base.weights} fits the recipe's model:\n{named}")
    return found


def _are_same(rows: Rows, count: int) -> bool:
    return len(rows) == count and all(list(row) == [place] for place, row in enumerate(rows))


def _counted(rows: Rows) -> str:
    """In words: how many rows are kept, means, drawn."""
    kept, means = sum(len(row) == 1 for row in rows), sum(len(row) > 1 for row in rows)
    drawn = len(rows) - kept - means
    said = ((kept, "kept"), (means, "begin as a mean of others"), (drawn, "drawn"))
    return ", ".join(f"{count:,} {what}" for count, what in said if count) + " (rows)"


def _resized(old: Tensor, rows: Rows, generator: torch.Generator) -> Tensor:
    """(V, ...) -> (V', ...)."""
    new = old.new_empty(len(rows), *old.shape[1:])
    for place, sources in zip(new.unbind(), rows, strict=True):
        if sources:
            place.copy_(old[list(sources)].mean(dim=0))
        else:
            draw = torch.randn(old.shape[1:], generator=generator, dtype=torch.float32)
            place.copy_(old.mean(dim=0) + draw * old.std(dim=0))
    return new


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Parameters whose names match do not learn, nor does BatchNorm whose weights do not. Before the model is spread.

    A pattern is a name in which * stands for anything, or that of a part of the model. A UserError if one matches
    nothing, or nothing is left to learn.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matching = [name for name in parameters if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not matching:
            depth = pattern.count(".") + 1
            known = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in parameters))
            more = ", ..." * (len(known) > 12)
            raise UserError(f'start.freeze: "{pattern}" is no part of this model; it has {", ".join(known[:12])}{more}')
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("start.freeze: nothing is left to learn")
    for norm in parts.batch_norms(model):
        weights = list(norm.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            parts.freeze_statistics(norm)
