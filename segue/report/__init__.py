"""Reports as self-contained HTML pages: an evaluation, and the curves of runs."""

from segue.report.evaluation import write

__all__ = ["write"]
