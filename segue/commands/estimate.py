"""`segue estimate`: what a recipe needs on given devices: memory, communication, time."""

import json
from argparse import ArgumentParser, Namespace

from segue.commands import options

SUMMARY = "what a recipe needs on given devices: memory, communication, time"
EXAMPLE = "segue estimate wmt14_transformer_big --devices 8 --memory 80 --flops 400e12"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="recipe file, or the name of one that ships")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="changes: batch.tokens=8192")
    parser.add_argument(
        "--devices", metavar="N", type=options.positive, default=1, help="number of devices (default: 1)"
    )
    parser.add_argument(
        "--memory", metavar="GB", type=options.above_zero, required=True, help="memory of each, in 10^9 bytes"
    )
    parser.add_argument(
        "--flops",
        metavar="X",
        type=options.above_zero,
        help="FLOP/s that one device achieves, such as 400e12, to estimate the throughput",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue import recipe, tasks

    path = recipe.find(given.recipe)
    found = tasks.estimate(path, given.devices, given.memory, given.flops, given.overrides)
    print(json.dumps(found.as_json()) if given.json else found)
