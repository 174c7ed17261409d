import copy
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.layers.attention import Attention
from segue.layers.feed_forward import FeedForward
from segue.layers.mask import length_mask, real_places
from segue.layers.positions import rotate, sinusoids
from segue.models.transformer import Transformer, TransformerSection

SMALL = {
    "kind": "transformer",
    "width": 16,
    "feed_forward": 24,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "feed_forward_dropout": 0.1,
}
VOCABULARY = 11

every_norm = pytest.mark.parametrize("norm", ["pre", "post"])


# All norms, positions, activations and numbers of key heads together; in make test, any two of them.
CHOICES: dict[str, list[Any]] = {
    "norm": ["pre", "post"],
    "positions": ["sinusoidal", "rotary"],
    "activation": ["relu", "gelu", "swiglu"],
    "key_value_heads": [None, 2, 1],
}
MARIAN = {
    **{key: values[0] for key, values in CHOICES.items()},
    "norm": "post",
    "activation": "swish",
    "has_output_bias": True,
}


def architectures() -> Iterator[Any]:
    for norm, positions, activation, heads in product(*(range(len(values)) for values in CHOICES.values())):
        values = [of[number] for of, number in zip(CHOICES.values(), (norm, positions, activation, heads), strict=True)]
        is_short = positions == (activation + heads) % 2 and norm == (activation // 2 + heads) % 2  # 9 of 36
        yield pytest.param(
            dict(zip(CHOICES, values, strict=True)),
            id=" ".join(map(str, values)),
            marks=() if is_short else pytest.mark.slow,
        )
    yield pytest.param(MARIAN, id="marian")


every_architecture = pytest.mark.parametrize("architecture", list(architectures()))


def lived_in(*, source_vocabulary: int = VOCABULARY, **changes: Any) -> Transformer:
    """A model in evaluation mode in which nothing is 0 or 1 any more, biases and norms included."""
    torch.manual_seed(0)
    model = Transformer(TransformerSection(**{**SMALL, **changes}), source_vocabulary, VOCABULARY).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1 or parameter.shape[1] == 1:
            nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
    return model


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


# --- The whole model against torch's ---


def as_torch(model: Transformer, activation: str) -> nn.Transformer:
    """torch's Transformer with the same weights; it has fused projections, and final norms only where ours has."""
    section: dict[str, Any] = SMALL
    is_pre = isinstance(model.encoder_norm, nn.LayerNorm)
    layer: dict[str, Any] = {
        "d_model": section["width"],
        "nhead": section["heads"],
        "dim_feedforward": section["feed_forward"],
        "dropout": 0.0,
        "activation": activation,
        "norm_first": is_pre,
        "batch_first": True,
    }
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**layer),
        len(model.encoder),
        copy.deepcopy(model.encoder_norm) if is_pre else None,
        enable_nested_tensor=False,
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(**layer), len(model.decoder), copy.deepcopy(model.decoder_norm) if is_pre else None
    )
    theirs = nn.Transformer(
        section["width"], section["heads"], custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )
    for own, layer_of_theirs in zip(
        [*model.encoder, *model.decoder], [*encoder.layers, *decoder.layers], strict=True
    ):  # only now: the constructor above draws weights anew
        layer_of_theirs.load_state_dict(_as_torch_names(own))
    return theirs.eval()


def _as_torch_names(layer: Any) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    attentions = {"self_attn": layer.attention}
    norms = [layer.attention_norm, layer.feed_forward_norm]
    if hasattr(layer, "cross_attention"):
        attentions["multihead_attn"] = layer.cross_attention
        norms.insert(1, layer.cross_attention_norm)
    for name, attention in attentions.items():
        for kind in ("weight", "bias"):
            parts = [getattr(part, kind) for part in (attention.query, attention.key, attention.value)]
            weights[f"{name}.in_proj_{kind}"] = torch.cat(parts)
            weights[f"{name}.out_proj.{kind}"] = getattr(attention.output, kind)
    modules = {f"norm{number}": norm for number, norm in enumerate(norms, 1)}
    modules |= {"linear1": layer.feed_forward.up, "linear2": layer.feed_forward.down}
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return weights


def embedded(table: Tensor, tokens: Tensor) -> Tensor:
    """Section 3.4 and 3.5 of the paper, number by number; the dimensions 2i, 2i + 1 stand at i, i + D/2."""
    width = table.shape[1]
    positions = np.zeros((tokens.shape[1], width), np.float32)
    for position in range(tokens.shape[1]):
        for i in range(width // 2):
            angle = position / 10_000 ** (2 * i / width)
            positions[position, i], positions[position, i + width // 2] = math.sin(angle), math.cos(angle)
    return table[tokens] * math.sqrt(width) + torch.from_numpy(positions)


@every_norm
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("tied", ["all", "target", "none"])
def test_scores_are_torchs_with_the_same_weights(norm: str, activation: str, tied: str) -> None:
    model = lived_in(source_vocabulary=VOCABULARY if tied == "all" else 7, norm=norm, activation=activation, tied=tied)
    source, source_lengths = random_tokens(4, 9) % 7, torch.tensor([9, 4, 1, 6])
    target, target_lengths = random_tokens(4, 8, seed=1), torch.tensor([3, 8, 5, 1])
    target_table = model.target_embedding.weight
    source_table = target_table if model.source_embedding is None else model.source_embedding.weight
    is_padding = ~length_mask(source_lengths, 9).squeeze(1)
    hidden = as_torch(model, activation)(
        embedded(source_table, source),
        embedded(target_table, target),
        tgt_mask=torch.ones(8, 8).triu(1).bool(),
        src_key_padding_mask=is_padding,
        memory_key_padding_mask=is_padding,
    )
    output = target_table if model.head is None else model.head.weight
    wanted = torch.cat([row[:length] for row, length in zip(hidden @ output.T, target_lengths.tolist(), strict=True)])
    found = model(source, source_lengths, target, real_places(target_lengths, 8))
    assert found.shape == (3 + 8 + 5 + 1, VOCABULARY)
    close(found, wanted)


@every_norm
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_without_biases_equals_biases_of_zero(norm: str, activation: str) -> None:
    bare = lived_in(norm=norm, activation=activation, tied="none", has_biases=False)
    assert not [name for name, _ in bare.named_parameters() if "bias" in name]
    model = lived_in(norm=norm, activation=activation, tied="none")
    missing, unknown = model.load_state_dict(bare.state_dict(), strict=False)
    assert not unknown
    assert all(name.endswith(".bias") for name in missing)
    for name in missing:
        nn.init.zeros_(model.get_parameter(name))
    source, lengths, target = random_tokens(2, 5), torch.tensor([5, 3]), random_tokens(2, 4, seed=1)
    found, wanted = (each(source, lengths, target, torch.arange(8)) for each in (bare, model))
    close(found, wanted)
    assert found.abs().max() > 0.1


# --- Layers against their formulas ---


def test_rotary_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 8)

    def score(query_position: int, key_position: int) -> float:
        turned = [
            rotate(x.unsqueeze(0), torch.tensor([at])) for x, at in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum().item()

    distances = range(-6, 7)
    for distance in distances:
        assert [score(at + distance, at) for at in (6, 7, 20, 300)] == pytest.approx(
            [score(50 + distance, 50)] * 4, abs=1e-4
        )
    assert len({round(score(50 + distance, 50), 3) for distance in distances}) == len(distances)


def test_rotation_is_a_complex_multiplication() -> None:
    """By position times frequency."""
    torch.manual_seed(0)
    x, positions = torch.randn(3, 5, 8), torch.tensor([0, 1, 2, 7, 100])
    frequencies = torch.tensor([10_000 ** (-2 * i / 8) for i in range(4)])
    turns = torch.exp(1j * positions.unsqueeze(1) * frequencies)
    pairs = torch.complex(x[..., :4], x[..., 4:]) * turns
    close(rotate(x, positions), torch.cat([pairs.real, pairs.imag], dim=-1))


def test_positions_may_start_anywhere() -> None:
    close(sinusoids(torch.arange(7, 12), 6), sinusoids(torch.arange(12), 6)[7:])
    torch.manual_seed(0)
    attention = Attention(16, 4, 2, dropout=0.0, is_rotary=True)
    x = torch.randn(2, 9, 16)
    wanted = attention.attend(x, *attention.keys_and_values(x))
    close(attention.attend(x, *attention.keys_and_values(x, 40), first_position=40), wanted)
    assert not torch.allclose(attention.attend(x, *attention.keys_and_values(x, 40)), wanted, atol=1e-3)


@pytest.mark.parametrize("is_rotary", [False, True])
@pytest.mark.parametrize("key_value_heads", [1, 2])
def test_grouped_queries_equal_repeated_heads(key_value_heads: int, is_rotary: bool) -> None:
    torch.manual_seed(0)
    grouped = Attention(16, 4, key_value_heads, dropout=0.0, is_rotary=is_rotary)
    full = Attention(16, 4, 4, dropout=0.0, is_rotary=is_rotary)
    weights = grouped.state_dict()
    for name in ("key", "value"):
        for kind in ("weight", "bias"):
            by_head = weights[f"{name}.{kind}"].unflatten(0, (key_value_heads, 4))
            weights[f"{name}.{kind}"] = by_head.repeat_interleave(4 // key_value_heads, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    x, memory, mask = torch.randn(3, 5, 16), torch.randn(3, 7, 16), length_mask(torch.tensor([7, 2, 5]), 7).unsqueeze(1)
    close(grouped(x, memory, mask), full(x, memory, mask))
    close(grouped(x, x, is_causal=True), full(x, x, is_causal=True))
    close(grouped.weights(x, memory, mask), full.weights(x, memory, mask))


@pytest.mark.parametrize("is_rotary", [False, True])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_attention_weights_give_its_output(key_value_heads: int, is_rotary: bool) -> None:
    """They are shares of 1."""
    torch.manual_seed(0)
    attention = Attention(16, 4, key_value_heads, dropout=0.0, is_rotary=is_rotary)
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    mask = length_mask(torch.tensor([7, 2, 5]), 7).unsqueeze(1)
    weights = attention.weights(x, memory, mask)
    close(weights.sum(dim=3), torch.ones(3, 4, 5))
    assert weights.masked_select(~mask).eq(0).all()
    keys, values = attention.keys_and_values(memory)
    found = torch.einsum("bhts,bhsd->bthd", weights, values.repeat_interleave(4 // key_value_heads, dim=1))
    close(attention.output(found.flatten(2)), attention.attend(x, keys, values, mask))


def test_swiglu_is_a_gate_times_a_layer() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(6, 10, "swiglu", dropout=0.0), torch.randn(2, 3, 6)
    assert layer.gate is not None
    gate, up = F.linear(x, layer.gate.weight, layer.gate.bias), F.linear(x, layer.up.weight, layer.up.bias)
    close(layer(x), F.linear(gate / (1 + torch.exp(-gate)) * up, layer.down.weight, layer.down.bias))


# --- Padding and company ---


@every_architecture
def test_padding_and_batching_change_no_output(architecture: dict[str, Any]) -> None:
    model = lived_in(**architecture)
    source_lengths, target_lengths = torch.tensor([9, 1, 5, 8]), torch.tensor([2, 7, 1, 6])
    source, target = random_tokens(4, 12), random_tokens(4, 10, seed=1)  # other tokens, and too many, in the padding
    with torch.inference_mode():
        memory = model.encode(source, length_mask(source_lengths, 12).unsqueeze(1))
        scores = model(source, source_lengths, target, real_places(target_lengths, 10)).split(target_lengths.tolist())
        cache = model.begin(source, source_lengths)
        steps = torch.stack([model.step(target[:, at], cache) for at in range(10)], dim=1)
        for row, (size, length) in enumerate(zip(source_lengths.tolist(), target_lengths.tolist(), strict=True)):
            one = slice(row, row + 1)
            alone, alone_length = source[one, :size], source_lengths[one]
            close(memory[row, :size], model.encode(alone, torch.ones(1, 1, 1, size).bool())[0])
            close(scores[row], model(alone, alone_length, target[one, :length], torch.arange(length)))
            cache = model.begin(alone, alone_length)
            close(steps[row], torch.cat([model.step(target[one, at], cache) for at in range(10)]))


# --- Step by step ---


def whole(model: Transformer, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """(N, V): the scores of the token after each target, all of it computed anew, each alone."""
    rows = []
    for source, target in zip(sources, targets, strict=True):
        tokens = torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([target])
        rows.append(model(*tokens, torch.tensor([len(target) - 1]))[0])
    return torch.stack(rows)


SOURCES = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 3, 1, 0]]


def begun(model: Transformer) -> Any:
    lengths = torch.tensor(list(map(len, SOURCES)))
    padded = torch.tensor([[*source, *[0] * (max(map(len, SOURCES)) - len(source))] for source in SOURCES])
    return model.begin(padded, lengths)


@every_architecture
def test_cached_steps_equal_the_full_forward(architecture: dict[str, Any]) -> None:
    model = lived_in(**architecture)
    beams = 2
    targets = random_tokens(len(SOURCES) * beams, 6, seed=2)
    sources = [source for source in SOURCES for _ in range(beams)]
    with torch.inference_mode():
        cache = begun(model)
        for at in range(targets.shape[1]):
            found = model.step(targets[:, at], cache)
            close(found, whole(model, sources, targets[:, : at + 1].tolist()))


@every_architecture
def test_cached_rows_can_be_reordered_and_dropped(architecture: dict[str, Any]) -> None:
    """Sentences too, between steps."""
    model = lived_in(**architecture)
    # Of 3 sentences with 3 beams each: rows, and sentences where they change.
    selections: list[tuple[list[int], list[int] | None]] = [
        ([2, 0, 0, 3, 5, 4, 8, 8, 8], None),  # reordered, and some twice
        ([1, 0, 4, 3, 6, 8], None),  # a beam of each less
        ([5, 4, 1, 1], [2, 0]),  # the second sentence is done, the others change places
        ([0, 1, 2, 3], None),
        ([3], [1]),  # one beam of one sentence is left
    ]
    written: list[tuple[list[int], list[int]]] = [(source, []) for source in SOURCES for _ in range(3)]
    with torch.inference_mode():
        cache = begun(model)
        for number, (rows, sentences) in enumerate([*selections, ([0], None)]):
            tokens = random_tokens(len(written), seed=number)
            found = model.step(tokens, cache)
            written = [
                (source, [*target, token]) for (source, target), token in zip(written, tokens.tolist(), strict=True)
            ]
            close(found, whole(model, *map(list, zip(*written, strict=True))))
            cache.select(torch.tensor(rows), None if sentences is None else torch.tensor(sentences))
            written = [written[row] for row in rows]


# --- Sizes ---


def num_parameters(vocabulary: int, **changes: Any) -> int:
    with torch.device("meta"):
        model = Transformer(TransformerSection(**{**SMALL, **changes}), vocabulary, vocabulary)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("width", "feed_forward", "heads", "exact", "published"),
    [
        pytest.param(512, 2048, 8, 63_082_496, 65e6, id="base"),
        pytest.param(1024, 4096, 16, 214_245_376, 213e6, id="big"),
    ],
)
def test_the_papers_models_have_its_sizes(
    width: int, feed_forward: int, heads: int, exact: int, published: float
) -> None:
    attention = 4 * (width * width + width)
    network = width * feed_forward + feed_forward + feed_forward * width + width
    norm = 2 * width
    encoder_layer, decoder_layer = attention + network + 2 * norm, 2 * attention + network + 3 * norm
    vocabulary = 37_000  # "about", which is why the paper's own rounded numbers do not agree with each other
    counted = vocabulary * width + 6 * (encoder_layer + decoder_layer)
    sizes = {"width": width, "feed_forward": feed_forward, "heads": heads, "encoder_layers": 6, "decoder_layers": 6}
    assert num_parameters(vocabulary, norm="post", tied="all", **sizes) == counted == exact
    assert exact == pytest.approx(published, rel=0.03)
    # What each choice adds: two final norms, one more embedding, one more matrix for the output, a gate.
    assert num_parameters(vocabulary, norm="pre", tied="all", **sizes) == exact + 2 * norm
    assert num_parameters(vocabulary, norm="post", tied="target", **sizes) == exact + vocabulary * width
    assert num_parameters(vocabulary, norm="post", tied="none", **sizes) == exact + 2 * vocabulary * width
    gates = 12 * (width * feed_forward + feed_forward)
    assert num_parameters(vocabulary, norm="post", activation="swiglu", **sizes) == exact + gates
    saved = 18 * 2 * (heads - 2) * (width // heads) * (width + 1)
    assert num_parameters(vocabulary, norm="post", key_value_heads=2, **sizes) == exact - saved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18}, "width 18 is not a multiple of heads 4"),
        ({"key_value_heads": 3}, "heads 4 is not a multiple of key_value_heads 3"),
        ({"key_value_heads": 8}, "heads 4 is not a multiple of key_value_heads 8"),
        ({"width": 15, "heads": 5}, "width 15 is odd; sines and cosines need an even one"),
        ({"width": 12, "positions": "rotary"}, r"width / heads = 3 is odd; rotations need pairs"),
        ({"width": 0}, "greater than 0"),
        ({"key_value_heads": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"activation": "tanh"}, "'relu', 'gelu', 'gelu_tanh', 'swish' or 'swiglu'"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerSection(**{**SMALL, **changes})


# --- Weights ---


@pytest.mark.parametrize(("tied", "num_tables"), [("all", 1), ("target", 2), ("none", 3)])
def test_a_tied_weight_is_saved_once(tied: str, num_tables: int) -> None:
    tensors = lived_in(tied=tied).state_dict()
    tables = [name for name, tensor in tensors.items() if tensor.shape == (VOCABULARY, SMALL["width"])]
    assert len(tables) == num_tables
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)


@every_architecture
def test_the_gradient_reaches_every_parameter(architecture: dict[str, Any]) -> None:
    for tied in ("all", "none"):
        model = lived_in(tied=tied, **architecture).train()
        lengths = torch.tensor([9, 4, 1])
        scores = model(random_tokens(3, 9), lengths, random_tokens(3, 9, seed=1), real_places(lengths, 9))
        (scores * torch.randn(scores.shape)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            # What is added to all keys alike changes no share; rotations make it differ from key to key.
            if not name.endswith("key.bias") or ("cross" not in name and architecture["positions"] == "rotary"):
                assert parameter.grad.abs().max() > 1e-6, name


def dropouts(model: nn.Module) -> Iterator[tuple[str, float]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            yield name, module.p
        elif isinstance(module, Attention):
            yield name, module.dropout


@every_norm
def test_dropouts_are_where_the_recipe_says(norm: str) -> None:
    """In evaluation they do nothing."""
    sizes: dict[str, Any] = {"dropout": 0.1, "attention_dropout": 0.2, "feed_forward_dropout": 0.3}
    model = lived_in(norm=norm, **sizes)
    found = dict(dropouts(model))
    wanted = {name: 0.2 if "attention" in name else 0.3 if "feed_forward" in name else 0.1 for name in found}
    assert found == wanted
    lengths = torch.tensor([5, 3])
    batch = (random_tokens(2, 5), lengths, random_tokens(2, 5), real_places(lengths, 5))
    assert torch.equal(model(*batch), model(*batch))
    none: dict[str, Any] = dict.fromkeys(sizes, 0.0)
    for name in sizes:  # each alone makes training random
        model = lived_in(norm=norm, **{**none, name: 0.5}).train()
        assert not torch.equal(model(*batch), model(*batch)), name
    model = lived_in(norm=norm, **none)
    wanted_scores = model(*batch)
    close(model.train()(*batch), wanted_scores)
