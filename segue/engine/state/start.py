"""Which weights does a fine-tuning start from? Another model's, as far as they fit; some parts can be frozen.

Only weights are taken over, no optimizer state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar
from zlib import crc32

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segue.engine.distributed import parts
from segue.engine.optimizer import DepthRates
from segue.engine.state import adapter
from segue.engine.state.adapter import AdapterSection
from segue.engine.state.checkpoint import unchanged
from segue.errors import UserError, count_of, some_of
from segue.layers import lora
from segue.recipe import Section

Rows = Sequence[Sequence[int]]
"""For each token of the new model, the tokens of the base whose rows are averaged for it; if empty, it is drawn."""
Fate = Literal["loaded", "resized", "new", "left behind"]


class StartSection(Section):
    """Fine-tuning: another model's weights to start from, and the parts of it that are frozen."""

    model: str | None = None
    """Run or model directory whose weights the training starts from, as far as they fit. It must be of the same task;
    a classifier of sounds can also start from a speech recognizer, whose encoder it takes."""
    tokenizer: Literal["keep", "recipe"] = "keep"
    """Keep the base model's tokenizer, or use that of this recipe. Tokens that both have keep their rows in the output
    layer and embeddings; a new token starts as the mean of the old tokens that spell it; if there are none, it is drawn
    with mean and standard deviation of the old rows."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, by name, as in ["encoder.*"]. BatchNorm layers whose weights are frozen also
    keep their statistics."""
    statistics: Literal["new", "keep"] = "new"
    """Mean and variance of all BatchNorm layers: those of the new data, or keep the base's. Keep them with
    `data.rehearsal` if old and new data sound different, as the mean of both suits neither."""
    depth_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer / that of the layer above it, as layers that are nearer to the input have less to learn.
    Layers are counted from the end of their stack; embeddings lie below all of them. Howard and Ruder 2018
    (arXiv:1801.06146) used 1 / 2.6 = 0.385."""
    thaw_steps: Annotated[int, Field(ge=0)] = 0
    """Gradual unfreezing: steps until the next lower layer begins to learn, too; 0: all learn from the beginning. The
    statistics of BatchNorm layers, unless kept, follow the new data from the beginning."""
    adapter: AdapterSection | None = None
    """If given, the base's weights are frozen, and low-rank matrices beside them are trained."""
    checksum: str | None = None
    """SHA-256 of the base's weights at the time of the training; filled in by `segue train`."""
    story: str | None = None
    """Description of the base model at the time of the training, for the model card; filled in by `segue train`."""

    @property
    def by_depth(self) -> DepthRates | None:
        """How much slower and later lower layers learn; None if they learn as the others do."""
        rates = DepthRates(self.depth_ratio, self.thaw_steps)
        return rates if rates != DepthRates() else None

    def facts(self) -> list[str]:
        """Sentences for the model card."""
        frozen = f", and these parts as they were: {', '.join(self.freeze)}" if self.freeze else ""
        kept = ", with its BatchNorm statistics" * (self.statistics == "keep")
        slower = f", with {self.depth_ratio:g} of the learning rate a layer downwards" * (self.depth_ratio < 1)
        later = f", unfrozen one layer every {count_of(self.thaw_steps, 'step')}" * (self.thaw_steps > 0)
        adapted = f"; low-rank matrices of rank {self.adapter.rank} learned beside them" if self.adapter else ""
        return [f"Begun with the weights of {self.story}{frozen}{kept}{slower}{later}{adapted}."] if self.story else []

    @model_validator(mode="after")
    def _has_a_base_where_needed(self) -> Self:
        if self.adapter is not None and self.model is None:
            raise ValueError("adapter: it needs a base: start.model, or segue train --from MODEL")
        if self.statistics == "keep" and self.model is None:
            raise ValueError('statistics: "keep" needs a base: start.model, or segue train --from MODEL')
        if self.adapter is not None and self.freeze:
            raise ValueError("freeze: with an adapter all but it is frozen; start.adapter.learn names exceptions")
        return self


class Inheritance(NamedTuple):
    """How models of a task can start from another model."""

    tokenizers: Mapping[str, str]
    """Recipe keys that describe tokenizers, and their files in model directories."""
    same: Sequence[str]
    """Recipe tables that must equal the base's, since they determine the model's input."""
    rows: Callable[["Side", "Side"], Mapping[str, Rows]]
    """Given base and new model: the tensors whose first dimension is tokens or classes, by name."""
    renamed: Callable[[Iterable[str]], Mapping[str, str]] = unchanged
    """Given the names in a file: maps current names to them, which differ in files of earlier versions."""
    of_others: Mapping[str, str] = MappingProxyType({})
    """Other tasks whose models can be a base, and the part of the model that both have."""


class Side(NamedTuple):
    """The base, or the new model."""

    recipe: Any
    folder: Path
    """The folder with its tokenizers."""


class Base(NamedTuple):
    """A trained model as the base of another training."""

    weights: Path
    """Its safetensors file."""
    renamed: Callable[[Iterable[str]], Mapping[str, str]]
    """Given the names in the file: maps current names to them."""
    rows: Mapping[str, Rows]
    """For tensors whose first dimension is tokens or classes."""
    part: str = ""
    """Prefix of the names of tensors that are taken: "" for all."""


class Inherited(NamedTuple):
    """How a tensor of the new model or the base was treated."""

    name: str
    fate: Fate
    detail: str = ""
    """How the tensor was resized, or why it was not loaded."""


@torch.no_grad()
def load(model: nn.Module, base: Base, seed: int) -> list[Inherited]:
    """Copies fitting weights of a base into an initialized, possibly sharded model; reports the fate of each tensor.

    Each rank reads only its own parts; tensors whose rows change are read whole, one at a time. Raises a UserError if
    nothing fits or the file cannot be read.
    """
    found: list[Inherited] = []
    try:
        with safe_open(base.weights, framework="pt") as file:
            saved = base.renamed(file.keys())
            tensors = model.state_dict()
            for name, tensor in tensors.items():
                if lora.is_of_adapter(name):
                    found.append(Inherited(name, "new", "of the adapter"))
                    continue
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
    if not any(tensors[name].ndim > 1 for name in fitting):  # scalars and biases may fit by chance
        named = some_of([f"  {each.name}: {each.detail}" for each in found], 3)
        raise UserError(f"start.model: nothing of {base.weights} fits the recipe's model:\n{named}")
    return found


def _are_same(rows: Rows, count: int) -> bool:
    return len(rows) == count and all(list(row) == [place] for place, row in enumerate(rows))


def _counted(rows: Rows) -> str:
    """The numbers of rows that are kept, averaged and drawn, as text."""
    kept, means = sum(len(row) == 1 for row in rows), sum(len(row) > 1 for row in rows)
    drawn = len(rows) - kept - means
    said = ((kept, "kept"), (means, "from a mean of others"), (drawn, "drawn"))
    return ", ".join(f"{count:,} {what}" for count, what in said if count) + " (rows)"


def _resized(old: Tensor, rows: Rows, generator: torch.Generator) -> Tensor:
    """(V, ...) -> (V', ...): rows are copied, averaged or drawn from a normal distribution fitted to the old rows."""
    new = old.new_empty(len(rows), *old.shape[1:])
    for place, sources in zip(new.unbind(), rows, strict=True):
        if sources:
            place.copy_(old[list(sources)].mean(dim=0))
        else:
            draw = torch.randn(old.shape[1:], generator=generator, dtype=torch.float32)
            place.copy_(old.mean(dim=0) + draw * old.std(dim=0))
    return new


M = TypeVar("M", bound=nn.Module)


def prepared(model: M, section: StartSection) -> M:
    """The model, with the adapter, and with what the section freezes frozen; BatchNorm layers with their statistics.

    Call it before the model is distributed. A pattern is the name of a parameter or module, with * as wildcard. Raises
    a UserError if a pattern matches nothing, or no trainable parameter is left.
    """
    if section.adapter is not None:
        adapter.apply(model, section.adapter)
    parameters = dict(model.named_parameters())
    for pattern in section.freeze:
        for name in adapter.matching(parameters, pattern, "start.freeze"):
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("start.freeze: nothing is left to learn")
    for norm in parts.batch_norms(model):
        weights = list(norm.parameters())
        is_frozen = bool(weights) and not any(weight.requires_grad for weight in weights)
        if is_frozen or section.statistics == "keep":
            parts.freeze_statistics(norm)
    return model


def restore_weights(
    model: nn.Module,
    folder: Path,
    section: StartSection,
    renamed: Callable[[Iterable[str]], Mapping[str, str]] = unchanged,
) -> None:
    """Fills a plain model with what a model directory holds: weights, or an adapter of its base's."""
    base = None
    if section.adapter is not None:
        assert section.model is not None
        assert section.checksum is not None
        base = (section.adapter, section.model, section.checksum)
    adapter.restore(model, folder, base, renamed)
