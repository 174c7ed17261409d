"""A vocabulary that ranks share says and learns what a whole one does."""

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from ranks import Start
from torch import Tensor

from segue.engine.distributed import parts
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.planning.simulation import _split
from segue.layers.loss import cross_entropy
from segue.layers.vocabulary import all_scores
from segue.models.transformer import Transformer, TransformerSection

SIZES: dict[str, Any] = {"width": 8, "feed_forward": 12, "heads": 4, "encoder_layers": 1, "decoder_layers": 1}
CASES = [(vocabulary, tied) for vocabulary in (12, 13, 5) for tied in ("all", "target", "none")]
"""13 does not divide by 2 or 4; of 5, the last of 4 ranks would have nothing, and all have all."""
LAYOUTS = {2: [(1, 1, 2)], 4: [(1, 1, 4), (1, 2, 2)]}
SMOOTHING = 0.1


def model_of(vocabulary: int, tied: str) -> Transformer:
    section = TransformerSection.model_validate({"kind": "transformer", "dropout": 0.0, "tied": tied, **SIZES})
    torch.manual_seed(4)
    return Transformer(section, vocabulary, vocabulary)


def learned(spread: Transformer, vocabulary: int) -> dict[str, Tensor]:
    """Losses, likelihoods, gradients of parameters, and scores of a search step."""
    draw = torch.Generator().manual_seed(0)
    source, target = (torch.randint(vocabulary, (3, 4), generator=draw) for _ in range(2))
    answers = torch.randint(vocabulary, (12,), generator=draw)
    weights = torch.rand(12, generator=draw)
    scores = spread(source, torch.tensor([4, 2, 3]), target, torch.arange(12))
    assert scores.shape == (12, vocabulary)
    loss, likelihood = cross_entropy(scores, answers, SMOOTHING)
    assert not likelihood.requires_grad
    (loss * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parts.whole(each.grad) for name, each in spread.named_parameters() if each.grad is not None}
    assert len(gradients) == len(list(spread.parameters()))
    return {"loss": loss.detach(), "likelihood": likelihood, **gradients}


def shared(rank: int, folder: Path, layouts: str) -> list[tuple[dict[str, Tensor], dict[str, int]]]:
    found = []
    for layout in (Layout(*each) for each in json.loads(layouts)):
        for vocabulary, tied in CASES:
            model = model_of(vocabulary, tied)
            Parallel(World(rank, layout.size), layout, torch.device("cpu")).spread(
                model, torch.float32, is_offloaded=False
            )
            result = learned(model, vocabulary)
            if layout.shard == 1:
                model.eval()
                with torch.no_grad():
                    cache = model.begin(torch.arange(3).view(1, 3), torch.tensor([3]))
                    step = model.step(torch.tensor([1, 2]), cache)
                    result["step"] = all_scores(step)
            rows = {name: len(parts.local(each)) for name, each in model.named_parameters()}
            found.append((result, rows))
    return found


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.slow if size > 2 else ()) for size in LAYOUTS])
def test_ranks_share_a_vocabulary(start: Start, size: int, tmp_path: Path) -> None:
    found = forked.run(start, __file__, "shared", size, tmp_path, json.dumps(LAYOUTS[size]))
    cases = [(Layout(*layout), *case) for layout in LAYOUTS[size] for case in CASES]
    for number, (layout, vocabulary, tied) in enumerate(cases):
        model = model_of(vocabulary, tied)
        wanted = learned(model, vocabulary)
        if layout.shard == 1:
            with torch.no_grad():
                cache = model.eval().begin(torch.arange(3).view(1, 3), torch.tensor([3]))
                wanted["step"] = model.step(torch.tensor([1, 2]), cache)
        tables = [name for name in ("target_embedding", "source_embedding", "head") if getattr(model, name) is not None]
        for table in tables:
            held = sum(of_rank[number][1][f"{table}.weight"] for of_rank in found)
            assert held == vocabulary * (4 if (vocabulary, layout.tensor_parallel) == (5, 4) else 1)
        for of_rank in found:
            result = of_rank[number][0]
            assert result.keys() == wanted.keys()
            for name, value in wanted.items():
                # Two shards learn from the same data here: their gradients add up.
                times = layout.shard if name in dict(model.named_parameters()) else 1
                torch.testing.assert_close(result[name], value * times, atol=2e-6, rtol=1e-4, msg=f"{tied} {name}")
        rehearsed = model_of(vocabulary, tied)
        _split(rehearsed, layout.tensor_parallel)
        for table in tables:
            rows = len(rehearsed.get_parameter(f"{table}.weight"))
            if layout.shard == 1:
                assert rows == max(of_rank[number][1][f"{table}.weight"] for of_rank in found)


def compiled(rank: int, folder: Path) -> dict[str, Tensor]:
    model = model_of(13, "all")
    Parallel(World(rank, 2), Layout(1, 1, 2), torch.device("cpu")).spread(model, torch.float32, is_offloaded=False)
    model.compile(dynamic=False, backend="aot_eager")
    return learned(model, 13)


@pytest.mark.slow
def test_a_shared_vocabulary_compiles(start: Start, tmp_path: Path) -> None:
    wanted = learned(model_of(13, "all"), 13)
    for of_rank in forked.run(start, __file__, "compiled", 2, tmp_path):
        for name, value in wanted.items():
            torch.testing.assert_close(of_rank[name], value, atol=2e-6, rtol=1e-4, msg=name)


def losses(rank: int, folder: Path) -> list[Tensor]:
    """Scores far from 0, in two formats."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (2,))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        scores, targets = drawn(dtype)
        part = scores.chunk(2, dim=1)[rank].detach().clone().requires_grad_()
        split = DTensor.from_local(part, mesh, [Shard(1)], run_check=False, shape=scores.shape, stride=scores.stride())
        loss, likelihood = cross_entropy(split * 1.0, targets, SMOOTHING)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        assert part.grad is not None
        found += [loss.detach(), likelihood, part.grad]
    return found


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(600, 31, generator=draw) * 30 + 200  # more rows than are worked on at once
    return scores.to(dtype), torch.randint(31, (600,), generator=draw)


def test_split_losses_are_those_of_torch(start: Start, tmp_path: Path) -> None:
    for rank, (first, second) in enumerate(
        (each[:3], each[3:]) for each in forked.run(start, __file__, "losses", 2, tmp_path)
    ):
        for dtype, (loss, likelihood, gradient) in ((torch.float32, first), (torch.bfloat16, second)):
            scores, targets = drawn(dtype)
            whole = scores.clone().float().requires_grad_()
            wanted = torch.nn.functional.cross_entropy(whole, targets, reduction="none", label_smoothing=SMOOTHING)
            wanted.sum().backward()  # type: ignore[no-untyped-call]
            assert whole.grad is not None
            plain = torch.nn.functional.cross_entropy(scores.float(), targets, reduction="none")
            tolerance = 1e-4 if dtype == torch.float32 else 5e-3
            torch.testing.assert_close(loss, wanted.detach(), atol=1e-3, rtol=1e-5)
            torch.testing.assert_close(likelihood, plain, atol=1e-3, rtol=1e-5)
            part = whole.grad.chunk(2, dim=1)[rank]
            torch.testing.assert_close(gradient.float(), part, atol=tolerance, rtol=tolerance)
