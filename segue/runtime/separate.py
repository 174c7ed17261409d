"""How is an exported translator run with another instruction set? In a separate process with its own environment.

CTranslate2 chooses its instruction set when it is loaded, from environment variables. Run as a program, this file is
that process: it reads and answers one search per line, in JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from segue.decoding.search import Hypothesis, SearchSection
from segue.runtime.ctranslate2 import CTranslate2Backend


class SeparateBackend:
    """A CTranslate2Backend in a process with other environment variables. A context manager, which ends the process."""

    def __init__(self, folder: Path, threads: int, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **variables},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # closes its stdin, which ends it, and waits
            pass

    def search(
        self,
        rows: Sequence[Sequence[int]],
        section: SearchSection,
        *,
        num_best: int = 1,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs for each row of source tokens, best first; each begins with its prefix."""
        question = {"rows": rows, "section": section.model_dump(), "num_best": num_best, "prefixes": prefixes}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the translating process ended; see its error above")
        return [[Hypothesis(*each) for each in best] for best in json.loads(answer)]

    def attention(self, source: Sequence[int], target: Sequence[int]) -> None:
        """None, as in `CTranslate2Backend`."""
        del source, target


def answer(folder: Path, threads: int, questions: IO[str], answers: IO[str]) -> None:
    """Reads searches, one per line, and writes the results, until the input ends."""
    writer = CTranslate2Backend(folder, threads)
    for line in questions:
        question: dict[str, Any] = json.loads(line)
        section = SearchSection.model_validate(question.pop("section"))
        print(json.dumps(writer.search(question.pop("rows"), section, **question)), file=answers, flush=True)


if __name__ == "__main__":
    answer(Path(sys.argv[1]), int(sys.argv[2]), sys.stdin, sys.stdout)
