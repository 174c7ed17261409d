"""Benchmark: speed of Segue's search for translations and transformers' `generate`, in sentences per second.

A trained model (with random weights, no sentence would end) is loaded into both, in transformers as MarianMT
(post-norm) or M2M100 (pre-norm), and both search the same batches of token numbers: the test sentences sorted by
length, 32 at once. Beam search divides scores by the length and has the same stopping criterion in both; one beam is
greedy search. Special tokens are excluded in both; in transformers through a bias of the output layer, the cost of
which is negligible.

Each side is a process with its own interpreter; blocks of batches, each with long and short ones, alternate (turns.py).
Both outputs are scored with sacrebleu, and identical outputs are counted.

The peer's environment is that of `training_translation.py`. The runs (three minutes):

    for beams in 5 1; do python bench/decoding.py RUN/model data/multi30k/test_2016_flickr.jsonl \\
        --transformers transformers/bin/python --beams $beams; done
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Protocol

import numpy as np
import peer_models
import torch
import turns

LENGTH_EXPONENT = 1.0


@dataclass(frozen=True)
class Plan:
    """The work for both sides."""

    model: str
    """Segue's model directory."""
    sizes: dict[str, Any]
    padding: int
    begin: int
    end: int
    impossible: list[int]
    """Tokens that are excluded from outputs."""
    batches: list[list[list[int]]]
    """Source tokens, with end tokens."""
    longest: list[int]
    """Maximum number of output tokens of each batch."""
    beams: int
    threads: int


class Searches(Protocol):
    """One side of the comparison."""

    def search(self, number: int) -> list[list[int]]:
        """The outputs of batch `number`, without begin, end and padding."""
        ...


class SegueSide:
    """The search that `segue translate` and evaluations use."""

    def __init__(self, plan: Plan) -> None:
        from segue.tasks import translation

        trained = translation.restore(Path(plan.model))
        self.model, self.vocabularies = trained.model, trained.vocabularies
        self.section = trained.recipe.search.model_copy(update={"beams": plan.beams, "alpha": LENGTH_EXPONENT})
        self.batches = [
            (peer_models.padded(sources, plan.padding), torch.tensor([len(source) for source in sources]))
            for sources in plan.batches
        ]

    def search(self, number: int) -> list[list[int]]:
        from segue.tasks.translation.search import TorchSteps, search

        source, lengths = self.batches[number]
        found = search(TorchSteps(self.model, source, lengths), self.vocabularies, lengths, self.section)
        return [best[0].tokens for best in found]


class TransformersSide:
    """transformers' `generate`."""

    def __init__(self, plan: Plan) -> None:
        from safetensors.torch import load_file

        weights = load_file(Path(plan.model) / "model.safetensors")
        self.plan = plan
        self.model = peer_models.transformers(plan.sizes, weights, plan.padding, plan.begin, plan.end).eval()
        self.model.lm_head.bias = torch.nn.Parameter(torch.zeros(self.model.lm_head.out_features))
        self.model.lm_head.bias.data[plan.impossible] = -torch.inf
        sources = [peer_models.padded(batch, plan.padding) for batch in plan.batches]
        self.batches = [(source, (source != plan.padding).long()) for source in sources]

    @torch.inference_mode()
    def search(self, number: int) -> list[list[int]]:
        source, mask = self.batches[number]
        found = self.model.generate(
            input_ids=source,
            attention_mask=mask,
            num_beams=self.plan.beams,
            do_sample=False,
            max_new_tokens=self.plan.longest[number],
            early_stopping=False,
            length_penalty=LENGTH_EXPONENT,
        )
        outputs = [row[1:] for row in found.tolist()]
        return [row[: row.index(self.plan.end)] if self.plan.end in row else row for row in outputs]


def serve(name: str, plan_path: Path) -> None:
    answer = turns.channel()
    plan = Plan(**json.loads(plan_path.read_text()))
    torch.set_num_threads(plan.threads)
    side: Searches = SegueSide(plan) if name == "segue" else TransformersSide(plan)

    def run(numbers: list[int]) -> dict[str, Any]:
        start, processor_start = perf_counter(), process_time()
        outputs = [side.search(number) for number in numbers]
        wall, processor = perf_counter() - start, process_time() - processor_start
        return {"outputs": outputs, "wall": wall, "processor": processor}

    turns.serve({}, run, answer)


# --- The parent ---


def compare(options: argparse.Namespace, folder: Path) -> None:
    from segue import metrics
    from segue.data.examples import Pair
    from segue.data.manifest import Manifest
    from segue.data.text import normalize
    from segue.data.vocabularies import END
    from segue.tasks import translation

    trained = translation.restore(options.model)
    vocabularies, rule = trained.vocabularies, trained.recipe.text
    sizes = trained.recipe.model.model_dump()
    if strange := peer_models.strange(sizes):
        raise SystemExit(f"{options.model}: transformers has no such model: {', '.join(strange)}")
    pairs = list(Manifest(Pair, [options.manifest]))[: options.sentences]
    sources = [
        vocabularies.source_tokens(vocabularies.source.encode(normalize(pair.source, rule)), pair.target_language)
        for pair in pairs
    ]
    order = sorted(range(len(pairs)), key=lambda number: len(sources[number]))
    batches = [order[start : start + options.batch] for start in range(0, len(order), options.batch)]
    search = trained.recipe.search
    plan = Plan(
        model=str(options.model),
        sizes=sizes,
        padding=vocabularies.padding,
        begin=vocabularies.begin,
        end=vocabularies.end,
        impossible=[number for token, number in vocabularies.target.special.items() if token != END],
        batches=[[sources[number] for number in batch] for batch in batches],
        longest=[int(len(sources[batch[-1]]) * search.longest_factor + search.longest_extra) for batch in batches],
        beams=options.beams,
        threads=options.threads,
    )
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    sides = turns.start(__file__, {"segue": sys.executable, "transformers": options.transformers}, path)
    blocks = [list(range(first, len(batches), options.blocks)) for first in range(min(options.blocks, len(batches)))]
    for side in sides.values():
        side.ask(blocks[0])  # to warm up
    orders = blocks * options.repeats
    answers = turns.take_turns(sides, orders)
    outputs: dict[str, dict[int, list[int]]] = {name: {} for name in sides}
    for name, of_side in outputs.items():
        for block, answer in zip(orders, answers[name], strict=True):
            for number, found in zip(block, answer["outputs"], strict=True):
                of_side.update(zip(batches[number], found, strict=True))
    report(answers, [sum(len(batches[number]) for number in block) for block in orders])
    same = sum(outputs["segue"][number] == outputs["transformers"][number] for number in order)
    print(f"  {same} of {len(order)} outputs are the same; BLEU ", end="")
    references = [tuple(normalize(text, rule) for text in (pair.target, *pair.alternatives)) for pair in pairs]
    for name, of_side in outputs.items():
        texts = [vocabularies.target.decode(of_side[number]) for number in range(len(pairs))]
        bleu = metrics.texts("bleu", "auto", references, texts, [None] * len(texts)).overall()["bleu"]
        print(f"{name} {bleu:.2f}", end=" ")
    print()
    for side in sides.values():
        side.end()


def report(answers: dict[str, list[dict[str, Any]]], sentences: list[int]) -> None:
    """Prints speeds and ratios; `sentences` are the numbers of sentences per block."""
    wall, processor = (
        {name: np.array([answer[what] for answer in answers[name]]) for name in answers}
        for what in ("wall", "processor")
    )
    print(f"  {len(sentences)} pairs of blocks; sentences a second: ", end="")
    print(", ".join(f"{name} {sum(sentences) / seconds.sum():.1f}" for name, seconds in wall.items()))
    faster, processor_share = (
        turns.interval(ratios)
        for ratios in (wall["transformers"] / wall["segue"], processor["segue"] / processor["transformers"])
    )
    print(f"    segue / transformers: speed {faster}, processor time {processor_share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="Segue's model directory")
    parser.add_argument("manifest", type=Path, nargs="?", help="manifest of test pairs")
    parser.add_argument("--transformers", metavar="PYTHON", help="Python of transformers' environment")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sentences", type=int, default=1000, help="maximum number")
    parser.add_argument("--blocks", type=int, default=8, help="number of blocks of batches")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side[0], Path(options.side[1]))
        return
    if None in (options.model, options.manifest, options.transformers):
        parser.error("model, manifest and --transformers are needed")
    print(f"{options.model}, {options.beams} beams, torch {torch.__version__}, {options.threads} thread(s):")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


if __name__ == "__main__":
    main()
