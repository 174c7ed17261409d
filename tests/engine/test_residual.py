"""Ranks that share a residual stream compute and learn what one rank does."""

from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from ranks import Start
from torch import Tensor, nn

from segue.engine import precision
from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import Parallel, World
from segue.layers.lora import adapt
from segue.layers.residual import Portion, Ranks
from segue.layers.vocabulary import all_scores
from segue.models.decoder_only import DecoderOnly, DecoderOnlySection
from segue.models.gpt2 import GPT2, GPT2Section

SIZES: dict[str, Any] = {"context": 8, "width": 16, "layers": 2, "heads": 4, "attention_dropout": 0.0}
LLAMA = {"kind": "decoder_only", "feed_forward": 24, "dropout": 0.3, **SIZES}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA, "is_tied": False},
    "qwen": {**LLAMA, "has_query_key_norm": True, "padded_vocabulary": 4},
    "gpt2": {"kind": "gpt2", "dropout": 0.3, **SIZES},
    "adapted": {**LLAMA, "is_tied": False},
    "adapted gpt2": {"kind": "gpt2", "dropout": 0.3, **SIZES},
}
SHAPES = [(3, 5), (4, 6)]
"""Rows, tokens: 15 positions do not divide by the number of ranks."""
NUM_TOKENS = 11


def model_of(kind: str, num_tokens: int) -> DecoderOnly | GPT2:
    sizes = KINDS[kind]
    torch.manual_seed(4)
    model: DecoderOnly | GPT2
    if sizes["kind"] == "gpt2":
        model = GPT2Section.model_validate(sizes).build(num_tokens)
    else:
        model = DecoderOnlySection.model_validate(sizes).build(num_tokens)
    if "adapted" in kind:
        for parameter in model.parameters():
            parameter.requires_grad = False
        assert len(adapt(model.layers, lambda _: True, rank=2, scale=0.5)) > 10
    with torch.no_grad():
        for parameter in model.parameters():  # biases and adapters, too
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model


def learned(model: DecoderOnly | GPT2, num_tokens: int, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Losses and scores, and the gradients of a loss of both."""
    draw = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(num_tokens, shape, generator=draw) for _ in range(2))
    documents = (torch.arange(shape[1]) > 1).long().expand(shape)
    found: dict[str, Tensor] = {}
    torch.manual_seed(3)
    total, found["losses"] = model(tokens, targets, documents)
    (total / targets.numel()).backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    assert len(gradients) == sum(each.requires_grad for each in model.parameters())
    found |= {f"gradient of {name}": parts.whole(each) for name, each in gradients.items()}
    model.eval()
    with torch.no_grad():
        found["scores"] = all_scores(model.scores(tokens, documents))
    return found


def cases(size: int) -> list[tuple[str, int, tuple[int, int]]]:
    of_few = [(kind, 5, (1, 2)) for kind in KINDS]  # some ranks would have no token, or have only padding
    recomputed = [(kind, NUM_TOKENS, SHAPES[1]) for kind in ("llama", "gpt2")]
    return [(kind, NUM_TOKENS, SHAPES[0]) for kind in KINDS] + recomputed + (of_few if size > 2 else [])


def shared(rank: int, folder: Path, size: str) -> list[dict[str, Tensor]]:
    found = []
    for kind, num_tokens, shape in cases(int(size)):
        model = model_of(kind, num_tokens)
        parallel = Parallel(World(rank, int(size)), Layout(1, 1, int(size)), torch.device("cpu"))
        parallel.spread(model, torch.float32, is_offloaded=False)
        if shape == SHAPES[1]:
            precision.recompute(model)
        found.append(learned(model, num_tokens, shape))
    return found


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_share_a_residual_stream(start: Start, size: int, tmp_path: Path) -> None:
    """With the same dropout, whether or not the ranks divide the positions."""
    found = forked.run(start, __file__, "shared", size, tmp_path, str(size))
    for number, case in enumerate(cases(size)):
        wanted = learned(model_of(case[0], case[1]), *case[1:])
        for of_rank in found:
            assert of_rank[number].keys() == wanted.keys()
            for name, value in wanted.items():
                torch.testing.assert_close(of_rank[number][name], value, atol=2e-6, rtol=1e-4, msg=f"{case} {name}")


MODES: list[tuple[str, precision.Precision]] = [("llama", "float32"), ("gpt2", "bfloat16"), ("llama", "float16")]
"""Compiled, and two that are not."""


def computed(kind: str, mode: precision.Precision, parallel: Parallel | None) -> dict[str, Tensor]:
    model = model_of(kind, NUM_TOKENS)
    if parallel is not None:
        parallel.spread(model, torch.float32, is_offloaded=False)
    for module in model.modules():  # compiled dropout draws other numbers
        if isinstance(module, nn.Dropout) and mode == "float32":
            module.p = 0.0
    if mode == "float32" and parallel is not None:
        model.compile(dynamic=False, backend="aot_eager")
    with precision.autocast(mode, torch.device("cpu")):
        return learned(model, NUM_TOKENS, SHAPES[0])


def in_modes(rank: int, folder: Path) -> list[dict[str, Tensor]]:
    parallel = Parallel(World(rank, 2), Layout(1, 1, 2), torch.device("cpu"))
    return [computed(kind, mode, parallel) for kind, mode in MODES]


@pytest.mark.slow
def test_it_compiles_and_computes_in_16_bits(start: Start, tmp_path: Path) -> None:
    found = forked.run(start, __file__, "in_modes", 2, tmp_path)
    for number, (kind, mode) in enumerate(MODES):
        wanted, share = computed(kind, mode, None), {"float32": 1e-5, "bfloat16": 4e-2, "float16": 5e-3}[mode]
        for of_rank in found:
            for name, value in wanted.items():
                if name.endswith("key.bias"):  # attention is blind to it: its gradient is rounding
                    continue
                bound = share * max(float(value.abs().max()), 1e-3)
                assert (of_rank[number][name] - value).abs().max() < bound, f"{kind} {mode} {name}"


class Kept:
    """Sizes of what a forward pass keeps, without parameters, each storage once."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {parts.local(each).untyped_storage().data_ptr() for each in model.parameters()}
        self._sizes: dict[int, int] = {}
        self._alive: list[Tensor] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = parts.local(tensor).untyped_storage()
        if storage.data_ptr() not in self._own:
            self._alive.append(tensor)
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def total(self) -> int:
        return sum(self._sizes.values())


LONG = (2, 96)


def kept(rank: int, folder: Path) -> list[int]:
    """By llama and GPT-2, alone and on two ranks."""
    found = []
    for kind in ("llama", "gpt2"):
        for size in (1, 2):
            sizes = {**KINDS[kind], "context": LONG[1], "width": 64, "feed_forward": 192, "layers": 4}
            section: Any = DecoderOnlySection if kind == "llama" else GPT2Section
            sizes = sizes if kind == "llama" else {key: size for key, size in sizes.items() if key != "feed_forward"}
            model = section.model_validate(sizes).build(8)
            if size > 1:
                parallel = Parallel(World(rank, 2), Layout(1, 1, 2), torch.device("cpu"))
                parallel.spread(model, torch.float32, is_offloaded=False)
            count = Kept(model)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                tokens = torch.zeros(LONG, dtype=torch.int64)
                total, _ = model(tokens, tokens)
            assert total.requires_grad
            found.append(count.total())
    return found


def test_a_rank_keeps_its_part_of_activations(start: Start, tmp_path: Path) -> None:
    for llama, llama_of_two, gpt2, gpt2_of_two in forked.run(start, __file__, "kept", 2, tmp_path):
        assert llama_of_two < 0.53 * llama
        assert gpt2_of_two < 0.53 * gpt2


@pytest.mark.parametrize("positions", [1, 3, 4, 8])
def test_portions_make_up_the_whole(positions: int) -> None:
    portions = [Portion(Ranks(None, 4, rank), 1, positions) for rank in range(4)]
    whole = torch.arange(1, positions + 1)
    found = torch.cat([each.own(whole) for each in portions])
    assert found[:positions].tolist() == whole.tolist()
    assert not found[positions:].any()
    assert len({len(each.own(whole)) for each in portions}) == 1
