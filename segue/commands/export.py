"""`segue export`: convert a model for another runtime, and verify that its outputs are the same."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.commands import options
from segue.progress import Bar

SUMMARY = "convert a model for another runtime, and verify that its outputs are the same"
EXAMPLE = "segue export runs/digits onnx digits_onnx --quantize int8"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="run or model directory")
    parser.add_argument(
        "target", metavar="TARGET", help="onnx, sherpa-onnx, triton, ctranslate2, huggingface, gguf or peft"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write")
    parser.add_argument(
        "--quantize", metavar="WEIGHTS", help="smaller weights: int8 or float16; for gguf q8_0, q4_0 or float16"
    )
    parser.add_argument(
        "--max-metric-loss",
        metavar="POINTS",
        type=options.points,
        default=0.5,
        help="how much WER, CER, accuracy or perplexity (in percent), BLEU or chrF may get worse (default: 0.5)",
    )
    parser.add_argument(
        "--examples",
        metavar="FILE",
        type=Path,
        help="manifest or texts to compare on (default: the model's test or development data)",
    )
    parser.add_argument(
        "--calibration",
        metavar="MANIFEST",
        type=Path,
        help="examples to calibrate eight-bit ranges (default: the model's dev manifests)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is an exported model")
    options.skip_bad(parser)


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    with Bar("loads PyTorch"):
        formats = options.import_formats()
    formats.export(
        given.model,
        given.target,
        given.out,
        weights=given.quantize or formats.EXACT,
        max_metric_loss=given.max_metric_loss,
        examples=given.examples,
        calibration=given.calibration,
        skip_bad=given.skip_bad,
        force=given.force,
    )
    print(given.out)
