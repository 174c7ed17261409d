"""Benchmark: `segue serve` against sherpa-onnx's own WebSocket server, with the same model and the same recordings.

    segue export MODEL onnx ours && segue export MODEL sherpa-onnx theirs
    python bench/serving_peers.py ours theirs data/fsdd/test_strings.jsonl --server non_streaming_server.py \
        --python venv/bin/python

The server is python-api-examples/non_streaming_server.py of https://github.com/k2-fsa/sherpa-onnx, with http_server.py
and web beside it; it needs sherpa-onnx and websockets below 14, thus an environment of its own. It takes samples, which
the client has decoded and scaled before the clock starts; ours takes files and decodes them itself. Both run with their
defaults. Sides take turns; clients and servers share the machine: where other work runs, the server's CPU time counts
more than rates.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import websockets
from serving import Answer, Server, asked, free_port, request_of, rows, running, served

from segue.data import audio

FULL_SCALE = 256.0
"""As the export's README says: its floor then hides nothing of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sherpa", type=Path)
    parser.add_argument("data", type=Path, help="a manifest")
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    compare(parser.parse_args())


@contextmanager
def sherpa(given: argparse.Namespace, rate: int, features: int) -> Iterator[Server]:
    """A process of sherpa-onnx's server."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(given.python.absolute(), given.server.resolve(), "--nemo-ctc", given.sherpa.resolve() / "model.onnx"),
            *("--tokens", given.sherpa.resolve() / "tokens.txt", "--sample-rate", rate, "--feat-dim", features),
            *("--port", port, "--doc-root", given.server.resolve().parent / "web", "--max-message-size", 1 << 24),
        ]
        process = subprocess.Popen(list(map(str, words)), cwd=folder, stderr=subprocess.DEVNULL)
        with running(process, port) as found:
            yield found


async def spoken(port: int, messages: list[bytes], clients: int) -> list[Answer]:
    """The answers to all recordings, by so many clients, each with a connection that it keeps."""
    waiting = iter(enumerate(messages))
    answers: list[Answer] = []

    async def client() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{port}", compression=None) as connection:
            for number, message in waiting:
                started = time.perf_counter()
                await connection.send(message)
                text = str(await connection.recv()).replace("<EMPTY>", "")
                answers.append(Answer(number, " ".join(text.split()), time.perf_counter() - started))
            await connection.send("Done")

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def message_of(path: Path, rate: int) -> bytes:
    """A recording as the server takes it: rate, number of bytes, samples."""
    samples = audio.read(path, rate)
    data = (samples * (FULL_SCALE / max(float(np.abs(samples).max()), 1e-9))).astype("<f4").tobytes()
    return rate.to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


def compare(given: argparse.Namespace) -> None:
    metadata: dict[str, Any] = json.loads((given.model / "segue.json").read_text())
    rate, found = metadata["sample_rate_hz"], rows(given)
    messages = [message_of(row.path, rate) for row in found]
    results: dict[tuple[str, int], list[tuple[float, float, list[float]]]] = {}
    texts: dict[str, list[str]] = {}
    with served(given.model) as ours, sherpa(given, rate, metadata["feature_dim"]) as theirs:
        requests = [request_of(row.path, ours.port) for row in found]
        for turn in range(-1, given.rounds):  # the first one warms up
            for clients in given.clients:
                for name, server, work in (
                    ("segue", ours, asked(ours.port, requests, clients)),
                    ("sherpa-onnx", theirs, spoken(theirs.port, messages, clients)),
                ):
                    before, started = server.cpu_seconds(), time.perf_counter()
                    answers = asyncio.run(work)
                    seconds = time.perf_counter() - started
                    cpu = (server.cpu_seconds() - before) / len(found)
                    texts[name] = [answer.text for answer in sorted(answers)]
                    if turn >= 0:
                        times = [answer.seconds for answer in answers]
                        results.setdefault((name, clients), []).append((len(found) / seconds, cpu, times))
    same = sum(one == other for one, other in zip(texts["segue"], texts["sherpa-onnx"], strict=True))
    print(f"{same} of {len(found)} texts are equal")
    print("server       clients  recordings/s  CPU ms each  p50, p95, p99 ms")
    for (name, clients), every in results.items():
        times = [1000 * seconds for _, _, each in every for seconds in each]
        print(
            f"{name:12} {clients:7} {statistics.median(each[0] for each in every):13.1f}"
            f"  {1000 * statistics.median(each[1] for each in every):11.2f}  "
            + " ".join(f"{each:.0f}" for each in np.percentile(times, [50, 95, 99]))
        )
    for clients in given.clients:
        pairs = list(zip(results["segue", clients], results["sherpa-onnx", clients], strict=True))
        for what, ratios in (
            ("rate", sorted(one[0] / other[0] for one, other in pairs)),
            ("rate per CPU time", sorted(other[1] / one[1] for one, other in pairs)),
        ):
            shown = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
            print(f"{clients} clients, {what}, segue / sherpa-onnx: {shown}")


if __name__ == "__main__":
    main()
