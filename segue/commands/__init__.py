"""Commands, one module each, with `SUMMARY`, `EXAMPLE`, `arguments` and `run`; that of `import` is `import_`.

Modules import what they need inside `run`, since `segue --help` imports all commands.
"""

COMMANDS = (
    "quickstart",
    "prepare",
    "doctor",
    "estimate",
    "train",
    "merge",
    "evaluate",
    "tune",
    "transcribe",
    "diarize",
    "align",
    "translate",
    "classify",
    "generate",
    "serve",
    "export",
    "import",
    "report",
    "recipes",
)
"""In the order of `segue --help`."""
