"""Benchmark: training speed of a language model in Segue, LitGPT and transformers' Trainer, in tokens per second.

All train a decoder-only model of the same sizes (Llama's shape: RMSNorm, rotary positions, SwiGLU, tied, no biases) on
the same batches of random tokens, in float32: forward, cross-entropy, backward, clipping (1.0), AdamW.

- Segue: the step of its Trainer (engine/trainer.py), which also checks for infinities and collects values for the log.
- LitGPT: `litgpt.GPT` and `litgpt.utils.chunked_cross_entropy` in the loop of its `pretrain.py`, without Fabric.
- transformers: LlamaForCausalLM (SDPA) in its Trainer, without evaluation, saving or logging, on lists in memory.

Each side is a process with its own interpreter; blocks alternate (turns.py). Before the timing, the peer gets Segue's
initial weights, and both must agree on the loss of the first batch.

The peers' environments (Linux; torch is installed first, in a separate step, in the same build as Segue's; litdata
must not be installed, it replaces torch):

    python3.11 -m venv litgpt && litgpt/bin/pip install torch==2.13.0
    litgpt/bin/pip install litgpt==0.5.13 torch==2.13.0
    python3.11 -m venv transformers && transformers/bin/pip install torch==2.13.0
    transformers/bin/pip install transformers==5.24.0 accelerate torch==2.13.0

The run (about ten minutes):

    python bench/training_language.py --litgpt litgpt/bin/python --transformers transformers/bin/python
"""

import importlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import turns
from torch import Tensor

LEARNING_RATE, BETAS, DECAY, CLIP_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0
BATCHES = 64


@dataclass(frozen=True)
class Size:
    """Size of a model and its batches."""

    width: int
    feed_forward: int
    heads: int
    layers: int
    vocabulary: int
    context: int
    rows: int


SIZES = {
    "characters": Size(128, 344, 4, 4, 66, 128, 6),  # recipes/language_modeling/shakespeare_characters.toml
    "subwords": Size(256, 688, 4, 4, 8192, 256, 4),
}


@dataclass(frozen=True)
class Plan:
    """The work for both sides."""

    size: dict[str, int]
    folder: str
    threads: int

    def batches(self) -> list[Tensor]:
        """(rows, context + 1) tokens each."""
        size, draw = Size(**self.size), np.random.default_rng(0)
        shape = (BATCHES, size.rows, size.context + 1)
        return list(torch.from_numpy(draw.integers(size.vocabulary, size=shape)))


class SegueSide:
    """Segue, as its Trainer runs it."""

    def __init__(self, plan: Plan) -> None:
        from segue.data import tokenizer as tokenizers
        from segue.data.documents import END
        from segue.data.sizes import of_size
        from segue.data.token_files import TokenFile, Writer
        from segue.engine.trainer import Trainer
        from segue.tasks import language_modeling as task

        size = Size(**plan.size)
        tables: dict[str, Any] = {
            "task": "language_modeling",
            "tokenizer": {"kind": "bytes"},
            "model": {
                "kind": "decoder_only",
                "context": size.context,
                "width": size.width,
                "heads": size.heads,
                "feed_forward": size.feed_forward,
                "layers": size.layers,
            },
            "batch": {"tokens": size.rows * size.context},
            "optimizer": {"kind": "adamw", "learning_rate": LEARNING_RATE, "betas": BETAS, "weight_decay": DECAY},
            "schedule": {"kind": "constant"},
            "engine": {
                "steps": 10**6,
                "evaluate_every": 10**6,
                "save_every": 10**6,
                "device": "cpu",
                "threads": plan.threads,
                "clip_norm": CLIP_NORM,
                "workers": 0,
            },
        }
        section = task.Recipe.model_validate_json(json.dumps(tables))
        tokenizer = tokenizers.build(of_size(size.vocabulary - 1), (), task.SPECIAL)
        index = Path(plan.folder) / "tokens.idx"
        with Writer(index, size.vocabulary, tokenizer.special[END]) as writer:
            writer.add(torch.cat([each.flatten() for each in plan.batches()]).numpy().astype(np.int32), is_last=True)
            writer.close()
        source = task.source_of(section, tokenizer, {"train": TokenFile(index)})
        built = task.build_task(section, source)
        self.trainer = Trainer(built, source, Path(plan.folder) / "run", section.engine, 1, section.seed)
        torch.save(self.trainer.model.state_dict(), Path(plan.folder) / "weights.pt")
        lengths = torch.full((size.rows,), size.context)
        amount = float(size.rows * size.context)
        self.batches = [
            task.WindowBatch([""] * size.rows, amount, 0, each[:, :-1], each[:, 1:], None, lengths)
            for each in plan.batches()
        ]

    @torch.no_grad()
    def loss(self) -> float:
        batch = self.batches[0]
        total, _ = self.trainer.model.eval()(batch.tokens, batch.targets)
        return float(total) / batch.targets.numel()

    def run(self, pace: turns.Pace) -> None:
        number = 0
        while True:
            batch = self.batches[number % BATCHES]
            self.trainer._take_step([batch], False)
            pace.after_step(batch.amount)
            number += 1


class LitGPTSide:
    """LitGPT's model in the loop of its pretrain.py."""

    def __init__(self, plan: Plan) -> None:
        peer: Any = importlib.import_module("litgpt")
        GPT, Config = peer.GPT, peer.Config  # noqa: N806

        size = Size(**plan.size)
        self.model = GPT(
            Config(
                block_size=size.context,
                vocab_size=size.vocabulary,
                padded_vocab_size=size.vocabulary,
                n_layer=size.layers,
                n_head=size.heads,
                n_embd=size.width,
                n_query_groups=size.heads,
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                norm_eps=1e-5,
                mlp_class_name="LLaMAMLP",
                intermediate_size=size.feed_forward,
            )
        )
        saved = torch.load(Path(plan.folder) / "weights.pt")
        weights = {"transformer.wte.weight": saved["embedding.weight"], "transformer.ln_f.weight": saved["norm.weight"]}
        names = {
            "norm_1": "attention_norm",
            "norm_2": "feed_forward_norm",
            "attn.proj": "attention.output",
            "mlp.fc_1": "feed_forward.gate",
            "mlp.fc_2": "feed_forward.up",
            "mlp.proj": "feed_forward.down",
        }
        for number in range(size.layers):
            here, there = f"layers.{number}.", f"transformer.h.{number}."
            weights |= {f"{there}{to}.weight": saved[f"{here}{name}.weight"] for to, name in names.items()}
            parts = [saved[f"{here}attention.{each}.weight"] for each in ("query", "key", "value")]
            weights[f"{there}attn.qkv.weight"] = torch.cat(parts)
        weights["lm_head.weight"] = saved["embedding.weight"]
        self.model.load_state_dict(weights)
        self.model.lm_head.weight = self.model.transformer.wte.weight
        is_matrix = [each.ndim > 1 for each in self.model.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [p for p, is_own in zip(self.model.parameters(), is_matrix, strict=True) if is_own == wanted]}
            for wanted in (True, False)
        ]
        groups[1]["weight_decay"] = 0.0
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, BETAS, weight_decay=DECAY, fused=True)
        self.batches = plan.batches()

    @torch.no_grad()
    def loss(self) -> float:
        return float(self._loss(self.batches[0]))

    def _loss(self, batch: Tensor) -> Any:
        chunked_cross_entropy = importlib.import_module("litgpt.utils").chunked_cross_entropy
        logits = self.model(batch[:, :-1].contiguous())
        return chunked_cross_entropy(logits, batch[:, 1:].contiguous(), chunk_size=0)

    def run(self, pace: turns.Pace) -> None:
        number = 0
        while True:
            batch = self.batches[number % BATCHES]
            self._loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            pace.after_step(float(batch[:, 1:].numel()))
            number += 1


class TransformersSide:
    """transformers' Trainer."""

    def __init__(self, plan: Plan) -> None:
        peer: Any = importlib.import_module("transformers")
        self.plan, size = plan, Size(**plan.size)
        self.model = peer.LlamaForCausalLM(
            peer.LlamaConfig(
                vocab_size=size.vocabulary,
                hidden_size=size.width,
                intermediate_size=size.feed_forward,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                max_position_embeddings=size.context,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
                attn_implementation="sdpa",
                use_cache=False,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        names = {
            "embedding.": "model.embed_tokens.",
            "layers.": "model.layers.",
            "attention_norm": "input_layernorm",
            "feed_forward_norm": "post_attention_layernorm",
            **{f"attention.{each}": f"self_attn.{each[0]}_proj" for each in ("query", "key", "value", "output")},
            **{f"feed_forward.{each}": f"mlp.{each}_proj" for each in ("up", "gate", "down")},
        }
        weights = {}
        for name, tensor in torch.load(Path(plan.folder) / "weights.pt").items():
            renamed = f"model.{name}" if name.startswith("norm") else name
            for here, there in names.items():
                renamed = renamed.replace(here, there)
            weights[renamed] = tensor
        self.model.load_state_dict(weights, strict=False)
        self.rows = torch.cat(plan.batches())  # (windows, context + 1)

    @torch.no_grad()
    def loss(self) -> float:
        size = Size(**self.plan.size)
        rows = self.rows[: size.rows]
        logits = self.model.eval()(rows[:, :-1]).logits
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))

    def run(self, pace: turns.Pace) -> None:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        size = Size(**self.plan.size)

        class After(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                pace.after_step(float(size.rows * size.context))

        arguments = TrainingArguments(
            output_dir=str(Path(self.plan.folder) / "trainer"),
            per_device_train_batch_size=size.rows,
            max_steps=10**6,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=DECAY,
            max_grad_norm=CLIP_NORM,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        # The model shifts labels itself: of rows with one token more, it predicts as many.
        examples = [{"input_ids": row, "labels": row} for row in self.rows]
        Trainer(model=self.model, args=arguments, train_dataset=examples, callbacks=[After()]).train()


SIDES: dict[str, type[Any]] = {"segue": SegueSide, "litgpt": LitGPTSide, "transformers": TransformersSide}


def serve(name: str, path: Path) -> None:
    """In a side's process."""
    answer = turns.channel()
    plan = Plan(**json.loads(path.read_text()))
    torch.set_num_threads(plan.threads)
    torch.manual_seed(0)
    side = SIDES[name](plan)
    pace = turns.Pace(answer)
    answer({"loss": side.loss(), "parameters": sum(each.numel() for each in set(parameters(side)))})
    try:
        pace.wait()
        side.run(pace)
    except turns.LoopEnds:
        pass


def parameters(side: Any) -> Any:
    return (side.trainer.model if isinstance(side, SegueSide) else side.model).parameters()


def compare(peer: str, python: str, size: Size, given: Any) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(asdict(Plan(asdict(size), folder, given.threads))))
        sides = turns.start(__file__, {"segue": sys.executable}, plan) | turns.start(__file__, {peer: python}, plan)
        ours, theirs = sides["segue"].facts, sides[peer].facts
        assert abs(ours["loss"] - theirs["loss"]) < 1e-4, (ours, theirs)
        assert ours["parameters"] == theirs["parameters"], (ours, theirs)
        speeds = {name: side.ask(10) for name, side in sides.items()}  # warm-up
        steps = {name: max(1, round(given.block_seconds / each["wall"] * 10)) for name, each in speeds.items()}
        answers: dict[str, list[Any]] = {name: [] for name in sides}
        for number in range(given.pairs):
            for name in sorted(sides, reverse=number % 2 == 0):
                answers[name].append(sides[name].ask(steps[name]))
        for side in sides.values():
            side.tell("end")
            side.end()
    cells = []
    for clock in ("wall", "processor"):
        rates = {name: np.array([each["amount"] / each[clock] for each in answers[name]]) for name in sides}
        cells.append(turns.interval(rates["segue"] / rates[peer]))
        if clock == "processor":
            cells[:0] = [f"{np.median(rates[name]):,.0f}" for name in ("segue", peer)]
    return f"| {peer} | {ours['parameters']:,} | {' | '.join(cells)} |"


def main() -> None:
    """Runs the comparisons and prints the table."""
    parser = turns.parser(__doc__, block_seconds=10.0)
    parser.add_argument("--litgpt", metavar="PYTHON")
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    given = parser.parse_args()
    if given.side:
        serve(given.side[0], Path(given.side[1]))
        return
    print(
        "| peer | parameters | Segue, tokens/CPU-s | peer | ratio, wall | ratio, CPU time |\n|---|---|---|---|---|---|"
    )
    for name in given.sizes:
        for peer in ("litgpt", "transformers"):
            if getattr(given, peer):
                print(compare(peer, getattr(given, peer), SIZES[name], given), flush=True)


if __name__ == "__main__":
    main()
