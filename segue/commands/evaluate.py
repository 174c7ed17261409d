"""`segue evaluate`: the task's metrics on manifests."""

import datetime
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from segue.commands import options, speech_options
from segue.errors import UserError, count_of

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
    parser.add_argument(
        "--normalizer",
        choices=("ours", "whisper", "none"),
        default="ours",
        help="how speech recognizers' texts are normalized for scores, never for what is shown: as for training, as "
        "Whisper's are, or not at all (default: ours)",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="make probabilities of the confidences of words: MANIFEST is development data; a small file is written "
        "beside the model",
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
    if other is not None and type(other) is not type(model):  # each task has one, whatever runs the model
        raise UserError(f"--against {given.against}: a model of another task than {given.model}")
    has_report = given.report is not None
    how = {"skip_bad": given.skip_bad, "has_media": has_report}
    if given.as_transcribe:
        if not all(hasattr(each, "transcribe") for each in (model, other or model)):
            raise UserError("--as-transcribe: this model does not transcribe")
        how["as_transcribed"] = True
    if given.normalizer != "ours":
        if not all(hasattr(each, "transcribe") for each in (model, other or model)):
            raise UserError("--normalizer: is for speech recognizers")
        how["normalizer"] = given.normalizer
    if given.calibrate:
        _calibrate(model, given)
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
    elif has_report:
        print(given.report)


def _calibrate(model: Any, given: Namespace) -> None:
    """Fits the confidences of the model, and writes the curve beside it."""
    from segue import metrics, tasks
    from segue.data.examples import Utterance
    from segue.data.manifest import Manifest
    from segue.errors import note
    from segue.runtime import calibration, exported

    if not hasattr(model, "transcribe"):
        raise UserError("--calibrate: is for speech recognizers")
    folder = given.model if (given.model / exported.NAME).is_file() else tasks.folder_of(given.model)
    model.calibration = None
    confidences, right = model.evaluator.sureness(Manifest(Utterance, given.manifest, skip_bad=given.skip_bad))
    curve = calibration.fit(confidences, right, model.search.deciding)
    path = calibration.save(curve, folder)
    model.calibration = curve
    before, after = (
        metrics.calibration_error(values, right) for values in (confidences, [curve.of(each) for each in confidences])
    )
    words = count_of(len(right), "word")
    note(f"{path}: fitted on {words}; their calibration error was {before:.3f} and is {after:.3f}")
