"""Errors and warnings for users: a message of one line or a few, without a traceback."""

import os

from segue import progress

SKIP_BAD = "(--skip-bad leaves such examples out and counts them)"
"""Appended to messages about bad data by commands that have this option."""


class UserError(ValueError):
    """A mistake in a recipe, in data or on the command line. Its text says where the mistake is and what to do."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for a missing package that Segue's extra `extra` installs."""
    return UserError(f"this needs the package {package}: pip install 'segue[{extra}]'")


def warn(message: str) -> None:
    """Prints "warning: `message`" to standard error, so that standard output has only results; only on rank 0."""
    if os.environ.get("RANK", "0") != "0":
        return
    progress.say(f"warning: {message}")


def note(message: str) -> None:
    """Prints `message` to standard error, as `warn` does, but without "warning:"; only on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        progress.say(message)


def some_of(problems: list[str], shown: int = 10) -> str:
    """The first `shown` problems, one per line, and the number of those left out."""
    more = [f"... and {len(problems) - shown} more"] if len(problems) > shown else []
    return "\n".join(problems[:shown] + more)
