"""Benchmark: peak resident memory of training on 1, 10 and 100 times the same manifest.

    python bench/memory.py DATA_DIR [STEPS]

DATA_DIR is the output of `segue prepare fsdd`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = (
    "import resource, sys; from segue.cli import main; status = main(sys.argv[1:]); "
    "peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]; "
    "print(*peaks, status)"
)


def main() -> None:
    data, steps = Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "300"
    lines = [json.loads(line) for line in (data / "train_strings.jsonl").read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(data / line["audio_filepath"])
    for times in (1, 10, 100):
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "train.jsonl").open("w") as file:
                for copy in range(times):
                    for line in lines:
                        file.write(json.dumps({**line, "id": f"{copy}/{line['audio_filepath']}"}) + "\n")
            words = ["train", "digits_jasper", f"data.root={folder}", f'data.dev=["{data / "dev.jsonl"}"]']
            words += ["augmentation.joined_utterances=1", f"engine.steps={steps}", "--out", f"{folder}/run"]
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            trainer, worker, status = done.stdout.split()[-3:]
            assert status == "0", done.stdout
            print(
                f"{times * len(lines):7} utterances: trainer {int(trainer) / 1024:.0f} MiB, "
                f"loader process {int(worker) / 1024:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
