"""Which options do commands share that recognize speech? Those of the search."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from segue.commands import options
from segue.errors import UserError


def search(parser: ArgumentParser) -> None:
    """Declares the options of the search, for `searching`."""
    parser.add_argument("--beams", metavar="N", type=options.positive, help="search with so many beams; 1: greedy")
    parser.add_argument(
        "--language-model", metavar="FILE.arpa", type=Path, help="n-gram model of words (segue prepare ngram)"
    )
    parser.add_argument("--phrases", metavar="FILE", type=Path, help="phrases to prefer, such as names, one a line")


def is_given(given: Namespace) -> bool:
    """Whether any of these options was given."""
    return any(each is not None for each in (given.beams, given.language_model, given.phrases))


def searching(model: Any, given: Namespace) -> Any:
    """The model with the search of the command line; what is not given there is as beside the model.

    Raises a UserError if the model has no such search, and for files that do not fit it.
    """
    if not is_given(given):
        return model
    if not hasattr(model, "with_search"):
        raise UserError(f"{given.model}: --beams, --language-model and --phrases are for models that transcribe")
    found = model.search
    changes: dict[str, Any] = {}
    if given.language_model is not None:
        changes["kind"] = "beam"
    if given.beams is not None:
        changes |= {"beams": given.beams, "kind": "beam" if given.beams > 1 else "greedy"}
        if given.beams == 1 and (given.language_model is not None or given.phrases is not None):
            raise UserError("--beams 1 is greedy search, which uses no language model and no phrases; give more beams")
    if changes:
        found = found.with_section(found.section.model_copy(update=changes))
    if given.language_model is not None:
        found = found.with_language_model(given.language_model)
    if given.phrases is not None:
        from segue.decoding import phrases

        found = found.with_phrases(phrases.read(given.phrases))
    return model.with_search(found)
