"""The command line `segue`. `segue/commands/` has a file for each command.

Exit status: 0; 2 for a mistake of the user, with a message on standard error; 1 for a bug in Segue, with a traceback;
3 if `segue doctor` found something that speaks against training; 128 + signal if SIGINT, SIGTERM or SIGUSR1 stopped a
training that can be resumed; 75 if its watchdog stopped it, or if another rank failed.
"""

import argparse
import difflib
import importlib
import io
import keyword
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from types import ModuleType
from typing import NoReturn

from segue import progress
from segue.commands import COMMANDS
from segue.errors import UserError


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    # Waiting threads should sleep: on a shared machine, spinning costs up to a factor of six. OpenMP reads this
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stderr is None:  # closed: messages would go to standard output, among the results
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        print("segue: standard output is closed; send it to a file, or to /dev/null", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        # UTF-8 as in files, whatever the locale; file names that are not UTF-8 are written unchanged.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    words = sys.argv[1:] if words is None else words
    name = words[0] if words else "--help"
    if name not in COMMANDS:
        if not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
            print(f"segue: no such command: {name!r} ({hint})", file=sys.stderr)
            return 2
        if name not in ("-h", "--help", "--version"):
            message = f"{name}: no such option; a command comes first: segue COMMAND ... (segue --help)"
            print(f"segue: {message}", file=sys.stderr)
            return 2
        _contents().parse_args([name])  # prints help or the version, and exits
    progress.show()
    try:
        # Intermixed: options may come before, between and after positional arguments.
        parser = _parser(name, words[1:])
        arguments, unknown = parser.parse_known_intermixed_args(words[1:])
        if unknown and name == "train":
            from segue.commands import train

            raise train.explain_unknown(arguments, unknown[0], words)
        if unknown:
            raise _explain_unknown(name, parser, unknown[0])
        return _command(name).run(arguments) or 0
    except KeyboardInterrupt:  # a training handles the first one itself: it saves and says how to resume
        progress.stop()
        print("segue: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except UserError as mistake:
        progress.stop()
        print(f"segue: {mistake}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder without write permission: no bug in Segue, so no traceback
        progress.stop()
        if isinstance(error, BrokenPipeError):  # `segue ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"segue: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
    return 2


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"segue.commands.{name}{'_' if keyword.iskeyword(name) else ''}")


def _contents() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:11} {_command(name).SUMMARY}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="segue",
        usage="segue COMMAND ...",
        description="Sequence models from your own data to a deployed model.",
        epilog=f"commands:\n{lines}\n\n`segue COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"segue {metadata.version('segue')}")
    return parser


def _parser(name: str, words: Sequence[str]) -> argparse.ArgumentParser:
    command = _command(name)
    parser = argparse.ArgumentParser(
        prog=f"segue {name}",
        description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    parser.error = _refusing(name, command.EXAMPLE, parser, words)  # type: ignore[method-assign, assignment]
    return parser


def _refusing(
    name: str, example: str, parser: argparse.ArgumentParser, words: Sequence[str]
) -> Callable[[str], NoReturn]:
    """What a parser does with a wrong command line: raises a UserError of one line.

    argparse would print the options before its line, and exit.
    """
    hint = f"(segue {name} --help)"

    def refuse(message: str) -> NoReturn:
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            options = (word for word in words if re.fullmatch(r"--[a-z-]+(=.*)?", word))
            if unknown := next((word for word in options if word.partition("=")[0] not in _options(parser)), None):
                raise _explain_unknown(name, parser, unknown)
            *names, last = found[1].split(", ")
            said = f"{', '.join(names)} and {last} are" if names else f"{last} is"
            raise UserError(f"{said} missing, for example: {example} {hint}")
        message = message.removeprefix("argument ").replace("expected one argument", "its value is missing")
        message = message.replace("ignored explicit argument", "takes no value, but is given")
        if found := re.fullmatch(r"(.*): invalid choice: (.*) \(choose from (.*)\)", message):
            message = f"{found[1]}: should be one of {found[3]}, not {found[2]}"
        raise UserError(f"{message} {hint}")

    return refuse


def _explain_unknown(name: str, parser: argparse.ArgumentParser, word: str) -> UserError:
    """The error for an option that the command does not have, or for an argument too many."""
    if not word.startswith("-"):
        return UserError(f"{word!r}: one argument too many for {name} (segue {name} --help)")
    option = word.partition("=")[0]
    near = difflib.get_close_matches(option, _options(parser), n=1)
    hint = f"did you mean {near[0]}?" if near else f"segue {name} --help"
    return UserError(f"{option}: no such option of {name} ({hint})")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return re.findall(r"--[a-z-]+", parser.format_help())
