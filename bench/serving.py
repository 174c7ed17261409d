"""Benchmark: throughput and latency of a server, compared with the runtime in a loop; streams; the first answer.

    python bench/serving.py throughput EXPORTED data/fsdd/test_strings.jsonl
    python bench/serving.py fairness EXPORTED data/fsdd/test_strings.jsonl
    python bench/serving.py streams EXPORTED data/fsdd/test_strings.jsonl
    python bench/serving.py startup EXPORTED recording.wav

- throughput: recordings a second for 1, 8 and 64 clients, each of which sends the next request when it has its answer.
  Sides take turns: `Recognizer.transcribe` in a loop in a process of its own, the server, and the server with one
  recording a batch. Clients and server share the machine, so the server's CPU time for each request is given, too.
- fairness: latency of recordings of about two seconds, one after the other, alone, and all the time while a long one
  (an hour, of all recordings) is transcribed.
- streams: a WebSocket in real time: from the start of speech to the first partial result with text, from its end to the
  final one, and the word errors compared with those of whole recordings.
- startup: seconds from typing `segue serve` to the first answer.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BOUNDARY = "segue-bench"
SHORT = 100
"""Recordings whose latency is measured beside a long one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "fairness", "streams", "startup", "loop"))
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="a manifest, or a recording for startup")
    parser.add_argument("--count", type=int, default=300, help="recordings (default: 300)")
    parser.add_argument("--seconds", type=int, default=3600, help="of the long recording (default: 3600)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    given = parser.parse_args()
    {"throughput": throughput, "fairness": fairness, "streams": streams, "startup": startup, "loop": loop}[given.what](
        given
    )


class Row(NamedTuple):
    """A recording."""

    path: Path
    text: str


def rows(given: argparse.Namespace) -> list[Row]:
    lines = [json.loads(line) for line in given.data.read_text().splitlines()]
    found: list[Row] = [
        Row(given.data.parent / line["audio_filepath"], line["text"]) for line in lines if "offset" not in line
    ]
    count: int = given.count
    return (found * (count // len(found) + 1))[:count]


class Server(NamedTuple):
    """A server that runs."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Of the process so far."""
        values = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    def resident_megabytes(self) -> float:
        """Of the process now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def served(model: Path, *options: str) -> Iterator[Server]:
    """A process of `segue serve`."""
    port = free_port()
    words = [sys.executable, "-m", "segue", "serve", f"m={model}", "--port", str(port), "--requests", "512", *options]
    with running(subprocess.Popen(words, stderr=subprocess.DEVNULL), port) as found:
        yield found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(process: "subprocess.Popen[bytes]", port: int) -> Iterator[Server]:
    """A server, from the moment that it listens; its process is ended afterwards."""
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.01)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def request_of(path: Path, port: int) -> bytes:
    """An HTTP request with a recording."""
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'.encode()
        + path.read_bytes()
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


class Answer(NamedTuple):
    """An answer and how long it took."""

    number: int
    text: str
    seconds: float


async def asked(port: int, requests: Sequence[bytes], clients: int) -> list[Answer]:
    """The answers to all requests, by so many clients, each with a connection that it keeps."""
    waiting = iter(enumerate(requests))
    answers: list[Answer] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, request in waiting:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = json.loads(await reader.readexactly(int(lines[b"content-length"])))
            assert head.startswith(b"HTTP/1.1 200"), body
            answers.append(Answer(number, body["text"], time.perf_counter() - started))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def loop(given: argparse.Namespace) -> None:
    """A process that transcribes all recordings for each line of its standard input, and says how long it took."""
    import segue

    model, paths = segue.load(given.model), [row.path for row in rows(given)]
    print(json.dumps([model.transcribe(path).text for path in paths]), flush=True)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), time.process_time()
        for path in paths:
            model.transcribe(path)
        print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]), flush=True)


def throughput(given: argparse.Namespace) -> None:
    found = rows(given)
    words = [sys.executable, __file__, "loop", str(given.model), str(given.data), "--count", str(given.count)]
    looping = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert looping.stdin is not None
    assert looping.stdout is not None
    known = json.loads(looping.stdout.readline())
    results: dict[tuple[str, int], list[tuple[float, float, list[float]]]] = {}
    with served(given.model) as server, served(given.model, "--batch-items", "1") as single:
        for turn in range(-1, given.rounds):  # the first one warms up
            looping.stdin.write("\n")
            looping.stdin.flush()
            seconds, cpu = json.loads(looping.stdout.readline())
            if turn >= 0:
                results.setdefault(("loop", 1), []).append((len(found) / seconds, cpu / len(found), []))
            for clients in given.clients:
                for name, each in (("server", server), ("one a batch", single)):
                    requests = [request_of(row.path, each.port) for row in found]
                    before, started = each.cpu_seconds(), time.perf_counter()
                    answers = asyncio.run(asked(each.port, requests, clients))
                    seconds = time.perf_counter() - started
                    cpu = (each.cpu_seconds() - before) / len(found)
                    assert [answer.text for answer in sorted(answers)] == known
                    if turn >= 0:
                        latencies = [answer.seconds for answer in answers]
                        results.setdefault((name, clients), []).append((len(found) / seconds, cpu, latencies))
    looping.stdin.close()
    looping.wait()
    base = [rate for rate, _, _ in results["loop", 1]]
    print("side          clients  recordings/s  / loop (by round)      CPU ms each  p50, p95, p99 ms")
    for (name, clients), every in results.items():
        ratios = sorted(rate / of_loop for (rate, _, _), of_loop in zip(every, base, strict=True))
        times = [1000 * seconds for _, _, each in every for seconds in each]
        shown = " ".join(f"{each:.0f}" for each in np.percentile(times, [50, 95, 99])) if times else "-"
        print(
            f"{name:12} {clients:8} {statistics.median(rate for rate, _, _ in every):13.1f}"
            f"  {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
            f"  {1000 * statistics.median(cpu for _, cpu, _ in every):15.2f}  {shown}"
        )


def fairness(given: argparse.Namespace) -> None:
    from segue.data import audio

    found = rows(given)
    rate = audio.properties(found[0].path).sample_rate_hz
    seconds_of = {row.path: audio.properties(row.path).seconds for row in found}
    short = sorted(seconds_of, key=lambda path: abs(seconds_of[path] - 2.0))[:SHORT]
    with tempfile.TemporaryDirectory() as folder, served(given.model) as server:
        sound, pieces = 0, list[audio.Samples]()
        while sound < given.seconds * rate:
            pieces.append(audio.read(found[len(pieces) % len(found)].path, rate))
            sound += len(pieces[-1])
        long = Path(folder, "hour.flac")
        audio.write(long, np.concatenate(pieces), rate)
        requests = [request_of(path, server.port) for path in short]

        async def beside() -> tuple[list[Answer], float]:
            started = time.perf_counter()
            hour = asyncio.create_task(asked(server.port, [request_of(long, server.port)], 1))
            await asyncio.sleep(0.5)
            answers: list[Answer] = []
            while not hour.done():
                answers += await asked(server.port, [requests[len(answers) % len(requests)]], 1)
            await hour
            return answers, time.perf_counter() - started

        asyncio.run(asked(server.port, requests[:20], 1))
        alone = [each.seconds for _ in range(5) for each in asyncio.run(asked(server.port, requests, 1))]
        answers, seconds = asyncio.run(beside())
        lengths = sorted(seconds_of[path] for path in short)
        print(f"{len(short)} short recordings of {lengths[0]:.2f} to {lengths[-1]:.2f} s, again and again")
        for name, each in (("alone", alone), ("beside it", [answer.seconds for answer in answers])):
            shown = np.percentile(np.array(each) * 1000, [50, 95, 100])
            print(f"{name:15} {len(each):4} requests: p50, p95, longest: " + " ".join(f"{x:.0f} ms" for x in shown))
        print(f"{given.seconds} s of audio took {seconds:.1f} s")


def streams(given: argparse.Namespace) -> None:
    import jiwer
    import websockets

    import segue
    from segue.data import audio

    model = segue.load(given.model)
    rate = model.metadata.sample_rate_hz
    draw = np.random.default_rng(0)

    class Result(NamedTuple):
        text: str
        first: float
        final: float

    async def speak(port: int, samples: Any, speech: tuple[float, float]) -> Result:
        """Sends samples as fast as a microphone; latencies from the start and the end of speech."""
        texts: list[str] = []
        first = final = float("nan")
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/audio/stream") as connection:
            started = time.perf_counter()
            data, size = (samples * 32767).astype("<i2"), rate // 10
            for start in range(0, len(data), size):
                await asyncio.sleep(max(0.0, started + (start + size) / rate - time.perf_counter()))
                await connection.send(data[start : start + size].tobytes())
                answer = json.loads(await connection.recv())
                now = time.perf_counter() - started
                if answer.get("partial") or answer.get("text"):
                    first = min(first, now - speech[0]) if first == first else now - speech[0]
                if answer.get("text"):
                    texts.append(answer["text"])
                    final = now - speech[1]
            await connection.send('{"eof": 1}')
            texts.append(json.loads(await connection.recv())["text"])
        return Result(" ".join(filter(None, texts)), first, final)

    async def every(port: int) -> tuple[list[Result], list[str], list[str]]:
        jobs, offline, known = [], [], []
        for row in rows(given):
            sound = audio.read(row.path, rate)
            lead, tail = (draw.normal(0, 0.0005, int(seconds * rate)).astype(np.float32) for seconds in (0.5, 1.6))
            samples = np.concatenate([lead, sound, tail])
            voiced = np.flatnonzero(np.abs(sound) > 0.05 * np.abs(sound).max()) / rate + 0.5
            jobs.append(speak(port, samples, (float(voiced[0]), float(voiced[-1]))))
            offline.append(model.transcribe(samples, rate).text)
            known.append(row.text)
        results: list[Result] = []
        for start in range(0, len(jobs), 4):  # four speakers at a time
            results += await asyncio.gather(*jobs[start : start + 4])
        return results, offline, known

    with served(given.model) as server:
        results, offline, known = asyncio.run(every(server.port))
    for name, each in (
        ("first partial", [r.first for r in results]),
        ("final after speech", [r.final for r in results]),
    ):
        shown = np.nanpercentile(each, [50, 95])
        print(f"{name}: median {shown[0]:.2f} s, p95 {shown[1]:.2f} s ({np.isnan(each).sum()} without)")
    heard = [each.text for each in results]
    print(f"word error rate: offline {jiwer.wer(known, offline):.4f}, stream {jiwer.wer(known, heard):.4f}")


def startup(given: argparse.Namespace) -> None:
    times, cpus = [], []
    for _ in range(given.rounds):
        started = time.perf_counter()
        with served(given.model) as server:
            [answer] = asyncio.run(asked(server.port, [request_of(given.data, server.port)], 1))
            times.append(time.perf_counter() - started)
            cpus.append(server.cpu_seconds())
    print(f"first answer {answer.text!r} after {min(times):.2f} to {max(times):.2f} s; CPU {min(cpus):.2f} s")


if __name__ == "__main__":
    main()
