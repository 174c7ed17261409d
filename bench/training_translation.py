"""Benchmark: training speed of a Transformer in Segue, JoeyNMT 2.3 and transformers' MarianMT.

Speeds are in target tokens per second, without padding. Each side does complete steps on padded batches in memory:
forward, cross-entropy with label smoothing (0.1), backward, clipping (1.0), Adam or AdamW, in float32.

- Segue: the step of its Trainer (engine/trainer.py), which also checks for infinities and collects values for the log.
- JoeyNMT: `TrainManager._train_step` and the lines around it in `train_and_validate`; its Adam is not fused.
- transformers: MarianMT in a plain loop, which is faster than its Trainer, with the Trainer's fused AdamW and, instead
  of its LabelSmoother, torch's equivalent `cross_entropy(label_smoothing=...)`; the model itself does not smooth.

JoeyNMT has a single dropout setting, which includes attention weights and the inside of feed-forward networks; Segue
has the same in this comparison. In that with MarianMT, both have MarianMT's defaults: dropout on embeddings and on the
outputs of sublayers.

Each side is a process with its own interpreter; blocks alternate (turns.py), and both blocks of a pair use the same
batches, which are planned by Segue. Before the timing, the peer gets Segue's initial weights (and JoeyNMT Segue's order
of sines and cosines), and both must agree on the targets of the first batch and their likelihood.

The peers' environments (Linux; torch is installed first, in a separate step, in the same build as Segue's):

    python3.11 -m venv joeynmt && joeynmt/bin/pip install torch==2.13.0
    joeynmt/bin/pip install joeynmt==2.3.0 importlib_metadata torch==2.13.0
    python3.11 -m venv transformers && transformers/bin/pip install torch==2.13.0
    transformers/bin/pip install transformers==5.23.0 torch==2.13.0

A manifest of pairs, and the run (about ten minutes):

    segue prepare multi30k multi30k/data/task1/raw data/multi30k
    python bench/training_translation.py data/multi30k/train.jsonl \\
        --joeynmt joeynmt/bin/python --transformers transformers/bin/python
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import peer_models
import torch
import turns
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:  # peers' environments have no Segue
    from segue.tasks.translation import Translation
    from segue.tasks.translation.pairs import PairBatch

CLIP_NORM = 1.0
DROPOUT = 0.1
SMOOTHING = 0.1
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.98)
BATCH_TOKENS = 2500
BATCHES = 64
WARM_UP_STEPS = 8


@dataclass(frozen=True)
class Size:
    """Size of a model."""

    width: int
    feed_forward: int
    heads: int
    layers: int
    vocabulary: int


SIZES = {
    "tiny": Size(128, 256, 4, 4, 4000),  # recipes/translation/multi30k_transformer.toml
    "small": Size(256, 1024, 4, 3, 6000),
}


@dataclass(frozen=True)
class Plan:
    """The work for both sides."""

    recipe: dict[str, Any]
    """Segue's recipe, from which the peer's settings are made."""
    padding: int
    begin: int
    end: int
    """Numbers of the special tokens."""
    batches: list[tuple[list[list[int]], list[list[int]]]]
    """Sources with their end tokens, and targets with begin and end tokens."""
    folder: str
    """Folder for files of this run."""
    threads: int


class Trains(Protocol):
    """One side of the comparison."""

    def facts(self) -> dict[str, Any]:
        """The number of `targets` of the first batch, and their `likelihood_loss` without dropout."""
        ...

    def step(self, number: int) -> None:
        """One optimizer step on batch `number`."""
        ...


# --- Segue ---


def build_task(recipe: dict[str, Any], folder: Path) -> "Translation":
    """The task. Its tokenizer is loaded from `folder`; if there is none, it is learned and saved there."""
    from segue.data.examples import Pair
    from segue.data.manifest import Manifest
    from segue.data.vocabularies import Vocabularies
    from segue.tasks import translation

    section = translation.Recipe.model_validate_json(json.dumps(recipe))
    manifest = Manifest(Pair, [Path(section.data.root) / name for name in section.data.train])
    if not (folder / "tokenizer.json").is_file():
        Vocabularies.build(section.tokenizer, None, section.text, manifest).save(folder)
    source = translation.source_of(section, Vocabularies.load(folder), {"train": manifest})
    source.check()
    return translation.build_task(section, source)


def load_batches(task: "Translation") -> list["PairBatch"]:
    source = task.source
    return [source.load("train", source.plan("train").micro_batch(number)) for number in range(BATCHES)]


class SegueSide:
    """Segue, as its Trainer runs it."""

    def __init__(self, plan: Plan) -> None:
        from segue.engine.trainer import Trainer

        self.task = build_task(plan.recipe, Path(plan.folder))
        self.batches = load_batches(self.task)
        section, run = self.task.recipe, Path(plan.folder) / "run"
        self.trainer = Trainer(self.task, self.task.source, run, section.engine, 1, section.seed)
        torch.save(self.trainer.model.state_dict(), Path(plan.folder) / "weights.pt")

    @torch.no_grad()
    def facts(self) -> dict[str, Any]:
        batch = self.batches[0]
        likelihood = self.task.loss(self.trainer.model.eval(), batch)["likelihood_loss"].total
        return {"targets": self.task.counts(batch)["targets"], "likelihood_loss": likelihood.item()}

    def step(self, number: int) -> None:
        self.trainer._take_step([self.batches[number]], False)


# --- JoeyNMT ---


class JoeySide:
    """JoeyNMT's model and TrainManager."""

    def __init__(self, plan: Plan) -> None:
        from joeynmt.batch import Batch
        from joeynmt.config import parse_test_args, parse_train_args, set_validation_args
        from joeynmt.training import TrainManager

        weights, cpu = torch.load(Path(plan.folder) / "weights.pt"), torch.device("cpu")
        model = peer_models.joeynmt(plan.recipe["model"], weights, plan.padding, plan.begin, plan.end)
        model.loss_function = ("crossentropy", SMOOTHING)
        training = {
            "optimizer": "adam",
            "adam_betas": list(BETAS),
            "learning_rate": LEARNING_RATE,
            "scheduling": "noam",  # JoeyNMT requires a scheduler
            "loss": "crossentropy",
            "label_smoothing": SMOOTHING,
            "normalization": "tokens",
            "clip_grad_norm": CLIP_NORM,
            "batch_size": BATCH_TOKENS,
            "batch_type": "token",
        }
        self.trainer = TrainManager(
            rank=0,
            model=model,
            model_dir=Path(plan.folder) / "joeynmt",
            device=cpu,
            n_gpu=0,
            num_workers=0,
            autocast={"device_type": "cpu", "enabled": False},
            seed=0,
            train_args=parse_train_args(training, mode="train"),
            dev_args=set_validation_args(parse_test_args({}, mode="train")),
        )
        self.batches = [
            Batch(
                src=peer_models.padded(sources, plan.padding),
                src_length=torch.tensor([len(row) for row in sources]),
                src_prompt_mask=None,
                trg=peer_models.padded(targets, plan.padding),
                trg_prompt_mask=None,
                indices=torch.arange(len(sources)),
                device=cpu,
                pad_index=plan.padding,
                eos_index=plan.end,
            )
            for sources, targets in plan.batches
        ]

    @torch.no_grad()
    def facts(self) -> dict[str, Any]:
        batch = self.batches[0]
        _, log_probs, _, _ = self.trainer.model.eval()(return_type="loss", **vars(batch))
        likelihoods = log_probs.gather(2, batch.trg.unsqueeze(2)).squeeze(2)[batch.trg_mask.squeeze(1)]
        return {"targets": batch.ntokens, "likelihood_loss": -likelihoods.sum().item()}

    def step(self, number: int) -> None:
        """As in `TrainManager.train_and_validate`, at a constant rate."""
        trainer, batch = self.trainer, self.batches[number]
        _, correct = trainer._train_step(batch)
        trainer.stats.total_tokens += batch.ntokens
        trainer.stats.total_correct += correct
        trainer.clip_grad_fun(parameters=trainer.model.parameters())
        trainer.optimizer.step()
        trainer.model.zero_grad()
        trainer.stats.steps += 1


# --- transformers ---


class TransformersSide:
    """MarianMTModel in a plain loop."""

    def __init__(self, plan: Plan) -> None:
        weights = torch.load(Path(plan.folder) / "weights.pt")
        self.model = peer_models.transformers(plan.recipe["model"], weights, plan.padding, plan.begin, plan.end)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
        self.batches = []
        for sources, targets in plan.batches:
            source = peer_models.padded(sources, plan.padding)
            inputs = {
                "input_ids": source,
                "attention_mask": (source != plan.padding).long(),
                "decoder_input_ids": peer_models.padded([row[:-1] for row in targets], plan.padding),
            }
            self.batches.append((inputs, peer_models.padded([row[1:] for row in targets], -100)))

    @torch.no_grad()
    def facts(self) -> dict[str, Any]:
        self.model.eval()
        labels = self.batches[0][1]
        loss = F.cross_entropy(self._logits(0), labels.flatten(), ignore_index=-100, reduction="sum")
        return {"targets": int((labels != -100).sum()), "likelihood_loss": loss.item()}

    def step(self, number: int) -> None:
        self.model.train()
        labels = self.batches[number][1]
        # Equal to LabelSmoother of transformers.trainer_pt_utils, and faster.
        loss = F.cross_entropy(self._logits(number), labels.flatten(), ignore_index=-100, label_smoothing=SMOOTHING)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _logits(self, number: int) -> Tensor:
        return self.model(**self.batches[number][0], use_cache=False).logits.flatten(0, 1)  # type: ignore[no-any-return]


# --- The process of one side ---


SIDES: dict[str, Callable[[Plan], Trains]] = {
    "segue": SegueSide,
    "joeynmt": JoeySide,
    "transformers": TransformersSide,
}


def serve(name: str, plan_path: Path) -> None:
    answer = turns.channel()
    plan = Plan(**json.loads(plan_path.read_text()))
    torch.set_num_threads(plan.threads)
    side: Trains = SIDES[name](plan)
    targets = [sum(len(row) - 1 for row in targets) for _, targets in plan.batches]

    def run(order: dict[str, int]) -> dict[str, Any]:
        numbers = [number % len(targets) for number in range(order["first"], order["first"] + order["steps"])]
        start, processor_start = perf_counter(), process_time()
        for number in numbers:
            side.step(number)
        wall, processor = perf_counter() - start, process_time() - processor_start
        return {"targets": sum(targets[number] for number in numbers), "wall": wall, "processor": processor}

    turns.serve(side.facts(), run, answer)


# --- The parent ---


def write_plan(size: Size, manifest: Path, folder: Path, threads: int, *, is_dropped_everywhere: bool) -> Path:
    """Learns the tokenizer, plans the batches with Segue, and writes the plan for both sides."""
    elsewhere = DROPOUT if is_dropped_everywhere else 0.0
    recipe = {
        "task": "translation",
        "data": {"root": str(manifest.parent.resolve()), "train": [manifest.name], "longest_tokens": 100},
        "tokenizer": {"kind": "bpe", "size": size.vocabulary},
        "label_smoothing": SMOOTHING,
        "model": {
            "kind": "transformer",
            "width": size.width,
            "feed_forward": size.feed_forward,
            "heads": size.heads,
            "encoder_layers": size.layers,
            "decoder_layers": size.layers,
            "norm": "post",
            "positions": "sinusoidal",
            "activation": "relu",
            "tied": "all",
            "dropout": DROPOUT,
            "attention_dropout": elsewhere,
            "feed_forward_dropout": elsewhere,
        },
        "batch": {"tokens": BATCH_TOKENS},
        "optimizer": {"kind": "adamw", "learning_rate": LEARNING_RATE, "betas": BETAS},
        "schedule": {"kind": "constant"},
        "engine": {"steps": 1_000_000, "device": "cpu", "threads": threads, "clip_norm": CLIP_NORM},
    }
    task = build_task(recipe, folder)
    special = task.vocabularies
    batches = [token_numbers(batch) for batch in load_batches(task)]
    plan = Plan(recipe, special.padding, special.begin, special.end, batches, str(folder), threads)
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    return path


def token_numbers(batch: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and targets of a batch, without padding."""
    sources = zip(batch.source.tolist(), batch.source_lengths.tolist(), strict=True)
    targets = zip(batch.target.tolist(), (batch.target_lengths + 1).tolist(), strict=True)
    return [row[:length] for row, length in sources], [row[:length] for row, length in targets]


def compare(sides: dict[str, turns.Side], pairs: int, block_seconds: float) -> None:
    """Alternates blocks and prints the ratios."""
    peer = next(name for name in sides if name != "segue")
    facts = [side.facts for side in sides.values()]
    assert facts[0]["targets"] == facts[1]["targets"]
    assert abs(facts[0]["likelihood_loss"] / facts[1]["likelihood_loss"] - 1) < 1e-4, facts
    warm_up = [side.ask({"first": 0, "steps": WARM_UP_STEPS}) for side in sides.values()]
    steps = max(1, round(block_seconds * WARM_UP_STEPS / max(block["wall"] for block in warm_up)))
    blocks = turns.take_turns(sides, [{"first": pair * steps, "steps": steps} for pair in range(pairs)])
    speed, processor = (
        {name: np.array([block["targets"] / block[what] for block in blocks[name]]) for name in sides}
        for what in ("wall", "processor")
    )
    print(f"  {pairs} pairs of {steps} steps; target tokens a second: ", end="")
    print(", ".join(f"{name} {np.median(values):.0f}" for name, values in speed.items()))
    faster, processor_share = (
        turns.interval(ratios) for ratios in (speed["segue"] / speed[peer], processor[peer] / processor["segue"])
    )
    print(f"    segue / {peer}: speed {faster}, processor time {processor_share}", flush=True)


def main() -> None:
    parser = turns.parser(__doc__, block_seconds=1.5)
    parser.add_argument("manifest", type=Path, nargs="?", help="manifest of training pairs")
    parser.add_argument("--joeynmt", metavar="PYTHON", help="Python of JoeyNMT's environment")
    parser.add_argument("--transformers", metavar="PYTHON", help="Python of transformers' environment")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    if options.side:
        serve(options.side[0], Path(options.side[1]))
        return
    if options.manifest is None:
        parser.error("the manifest is missing")
    for size in options.sizes:
        for peer in ("joeynmt", "transformers"):
            python = getattr(options, peer)
            if python is None:
                continue
            print(f"{size}, Segue and {peer}, torch {torch.__version__}, {options.threads} thread(s):")
            with tempfile.TemporaryDirectory() as name:
                folder, is_joeynmt = Path(name), peer == "joeynmt"
                plan_path = write_plan(
                    SIZES[size], options.manifest, folder, options.threads, is_dropped_everywhere=is_joeynmt
                )
                sides = turns.start(__file__, {"segue": sys.executable, peer: python}, plan_path)
                compare(sides, options.pairs, options.block_seconds)
                for side in sides.values():
                    side.end()


if __name__ == "__main__":
    main()
