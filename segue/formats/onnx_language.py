"""How is a language model exported to ONNX? As one graph, which reads any number of tokens, with its cache as input.

Prompts, single steps and whole texts to be scored go through the same graph; it computes scores only at the places that
are asked for.

Shape letters: N rows, T newest tokens, P tokens before them, S scored places, V vocabulary, L layers, K heads of keys,
d width of a head.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from segue import card
from segue.compress import quantize
from segue.data.documents import END
from segue.files import replacing
from segue.formats.exporter import GRAPH, Exporter
from segue.formats.onnx import write
from segue.layers.causal_attention import Memory
from segue.layers.vocabulary import token_scores
from segue.models.decoder_only import DecoderOnly
from segue.runtime.onnx_language import INPUTS, OUTPUTS, OnnxLanguageBackend
from segue.tasks.language_modeling import Trained, use
from segue.tasks.language_modeling.backend import Model
from segue.tasks.language_modeling.comparison import Continuing


class Graph(nn.Module):
    """What is exported of a model. The content of the cache is input, and what is to be added to it output."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(
        self, tokens: Tensor, padding: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, ...]:
        """(N, T), (N), (S), 2 x (L, N, K, P, d) -> (N, S, V), 2 x (L, N, K, P + T, d).

        The first `padding` positions of a row, its tokens before and now counted together, are none of its text.
        `places` are those of the newest tokens whose scores are wanted.
        """
        model, past, size = self.model, keys.shape[3], tokens.shape[1]
        at = torch.arange(past + size, device=tokens.device)
        newest = at[past:]
        is_real = at >= padding[:, None]  # (N, P + T)
        is_seen = (at <= newest[:, None])[None] & is_real[:, None]
        # A padded position attends to itself, so that no row of attention is empty.
        mask = (is_seen | (at == newest[:, None])[None])[:, None]  # (N, 1, T, P + T)
        positions = (newest - padding[:, None]).clamp(min=0)  # (N, T)
        x = model.embedding(tokens)
        if isinstance(model, DecoderOnly):
            more: tuple[object, ...] = (model.rotation(positions),)
        else:
            x, more = x + model.positions(positions), ()
        grown = list[_Growing]()
        for layer, *own in zip(model.layers, keys.unbind(), values.unbind(), strict=True):
            grown.append(_Growing(*own))
            x = layer.step(x, *more, grown[-1], 0, mask)  # type: ignore[operator]
        x = model.norm(x.index_select(1, places))
        scores = token_scores(x, model.table())[..., : model.vocabulary]
        return scores, torch.stack([each.keys for each in grown]), torch.stack([each.values for each in grown])


class _Growing(Memory):
    """Keys and values that grow by concatenation, since a graph writes nothing in place."""

    def extended(self, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        del first
        self.keys, self.values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        return self.keys, self.values


def write_language_model(model: Model, folder: Path, metadata: dict[str, str]) -> None:
    """Writes `model.onnx` to `folder`: tokens (N, T), padding (N), places (S), past_keys and past_values
    (L, N, K, P, d) -> scores (N, S, V), keys and values (L, N, K, P + T, d). P is 0 at first."""
    folder.mkdir(parents=True, exist_ok=True)
    section = model.section
    heads, width = (section.key_value_heads or section.heads, section.size_of_head)
    past = torch.zeros(section.layers, 2, heads, 3, width)
    tokens, padding, places = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([0, 2]), torch.tensor([1, 3, 4])
    cache = (section.layers, "rows", heads, "past", width)
    dimensions = dict(zip(INPUTS, (("rows", "tokens"), ("rows",), ("places",), cache, cache), strict=True))
    write(Graph(model), (tokens, padding, places, past, past.clone()), dimensions, OUTPUTS, folder / GRAPH, metadata)


def write_weights(model: Model, folder: Path, metadata: dict[str, str], weights: str) -> None:
    """The same with weights in float32, float16 or int8."""
    write_language_model(model, folder, metadata)
    if weights != "float32":
        smaller = quantize.float16_weights if weights == "float16" else quantize.int8_matrices
        with replacing(folder / GRAPH) as partial:
            smaller(folder / GRAPH, partial)


# --- Exporter ---


def _write(trained: Trained, folder: Path, weights: str) -> None:
    write_weights(trained.model, folder, {"task": trained.metadata().task}, weights)
    trained.tokenizer.save(folder / "tokenizer.json")


def _use(trained: Trained, folder: str) -> str:
    section = trained.model.section
    shape = (section.layers, 1, section.key_value_heads or section.heads, 0, section.size_of_head)
    code = f"""import numpy
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("{folder}/{GRAPH}")
tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
end = tokenizer.token_to_id("{END}")
tokens = [end, *tokenizer.encode("Once upon a time", add_special_tokens=False).ids]
past = numpy.zeros({shape}, numpy.float32)
keys, values, newest = past, past, tokens
while newest[-1] != end or len(tokens) == len(newest):
    given = {{"tokens": numpy.array([newest]), "padding": numpy.array([0]), "places": numpy.array([len(newest) - 1])}}
    scores, keys, values = session.run(None, given | {{"past_keys": keys, "past_values": values}})
    newest = [int(scores[0, -1].argmax())]
    tokens += newest
    if len(tokens) == {section.context}:
        break
print(tokenizer.decode(tokens))"""
    return f"{use(folder)}\nor with onnxruntime and tokenizers, always the likeliest token:\n\n{card.python(code)}"


def _run(trained: Trained, folder: Path, threads: int) -> Continuing:
    backend = OnnxLanguageBackend(folder, len(trained.tokenizer), threads)
    return Continuing(backend, trained.end, trained.recipe.model.context)


LANGUAGE = Exporter(
    packages=("onnxruntime", "onnx", "onnxscript"),
    write=_write,
    run=_run,
    use=_use,
    quantizations=("int8", "float16"),
)
