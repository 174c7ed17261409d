"""Benchmark: speed of generating text in Segue and with transformers' `generate`, in new tokens per second.

Both have the same weights and continue the same prompts of 16 random tokens by 64 tokens, greedily, in float32; the
texts must be the same, but for near ties. Each side is a process with its own interpreter; blocks alternate (turns.py).
Segue runs through `decoding/generation.py`, as `segue generate` does; transformers has its default cache. With
`--exported`, Segue runs an export of the same weights instead, without torch: 8-bit weights change the texts of a model
that learned nothing, so the share of same tokens is printed, not required.

The peer's environment is that of `training_language.py`. The runs (five minutes):

    python bench/generation.py --transformers transformers/bin/python
    python bench/generation.py --transformers transformers/bin/python --sizes 25M --exported ctranslate2 int8
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import turns
from training_language import Size

PROMPT, NEW = 16, 64
SIZES = {
    "0.8M": Size(128, 344, 4, 4, 66, 128, 0),
    "5.3M": Size(256, 704, 4, 4, 8192, 128, 0),
    "25M": Size(512, 1536, 8, 6, 8192, 128, 0),
}


@dataclass(frozen=True)
class Plan:
    """The work for both sides."""

    size: dict[str, int]
    rows: int
    folder: str
    """With weights.pt, and for an export with the exported model."""
    threads: int
    target: str = ""
    """Of an export, which Segue runs; empty: the PyTorch model."""

    def prompts(self, number: int) -> np.ndarray:
        """(rows, PROMPT) tokens of batch `number`."""
        draw = np.random.default_rng(number)
        return draw.integers(1, Size(**self.size).vocabulary, (self.rows, PROMPT))


class SegueSide:
    """A model in Segue, in PyTorch or exported."""

    def __init__(self, plan: Plan) -> None:
        self.backend = backend(plan)

    def continued(self, prompts: np.ndarray) -> list[list[int]]:
        from segue.decoding.generation import Limits, Row, generate
        from segue.decoding.sampling import SamplingSection

        found: list[list[int]] = [[] for _ in prompts]

        def is_last(row: Row, token: int) -> bool:
            found[row.prompt].append(token)
            return False

        limits = Limits(PROMPT + NEW, NEW, end=-1)
        generate(self.backend.steps(), prompts.tolist(), SamplingSection(temperature=0), limits, is_last)
        return found


class TransformersSide:
    """transformers' `generate`."""

    def __init__(self, plan: Plan) -> None:
        from training_language import Plan as Training
        from training_language import TransformersSide as Peer

        size = {**plan.size, "rows": 1}
        self.model = Peer(Training(size, plan.folder, plan.threads)).model.eval()
        self.model.config.use_cache = True
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def continued(self, prompts: np.ndarray) -> list[list[int]]:
        rows = torch.from_numpy(prompts)
        found = self.model.generate(
            input_ids=rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=NEW, use_cache=True
        )
        return [row[PROMPT:] for row in found.tolist()]


SIDES: dict[str, type[Any]] = {"segue": SegueSide, "transformers": TransformersSide}


def backend(plan: Plan) -> Any:
    """Segue's model in the runtime of the plan."""
    vocabulary = plan.size["vocabulary"]
    if plan.target == "onnx":
        from segue.runtime.onnx_language import OnnxLanguageBackend

        return OnnxLanguageBackend(Path(plan.folder), vocabulary, plan.threads)
    if plan.target == "ctranslate2":
        from segue.runtime.ctranslate2_language import CTranslate2LanguageBackend

        tokens = tokenizer(vocabulary).tokens
        return CTranslate2LanguageBackend(Path(plan.folder), tokens, plan.size["context"], plan.threads)
    from segue.tasks.language_modeling.backend import TorchBackend

    model = build(Size(**plan.size))
    model.load_state_dict(torch.load(Path(plan.folder) / "weights.pt"))
    return TorchBackend(model, torch.device("cpu"))


def tokenizer(vocabulary: int) -> Any:
    """One of so many tokens."""
    from segue.data import tokenizer as tokenizers
    from segue.data.sizes import of_size
    from segue.tasks.language_modeling import SPECIAL

    return tokenizers.build(of_size(vocabulary - len(SPECIAL)), (), SPECIAL)


def export(model: Any, target: str, weights: str, folder: Path) -> None:
    """Writes what `segue export` does, but for the tokenizer."""
    if target == "onnx":
        from segue.formats.onnx_language import write_weights

        write_weights(model, folder, {}, weights)
    else:
        from segue.formats.ctranslate2_language import write

        write(model, tokenizer(model.vocabulary), folder, weights)


def build(size: Size) -> Any:
    """Segue's model, initialized."""
    from segue.models.decoder_only import DecoderOnlySection

    section = DecoderOnlySection(
        kind="decoder_only",
        context=size.context,
        width=size.width,
        feed_forward=size.feed_forward,
        layers=size.layers,
        heads=size.heads,
    )
    torch.manual_seed(0)
    model = section.build(size.vocabulary)
    model.initialize()
    with torch.no_grad():  # larger scores, so that rounding does not decide; larger layers, or a token repeats itself
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(20 if name.endswith((".output.weight", ".down.weight")) else 5)
    return model


def serve(name: str, path: Path) -> None:
    """In a side's process: continues batches."""
    answer = turns.channel()
    plan = Plan(**json.loads(path.read_text()))
    torch.set_num_threads(plan.threads)
    side = SIDES[name](plan)

    def run(number: int) -> turns.Answer:
        prompts = plan.prompts(number)
        start, spent = perf_counter(), process_time()
        found = side.continued(prompts)
        return {"wall": perf_counter() - start, "processor": process_time() - spent, "tokens": found}

    run(0)
    turns.serve({}, run, answer)


def compare(python: str, size: Size, rows: int, given: Any) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(size)
        torch.save(model.state_dict(), Path(folder) / "weights.pt")
        target, weights = given.exported
        if target:
            export(model.eval(), target, weights, Path(folder))
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(asdict(Plan(asdict(size), rows, folder, given.threads, target))))
        sides = turns.start(__file__, {"segue": sys.executable, "transformers": python}, plan)
        answers = turns.take_turns(sides, range(1, given.pairs + 1))
        for side in sides.values():
            side.end()
    ours, theirs = answers["segue"], answers["transformers"]
    same = np.mean([np.equal(a["tokens"], b["tokens"]).mean() for a, b in zip(ours, theirs, strict=True)])
    # Where two tokens are as likely, rounding decides, and all after them differ.
    assert given.exported[0] or same > 0.9, f"{same:.1%} of the tokens are the same"
    cells = [f"{same:.1%}"]
    for clock in ("wall", "processor"):
        rates = [np.array([rows * NEW / each[clock] for each in side]) for side in (ours, theirs)]
        if clock == "processor":
            cells += [f"{np.median(each):,.0f}" for each in rates]
        cells.append(turns.interval(rates[0] / rates[1]))
    return f"| {rows} | {' | '.join(cells)} |"


def main() -> None:
    """Runs the comparisons and prints the table."""
    parser = turns.parser(__doc__, block_seconds=0.0)
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--exported", nargs=2, metavar=("TARGET", "WEIGHTS"), default=("", ""))
    given = parser.parse_args()
    if given.side:
        serve(given.side[0], Path(given.side[1]))
        return
    print("| size | rows | same tokens | ratio, wall | Segue, tokens/CPU-s | transformers | ratio, CPU time |")
    print("|---|---|---|---|---|---|---|")
    for name in given.sizes:
        for rows in given.rows:
            print(f"| {name} {compare(given.transformers, SIZES[name], rows, given)}", flush=True)


if __name__ == "__main__":
    main()
