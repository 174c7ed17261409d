"""Benchmark: overhead of Segue's training loop; speed on a GPU compared with NeMo's Jasper and torch.nn.Transformer.

Each side is a process; blocks of steps alternate (turns.py), all with the same synthetic batches:

- segue: the Trainer (engine/trainer.py) as `segue train` runs it, with a log line every 10 steps, but without
  evaluations and checkpoints.
- plain: the same model in a minimal hand-written loop: zero_grad, forward, loss / targets, backward, clip_grad_norm_,
  torch's fused AdamW; the loss is read every 10 steps.
- again: another process of the plain loop. Its difference from `plain` is noise.
- torch: torch.nn.Transformer in the plain loop, for Transformers.
- nemo: NeMo's EncDecCTCModel with JasperBlocks in the plain loop, for Jaspers.

All sides get the same weights, and must have the same loss on the first batch, without dropout. The batches have no
padding, so that all operations belong to the model; their number, for all sides, is that of `segue estimate`.

On a CPU, half an hour; then with a loader process on both sides, and with two micro-batches per step:

    python bench/engine.py --sides segue plain again --rounds 8 --pairs 4
    python bench/engine.py --cases multi30k digits --rounds 8 --pairs 4 --workers 1
    python bench/engine.py --cases multi30k digits --rounds 8 --pairs 4 --micro-batches 2

On a GPU, with memory for all sides of one precision at once, and with CPU memory for those of all precisions; NeMo's
environment is that of training_speech.py:

    python bench/engine.py --device cuda --cases transformer_350m jasper10x5 \\
        --precisions float32 tf32 bfloat16 float16 --pairs 4 --workers 1 --nemo nemo/bin/python \\
        --sides segue plain torch nemo

`--scale tiny` is a trial for any machine. Arguments key=value, before the options, change the recipes.
"""

import argparse
import json
import math
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import peer_models
import torch
import turns
from torch import Tensor, nn
from torch.nn import functional as F

NUM_BATCHES = 8
LOG_EVERY = 10
WARM_UP_STEPS = 10
CLIP_NORM = 1.0
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 1e-2
ENDLESS = 1_000_000  # steps
PREFETCH = 4  # batches read ahead, as Segue does
FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = ("float32", "tf32", *FORMATS)
PEERS = {"transformer": "torch", "jasper": "nemo"}
SIDES = ("segue", "plain", "again", *PEERS.values())
TINY = 16
SHRINK = ("channels", "width", "feed_forward", "heads", "encoder_layers", "decoder_layers", "seconds", "tokens")
"""Keys of recipes whose values `--scale tiny` divides by TINY."""


@dataclass(frozen=True)
class Case:
    """A model and its batches."""

    recipe: str
    """Name of a shipped recipe."""
    overrides: tuple[str, ...]
    thinner: int = 1
    """Divisor of the channels."""


CASES = {
    # Tokens per sentence and seconds per utterance are approximately those of the data.
    "multi30k": Case("multi30k_transformer", ("data.longest_tokens=15",)),
    "width512": Case(
        "wmt14_transformer_base",
        (
            "data.longest_tokens=31",
            "batch.tokens=128",
            "tokenizer.size=8000",
            "model.encoder_layers=3",
            "model.decoder_layers=3",
        ),
    ),
    "digits": Case("digits_jasper", ("data.longest_seconds=1.0",)),
    "jasper5x3_thin": Case("librispeech_jasper5x3", ("data.longest_seconds=4.0", "batch.seconds=12.0"), thinner=4),
    "transformer_350m": Case(
        "wmt14_transformer_big",
        (
            "data.longest_tokens=31",
            "model.encoder_layers=12",
            "model.decoder_layers=10",
            "model.dropout=0.1",  # torch.nn.Transformer has a single dropout setting
        ),
    ),
    "jasper10x5": Case("librispeech_jasper10x5", ()),
}
ON_CPU = ("multi30k", "width512", "digits", "jasper5x3_thin")


@dataclass(frozen=True)
class Plan:
    """The work for all sides."""

    recipe: dict[str, Any]
    """Segue's complete recipe."""
    labels: list[str]
    """Tokens of a Jasper, without the blank."""
    padding: int
    """Padding token of a Transformer."""
    amount: float
    """Amount of data in a micro-batch, in the unit of the task."""
    device: str
    precision: str
    is_compiled: bool
    folder: str
    """Folder for files of this run; `work.pt` has the weights, the parameters in their order, and the batches."""


class Side(Protocol):
    """A model, and its loss on the plan's batches."""

    model: nn.Module
    batches: list[Any]

    def num_targets(self, batch: Any) -> int: ...

    def loss(self, batch: Any) -> Tensor:
        """The loss, summed over the targets."""
        ...


class Repeated:
    """Repeats the batches endlessly, as data and as Segue's batch plan."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self.num_micro_batches = len(batches)

    def __getitem__(self, number: int) -> Any:
        return self._batches[number % len(self._batches)]

    def micro_batch(self, number: int) -> int:
        return number


# --- The sides ---


class SegueSide:
    """Segue's task and model."""

    def __init__(self, plan: Plan, work: dict[str, Any]) -> None:
        section, sketch = sketched(plan.recipe)
        self.section, self.task = section, sketch.task
        self.batches = [sketch.batch()._replace(**tensors) for tensors in work["batches"]]
        self.model = self.task.build_model()
        self.model.load_state_dict(work["weights"])

    def num_targets(self, batch: Any) -> int:
        return self.task.counts(batch)["targets"]  # type: ignore[no-any-return]

    def loss(self, batch: Any) -> Tensor:
        return self.task.loss(self.model, batch, "")["loss"].total  # type: ignore[no-any-return]

    def train(self, plan: Plan, pace: turns.Pace) -> None:
        """Trains with the Trainer, which builds the same model again."""
        from segue.engine.trainer import Trainer

        self.model = nn.Identity()

        class PacedTrainer(Trainer):
            def _take_step(self, batches: list[Any], is_asked_to_stop: bool) -> Any:
                found = super()._take_step(batches, is_asked_to_stop)
                pace.after_step(sum(batch.amount for batch in batches))
                return found

        section = self.section
        source: Any = InMemory(self.task.source.unit, self.batches)
        run = Path(plan.folder) / f"run_{plan.precision}"
        PacedTrainer(self.task, source, run, section.engine, section.batch.micro_batches, section.seed).train()


class InMemory:
    """A data source of batches in memory."""

    def __init__(self, unit: str, batches: list[Any]) -> None:
        self.unit, self._data = unit, Repeated(batches)

    def plan(self, split: str) -> Repeated:
        assert split == "train"
        return self._data

    def load(self, split: str, number: int) -> Any:
        assert split == "train"
        return self._data[number]

    def fingerprint(self) -> str:
        return ""


class TorchSide:
    """torch.nn.Transformer, and torch's cross-entropy."""

    def __init__(self, plan: Plan, work: dict[str, Any]) -> None:
        self.model = peer_models.TorchTransformer(plan.recipe["model"], work["weights"])
        self.batches = work["batches"]
        self._smoothing, self._padding = plan.recipe["label_smoothing"], plan.padding

    def num_targets(self, batch: dict[str, Tensor]) -> int:
        return int(batch["target_lengths"].sum())

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        source, target = batch["source"], batch["target"]
        places = torch.arange(source.shape[1], device=source.device)
        is_padding = places >= batch["source_lengths"].unsqueeze(1)
        logits = self.model(source, is_padding, target[:, :-1]).flatten(0, 1)
        # There is no padding here, but a loop for real data has to handle it.
        options = {"ignore_index": self._padding, "label_smoothing": self._smoothing}
        return F.cross_entropy(logits, target[:, 1:].flatten(), reduction="sum", **options)


class NemoSide:
    """NeMo's EncDecCTCModel."""

    def __init__(self, plan: Plan, work: dict[str, Any]) -> None:
        self.model = peer_models.nemo(plan.recipe, plan.labels, work["parameters"])
        self.batches = work["batches"]

    def num_targets(self, batch: dict[str, Tensor]) -> int:
        return int(batch["target_lengths"].sum())

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_probs, frames, _ = self.model(input_signal=batch["waveforms"], input_signal_length=batch["lengths"])
        lengths = batch["target_lengths"]
        targets = batch["targets"].view(len(lengths), -1)  # all are equally long
        mean = self.model.loss(log_probs=log_probs, targets=targets, input_lengths=frames, target_lengths=lengths)
        return mean * len(lengths)  # type: ignore[no-any-return]


def run_plain_loop(side: Side, plan: Plan, pace: turns.Pace) -> None:
    """A minimal hand-written training loop."""
    engine, device, model = plan.recipe["engine"], torch.device(plan.device), side.model
    if plan.is_compiled:
        model.compile()
    parameters = [parameter for parameter in model.to(device).train().parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "float16")
    micro_batches = plan.recipe["batch"]["micro_batches"]
    batches = iter(feed(side.batches, engine["workers"]))
    for step in range(1, ENDLESS):
        optimizer.zero_grad()
        parts = list(islice(batches, micro_batches))
        num_targets = sum(map(side.num_targets, parts))
        for part in parts:
            with autocast(plan):
                loss = side.loss(moved(part, device)) / num_targets
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        if step % LOG_EVERY == 0:
            print(f"step {step} loss {loss.item()}", file=sys.stderr)
        pace.after_step(plan.amount * micro_batches)


def feed(batches: list[Any], workers: int) -> Iterator[Any]:
    """Repeats the batches endlessly, from loader processes if there are `workers`."""
    repeated = Repeated(batches)
    if not workers:
        return map(repeated.__getitem__, range(ENDLESS))
    return iter(
        torch.utils.data.DataLoader(
            repeated,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(ENDLESS),
            num_workers=workers,
            prefetch_factor=PREFETCH,
            pin_memory=torch.cuda.is_available(),
        )
    )


def autocast(plan: Plan) -> Any:
    if plan.precision not in FORMATS:
        return nullcontext()
    return torch.autocast(torch.device(plan.device).type, dtype=FORMATS[plan.precision])


@torch.no_grad()
def first_loss(side: Side, device: torch.device) -> float:
    """The loss of the first batch per target; BatchNorm uses the statistics of the batch, without dropout."""
    model, batch = side.model.to(device), side.batches[0]
    for module in model.modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
    found = side.loss(moved(batch, device)).item() / side.num_targets(batch)
    model.to("cpu")
    return found


def moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: each.to(device, non_blocking=True) for name, each in batch.items()}
    from segue.engine import loading

    return loading.moved(batch, device)


def serve(name: str, plan_path: Path) -> None:
    answer = turns.channel()
    plan = Plan(**json.loads(plan_path.read_text()))
    device, engine = torch.device(plan.device), plan.recipe["engine"]
    is_cuda = device.type == "cuda"
    torch.set_num_threads(engine["threads"])
    torch.backends.cuda.matmul.fp32_precision = engine["matmul"]
    torch.backends.cudnn.conv.fp32_precision = engine["matmul"]  # type: ignore[attr-defined]
    work = torch.load(Path(plan.folder) / "work.pt", mmap=True)  # several sides share it
    kinds: dict[str, Callable[[Plan, dict[str, Any]], Any]] = {"torch": TorchSide, "nemo": NemoSide}
    side = kinds.get(name, SegueSide)(plan, work)
    del work
    count = sum(parameter.numel() for parameter in side.model.parameters())
    answer({"loss": first_loss(side, device), "parameters": count})
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    pace = turns.Pace(answer, torch.cuda.synchronize if is_cuda else lambda: None)
    try:
        pace.wait()
        if name == "segue":
            side.train(plan, pace)
        else:
            run_plain_loop(side, plan, pace)
    except turns.LoopEnds:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer({"memory": torch.cuda.max_memory_allocated() if is_cuda else peak})


# --- The parent ---


def sketched(recipe: dict[str, Any]) -> tuple[Any, Any]:
    """The typed recipe, and its task without data."""
    from segue import tasks

    module = tasks.module(recipe["task"])
    section = module.Recipe.model_validate_json(json.dumps(recipe))
    return section, module.sketch(section)


def chosen(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of the case with settings that all sides have: AdamW, clipping, no augmentation, no evaluation."""
    from segue import recipe

    values = recipe.read(recipe.find(case.recipe), [*case.overrides, *options.overrides]).values
    blocks = values["model"].get("blocks", [])
    for block in blocks:
        block["channels"] //= case.thinner
    for table in (values["model"], values["batch"], *blocks) if options.scale == "tiny" else ():
        table |= {name: max(1, table[name] // TINY) for name in SHRINK if name in table}
    values.pop("augmentation", None)
    values["batch"]["micro_batches"] = options.micro_batches
    optimizer = {"kind": "adamw", "learning_rate": LEARNING_RATE, "betas": BETAS, "weight_decay": WEIGHT_DECAY}
    engine = {
        "steps": ENDLESS,
        "device": options.device,
        "compile": options.compile,
        "threads": options.threads,
        "workers": options.workers,
        "log_every": LOG_EVERY,
        "evaluate_every": ENDLESS,
        "save_every": ENDLESS,
        "clip_norm": CLIP_NORM,
    }
    return {**values, "optimizer": optimizer, "schedule": {"kind": "constant"}, "engine": engine}


def made_up(batch: Any, tokens: range) -> dict[str, Tensor]:
    """The tensors of the batch, with random samples and tokens."""
    found = {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    for name, value in found.items():
        if name == "waveforms":
            found[name] = torch.randn_like(value) / 10
        elif name in ("source", "target", "targets"):
            found[name] = torch.randint_like(value, low=tokens.start, high=tokens.stop)
    return found


def write_plan(case: Case, folder: Path, options: argparse.Namespace) -> tuple[Plan, str, str, float]:
    """Writes random weights and batches. Returns the plan, the kind of model, the unit and the operations per step."""
    from segue.engine.planning.simulation import simulate

    section, sketch = sketched(chosen(case, options))
    recipe = section.model_dump(mode="json")
    task: Any = sketch.task
    torch.manual_seed(section.seed)
    model = task.build_model()
    if recipe["model"]["kind"] == "transformer":
        target = task.vocabularies.target
        tokens = range(1 + max(target.special.values()), len(target))
        labels, padding = [], task.vocabularies.padding
    else:
        tokens = range(task.objective.blank)
        labels, padding = list(task.tokenizer.tokens), 0
    example = sketch.batch()
    work = {
        "weights": model.state_dict(),
        "parameters": list(model.parameters()),
        "batches": [made_up(example, tokens) for _ in range(NUM_BATCHES)],
    }
    torch.save(work, folder / "work.pt")
    plan = Plan(
        recipe,
        labels,
        padding,
        example.amount,
        options.device,
        "float32",
        options.compile,
        str(folder),
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    simulation = simulate(task, sketch.batch, section.engine)
    operations = options.micro_batches * simulation.plain.operations
    step = f"{options.micro_batches} x ({sketch.shape}), {operations / 1e12:.4g} TFLOP"
    print(f"{count / 1e6:.1f} M parameters; a step: {step}", flush=True)
    return plan, recipe["model"]["kind"], sketch.unit, operations


def in_precision(plan: Plan, precision: str) -> Path:
    """Writes the plan for this precision to a file."""
    engine = {
        **plan.recipe["engine"],
        "precision": precision if precision in FORMATS else "float32",
        "matmul": "tf32" if precision == "tf32" else "ieee",
    }
    path = Path(plan.folder) / f"{precision}.json"
    path.write_text(json.dumps(asdict(replace(plan, recipe={**plan.recipe, "engine": engine}, precision=precision))))
    return path


def measure(sides: dict[str, turns.Side], options: argparse.Namespace) -> dict[str, list[turns.Answer]]:
    """Alternating blocks of a multiple of LOG_EVERY steps, after a warm-up."""
    for side in sides.values():
        side.tell(WARM_UP_STEPS)  # all at the same time, since some compile
    for side in sides.values():
        side.answer()
    slowest = max(side.ask(LOG_EVERY)["wall"] for side in sides.values()) / LOG_EVERY
    steps = LOG_EVERY * max(1, round(options.block_seconds / slowest / LOG_EVERY))
    orders: list[int] = [steps] * options.pairs
    return turns.take_turns(sides, orders)


def report(
    blocks: dict[str, list[turns.Answer]],
    memory: dict[str, float],
    unit: str,
    operations: float,
    peak: float,
    rounds: int,
) -> None:
    """Prints speeds, and ratios between successive blocks."""
    wall, processor = (
        {name: np.array([block[what] / block["steps"] for block in blocks[name]]) for name in blocks}
        for what in ("wall", "processor")
    )
    for name, seconds in wall.items():
        usual = float(np.median(seconds))
        amount = blocks[name][0]["amount"] / blocks[name][0]["steps"]
        share = "" if math.isnan(peak) else f", {operations / usual / peak:.1%} of the peak"
        print(
            f"  {name:5} {usual * 1e3:.1f} ms a step, {amount / usual:,.0f} {unit} a second, "
            f"{operations / usual / 1e12:.3g} TFLOP/s{share}; {memory[name] / 1e9:.2f} GB at most"
        )
    pairs = [(name, "plain") for name in wall if name != "plain"] + [("segue", peer) for peer in PEERS.values()]
    for name, other in pairs:
        if name in wall and other in wall:
            for what, each in (("time", wall), ("processor time", processor)):
                ratios = each[name] / each[other]
                if rounds > 1:
                    # Blocks of one round are correlated: the memory layout of a process costs 1 % or more.
                    ratios = np.exp(np.log(ratios).reshape(rounds, -1).mean(axis=1))
                print(f"    {name} / {other}: {what} {turns.interval(ratios)}", flush=True)


def main() -> None:
    parser = turns.parser(__doc__, block_seconds=1.0)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(ON_CPU))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["segue", "plain"])
    parser.add_argument("--nemo", metavar="PYTHON", help="Python of NeMo's environment")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="loader processes; 0: batches stay in memory")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--peak-flops", type=float, metavar="N", help="peak FLOP/s of the device; known for some GPUs")
    parser.add_argument("--rounds", type=int, default=1, help="how often all processes are restarted")
    options = parser.parse_args()
    if options.side:
        serve(options.side[0], Path(options.side[1]))
        return
    has_gpu = torch.device(options.device).type == "cuda"
    device = torch.cuda.get_device_name(options.device) if has_gpu else f"{options.device}, {options.threads} thread(s)"
    print(f"{device}{', compiled' * options.compile}, torch {torch.__version__}")
    for name in options.cases:
        print(f"{name}: ", end="")
        compare(CASES[name], options)


def compare(case: Case, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan, kind, unit, operations = write_plan(case, Path(folder), options)
        names = [side for side in options.sides if side not in PEERS.values() or side == PEERS[kind]]
        pythons = {side: options.nemo if side == "nemo" else sys.executable for side in names}
        if "nemo" in pythons and options.nemo is None:
            raise SystemExit("--nemo is missing")
        plans = {precision: in_precision(plan, precision) for precision in options.precisions}
        blocks: dict[str, dict[str, list[turns.Answer]]] = {
            precision: {name: [] for name in names} for precision in plans
        }
        memory = {each: dict.fromkeys(names, 0.0) for each in plans}
        for number in range(options.rounds):
            # All at the same time, since starting takes most of the time on a GPU.
            started = turns.start_all(__file__, pythons, list(plans.values()), has_gpu=options.device != "cpu")
            for precision, sides in zip(plans, started, strict=True):
                check_same_model({name: side.facts for name, side in sides.items()})
                for name, answers in measure(sides, options).items():
                    blocks[precision][name] += answers
                for name, side in sides.items():
                    memory[precision][name] = max(memory[precision][name], side.ask("end")["memory"])
                    side.end()
                if number + 1 == options.rounds:
                    print(f" {precision}", flush=True)
                    peak = known_peak(precision, options)
                    report(blocks[precision], memory[precision], unit, operations, peak, options.rounds)


def check_same_model(facts: dict[str, dict[str, float]]) -> None:
    """Asserts equal numbers of parameters and equal first losses; NeMo's front end differs slightly."""
    first = next(iter(facts.values()))
    for name, each in facts.items():
        assert each["parameters"] == first["parameters"], facts
        assert abs(each["loss"] / first["loss"] - 1) < (0.05 if name == "nemo" else 1e-3), facts


def known_peak(precision: str, options: argparse.Namespace) -> float:
    """Peak of the device in operations per second; NaN if unknown."""
    from segue.engine.environment import peak_operations

    found = peak_operations(
        torch.device(options.device),
        precision if precision in FORMATS else "float32",
        "tf32" if precision == "tf32" else "ieee",
    )
    return options.peak_flops or found or math.nan


if __name__ == "__main__":
    main()
