"""`segue prepare`: write the manifests of a corpus."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.commands import options
from segue.errors import UserError

SUMMARY = "write the manifests of a corpus"
EXAMPLE = "segue prepare fsdd recordings/ data/fsdd longest=5 seed=0"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    speech, pairs = (
        "fsdd, ljspeech, librispeech, csv, tsv, nemo, kaldi, synthesized",
        "multi30k, wmt14, parallel, written, cmudict, csv, tsv",
    )
    classes = "folders; with label=...: csv, tsv, fsdd, multi30k, synthesized"
    kinds = f"speech: {speech}; text pairs: {pairs}; classes: {classes}; music: jsb, midi; words of a language: ngram"
    parser.add_argument("corpus", metavar="CORPUS", help=kinds)
    parser.add_argument("source", metavar="SOURCE", type=Path, nargs="?", help="file or folder of the corpus")
    parser.add_argument(
        "out", metavar="OUT_DIR", type=Path, nargs="?", help="folder for the manifests; of ngram, a file"
    )
    parser.add_argument(
        "options", metavar="KEY=VALUE", nargs="*", default=[], help="options; `segue prepare CORPUS` alone lists them"
    )
    options.skip_bad(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue import recipe
    from segue.data import corpora

    if given.source is None:
        module = corpora.module_of(given.corpus)
        options = recipe.dump(module.Options()).strip() or "(no options)"
        print(f"{(module.__doc__ or '').strip()}\n\n{options}")
        return
    if given.out is None:
        raise UserError("OUT_DIR is missing (a file for ngram): segue prepare CORPUS SOURCE OUT_DIR")
    written = corpora.prepare(given.corpus, given.source, given.out, given.options, skip_bad=given.skip_bad)
    for each in written:
        print(f"{each.path}: {each.summary}")
    command = corpora.next_command(given.corpus, written, given.out)
    if command is not None:
        print(command)
