"""Benchmark: tokenizing a text into a token file, against a plain loop over `tokenizers.encode_batch`.

    python bench/tokenizing.py MEGABYTES TEXT... [--split paragraph] [--kinds segue]

A text of so many megabytes is made of the lines of TEXT again and again, with about 7 % of the words varied. The peer
reads it by lines, encodes 2 MB at a time, as blocks of 16 kB ("blocks") or as single lines ("lines"), and writes the
numbers to one file; Segue also looks for repeated documents, holds out a twentieth, counts words and writes an index.
Each runs in a process of its own; it prints seconds, CPU-seconds and peak memory.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import tokenizers as hf

from segue.data import tokenizing
from segue.data.document_files import Split
from segue.data.documents import END, Corpus, DocumentsSection
from segue.data.tokenizer import ByteBPESection, Tokenizer, build

SIZE = 8192
LEARNED_FROM = 20_000_000
BATCH, BLOCK = 2_000_000, 16_384
KINDS = ("segue", "blocks", "lines")


def make(sources: list[Path], megabytes: float, path: Path) -> None:
    lines = [line for source in sources for line in source.read_text("utf-8").splitlines()]
    draw, size = random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            for line in lines:
                words = line.split(" ")
                for start in range(0, len(words), 10):
                    place = min(len(words) - 1, start + draw.randrange(10))
                    if words[place].isalpha():
                        words[place] += draw.choice(["s", "ed", "ing", "ly", "".join(draw.choices("aeiourstln", k=3))])
                size += file.write(" ".join(words) + "\n")


def blocks(path: Path, size: int) -> Iterator[str]:
    held, length = list[str](), 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            held.append(line)
            length += len(line)
            if length >= size:
                yield "".join(held)
                held, length = [], 0
    yield "".join(held)


def loop(path: Path, tokenizer: hf.Tokenizer, size: int) -> int:
    batch, length, count = list[str](), 0, 0

    def write() -> int:
        numbers = [np.array(each.ids, np.uint16) for each in tokenizer.encode_batch(batch, add_special_tokens=False)]
        file.write(np.concatenate(numbers).tobytes())
        return sum(map(len, numbers))

    with path.with_suffix(".bin").open("wb") as file:
        for block in blocks(path, size):
            batch.append(block)
            length += len(block)
            if length >= BATCH:
                count += write()
                batch, length = [], 0
        return count + (write() if batch else 0)


def run(kind: str, root: Path, split: Split) -> None:
    path, since, used = root / "train.txt", time.perf_counter(), time.process_time()
    if kind == "segue":
        tokenizer = Tokenizer.load(root / "tokenizer.json")
        corpus = Corpus(DocumentsSection(root=str(root), train=("train.txt",), split=split))
        count = sum(map(len, tokenizing.build(corpus, tokenizer, 0, root).values()))
    else:
        inner = hf.Tokenizer.from_file(str(root / "tokenizer.json"))
        count = loop(path, inner, BLOCK if kind == "blocks" else 1)
    seconds, cpu_seconds = time.perf_counter() - since, time.process_time() - used
    megabytes, peak = path.stat().st_size / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{kind:7} {count:,} tokens: {seconds:.1f} s ({megabytes / seconds:.2f} MB/s), {cpu_seconds:.1f} CPU-s "
        f"({megabytes / cpu_seconds:.2f} MB/CPU-s), peak {peak:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("megabytes", type=float)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--split", choices=get_args(Split), default="file")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # the folder of a process of its own
    args = parser.parse_args()
    if args.run:
        run(args.kinds[0], args.run, args.split)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(args.texts, args.megabytes, root / "train.txt")
        corpus = Corpus(DocumentsSection(root=str(root), train=("train.txt",)))
        build(ByteBPESection(kind="byte_bpe", size=SIZE), corpus.sample(LEARNED_FROM), [END]).save(
            root / "tokenizer.json"
        )
        for kind in args.kinds:
            command = [sys.executable, __file__, *sys.argv[1:], "--kinds", kind, "--run", str(root)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
