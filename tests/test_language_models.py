"""Decoder-only models: the same numbers as transformers' with the same weights, documents apart, caches exact."""

from platform import machine
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segue.layers import causal_attention
from segue.layers.fused import fuse
from segue.layers.loss import ROWS, total_cross_entropy
from segue.layers.rms_norm import RMSNorm
from segue.models import decoder_only, decoding, generating
from segue.models.decoder_only import DecoderOnly, DecoderOnlySection
from segue.models.gpt2 import GPT2, GPT2Section

VOCABULARY, CONTEXT = 100, 64
LLAMA = DecoderOnlySection(
    kind="decoder_only",
    context=CONTEXT,
    width=64,
    feed_forward=172,
    layers=3,
    heads=4,
    key_value_heads=2,
    is_tied=False,
)
SMALL_GPT2 = GPT2Section(kind="gpt2", context=CONTEXT, width=64, layers=3, heads=4)
OF_LLAMA = {
    "embedding.": "model.embed_tokens.",
    "layers.": "model.layers.",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.": "mlp.",
    "up.": "up_proj.",
    "gate.": "gate_proj.",
    "down.": "down_proj.",
    "head": "lm_head",
}


def with_values(model: Any) -> Any:
    """The model in evaluation mode, with weights that make scores differ."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1 + (parameter.ndim == 1))
    return model.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("has_query_key_norm", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_scores_equal_those_of_llama_and_qwen3(has_query_key_norm: bool, is_tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    kind = "Qwen3" if has_query_key_norm else "Llama"
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": is_tied,
        "max_position_embeddings": CONTEXT,
    }
    theirs = with_values(getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)))
    section = LLAMA.model_copy(update={"has_query_key_norm": has_query_key_norm, "is_tied": is_tied})
    ours = section.build(VOCABULARY).eval()
    weights = {}
    for name in ours.state_dict():
        renamed = f"model.{name}" if name.startswith("norm") else name
        for here, there in OF_LLAMA.items():
            renamed = renamed.replace(here, there)
        weights[name] = theirs.state_dict()[renamed]
    ours.load_state_dict(weights)
    rows = tokens(3, 40)
    assert (ours.scores(rows) - theirs(rows).logits).abs().max() < 1e-5


def test_scores_equal_those_of_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=64, n_layer=3, n_head=4, **ids)
    theirs = with_values(transformers.GPT2LMHeadModel(config))
    ours = SMALL_GPT2.build(VOCABULARY).eval()
    saved = theirs.state_dict()
    weights = {
        "embedding.weight": saved["transformer.wte.weight"],
        "positions.weight": saved["transformer.wpe.weight"],
        **{f"norm.{each}": saved[f"transformer.ln_f.{each}"] for each in ("weight", "bias")},
    }
    layers = {"attention.output": "attn.c_proj", "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj"}
    for number in range(3):
        here, there = f"layers.{number}.", f"transformer.h.{number}."
        for each in ("weight", "bias"):
            parts = saved[f"{there}attn.c_attn.{each}"].chunk(3, -1)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"{here}attention.{name}.{each}"] = part.t()
            for name, other in layers.items():
                weights[f"{here}{name}.{each}"] = saved[f"{there}{other}.{each}"].t()
            weights[f"{here}attention_norm.{each}"] = saved[f"{there}ln_1.{each}"]
            weights[f"{here}feed_forward_norm.{each}"] = saved[f"{there}ln_2.{each}"]
    ours.load_state_dict(weights)
    rows = tokens(3, 40)
    assert (ours.scores(rows) - theirs(rows).logits).abs().max() < 1e-5


SECTIONS: dict[str, DecoderOnlySection | GPT2Section] = {
    "llama": LLAMA,
    "gpt2": SMALL_GPT2,
    "qwen3": LLAMA.model_copy(update={"has_query_key_norm": True}),
}


@pytest.fixture(params=SECTIONS)
def model(request: pytest.FixtureRequest) -> DecoderOnly | GPT2:
    found: DecoderOnly | GPT2 = with_values(SECTIONS[request.param].build(VOCABULARY))
    return found


def test_a_document_does_not_depend_on_its_neighbors(model: DecoderOnly | GPT2) -> None:
    rows = tokens(2, 40)
    documents = torch.zeros_like(rows)
    documents[:, 17:] = 1
    documents[1, 30:] = 2
    found = model.scores(rows, documents)
    for row, start, stop in ((0, 0, 17), (0, 17, 40), (1, 0, 17), (1, 17, 30), (1, 30, 40)):
        alone = model.scores(rows[row : row + 1, start:stop])
        assert (found[row : row + 1, start:stop] - alone).abs().max() < 2e-5


def test_both_forms_of_documents_give_the_same(model: DecoderOnly | GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tokens(3, 40)
    documents = (torch.rand(3, 40, generator=torch.Generator().manual_seed(1)) < 0.1).long().cumsum(1)
    found = []
    for limit, has_spans in ((0, True), (10**9, False)):
        monkeypatch.setattr(causal_attention, "SHORT_DOCUMENT", limit)
        assert (causal_attention.separated(documents).spans is not None) == has_spans
        found.append(model.scores(rows, documents))
    assert (found[0] - found[1]).abs().max() < 2e-5


def test_later_tokens_change_no_earlier_score(model: DecoderOnly | GPT2) -> None:
    rows = tokens(1, 40)
    changed = rows.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % VOCABULARY
    assert torch.equal(model.scores(rows)[0, :20], model.scores(changed)[0, :20])


@pytest.mark.parametrize("form", ["modules", "fused", "packed"])
def test_steps_with_a_cache_equal_whole_passes(
    model: DecoderOnly | GPT2, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several lengths, padded on the left, in one batch."""
    rows, lengths = tokens(3, 30), [12, 7, 1]
    whole = model.scores(rows)
    if form != "modules":
        fuse(model)
    monkeypatch.setattr(generating, "ROOM", 5)  # the cache grows once
    if form == "packed":
        monkeypatch.setattr(decoder_only, "PACKED_ROWS", 3)
        monkeypatch.setattr(decoding, "PACKED_SIZE", 0)
    padded = torch.zeros(3, 12, dtype=torch.int64)
    for row, length in enumerate(lengths):
        padded[row, 12 - length :] = rows[row, :length]
    with torch.inference_mode():
        scores, cache = model.begin(padded, torch.tensor(lengths), capacity=21)
        for step in range(8):
            for row, length in enumerate(lengths):
                assert (scores[row] - whole[row, length + step - 1]).abs().max() < 2e-5
            scores = model.step(torch.stack([rows[row, each + step] for row, each in enumerate(lengths)]), cache)
        cache.select(torch.tensor([2, 0]))
        scores = model.step(torch.stack([rows[2, lengths[2] + 8], rows[0, lengths[0] + 8]]), cache)
    assert (scores[0] - whole[2, lengths[2] + 8]).abs().max() < 2e-5
    assert (scores[1] - whole[0, lengths[0] + 8]).abs().max() < 2e-5


def test_several_rows_have_packed_matrices() -> None:
    """One of 512 x 512 is copied for oneDNN, a smaller one is not, nor one of another type."""
    large, small = torch.randn(512, 512), torch.randn(64, 64)
    if machine() == "x86_64":
        assert decoding.packed(large).is_mkldnn
    assert not decoding.packed(large.double()).is_mkldnn
    assert decoding.packed(small) is small
    x = torch.randn(16, 512)
    assert torch.allclose(decoding.product(x, decoding.packed(large)), x @ large, atol=1e-3)


def test_a_cache_grows_in_steps(model: DecoderOnly | GPT2) -> None:
    """Between them it is written in place; it ends at its capacity."""
    with torch.inference_mode():
        _, cache = model.begin(tokens(2, 5), torch.tensor([5, 5]), capacity=30)
        places = list[int]()
        for _ in range(25):
            model.step(tokens(2), cache)
            places.append(cache.memories[0].keys.data_ptr())
    assert len(set(places[:16])) == len(set(places[16:])) == 1
    assert places[15] != places[16]
    assert cache.memories[0].values.shape[2] == cache.num_positions == 30


def test_rows_that_pad_the_vocabulary_change_nothing() -> None:
    """They get no probability and no gradient."""
    plain: DecoderOnly = with_values(LLAMA.build(VOCABULARY))
    padded: DecoderOnly = with_values(LLAMA.model_copy(update={"padded_vocabulary": 64}).build(VOCABULARY))
    assert padded.embedding.weight.shape[0] == 128
    saved = padded.state_dict() | {
        name: tensor for name, tensor in plain.state_dict().items() if "embedding" not in name and "head" not in name
    }
    for name in ("embedding.weight", "head.weight"):
        saved[name] = torch.cat([plain.state_dict()[name], saved[name][VOCABULARY:] + 10])
    padded.load_state_dict(saved)
    rows = tokens(2, 20)
    assert padded.scores(rows).shape == (2, 20, VOCABULARY)
    assert torch.allclose(padded.scores(rows), plain.scores(rows), atol=1e-5)
    totals = [each(rows[:, :-1], rows[:, 1:])[0] for each in (plain, padded)]
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=1e-6)
    totals[1].backward()
    assert padded.head is not None
    gradient = padded.head.weight.grad
    assert gradient is not None
    assert not gradient[VOCABULARY:].any()
    assert gradient[:VOCABULARY].any()


@pytest.mark.parametrize("chunk", [7, 1000])
def test_total_loss_equals_torch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("segue.layers.loss.ROWS", chunk)
    draw = torch.Generator().manual_seed(0)
    x, table = (torch.randn(size, 8, generator=draw).requires_grad_() for size in (50, 30))
    targets = torch.randint(0, 26, (50,), generator=draw)
    total, each = total_cross_entropy(x, table, targets, 26)
    (total * 0.25).backward()  # type: ignore[no-untyped-call]
    found = [tensor.grad.clone() for tensor in (x, table) if tensor.grad is not None]
    x.grad = table.grad = None
    wanted = F.cross_entropy(x @ table[:26].T, targets, reduction="none")
    (wanted.sum() * 0.25).backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(each, wanted.detach(), atol=1e-5)
    assert total.item() == pytest.approx(wanted.sum().item(), rel=1e-6)
    assert x.grad is not None
    assert table.grad is not None
    assert torch.allclose(found[0], x.grad, atol=1e-5)
    assert torch.allclose(found[1], table.grad, atol=1e-5)


def test_norms_and_their_gradients_equal_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = RMSNorm(12, 1e-5), nn.RMSNorm(12, 1e-5)
    with torch.no_grad():
        for each in (ours, theirs):
            each.weight.copy_(torch.linspace(0.5, 2, 12))
    found = []
    for norm in (ours, theirs):
        x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = norm(x)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        found.append((y, x.grad, norm.weight.grad))
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    with torch.no_grad():
        x = torch.randn(3, 12, generator=draw)
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_fused_layers_give_the_same(model: DecoderOnly | GPT2) -> None:
    rows = tokens(2, 30)
    before = model.scores(rows)
    fuse(model)
    with torch.no_grad():
        assert torch.allclose(model.scores(rows), before, atol=1e-5)
    assert set(model.state_dict()) == set(model.section.build(VOCABULARY).state_dict())


def test_initial_losses_are_those_of_a_guess() -> None:
    torch.manual_seed(0)
    model = LLAMA.build(VOCABULARY)
    model.initialize()
    total, _ = model(tokens(4, 50), tokens(4, 50).roll(1, 0))
    assert total.item() / 200 == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), rel=0.01)


def test_residual_projections_begin_small() -> None:
    model = LLAMA.build(VOCABULARY)
    model.initialize()
    stds = {name: module.weight.std().item() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert stds["layers.1.attention.query"] == pytest.approx(0.02, rel=0.05)
    assert stds["layers.1.feed_forward.down"] == pytest.approx(0.02 / 6**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "width 64 is not a multiple of heads 5"),
        ({"key_value_heads": 3}, "heads 4 is not a multiple of key_value_heads 3"),
        ({"head_width": 7}, "heads of width 7"),
    ],
)
def test_sizes_must_divide(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderOnlySection.model_validate({**LLAMA.model_dump(), **changes})


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor):
                self.size = max(self.size, each.numel())
        return found


@pytest.mark.parametrize("num_targets", [512, 4096])
def test_memory_of_the_loss_grows_with_its_chunk(num_targets: int) -> None:
    """Scores of all targets, (P, V), never exist at once, in neither pass."""
    width, vocabulary = 8, 3000
    x, table = torch.randn(num_targets, width).requires_grad_(), torch.randn(vocabulary, width).requires_grad_()
    with Largest() as largest:
        total, _ = total_cross_entropy(x, table, torch.zeros(num_targets, dtype=torch.int64), vocabulary)
        total.backward()  # type: ignore[no-untyped-call]
    assert largest.size == ROWS * vocabulary
    assert largest.size < num_targets * vocabulary
