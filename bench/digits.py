"""Benchmark: error rates of the digits recipe on known and on unknown speakers.

    python bench/digits.py RECORDINGS OUT_DIR [official george jackson lucas nicolas yweweler] [-- key=value ...]

RECORDINGS is the folder of the Free Spoken Digit Dataset. `official` trains on the official split; a speaker's name
excludes that speaker from training and development, and tests on all of the speaker's recordings. Finished runs are
not repeated.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path


def main() -> None:
    words = sys.argv[1:]
    overrides = words[words.index("--") + 1 :] if "--" in words else []
    recordings, out, *names = words[: words.index("--") if "--" in words else None]
    for name in names or ("official", "george", "jackson", "lucas", "nicolas", "yweweler"):
        data, run = Path(out) / f"data_{name}", Path(out) / f"run_{name}"
        if not (data / "train.jsonl").is_file():
            options = [] if name == "official" else [f"test_speaker={name}", "train_strings=0"]
            segue("prepare", "fsdd", recordings, str(data), *options)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        segue("train", "digits_jasper", f"data.root={data}", *overrides, "--out", str(run))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seconds = records[-1]["time"] - records[0]["time"]
        rates = {
            split: json.loads(segue("evaluate", str(run), str(data / f"{split}.jsonl"), "--json"))["word_error_rate"]
            for split in ("dev", "dev_strings", "test", "test_strings")
        }
        shown = "  ".join(f"{split} {rate:.2%}" for split, rate in rates.items())
        print(f"{name:9} {shown}  ({seconds / 60:.1f} min, {cpu_seconds / 60:.1f} CPU-min)", flush=True)


def segue(*words: str) -> str:
    return subprocess.run([sys.executable, "-m", "segue", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
