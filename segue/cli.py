"""Which commands are there? One table; each command imports what it needs when it runs.

Exit status: 0; 2 for a user's mistake, one clear message on standard error; 1 for a fault of ours, with a traceback;
128 + signal where SIGINT, SIGTERM or SIGUSR1 stopped a training that can go on; 75 where its watchdog did, or where
another rank was lost.
"""

import argparse
import dataclasses
import datetime
import difflib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from segue import progress
from segue.errors import UserError, missing_extra, warn
from segue.files import replacing
from segue.progress import Bar

Arguments = argparse.Namespace


class Command(NamedTuple):
    """A line of the table."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], int | None]


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    # Waiting threads should sleep: spinning ones cost up to six times on a shared machine. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # UTF-8 as in files, whatever the locale; names of files that are not UTF-8 go out as they came in.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else "--help"
    if name not in COMMANDS:
        if not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
            print(f"segue: no such command: {name!r} ({hint})", file=sys.stderr)
            return 2
        _contents().parse_args([name])  # help, version, or a mistake: it does not come back
    progress.show()
    try:
        # Intermixed: options may stand before, between and after the words.
        parser = _parser(name)
        arguments, unknown = parser.parse_known_intermixed_args(words[1:])
        if unknown and name == "train":
            raise _no_such_option(arguments, unknown[0], words)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return COMMANDS[name].run(arguments) or 0
    except KeyboardInterrupt:  # a training answers the first one itself: it saves and says how to go on
        progress.stop()
        print("segue: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except UserError as mistake:
        progress.stop()
        print(f"segue: {mistake}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written: not ours to mend
        progress.stop()
        if isinstance(error, BrokenPipeError):  # `segue ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"segue: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
    return 2


def _contents() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:11} {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="segue",
        usage="segue COMMAND ...",
        description="Sequence models from your own data to a deployed model.",
        epilog=f"commands:\n{lines}\n\n`segue COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"segue {metadata.version('segue')}")
    return parser


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"segue {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    return parser


# --- prepare ---


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    speech, pairs = "fsdd, ljspeech, librispeech, csv, tsv, nemo, kaldi", "multi30k, wmt14, parallel, cmudict, csv, tsv"
    parser.add_argument("corpus", metavar="CORPUS", help=f"speech: {speech}; text pairs: {pairs}")
    parser.add_argument("source", metavar="SOURCE", type=Path, nargs="?", help="file or folder of the corpus")
    parser.add_argument("out", metavar="OUT_DIR", type=Path, nargs="?", help="folder for the manifests")
    parser.add_argument(
        "options", metavar="KEY=VALUE", nargs="*", default=[], help="options; `segue prepare CORPUS` alone lists them"
    )
    _skip_bad_argument(parser)


def _prepare(arguments: Arguments) -> None:
    from segue import recipe
    from segue.data import corpora

    if arguments.source is None:
        module = corpora.module_of(arguments.corpus)
        options = recipe.dump(module.Options()).strip() or "(no options)"
        print(f"{(module.__doc__ or '').strip()}\n\n{options}")
        return
    if arguments.out is None:
        raise UserError("OUT_DIR is missing: segue prepare CORPUS SOURCE OUT_DIR")
    written = corpora.prepare(
        arguments.corpus, arguments.source, arguments.out, arguments.options, skip_bad=arguments.skip_bad
    )
    for path, _, summary in written:
        print(f"{path}: {summary}")
    command = corpora.next_command(arguments.corpus, written, arguments.out)
    if command is not None:
        print(command)


# --- estimate ---


def _estimate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="recipe file, or the name of one that ships")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="changes: batch.tokens=8192")
    parser.add_argument("--devices", metavar="N", type=_positive, default=1, help="how many (default: 1)")
    parser.add_argument("--memory", metavar="GB", type=_above_zero, required=True, help="of each, in 10^9 bytes")
    parser.add_argument(
        "--flops", metavar="X", type=_above_zero, help="operations a second that one reaches, like 400e12: for a rate"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _estimate(arguments: Arguments) -> None:
    from segue import recipe, tasks

    path = recipe.find(arguments.recipe)
    found = tasks.estimate(path, arguments.devices, arguments.memory, arguments.flops, arguments.overrides)
    print(json.dumps(found.as_json()) if arguments.json else found)


# --- train ---


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe file, or the name of one that ships")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="changes: optimizer.learning_rate=3e-4"
    )
    parser.add_argument("--out", metavar="RUN", type=Path, help="run directory (default: runs/NAME of the recipe)")
    parser.add_argument(
        "--find-learning-rate", action="store_true", help="try 100 steps at growing rates; nothing is kept"
    )
    parser.add_argument("--replay", metavar="FILE", type=Path, help="take a step again that was not finite")
    _skip_bad_argument(parser)


def _no_such_option(arguments: Arguments, option: str, words: Sequence[str]) -> UserError:
    """What is wrong with an option that `train` does not have: most are keys of the recipe."""
    from segue import key_hints, recipe, tasks

    name, equals, value = option.partition("=")
    place = words.index(option) + 1
    if not equals and place < len(words) and not words[place].startswith("-"):
        value = words[place]
    known = [each for each in (arguments.recipe, *arguments.overrides) if each and "=" not in each and each != value]
    example = "segue train RECIPE optimizer.learning_rate=3e-4"
    unknown = f"{name}: no such option of train (segue train --help); a recipe's keys stand behind it: {example}"
    try:
        draft = recipe.read(recipe.find(known[0]))
        keys = list(recipe.keys_of(tasks.module_of(draft).Recipe, draft.values))
    except (UserError, IndexError):
        return UserError(unknown)
    plain = key_hints.plain(name)
    found = [plain] if plain in keys else key_hints.meant(plain, keys)
    if not found:
        return UserError(unknown)
    if found[0] == "engine.steps" and "epoch" in plain:
        value = f"{value or 20}epochs"
    elif found[0] in key_hints.BUDGETS:
        unit = found[0].rpartition(".")[2]
        return UserError(
            f"{name}: no such option of train; the recipe's key is {found[0]}: {unit} in a batch, not examples"
        )
    written = f"{found[0]}={value}" if value else f"{found[0]}=..."
    return UserError(f"{name}: no such option of train; the recipe has a key for it: {written}")


def _train(arguments: Arguments) -> int:
    with Bar("loads PyTorch"):
        from segue import recipe, training

    skip_bad = ["data.skip_bad=true"] if arguments.skip_bad else []
    if arguments.replay is not None:
        # No recipe then: it lies beside the file, and all words are changes to it.
        return _replay(arguments.replay, [*filter(None, [arguments.recipe]), *arguments.overrides, *skip_bad])
    if arguments.recipe is None or ("=" in arguments.recipe and not Path(arguments.recipe).exists()):
        raise UserError("RECIPE is missing: segue train RECIPE (segue recipes list)")
    path = recipe.find(arguments.recipe)
    run = arguments.out or Path("runs") / path.stem
    overrides = [*arguments.overrides, *skip_bad]
    if arguments.find_learning_rate:
        rates, suggested = training.learning_rates(path, overrides)
        print(f"{'rate':>10} {'loss':>10} {'smoothed':>10}")
        for rate, loss, smoothed in rates:
            print(f"{rate:10.3g} {loss:10.4f} {smoothed:10.4f}")
        print(f"optimizer.learning_rate={suggested:.2g}")
        return 0
    processes = training.num_processes(path, overrides)
    if processes > 1:
        start = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "segue"]
        os.execv(sys.executable, [sys.executable, "-m", *start, *sys.argv[1:]])
    result = training.train(path, run, overrides)
    if result.signal is not None:
        warn(f"stopped and saved at step {result.step}; the same command goes on from there")
        return 128 + int(result.signal)
    if os.environ.get("RANK", "0") == "0":
        assert result.best is not None  # the last step is always evaluated
        print(f"{run / 'model'}: {result.metric} {result.best.score:.4f} at step {result.best.step}")
    return 0


def _replay(path: Path, overrides: Sequence[str]) -> int:
    from segue import training

    for finding in training.take_again(path, overrides):
        print(f"loss {finding.loss:g}  gradient norm {finding.gradient_norm:g}  {', '.join(finding.ids)}")
        if finding.first_module is not None:
            print(f"  first output that is not finite: {finding.first_module}")
        for example, loss in finding.examples:
            print(f"  {example} alone: loss {loss:g}")
    return 0


# --- evaluate ---


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _model_argument(parser)
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="examples with references")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="scores, and examples from worst to best")
    parser.add_argument("--outputs", metavar="FILE.jsonl", type=Path, help="each example's output and scores")
    parser.add_argument(
        "--as-transcribe",
        action="store_true",
        help="hear whole recordings, as `segue transcribe` does; clips are joined by speaker, a second between them",
    )
    _skip_bad_argument(parser)
    _device_argument(parser)


def _evaluate(arguments: Arguments) -> None:
    from segue.files import check_targets, write_lines
    from segue.report import terminal

    check_targets({"--report": arguments.report, "--outputs": arguments.outputs}, [arguments.manifest])
    model = _model(arguments, "evaluate")
    has_report = arguments.report is not None
    options = {"skip_bad": arguments.skip_bad, "has_media": has_report}
    if arguments.as_transcribe:
        if not hasattr(model, "transcribe"):
            raise UserError("--as-transcribe: this model does not transcribe")
        options["as_transcribed"] = True
    evaluation = model.explain(arguments.manifest, **options)
    if arguments.outputs is not None:
        write_lines(arguments.outputs, (json.dumps(each, ensure_ascii=False) for each in evaluation.outputs()))
    if has_report:
        from segue import report

        facts = {"model": str(arguments.model), **evaluation.facts, "date": f"{datetime.date.today():%Y-%m-%d}"}
        report.write(evaluation._replace(facts=facts), arguments.report)
    print(json.dumps(evaluation.as_json()) if arguments.json else "\n".join(terminal.lines(evaluation)))


# --- transcribe ---


def _transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    _model_argument(parser)
    parser.add_argument(
        "audio", metavar="AUDIO", type=Path, nargs="+", help="recordings of any length, folders, or - (standard input)"
    )
    parser.add_argument("--format", choices=("text", "json", "srt", "vtt"), default="text", help="(default: text)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a file for each recording there")
    parser.add_argument(
        "--channel", type=_channel, help="left, right, mix or a number from 1 (default: mix, where that makes sense)"
    )
    _device_argument(parser)


def _transcribe(arguments: Arguments) -> int:
    from segue import transcribe_files

    paths = transcribe_files.recordings(arguments.audio)
    if arguments.format in ("srt", "vtt") and len(paths) > 1 and arguments.out is None:
        raise UserError(f"--format {arguments.format} with several recordings needs --out DIR")
    suffix = "txt" if arguments.format == "text" else arguments.format
    targets = [] if arguments.out is None else transcribe_files.targets(paths, arguments.out, suffix)
    model = _model(arguments, "transcribe")
    has_failed = has_warned = False
    for number, path in enumerate(progress.progress(paths, "transcribes", unit="recordings")):
        try:
            with transcribe_files.local(path) as file:
                transcript = model.transcribe(file, channel=arguments.channel)
                rate = model.rate_of(file)
        except UserError as problem:
            progress.say(f"segue: {problem}")
            has_failed = True
            continue
        if rate < model.facts.sample_rate_hz and not has_warned:
            has_warned = True
            warn(
                f"{path}: has {rate} samples a second, the model learnt from {model.facts.sample_rate_hz}: what lies "
                f"above {rate // 2} Hz is not there, and words may be wrong for that (said once)"
            )
        text = dataclasses.replace(transcript, audio=str(path)).written(arguments.format)
        if targets:
            with replacing(targets[number]) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
        elif arguments.format == "text" and len(paths) > 1:
            progress.say(f"{path}\t{text}", sys.stdout)
        else:
            progress.say(text, sys.stdout)
    return 2 if has_failed else 0


# --- translate ---


def _translate_arguments(parser: argparse.ArgumentParser) -> None:
    _model_argument(parser)
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        default=[],
        help="txt, srt, vtt, ass, ssa; none or -: standard input",
    )
    parser.add_argument("--to", metavar="LANG", help="target language, where the model knows several")
    parser.add_argument(
        "--out", metavar="PATH", type=Path, help="folder, or file for one FILE (default: NAME.LANG.srt beside NAME.srt)"
    )
    parser.add_argument(
        "--beams", metavar="N", type=_positive, help="hypotheses followed at once (default: the recipe's)"
    )
    parser.add_argument(
        "--context", metavar="N", type=_whole, default=0, help="lines before each that are read with it"
    )
    parser.add_argument("--line-length", metavar="N", type=_positive, default=42, help="subtitles (default: 42)")
    parser.add_argument(
        "--reading-speed",
        metavar="CPS",
        type=_above_zero,
        default=17.0,
        help="characters a second to warn at (default: 17)",
    )
    _device_argument(parser)


def _translate(arguments: Arguments) -> int:
    from segue import translate_files
    from segue.data.subtitles.translation import Shape

    model = _model(arguments, "translate")
    model.check_language(arguments.to)
    search = model.facts.search
    if arguments.beams is not None:
        search = search.model_copy(update={"beams": arguments.beams})

    files = [path for path in arguments.files if path != Path("-")]
    if files and files != arguments.files:
        raise UserError("- is standard input, and goes to standard output: give it alone")

    def translator(lines: Iterable[str]) -> Iterator[str]:
        # A person who types line by line wants each answered, and one who waits wants to see how far it is.
        is_seen = progress.is_terminal(sys.stderr)
        window = 1 if not files and sys.stdin.isatty() else 8 * model.BATCH if is_seen else model.WINDOW
        found: Iterator[str] = model.translate_lines(
            lines, arguments.to, search=search, context=arguments.context, window=window
        )
        return found

    if not files:
        for line in translator(translate_files.lines(sys.stdin.buffer, "standard input")):
            print(line, flush=sys.stdin.isatty())
        return 0
    language = arguments.to or next(iter(model.languages), "translated")
    targets = translate_files.targets(files, arguments.out, language)
    shape = Shape(arguments.line_length, reading_speed=arguments.reading_speed)
    has_failed = False
    for path, target in zip(files, targets, strict=True):
        try:
            translate_files.translate(path, target, translator, shape)
            print(target, flush=True)
        except UserError as problem:
            print(f"segue: {problem}", file=sys.stderr)
            has_failed = True
    return 2 if has_failed else 0


# --- export ---


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="run or model directory")
    parser.add_argument("target", metavar="TARGET", help="onnx, sherpa-onnx, ctranslate2 or huggingface")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write")
    parser.add_argument("--quantize", choices=("int8", "float16"), help="smaller weights (default: none)")
    parser.add_argument(
        "--max-metric-loss",
        metavar="POINTS",
        type=_points,
        default=0.5,
        help="what WER or CER (in per cent), BLEU or chrF may lose (default: 0.5)",
    )
    parser.add_argument(
        "--examples", metavar="MANIFEST", type=Path, help="to compare on (default: the model's test or dev manifests)"
    )
    parser.add_argument(
        "--calibration",
        metavar="MANIFEST",
        type=Path,
        help="speech that eight-bit ranges come from (default: the model's dev manifests)",
    )
    parser.add_argument("--force", action="store_true", help="write OUT anew where it is an exported model")
    _skip_bad_argument(parser)


def _export(arguments: Arguments) -> None:
    with Bar("loads PyTorch"):
        formats = _formats()
    formats.export(
        arguments.model,
        arguments.target,
        arguments.out,
        weights=arguments.quantize or formats.EXACT,
        max_metric_loss=arguments.max_metric_loss,
        examples=arguments.examples,
        calibration=arguments.calibration,
        skip_bad=arguments.skip_bad,
        force=arguments.force,
    )
    print(arguments.out)


# --- report ---


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directories, also of running trainings")
    parser.add_argument(
        "--out", metavar="FILE.html", type=Path, help="(default: RUN/report.html; report.html for several)"
    )


def _report(arguments: Arguments) -> None:
    from segue.report import runs

    folder = arguments.runs[0] if len(arguments.runs) == 1 else Path()
    path = arguments.out or folder / "report.html"
    runs.write(arguments.runs, path)
    print(path)


# --- recipes ---


def _recipes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "copy", "schema"), nargs="?", default="list")
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe (show, copy) or task (schema)")
    parser.add_argument(
        "rest", metavar="...", nargs="*", default=[], help="show: KEY=VALUE changes; copy: the new file"
    )


def _recipes(arguments: Arguments) -> None:
    from segue import recipe, tasks

    action, name, rest = arguments.action, arguments.name, arguments.rest
    if action == "list":
        for each, path in recipe.shipped().items():
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            print(f"{each:28} {first.removeprefix('#').strip()}")
        return
    if name is None:
        raise UserError(f"segue recipes {action}: a {'task' if action == 'schema' else 'recipe'} is missing")
    if action == "schema":
        print(json.dumps(recipe.schema(tasks.recipe_type(name)), indent=2))
        return
    path = recipe.find(name)
    if action == "show":
        draft = recipe.read(path, rest)
        print(recipe.dump(recipe.validate(draft, tasks.module_of(draft).Recipe)), end="")
        return
    target = Path(rest[0]) if rest else Path(path.name)
    if target.is_dir():
        target = target / path.name
    if target.exists():
        raise UserError(f"{target}: exists already")
    # A copy stands on its own: what it extends stays in the package.
    text = path.read_text(encoding="utf-8")
    if "extends" in recipe.read_alone(path):
        draft = recipe.read(path)
        text = recipe.dump(recipe.validate(draft, tasks.module_of(draft).Recipe))
    target.write_text(text, encoding="utf-8")
    print(target)


# --- quickstart ---


def _quickstart_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("quickstart"), help="(default: quickstart)")
    parser.add_argument(
        "--recordings", metavar="DIR", type=Path, help="real people: a folder named as fsdd's, or a manifest"
    )


def _quickstart(arguments: Arguments) -> int:
    _formats()
    from segue import quickstart

    return quickstart.run(arguments.out, arguments.recordings)


def _model(arguments: Arguments, ability: str) -> Any:
    """The trained model that the command line names."""
    from segue import tasks

    model = tasks.load(arguments.model, arguments.device)
    if not hasattr(model, ability):
        can = [name for name in COMMANDS if hasattr(model, name)]
        raise UserError(f"{arguments.model}: this model does not {ability}; it can {', '.join(can)}")
    return model


def _formats() -> Any:
    try:
        from segue import formats
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export") from None
    return formats


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _points(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _channel(text: str) -> int | str:
    if text not in ("left", "right", "mix"):
        return _positive(text)
    return text


_channel.__name__ = "channel (left, right, mix or a number from 1)"
_whole.__name__ = "whole number from 0"
_above_zero.__name__ = "number above 0"
_points.__name__ = "number of points from 0"
_positive.__name__ = "whole number above 0"  # what argparse calls it in messages


def _model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="run directory, model directory or exported directory"
    )


def _device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")


def _skip_bad_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-bad", action="store_true", help="leave out and count bad examples instead of stopping")


COMMANDS = {
    "quickstart": Command(
        "the whole road on synthesised speech: train, evaluate, export, transcribe",
        "segue quickstart --out quickstart",
        _quickstart_arguments,
        _quickstart,
    ),
    "prepare": Command(
        "write the manifests of a corpus",
        "segue prepare fsdd recordings/ data/fsdd longest=5 seed=0",
        _prepare_arguments,
        _prepare,
    ),
    "estimate": Command(
        "what a recipe will take on given devices: memory, communication, time",
        "segue estimate wmt14_transformer_big --devices 8 --memory 80 --flops 400e12",
        _estimate_arguments,
        _estimate,
    ),
    "train": Command(
        "train a recipe; run it again to resume",
        "segue train digits_jasper data.root=data/fsdd --out runs/digits",
        _train_arguments,
        _train,
    ),
    "evaluate": Command(
        "the task's metrics on a manifest",
        "segue evaluate runs/digits data/fsdd/test.jsonl --json",
        _evaluate_arguments,
        _evaluate,
    ),
    "transcribe": Command(
        "speech to text",
        "segue transcribe runs/digits lecture.mp3 --format srt",
        _transcribe_arguments,
        _transcribe,
    ),
    "translate": Command(
        "text to text: lines from standard input, txt, srt, vtt and ass files",
        "segue translate runs/multi30k film.srt --to de",
        _translate_arguments,
        _translate,
    ),
    "export": Command(
        "a model for the runtime that its users have, and the proof that it is the same",
        "segue export runs/digits onnx digits_onnx --quantize int8",
        _export_arguments,
        _export,
    ),
    "report": Command(
        "the curves of one run or of several as one HTML page",
        "segue report runs/first runs/second --out report.html",
        _report_arguments,
        _report,
    ),
    "recipes": Command(
        "the recipes that ship with the package",
        "segue recipes show digits_jasper",
        _recipes_arguments,
        _recipes,
    ),
}
