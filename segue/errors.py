"""What a user can mend: mistakes get one clear line, not a traceback."""

import os

from segue import progress

SKIP_BAD = "(--skip-bad leaves such examples out and counts them)"
"""What stands behind mistakes in data where the command has that option."""


class UserError(ValueError):
    """A mistake in a recipe, in data or on the command line; its text says where it is and what to do."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for a package that only an extra of ours installs."""
    return UserError(f"this needs the package {package}: pip install 'segue[{extra}]'")


def warn(message: str) -> None:
    """Says `message` on standard error, where it disturbs no result that a program reads; one rank speaks for all."""
    if os.environ.get("RANK", "0") != "0":
        return
    progress.say(f"warning: {message}")


def note(message: str) -> None:
    """Says `message` where `warn` does, of what is as it should be."""
    if os.environ.get("RANK", "0") == "0":
        progress.say(message)


def some_of(problems: list[str], shown: int = 10) -> str:
    """The first `shown` problems, a line each, and how many more there are."""
    more = [f"... and {len(problems) - shown} more"] if len(problems) > shown else []
    return "\n".join(problems[:shown] + more)
