"""`segue translate`: text to text: lines from standard input, txt, srt, vtt and ass files."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from segue import progress
from segue.commands import options
from segue.errors import UserError

MOST_BEAMS = 1000  # more never helps a search; memory and time grow with them
SUMMARY = "text to text: lines from standard input, txt, srt, vtt and ass files"
EXAMPLE = "segue translate runs/multi30k film.srt --to de"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        default=[],
        help="txt, srt, vtt, ass, ssa; none or -: standard input",
    )
    parser.add_argument("--to", metavar="LANG", help="target language, if the model has several")
    parser.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="folder, or file for one FILE (default: NAME.LANG.srt next to NAME.srt)",
    )
    parser.add_argument("--beams", metavar="N", type=options.positive, help="number of beams (default: the recipe's)")
    parser.add_argument(
        "--context",
        metavar="N",
        type=options.whole,
        default=0,
        help="preceding lines translated together with each line",
    )
    parser.add_argument(
        "--line-length", metavar="N", type=options.positive, default=42, help="for subtitles (default: 42)"
    )
    parser.add_argument(
        "--reading-speed",
        metavar="CPS",
        type=options.above_zero,
        default=17.0,
        help="characters per second above which to warn (default: 17)",
    )
    options.device(parser)


def run(given: Namespace) -> int:
    """Runs the command; returns the exit status, None for 0."""
    from segue import translate_files
    from segue.data.subtitles.translation import Shape

    model = options.load_model(given, "translate")
    model.check_language(given.to)
    search = model.metadata.search
    if given.beams is not None and given.beams > MOST_BEAMS:
        raise UserError(f"--beams {given.beams}: at most {MOST_BEAMS}")
    if given.beams is not None:
        search = search.model_copy(update={"beams": given.beams})

    if given.files in ([], [Path("-")]) and sys.stdin is None:
        raise UserError("standard input is closed; name a file")
    files = [path for path in given.files if path != Path("-")]
    if files and files != given.files:
        raise UserError("- is standard input, and goes to standard output: give it alone")

    def translator(lines: Iterable[str]) -> Iterator[str]:
        # Interactive input is answered line by line; with a progress bar, windows are short, so that it moves.
        is_seen = progress.is_terminal(sys.stderr)
        window = 1 if not files and sys.stdin.isatty() else 8 * model.BATCH if is_seen else model.WINDOW
        found: Iterator[str] = model.translate_lines(
            lines, given.to, search=search, context=given.context, window=window
        )
        return found

    if not files:
        for line in translator(translate_files.lines(sys.stdin.buffer, "standard input")):
            print(line, flush=sys.stdin.isatty())
        return 0
    language = given.to or next(iter(model.languages), "translated")
    targets = translate_files.targets(files, given.out, language)
    shape = Shape(given.line_length, reading_speed=given.reading_speed)
    has_failed = False
    for path, target in zip(files, targets, strict=True):
        try:
            translate_files.translate(path, target, translator, shape)
            print(target, flush=True)
        except UserError as problem:
            print(f"segue: {problem}", file=sys.stderr)
            has_failed = True
    return 2 if has_failed else 0
