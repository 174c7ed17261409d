"""Reports as self-contained HTML pages: evaluations, and the curves of training runs."""

from segue.report.evaluation import write

__all__ = ["write"]
