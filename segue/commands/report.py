"""`segue report`: the curves of one or more runs as an HTML page."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

SUMMARY = "the curves of one or more runs as an HTML page"
EXAMPLE = "segue report runs/first runs/second --out report.html"


def arguments(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directories, finished or still training")
    parser.add_argument(
        "--out", metavar="FILE.html", type=Path, help="(default: RUN/report.html; report.html for several)"
    )


def run(given: Namespace) -> None:
    """Runs the command; returns the exit status, None for 0."""
    from segue.report import runs

    folder = given.runs[0] if len(given.runs) == 1 else Path()
    path = given.out or folder / "report.html"
    runs.write(given.runs, path)
    print(path)
