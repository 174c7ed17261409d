"""`segue generate`: continue a text with a language model."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from segue.commands import options
from segue.errors import UserError

SUMMARY = "continue a text with a language model"
EXAMPLE = 'segue generate runs/shakespeare "ROMEO:" --tokens 300'


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text to continue (default: an empty one)")
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help="a prompt per line; - is standard input; prints JSON lines"
    )
    parser.add_argument(
        "--tokens", metavar="N", type=options.positive, default=200, help="most new tokens (default: 200)"
    )
    parser.add_argument("--samples", metavar="N", type=options.positive, default=1, help="continuations of each prompt")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="end before this text; repeatable")
    parser.add_argument(
        "--slide", action="store_true", help="go on past the model's context, with the last half of it in view"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object per continuation")
    how = parser.add_argument_group("how tokens are drawn (default: as in the model's recipe)")
    how.add_argument("--temperature", metavar="T", type=options.number, help="0: always the likeliest token")
    how.add_argument("--top-k", metavar="K", type=options.whole, help="only the K likeliest tokens; 0: all")
    how.add_argument("--top-p", metavar="P", type=options.number, help="only the likeliest that together have it")
    how.add_argument("--min-p", metavar="P", type=options.number, help="only with this share of the likeliest's")
    how.add_argument("--repetition-penalty", metavar="R", type=options.above_zero, help="above 1: fewer repetitions")
    how.add_argument("--seed", metavar="N", type=options.whole, help="the same seed gives the same text")
    options.device(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    model = options.load_model(given, "generate")
    sampling = _sampling(model.metadata.sampling, given)
    how = {"tokens": given.tokens, "stop": given.stop, "sampling": sampling, "is_sliding": given.slide}
    if given.prompts is not None:
        if given.prompt is not None:
            raise UserError("--prompts: give PROMPT or --prompts, not both")
        prompts = _lines(given.prompts)
        for prompt, each in zip(prompts, model.generate(prompts, samples=given.samples, **how), strict=True):
            _print(prompt, each)
        return
    prompt = given.prompt or ""
    if given.json or given.samples > 1:
        (each,) = model.generate([prompt], samples=given.samples, **how)
        if given.json:
            _print(prompt, each)
            return
        for number, found in enumerate(each, 1):
            print(f"--- {number} of {given.samples}\n{prompt}{found.text}", flush=True)
        return
    print(prompt, end="", flush=True)
    for piece in model.stream(prompt, **how):
        print(piece, end="", flush=True)
    print(flush=True)


def _print(prompt: str, continuations: Any) -> None:
    for number, found in enumerate(continuations):
        values = {"prompt": prompt, "sample": number, "text": found.text, "ending": found.ending}
        print(json.dumps({**values, "tokens": len(found.tokens)}, ensure_ascii=False), flush=True)


def _lines(path: Path) -> list[str]:
    """The prompts of a file. Raises a UserError if there is none."""
    from segue import translate_files

    if path == Path("-"):
        if sys.stdin is None:
            raise UserError("standard input is closed; name a file")
        found = list(translate_files.lines(sys.stdin.buffer, "standard input"))
    else:
        found = list(translate_files.of_file(path))
    if not found:
        raise UserError(f"{path}: no prompt in it")
    return found


def _sampling(section: Any, given: Namespace) -> Any:
    """The model's settings with those of the command line. Raises a UserError for a value out of range."""
    from pydantic import ValidationError

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    values = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    try:
        return type(section).model_validate({**section.model_dump(), **values})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise UserError(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}") from None
