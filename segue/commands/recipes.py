"""`segue recipes`: the recipes that ship with the package."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.errors import UserError

SUMMARY = "the recipes that ship with the package"
EXAMPLE = "segue recipes show digits_jasper"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("action", choices=("list", "show", "copy", "schema"), nargs="?", default="list")
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe (show, copy) or task (schema)")
    parser.add_argument(
        "rest", metavar="MORE", nargs="*", default=[], help="show: KEY=VALUE changes; copy: the new file"
    )


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue import recipe, tasks
    from segue.runtime.table import TASKS

    action, name, rest = given.action, given.name, given.rest
    extra = {"list": [each for each in (name, *rest) if each], "schema": rest, "copy": rest[1:], "show": []}[action]
    if extra:
        raise UserError(f"{extra[0]!r}: one argument too many for segue recipes {action}")
    if action == "list":
        for each, path in recipe.shipped().items():
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            print(f"{each:28} {first.removeprefix('#').strip()}")
        return
    if name is None:
        if action == "schema":
            raise UserError(f"a task is missing: segue recipes schema TASK (tasks: {', '.join(TASKS)})")
        raise UserError(f"a recipe is missing: segue recipes {action} NAME (segue recipes list)")
    if action == "schema":
        print(json.dumps(recipe.schema(tasks.recipe_type(name)), indent=2))
        return
    path = recipe.find(name)
    if action == "show":
        draft = recipe.read(path, rest)
        print(recipe.dump(recipe.validate(draft, tasks.module_of(draft).Recipe)), end="")
        return
    target = Path(rest[0]) if rest else Path(path.name)
    if target.is_dir():
        target = target / path.name
    if target.exists():
        raise UserError(f"{target}: exists already")
    # A copy must be self-contained: the recipe that it extends is in the package.
    text = path.read_text(encoding="utf-8")
    if "extends" in recipe.read_alone(path):
        draft = recipe.read(path)
        text = recipe.dump(recipe.validate(draft, tasks.module_of(draft).Recipe))
    target.write_text(text, encoding="utf-8")
    print(target)
