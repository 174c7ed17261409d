"""`segue evaluate`: the task's metrics on manifests."""

import datetime
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.commands import options, speech_options
from segue.errors import UserError

SUMMARY = "the task's metrics on manifests"
EXAMPLE = "segue evaluate runs/digits data/fsdd/test.jsonl --json"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    options.model(parser)
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, nargs="+", help="examples with references")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--against", metavar="MODEL", type=Path, help="another model to compare with on the same examples"
    )
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="scores, and examples from worst to best")
    parser.add_argument("--outputs", metavar="FILE.jsonl", type=Path, help="each example's output and scores")
    parser.add_argument(
        "--as-transcribe",
        action="store_true",
        help="transcribe whole recordings as `segue transcribe` does; clips are joined by speaker, 1 s apart",
    )
    speech_options.search(parser)
    options.skip_bad(parser)
    options.device(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue.files import check_targets, write_lines
    from segue.report import comparison, terminal

    if len(given.manifest) > 1 and (given.report or given.outputs):
        raise UserError("--report, --outputs: they are of one manifest; evaluate the others by themselves")
    check_targets({"--report": given.report, "--outputs": given.outputs}, given.manifest)
    model = speech_options.searching(options.load_model(given, "evaluate"), given)
    other = None if given.against is None else options.load_model(given, "evaluate", given.against)
    has_report = given.report is not None
    how = {"skip_bad": given.skip_bad, "has_media": has_report}
    if given.as_transcribe:
        if not all(hasattr(each, "transcribe") for each in (model, other or model)):
            raise UserError("--as-transcribe: this model does not transcribe")
        how["as_transcribed"] = True
    of_each = {}
    for manifest in given.manifest:
        evaluation = model.evaluator.explain(manifest, **how)
        if given.outputs is not None:
            write_lines(given.outputs, (json.dumps(each, ensure_ascii=False) for each in evaluation.outputs()))
        if has_report:
            from segue import report

            facts = {"model": str(given.model), **evaluation.facts, "date": f"{datetime.date.today():%Y-%m-%d}"}
            report.write(evaluation._replace(facts=facts), given.report)
        scores, lines = evaluation.as_json(), terminal.lines(evaluation)
        if other is not None:
            found = comparison.between(evaluation, other.evaluator.explain(manifest, **how))
            scores["against"] = {"model": str(given.against), "differences": comparison.as_json(found)}
            lines += ["", *comparison.lines(found, str(given.against))]
        of_each[str(manifest)] = scores
        if not given.json:
            print("\n".join([f"{manifest}:", *lines, ""] if len(given.manifest) > 1 else lines), flush=True)
    if given.json:
        print(json.dumps(of_each if len(given.manifest) > 1 else scores))
