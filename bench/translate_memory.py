"""Benchmark: time and memory of `segue translate` for different numbers of lines.

    python bench/translate_memory.py RUN/model data/multi30k/test_2016_flickr.jsonl
    python bench/translate_memory.py RUN/model data/multi30k/test_2016_flickr.jsonl --lines 100000 --beams 1

The manifest's sources, repeated, are the standard input of one process with one thread. Time and memory include the
startup, which 0 lines show separately. Time should be proportional to the lines, and memory constant.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple


class Use(NamedTuple):
    """Resources that a process used."""

    seconds: float
    processor_seconds: float
    mebibytes: float
    """Peak resident memory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("manifest", type=Path, help="manifest of text pairs")
    parser.add_argument("--lines", type=int, nargs="+", default=[0, 1000, 10_000, 100_000])
    parser.add_argument("--beams", type=int, default=5)
    options = parser.parse_args()
    from segue.data.examples import Pair
    from segue.data.manifest import Manifest

    sources = [pair.source for pair in Manifest(Pair, [options.manifest])]
    for number in options.lines:
        with tempfile.TemporaryDirectory() as folder:
            given, written = Path(folder) / "given.txt", Path(folder) / "written.txt"
            with given.open("w", encoding="utf-8") as file:
                file.writelines(sources[line % len(sources)] + "\n" for line in range(number))
            use = translate(options.model, given, written, options.beams)
            outputs = written.read_text(encoding="utf-8").splitlines()
        assert len(outputs) == number
        differing = sum(output != outputs[line % len(sources)] for line, output in enumerate(outputs))
        speed = f", {number / use.seconds:.1f} lines a second" if number else ""
        print(
            f"{number:7} lines, {options.beams} beams: {use.seconds:.1f} s{speed}, {use.processor_seconds:.1f} s of "
            f"processor time, {use.mebibytes:.0f} MiB; {differing} lines unlike their first translation",
            flush=True,
        )


def translate(model: Path, given: Path, written: Path, beams: int) -> Use:
    """Runs the command with `given` as standard input."""
    command = [sys.executable, "-m", "segue", "translate", str(model), "--beams", str(beams), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = perf_counter()
    with given.open("rb") as standard_input, written.open("wb") as standard_output:
        process = subprocess.Popen(command, stdin=standard_input, stdout=standard_output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    if status:
        raise SystemExit(f"segue translate ended with status {os.waitstatus_to_exitcode(status)}")
    return Use(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
