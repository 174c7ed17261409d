"""Who speaks when in conversations of real voices (`speaker_data.py`)? Errors and speed, ours and of peers.

    python bench/speakers.py CONVERSATIONS --model MODEL          # a model of voices: a directory, or an ONNX file
    python bench/speakers.py CONVERSATIONS --turns FOLDER         # a peer's RTTM files, by NAME.rttm

Prints, for each conversation, the diarization error rate with the number of speakers given and not given, without a
collar, its parts (missed, false alarm, confusion), the number of speakers found, and seconds of CPU.
"""

import argparse
import json
from pathlib import Path
from time import process_time

from segue.data import audio, reading
from segue.data.turns import Turn, read_rttm
from segue.metrics.diarization import diarization_error
from segue.runtime import diarization


def row(name: str, reference: list[Turn], found: list[Turn], seconds: float, cpu: float) -> str:
    """A line of the table."""
    error = diarization_error(reference, found)
    parts = "  ".join(f"{100 * part / error.total:5.1f}" for part in (error.missed, error.false_alarm, error.confusion))
    counts = f"{len({turn.speaker for turn in found})} of {len({turn.speaker for turn in reference})}"
    speed = f"{seconds / cpu:6.0f}x" if cpu else "      -"
    return f"{name:28} {100 * error.rate:6.1f}  {parts}  {counts:8}  {speed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--turns", type=Path)
    parser.add_argument("--only", nargs="*", default=None)
    given = parser.parse_args()
    embedder = None
    if given.model is not None:
        from segue.commands.options import load_voices

        embedder = load_voices(given.model)
    print(f"{'conversation':28} {'DER %':>6}  missed  false  conf.  speakers   speed")
    names = json.loads((given.conversations / "conversations.json").read_text())
    for name, speakers in names.items():
        if given.only is not None and name not in given.only:
            continue
        reference = read_rttm(given.conversations / f"{name}.rttm")
        path = given.conversations / f"{name}.wav"
        seconds = audio.duration(path)
        if embedder is None:
            print(row(name, reference, read_rttm(given.turns / f"{name}.rttm"), seconds, 0.0), flush=True)
            continue
        start = process_time()
        _, blocks = reading.opened(path, embedder.sample_rate_hz, None, None)
        duration, parts = diarization.parts_of(embedder, blocks)
        middle = process_time()
        for count in (len(speakers), None):
            before = process_time()
            found = diarization.turns(parts, duration, embedder.threshold, count, name)
            cpu = middle - start + process_time() - before
            print(row(f"{name}, {count or 'auto'}", reference, found, seconds, cpu), flush=True)


if __name__ == "__main__":
    main()
