"""Many requests: each is answered once and rightly, and memory does not grow."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import segue

from .running import Running

COUNT, WARM = 20_000, 2_000
CLIENTS = 16


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.slow
def test_memory_does_not_grow(served: Running, trained: Path, corpus: Path, pairs: Path) -> None:
    model = segue.load(trained)
    recordings = sorted(corpus.glob("*.wav"))
    texts = [model.transcribe(path).text for path in recordings]
    lines = [json.loads(line) for line in (pairs / "test.jsonl").read_text().splitlines()]
    draw = np.random.default_rng(0)
    asked = draw.integers(0, 10**6, COUNT).tolist()
    counts: Counter[str] = Counter()

    def ask(client: httpx.Client, numbers: list[int]) -> None:
        for number in numbers:
            kind, which = number % 10, number // 10
            if kind < 6:
                path = recordings[which % len(recordings)]
                answer = client.post("/v1/audio/transcriptions", files={"file": path.read_bytes()})
                assert answer.json()["text"] == texts[which % len(recordings)]
            elif kind < 9:
                line = lines[which % len(lines)]
                answer = client.post("/v1/translations", json={"input": line["source"]})
                assert answer.json()["translations"][0]["text"] == line["target"]
            else:
                answer = client.post("/v1/audio/transcriptions", files={"file": b"no audio"})
                assert answer.status_code == 400
            counts[answer.headers["x-request-id"]] += 1

    def run(numbers: list[int]) -> None:
        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [httpx.Client(base_url=served.url, timeout=120) for _ in range(CLIENTS)]
            work = [threads.submit(ask, client, numbers[place::CLIENTS]) for place, client in enumerate(clients)]
            for each in work:
                each.result()
            for client in clients:
                client.close()

    run(asked[:WARM])
    before = resident_megabytes()
    run(asked[WARM:])
    after = resident_megabytes()
    print(f"{before:.0f} MB after {WARM} requests, {after:.0f} MB after {COUNT}")
    assert len(counts) == COUNT
    assert set(counts.values()) == {1}
    assert after < 1.05 * before
    assert all(not loaded.batcher.num_requests for loaded in served.server.models)
