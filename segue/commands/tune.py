"""`segue tune`: choose the settings of a speech model's search on development data."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from time import process_time

from segue.commands import options
from segue.errors import UserError

SUMMARY = "choose the settings of a speech model's search on development data"
_WIDTH = 6
EXAMPLE = "segue tune runs/digits data/fsdd/dev.jsonl --language-model digits.arpa"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="development data, not test data")
    parser.add_argument(
        "--language-model", metavar="FILE.arpa", type=Path, help="n-gram model of words (segue prepare ngram)"
    )
    parser.add_argument(
        "--most-minutes",
        metavar="N",
        type=options.above_zero,
        default=10.0,
        help="speech to try settings on (default: 10)",
    )
    options.skip_bad(parser)
    options.device(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue import tasks
    from segue.runtime import exported
    from segue.runtime.search_tuning import Trial, Tuning, development

    model = options.load_model(given, "transcribe")
    if not hasattr(model, "with_search"):
        raise UserError(f"{given.model}: this model has no search with settings")
    search = model.search
    if given.language_model is not None:
        search = search.with_language_model(given.language_model)
    data = development(model, given.manifest, 60 * given.most_minutes, given.skip_bad)
    tuning = Tuning(model, data, process_time)
    has_words = search.words is not None
    names = ("kind", "beams", *(("weight", "word_bonus", "unknown_word_score") if has_words else ()))
    titles = [*names, "word errors", "letter errors", "speed"]
    print("  ".join(title.rjust(_WIDTH) for title in titles))

    def row(trial: Trial) -> str:
        cells = [
            "-" if trial.section.kind == "greedy" and name != "kind" else str(getattr(trial.section, name))
            for name in names
        ]
        rates = [f"{trial.scores[name]:.2%}" for name in ("word_error_rate", "character_error_rate")]
        cells += [*rates, f"{data.seconds / max(trial.search_seconds, 1e-9):.0f}x"]
        return "  ".join(cell.rjust(max(_WIDTH, len(title))) for cell, title in zip(cells, titles, strict=True))

    for trial in tuning.run(search):
        print(row(trial), flush=True)
    best = tuning.best
    equal = tuning.num_equal
    print(f"best{f' (first of {equal} with as few errors; more speech might tell them apart)' if equal > 1 else ''}:")
    print(row(best))
    folder = given.model if (given.model / exported.NAME).is_file() else tasks.folder_of(given.model)
    chosen = search.with_section(best.section)
    (chosen.without_language_model() if best.section.kind == "greedy" else chosen).save(folder)
    print(f"{folder / 'search.json'}: written; the model now searches like this")
