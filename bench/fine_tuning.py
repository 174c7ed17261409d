"""How much data does fine-tuning save? Quality against amount: from scratch, and begun with a model that exists.

Amounts are drawn from the training manifest of DATA, those of a larger amount with all of a smaller one's. Both
sides train in the same way but for the rate: the base's own recipe, as many steps, a part held out for development.

    segue quickstart && segue prepare fsdd SOURCE data/fsdd
    python bench/fine_tuning.py quickstart/run data/fsdd --amounts 10 30 100 300 --old quickstart/data/test.jsonl

`--rehearsal MANIFEST` also fine-tunes with 5 % of that mixed in; `--old` scores all on what the base was for;
`--overrides` change both sides. Results are added to `--out`/results.jsonl as they come; what is
there already is not trained again.
"""

import argparse
import json
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
    parser.add_argument("--amounts", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--test", default="test.jsonl")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--rehearsal", type=Path)
    parser.add_argument("--sides", nargs="+", default=["scratch", "fine-tuned"])
    parser.add_argument("--out", type=Path, default=Path("fine_tuning"))
    given = parser.parse_args()
    kept = given.out / "results.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    tests = {"new": given.data / given.test, **({"old": given.old} if given.old else {})}
    sides = [*given.sides, *(["rehearsed"] if given.rehearsal else [])]
    if not any(each["side"] == "base" for each in done):
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
        words = ["--from", str(given.base)]
        if side == "rehearsed":
            words.append(f'data.rehearsal=["{given.rehearsal.resolve()}"]')
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


if __name__ == "__main__":
    main()
