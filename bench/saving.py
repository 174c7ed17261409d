"""Benchmark: peak resident memory of each rank while it saves a model and a checkpoint, above weights and AdamW state.

Ranks are forked processes that communicate over gloo. The model is written whole, as `model/` has it; the checkpoint
twice: in the background of a training, and at its end. Linux only. Needs 4 GB.

    python bench/saving.py [--layers 10]
"""

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from starting import MB, forget_peak, of_ranks, status

from segue.engine import memory
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import blueprint
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.optimizer import AdamWSection, Updater
from segue.engine.state.checkpoint import Checkpoints, write_whole
from segue.models.decoder_only import DecoderOnlySection

LAYOUTS = (Layout(1, 1, 1), Layout(1, 2, 1), Layout(1, 1, 2))
VOCABULARY = 32_768


def peak_of(act: Callable[[], None]) -> float:
    """Bytes above what is held before."""
    gc.collect()
    forget_peak()
    before = status("VmRSS")
    act()
    return status("VmHWM") - before


def saved(section: DecoderOnlySection, parallel: Parallel, folder: Path) -> list[float]:
    """Bytes held, then the peaks above them: of the model, of a checkpoint in the background and of the last one."""
    before = status("VmRSS")
    torch.manual_seed(1)
    model = blueprint(lambda: section.build(VOCABULARY))
    parallel.spread(model, torch.float32, is_offloaded=False)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, tensor in Updater(AdamWSection(kind="adamw", learning_rate=1e-3), model).tensors().items():
        part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        part.fill_(1.0)  # zeros take no memory until they are written
        tensors[f"optimizer.{name}"] = tensor
    found = [status("VmRSS") - before]
    world = parallel.world
    found.append(peak_of(lambda: write_whole(folder / "model.safetensors", model.state_dict(), world)))
    with Checkpoints(folder / "checkpoints", 1, world) as checkpoints:

        def in_background() -> None:
            checkpoints.save(1, tensors, {})
            checkpoints.wait()

        found.append(peak_of(in_background))
        found.append(peak_of(lambda: checkpoints.save(2, tensors, {}, in_background=False)))
    return found


def be_rank(rank: int, section: DecoderOnlySection, layout: Layout, folder: str, answers: Any) -> None:
    torch.set_num_threads(1)
    memory.keep_freed_memory()
    if layout.size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=layout.size)
    parallel = Parallel(World(rank, layout.size), layout, torch.device("cpu"))
    small = section.model_copy(update={"width": 64, "feed_forward": 64, "heads": 4})
    saved(small, parallel, Path(folder) / "small")  # warm-up: torch imports many modules lazily
    found = saved(section, parallel, Path(folder) / "large")
    if layout.size > 1:
        dist.barrier()
        dist.destroy_process_group()
    answers.put((rank, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    section = DecoderOnlySection(
        kind="decoder_only",
        context=128,
        width=1024,
        feed_forward=4096,
        layers=parser.parse_args().layers,
        heads=16,
    )
    count = sum(each.numel() for each in blueprint(lambda: section.build(VOCABULARY)).parameters())
    print(f"{count:,} parameters, {4 * count / MB:,.0f} MB of weights; MB of each rank, peaks above what is held")
    print(f"{'layout':56}{'rank':>6}{'held':>8}{'model':>8}{'checkpoint':>12}{'the last':>10}")
    for layout in LAYOUTS:
        for rank, found in enumerate(of_ranks(be_rank, section, layout)):
            held, model, checkpoint, last = (each / MB for each in found)
            print(f"{layout!s:56}{rank:6}{held:8,.0f}{model:8,.0f}{checkpoint:12,.0f}{last:10,.0f}", flush=True)


if __name__ == "__main__":
    main()
