"""One command, one file, with `SUMMARY`, `EXAMPLE`, `arguments` (what it takes) and `run`.

A command imports what it needs when it runs: `segue --help` imports them all.
"""

COMMANDS = (
    "quickstart",
    "prepare",
    "estimate",
    "train",
    "evaluate",
    "transcribe",
    "translate",
    "classify",
    "export",
    "report",
    "recipes",
)
"""In the order of `segue --help`."""
