"""`segue import`: a public model of another toolkit as a model directory."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from segue.progress import Bar

SUMMARY = "a public model (NeMo, opus-mt, Llama, GPT-2) as a model directory, to use, fine-tune and export"
EXAMPLE = "segue import QuartzNet15x5Base-En.nemo models/quartznet"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help=".nemo archive (EncDecCTCModel: Jasper, QuartzNet), PEFT adapter, or Hugging Face directory "
        "(MarianMTModel, LlamaForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel)",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="model directory to write")
    parser.add_argument(
        "--nemo-version",
        metavar="VERSION",
        help="version of NeMo that trained the model: 2.5.0 changed the front end (default: that in the archive)",
    )
    parser.add_argument(
        "--base", metavar="MODEL", type=Path, help="for an adapter of PEFT's: the model directory that it belongs to"
    )


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue.errors import missing_extra

    with Bar("loads PyTorch"):
        try:
            from segue.formats import importing
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "train") from None
    importing.import_model(given.source, given.out, given.nemo_version, given.base)
    print(given.out)
