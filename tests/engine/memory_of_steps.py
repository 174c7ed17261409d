"""A process that says how much memory steps take: JSON lists of recipe and overrides in, bytes out.

Each is taken plainly, then with recomputation. Several such processes compute the layers together (`RANK`).
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from segue import recipe, tasks
from segue.engine import precision
from segue.engine.distributed.layout import Layout
from segue.engine.distributed.materialize import blueprint
from segue.engine.distributed.parallel import Parallel, World
from segue.engine.optimizer import Updater
from segue.engine.step import objective

RANK, RANKS = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))


def memory(name: str) -> int:
    """Bytes, by a name of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def step(name: str, *overrides: str) -> None:
    """One step, with the batch that is as large as the budget."""
    draft = recipe.read(recipe.find(name), overrides)
    module = tasks.module_of(draft)
    section: Any = recipe.validate(draft, module.Recipe)
    task, make, *_ = module.sketch(section)
    model = blueprint(task.build_model)
    if section.engine.recompute:
        precision.recompute(model)
    parallel = Parallel(World(RANK, RANKS), Layout(1, 1, RANKS), torch.device("cpu"))
    parallel.spread(model, torch.float32, is_offloaded=False)
    (phase,) = task.phases
    updater = Updater(phase.optimizer, model)
    batch = make()
    with precision.autocast(section.engine.precision, torch.device("cpu")):
        loss = objective(task.loss(model, batch, ""), task.counts(batch))
    loss.backward()  # type: ignore[no-untyped-call]
    del loss
    updater.step(1.0)


def main() -> None:
    """Takes the steps."""
    torch.set_num_threads(1)
    if RANKS > 1:
        dist.init_process_group("gloo")
    found = []
    for name, *overrides in json.loads(sys.argv[1]):
        small = ["batch.tokens=100" if "batch.tokens=2048" in overrides else "batch.seconds=1"]
        small += ["model.context=100" for each in overrides if each.startswith("model.context=")]
        step(name, *overrides, *small)  # torch loads
        for more in ((), ("engine.recompute=true",)):
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = memory("VmRSS")
            step(name, *overrides, *more)
            found.append(memory("VmHWM") - before)
    print(json.dumps(found))
    if RANKS > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
