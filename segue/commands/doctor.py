"""`segue doctor`: what is wrong with a recipe and its data, before any device is used."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.commands import options
from segue.errors import UserError
from segue.progress import Bar, say

SUMMARY = "what is wrong with a recipe and its data, before any device is used"
EXAMPLE = "segue doctor your_speech data.root=data/yours --report report.html"
NOT_ADVISABLE = 3
"""Exit status if something speaks against training."""


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="recipe file, or the name of one that ships; or a manifest (.jsonl)"
    )
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="changes: data.root=data/yours; or more manifests"
    )
    parser.add_argument(
        "--model", metavar="MODEL", type=Path, help="also list examples that this model disagrees with most"
    )
    options.base(parser)
    parser.add_argument("--no-batch", action="store_true", help="take no trial steps, which need about a minute")
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="a page with recordings to play")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status: 0, or 3 if training is not advisable."""
    from segue import doctor
    from segue.files import check_targets
    from segue.report import diagnosis

    paths = [Path(each) for each in (given.recipe, *given.overrides) if each is not None]
    is_of_manifests = bool(given.recipe and given.recipe.endswith((".jsonl", ".jsonl.gz", ".json")))
    check_targets({"--report": given.report}, paths if is_of_manifests else paths[:1])
    has_media = given.report is not None
    if is_of_manifests:
        wrong = next((each for each in given.overrides if "=" in each and not Path(each).is_file()), None)
        if wrong is not None or given.base is not None:
            what = f"{wrong}: a key of a recipe" if wrong else "--from: for a recipe"
            raise UserError(f"{what}, but {given.recipe} is a manifest: segue doctor RECIPE {wrong or '--from MODEL'}")
        found = doctor.of_manifests(paths, has_media=has_media, model=given.model)
    else:
        with Bar("loads PyTorch"):
            from segue import training
        del training
        path, overrides, name = options.chosen_recipe(given.recipe, given.overrides, given.base, "doctor")
        found = doctor.of_recipe(
            path,
            overrides,
            has_media=has_media,
            has_batch=not given.no_batch,
            model=given.model,
            title=name if given.recipe is None or "=" in given.recipe else given.recipe,
        )
    if has_media:
        diagnosis.write(found, given.report)
    if given.json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        print("\n".join(diagnosis.lines(found)))
        if has_media:
            say(str(given.report))
    return 0 if found.is_advisable else NOT_ADVISABLE
