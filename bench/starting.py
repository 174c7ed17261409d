"""Benchmark: peak resident memory of each rank at the start of a training, without the memory of imports.

Each rank builds an 8-layer Transformer, shards it and draws its weights, as the trainer does; then it creates the state
of AdamW. Ranks are forked processes that communicate over gloo. Linux only.

    python bench/starting.py [--width 768]
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import blueprint
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.optimizer import AdamWSection, Updater
from segue.models.transformer import Transformer, TransformerSection

LAYOUTS = (Layout(1, 1, 1), Layout(1, 4, 1), Layout(1, 1, 4), Layout(1, 2, 2))
VOCABULARY = 8000
MB = 1e6


class Peaks(NamedTuple):
    """Memory of a rank, in bytes above that before the start."""

    model: float
    """Peak until the weights are initialized."""
    held: float
    """Memory with initialized weights."""
    optimizer: float
    """Peak including the creation of the optimizer's state."""
    seconds: float
    """Time until the weights are initialized."""


def status(key: str) -> float:
    """A value from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def started(section: TransformerSection, parallel: Parallel) -> Peaks:
    forget_peak()
    before, since = status("VmRSS"), perf_counter()
    torch.manual_seed(1)
    model = blueprint(lambda: Transformer(section, VOCABULARY, VOCABULARY))
    parallel.spread(model, torch.float32, is_offloaded=False)
    seconds = perf_counter() - since
    peak, held = status("VmHWM") - before, status("VmRSS") - before
    updater = Updater(AdamWSection(kind="adamw", learning_rate=1e-3), model)
    for state in updater.tensors().values():
        parallel_part = state.to_local() if hasattr(state, "to_local") else state
        parallel_part.fill_(1.0)  # zeros take no memory until they are written
    return Peaks(peak, held, status("VmHWM") - before, seconds)


def be_rank(rank: int, section: TransformerSection, layout: Layout, folder: str, answers: Any) -> None:
    torch.set_num_threads(1)
    if layout.size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=layout.size)
    parallel = Parallel(World(rank, layout.size), layout, torch.device("cpu"))
    small = section.model_copy(update={"width": 64, "feed_forward": 64, "heads": 4})
    started(small, parallel)  # warm-up: torch imports many modules lazily
    peaks = started(section, parallel)
    if layout.size > 1:
        dist.barrier()
        dist.destroy_process_group()
    answers.put((rank, tuple(peaks)))


def of_ranks(be_rank: Callable[..., None], section: Any, layout: Layout) -> list[Any]:
    """What each rank, `be_rank(rank, section, layout, folder, answers)`, puts into `answers` beside its number."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        rest = (section, layout, folder, answers)
        ranks = [context.Process(target=be_rank, args=(rank, *rest)) for rank in range(layout.size)]
        for each in ranks:
            each.start()
        found = dict(answers.get(timeout=600) for _ in ranks)
        for each in ranks:
            each.join()
    return [found[rank] for rank in range(layout.size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    width = parser.parse_args().width
    section = TransformerSection(
        kind="transformer", width=width, feed_forward=4 * width, heads=8, encoder_layers=4, decoder_layers=4
    )
    count = sum(each.numel() for each in blueprint(lambda: Transformer(section, VOCABULARY, VOCABULARY)).parameters())
    print(f"{count:,} parameters, {4 * count / MB:,.0f} MB of weights; peaks in MB above what imports take")
    print(f"{'layout':56}{'starting':>10}{'held':>8}{'with AdamW':>12}{'seconds':>9}")
    alone: Peaks | None = None
    for layout in LAYOUTS:
        ranks = [Peaks(*each) for each in of_ranks(be_rank, section, layout)]
        worst = Peaks(*(max(each) for each in zip(*ranks, strict=True)))
        alone = alone or worst
        shares = f"{worst.model / alone.model:10.1%} of one rank's, {worst.optimizer / alone.optimizer:.1%} with AdamW"
        print(
            f"{layout!s:56}{worst.model / MB:10,.0f}{worst.held / MB:8,.0f}{worst.optimizer / MB:12,.0f}"
            f"{worst.seconds:9.1f}{shares if layout.size > 1 else ''}",
            flush=True,
        )


if __name__ == "__main__":
    main()
