"""How much data does fine-tuning save? Quality against amount: from scratch, and begun with a model that exists.

Amounts are drawn from the training manifest of DATA, those of a larger amount with all of a smaller one's. Both
sides train in the same way but for the rate: the base's own recipe, as many steps, a part held out for development.

    segue quickstart && segue prepare fsdd SOURCE data/fsdd
    python bench/fine_tuning.py quickstart/run data/fsdd --amounts 10 30 100 300 --old quickstart/data/test.jsonl

The sides: `scratch`; `fine-tuned`; `adapter`, LoRA of rank 8; `rehearsed`, with a share of `--rehearsal MANIFEST` mixed
in. `--old` scores all on what the base was for; `--overrides` change all sides, `--tuned` those that begin with the
base, `--adapted` the adapter alone. `--unable`: the base cannot do the new task at all, and is not scored on it.
Results are added to `--out`/results.jsonl as they come; what is there already is not trained again. `--picture
FILE.svg` draws the means.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segue import recipe as recipes
from segue import tasks


def main() -> None:
    """Trains what is not trained yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tuned", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--adapted", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--unable", action="store_true")
    parser.add_argument("--amounts", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--test", default="test.jsonl")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--rehearsal", type=Path)
    parser.add_argument("--share", type=float, default=0.05, help="of rehearsal")
    parser.add_argument("--sides", nargs="+", default=["scratch", "fine-tuned", "adapter"])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=Path("fine_tuning"))
    given = parser.parse_args()
    kept = given.out / "results.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    tests = {"new": given.data / given.test, **({"old": given.old} if given.old else {})}
    sides = [*given.sides, *(["rehearsed"] if given.rehearsal else [])]
    if not given.unable and not any(each["side"] == "base" for each in done):
        scores = {name: score(given.base, path) for name, path in tests.items()}
        done.append({"side": "base", "amount": 0, "seed": 0, **scores})
        kept.write_text(json.dumps(done[-1]) + "\n")
    for seed in given.seeds:
        for amount in given.amounts:
            folder = subset(given.data, amount, seed, given.out)
            for side in sides:
                if any((each["side"], each["amount"], each["seed"]) == (side, amount, seed) for each in done):
                    continue
                run = given.out / f"{side}_{amount}_{seed}"
                train(side, given, folder, run, seed)
                scores = {name: score(run, path) for name, path in tests.items()}
                done.append({"side": side, "amount": amount, "seed": seed, **scores})
                with kept.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    for line in table(done, list(tests)):
        print(line)
    if given.picture:
        given.picture.write_text(picture(done), encoding="utf-8")


def subset(data: Path, amount: int, seed: int, out: Path) -> Path:
    """A folder whose train.jsonl has so many lines, with absolute paths."""
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(seed).shuffle(lines)
    folder = out / f"data_{amount}_{seed}"
    folder.mkdir(exist_ok=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for line in lines[:amount]:
            if "audio_filepath" in line:
                line["audio_filepath"] = str((data / line["audio_filepath"]).resolve())
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return folder


def train(side: str, given: Any, folder: Path, run: Path, seed: int) -> None:
    """One training."""
    tuned = [f"engine.steps={given.steps}", f"seed={seed}", *given.overrides]
    if side == "scratch":
        recipe = tasks.folder_of(given.base) / "recipe.toml"
        words = [str(recipe), *every_so_often(given.steps), 'data.train=["train.jsonl"]', "data.dev=auto"]
        words += ["schedule.kind=cosine", "schedule.warmup_steps=100"]
    else:
        words = ["--from", str(given.base), *given.tuned]
        if side == "rehearsed":
            words += [f'data.rehearsal=["{given.rehearsal.resolve()}"]', f"data.rehearsal_share={given.share}"]
        elif side == "adapter":
            words += ["start.adapter.rank=8", *given.adapted]
    segue("train", *words, "--out", str(run), f"data.root={folder}", *tuned)


def every_so_often(steps: int) -> list[str]:
    """As `--from` does without a recipe."""
    return [f"engine.evaluate_every={-(-steps // 20)}", f"engine.save_every={-(-steps // 20)}"]


def score(model: Path, manifest: Path) -> float:
    """The metric that chose the model."""
    found = json.loads(segue("evaluate", str(model), str(manifest), "--json"))
    task = recipes.read(tasks.folder_of(model) / "recipe.toml").values["task"]
    return float(found["word_error_rate" if task == "speech_recognition" else "bleu"])


def segue(*words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-c", "from segue.cli import main; raise SystemExit(main())", *words]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"segue {' '.join(words)}\n{ended.stderr}")
    return ended.stdout


def table(done: Sequence[dict[str, Any]], tests: Sequence[str]) -> list[str]:
    """Means over seeds, and the least and the largest."""
    lines = [f"| side | examples | {' | '.join(tests)} |", "|---|---|" + "---|" * len(tests)]
    for side, amount in dict.fromkeys((each["side"], each["amount"]) for each in done):
        rows = [each for each in done if (each["side"], each["amount"]) == (side, amount)]
        cells = []
        for test in tests:
            values = [row[test] for row in rows]
            spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3g}{spread}")
        lines.append(f"| {side} | {amount} | {' | '.join(cells)} |")
    return lines


COLORS = ("#1c3bde", "#982832", "#0e9e92", "#b77f0d")
LEFT, RIGHT, TOP, BOTTOM = 60, 500, 20, 300
"""Edges of the plot, in pixels; names of sides are to its right."""


def picture(done: Sequence[dict[str, Any]]) -> str:
    """An SVG: means on the new test set against the number of examples, with bars from the least to the largest."""
    sides = list(dict.fromkeys(each["side"] for each in done if each["amount"]))
    amounts = sorted({each["amount"] for each in done if each["amount"]})
    low, high = math.log(amounts[0]), math.log(amounts[-1])
    most = max(each["new"] for each in done)
    top: float = math.ceil(most * 10) / 10 if most <= 2 else math.ceil(most / 10) * 10  # error rates, or BLEU

    def x(amount: float) -> float:
        return LEFT + 20 + float(RIGHT - LEFT - 40) * (math.log(amount) - low) / max(high - low, 1e-9)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * value / top

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 340" font-family="sans-serif" font-size="13">',
        '<rect width="640" height="340" fill="white"/>',
    ]
    for number in range(6):
        value = top * number / 5
        shown = f"{100 * value:.0f} %" if top <= 2 else f"{value:.0f}"
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{RIGHT}" stroke="#ccc"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{shown}</text>')
    parts += [f'<text x="{x(each):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{each:,}</text>' for each in amounts]
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 36}" text-anchor="middle">examples</text>')
    ends = dict[str, float]()
    for color, side in zip(COLORS, sides, strict=False):
        points = []
        for amount in amounts:
            values = [each["new"] for each in done if (each["side"], each["amount"]) == (side, amount)]
            if values:
                points.append(f"{x(amount):.1f},{y(statistics.mean(values)):.1f}")
                parts.append(f'<path d="M{x(amount):.1f} {y(min(values)):.1f}V{y(max(values)):.1f}" stroke="{color}"/>')
        ends[side] = float(points[-1].partition(",")[2])
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>')
    place = 0.0
    for side in sorted(ends, key=ends.__getitem__):  # names next to the ends of lines, without overlap
        place = max(ends[side] + 4, place + 15)
        color = COLORS[sides.index(side)]
        parts.append(f'<text x="{RIGHT + 8}" y="{place:.1f}" fill="{color}">{side}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
