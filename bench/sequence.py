"""Benchmark: memory and time of a step of a language model whose layers two ranks compute together, over long windows.

Each rank takes steps of one micro-batch (forward and backward pass); reported are what the forward pass keeps, the peak
of resident memory above that before the step, and the time. Ranks are forked processes that communicate over gloo.
Linux only. The values of two versions compare if they are alternated in the same hour.

    MALLOC_MMAP_THRESHOLD_=65536 OMP_NUM_THREADS=1 python bench/sequence.py [--kind decoder_only] [--recompute]

The threshold keeps freed tensors from staying with the process: then its memory is that of its tensors.
"""

import argparse
import gc
import multiprocessing
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from segue.engine import precision
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.parallel import Parallel, World
from segue.models.decoder_only import DecoderOnlySection
from segue.models.gpt2 import GPT2Section

VOCABULARY, WIDTH, LAYERS, HEADS = 512, 256, 6, 8
MB = 1e6


class Taken(NamedTuple):
    """What a step took, of one rank."""

    kept: float
    """Bytes after the forward pass, above those before."""
    peak: float
    """Bytes at the peak of the step, above those before."""
    seconds: float


def status(key: str) -> float:
    """A value from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def step(model: nn.Module, tokens: int) -> Taken:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, since = status("VmRSS"), perf_counter()
    batch = torch.arange(tokens).remainder(VOCABULARY).view(1, tokens)
    total, _ = model(batch, batch)
    kept = status("VmRSS") - before
    total.backward()
    return Taken(kept, status("VmHWM") - before, perf_counter() - since)


def built(kind: str, tokens: int) -> nn.Module:
    sizes: dict[str, Any] = {"kind": kind, "context": tokens, "width": WIDTH, "layers": LAYERS, "heads": HEADS}
    sizes |= {"dropout": 0.1, "attention_dropout": 0.0}
    if kind == "gpt2":
        return GPT2Section.model_validate(sizes).build(VOCABULARY)
    return DecoderOnlySection.model_validate({**sizes, "feed_forward": 3 * WIDTH}).build(VOCABULARY)


def be_rank(rank: int, size: int, words: argparse.Namespace, meeting: str, answers: Any) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    torch.manual_seed(1)
    model = built(words.kind, words.tokens)
    if words.recompute:
        precision.recompute(model)
    Parallel(World(rank, size), Layout(1, 1, size), torch.device("cpu")).spread(
        model, torch.float32, is_offloaded=False
    )
    for _ in range(2):  # gradients exist from here on
        step(model, 64)
    taken = [step(model, words.tokens) for _ in range(words.repeats)]
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()
    answers.put(Taken(*(sorted(each)[len(taken) // 2] for each in zip(*taken, strict=True))))


def measure(size: int, words: argparse.Namespace) -> Taken:
    """The median of each value, of the rank with the most."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        rest = (size, words, f"{folder}/meeting", answers)
        ranks = [context.Process(target=be_rank, args=(rank, *rest)) for rank in range(size)]
        for each in ranks:
            each.start()
        found = [answers.get(timeout=900) for _ in ranks]
        for each in ranks:
            each.join()
    return Taken(*(max(each) for each in zip(*found, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("decoder_only", "gpt2"), default="decoder_only")
    parser.add_argument("--tokens", type=int, default=4096, help="of the window")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    words = parser.parse_args()
    print(f"{words.kind}, {LAYERS} layers of width {WIDTH}, a window of {words.tokens} tokens, float32")
    for size in words.ranks:
        taken = measure(size, words)
        print(
            f"{size} tensor-parallel: {taken.kept / MB:6.0f} MB kept, {taken.peak / MB:6.0f} MB at the peak, "
            f"{taken.seconds:5.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
