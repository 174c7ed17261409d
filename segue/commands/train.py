"""`segue train`: train a recipe; run it again to resume."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from segue.commands import options
from segue.errors import UserError, warn
from segue.progress import Bar

SUMMARY = "train a recipe; run it again to resume"
EXAMPLE = "segue train digits_jasper data.root=data/fsdd --out runs/digits"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe file, or the name of one that ships")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="changes: optimizer.learning_rate=3e-4"
    )
    options.base(parser)
    parser.add_argument("--out", metavar="RUN", type=Path, help="run directory (default: runs/NAME of the recipe)")
    parser.add_argument(
        "--find-learning-rate", action="store_true", help="run 100 steps with increasing rates; nothing is saved"
    )
    parser.add_argument(
        "--replay", metavar="FILE", type=Path, help="repeat a step whose loss or gradient was not finite"
    )
    options.skip_bad(parser)


def explain_unknown(given: Namespace, option: str, words: Sequence[str]) -> UserError:
    """The error for an unknown option of `train`: most are meant as keys of the recipe."""
    from segue import key_hints, recipe, tasks

    name, equals, value = option.partition("=")
    place = words.index(option) + 1
    if not equals and place < len(words) and not words[place].startswith("-"):
        value = words[place]
    known = [each for each in (given.recipe, *given.overrides) if each and "=" not in each and each != value]
    example = "segue train RECIPE optimizer.learning_rate=3e-4"
    unknown = f"{name}: no such option of train (segue train --help); recipe keys follow the recipe: {example}"
    try:
        draft = recipe.read(recipe.find(known[0]))
        keys = list(recipe.keys_of(tasks.module_of(draft).Recipe, draft.values))
    except (UserError, IndexError):
        return UserError(unknown)
    plain = key_hints.plain(name)
    found = [plain] if plain in keys else key_hints.meant(plain, keys)
    if not found:
        return UserError(unknown)
    if found[0] == "engine.steps" and "epoch" in plain:
        value = f"{value or 20}epochs"
    elif found[0] in key_hints.BUDGETS:
        unit = found[0].rpartition(".")[2]
        return UserError(
            f"{name}: no such option of train; the recipe's key is {found[0]}: {unit} in a batch, not examples"
        )
    written = f"{found[0]}={value}" if value else f"{found[0]}=..."
    return UserError(f"{name}: no such option of train; the recipe has a key for it: {written}")


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    with Bar("loads PyTorch"):
        from segue import training

    skip_bad = ["data.skip_bad=true"] if given.skip_bad else []
    if given.replay is not None:
        # The recipe is that of the replay file's run, so all arguments are overrides.
        return _replay(given.replay, [*filter(None, [given.recipe]), *given.overrides, *skip_bad])
    overrides = [*given.overrides, *skip_bad]
    path, overrides, name = options.chosen_recipe(given.recipe, overrides, given.base, "train")
    folder = given.out or Path("runs") / name
    if given.find_learning_rate:
        rates, suggested = training.learning_rates(path, overrides)
        print(f"{'rate':>10} {'loss':>10} {'smoothed':>10}")
        for rate, loss, smoothed in rates:
            print(f"{rate:10.3g} {loss:10.4f} {smoothed:10.4f}")
        print(f"optimizer.learning_rate={suggested:.2g}")
        return 0
    processes = training.num_processes(path, overrides)
    if processes > 1:
        start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "segue"]
        os.execv(sys.executable, [sys.executable, "-m", *start, *sys.argv[1:]])
    result = training.train(path, folder, overrides)
    if result.signal is not None:
        warn(f"stopped and saved at step {result.step}; the same command continues from there")
        return 128 + int(result.signal)
    if os.environ.get("RANK", "0") == "0":
        assert result.best is not None  # the last step is always evaluated
        print(f"{folder / 'model'}: {result.metric} {result.best.score:.4f} at step {result.best.step}")
    return 0


def _replay(path: Path, overrides: Sequence[str]) -> int:
    from segue import training

    for finding in training.take_again(path, overrides):
        print(f"loss {finding.loss:g}  gradient norm {finding.gradient_norm:g}  {', '.join(finding.ids)}")
        if finding.first_module is not None:
            print(f"  first output that is not finite: {finding.first_module}")
        for example, loss in finding.examples:
            print(f"  {example} alone: loss {loss:g}")
    return 0
