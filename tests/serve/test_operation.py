"""The command itself: it starts, stops without dropping what is under way, and says what is wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from segue import cli


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def command(*words: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of `segue serve`, once it is ready, and its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "segue", "serve", *map(str, words), "--port", str(port)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/ready")
                break
            except httpx.TransportError:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def under_way(url: str, lines: list[str], answers: list[httpx.Response]) -> threading.Thread:
    """A translation that has begun; its answer is appended."""

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/translations", json={"input": lines}, timeout=100))

    working = threading.Thread(target=ask)
    working.start()
    while "segue_requests_under_way 2.0" not in httpx.get(f"{url}/metrics").text:  # with this one
        assert working.is_alive()
        time.sleep(0.01)
    return working


@pytest.mark.slow
def test_a_stop_finishes_what_is_under_way(trained_translator: Path, pairs: Path) -> None:
    lines = [json.loads(line)["source"] for line in (pairs / "train.jsonl").read_text().splitlines()[:1500]]
    answers: list[httpx.Response] = []
    with command(trained_translator, "--grace-seconds", 60) as (process, url):
        working = under_way(url, lines, answers)
        process.send_signal(signal.SIGTERM)
        with httpx.Client() as client:  # from now on new requests are refused
            while client.get(f"{url}/ready").status_code == 200:
                time.sleep(0.01)
            refused = client.post(f"{url}/v1/translations", json={"input": "one"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "stopping"
        working.join(100)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["translations"]) == len(lines)
        log = process.communicate(timeout=30)[1]
        assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [each["event"] for each in events if each["event"] != "request"] == ["started", "stopping", "stopped"]
    assert "one" not in json.dumps([each for each in events if each["event"] == "request"])


@pytest.mark.slow
def test_a_stop_drops_what_takes_too_long(trained_translator: Path, pairs: Path) -> None:
    lines = [json.loads(line)["source"] for line in (pairs / "train.jsonl").read_text().splitlines()] * 20
    answers: list[httpx.Response] = []
    with command(trained_translator, "--grace-seconds", 0.2, "--characters", 10**7) as (process, url):
        working = under_way(url, lines, answers)
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=20)[1]
        working.join(20)
    assert process.returncode == 0
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "stopping"
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {each["level"] for each in events} == {"info"}
    assert [each["status"] for each in events if each.get("path") == "/v1/translations"] == [503]


@pytest.mark.slow
def test_sighup_takes_up_a_new_version(trained_translator: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(trained_translator)
    with command(f"m={link}") as (process, url):
        before = httpx.get(f"{url}/v1/models").json()["data"][0]["created"]
        time.sleep(1.1)
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while httpx.get(f"{url}/v1/models").json()["data"][0]["created"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        answer = httpx.post(f"{url}/v1/translations", json={"input": "one two three"})
        assert answer.json()["translations"][0]["text"] == "three two one"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["{folder}"], "not a run, model or exported directory"),
        (["a={folder}", "a={folder}"], "two models are named 'a'"),
        (["a={folder}", "--pair", "b=en:de"], "--pair b: no model has this name (a)"),
        (["a={folder}", "--pair", "a=en"], "--pair a=en: NAME=SOURCE:TARGET wanted"),
        (["a={folder}", "--port", "70000"], "--port 70000: at most 65535"),
        (["a={folder}", "--keys", "{folder}/keys"], "keys: holds no key"),
        (["a={folder}", "--admin-key", "{folder}/two"], "two: holds 2 keys; one is wanted"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "keys").write_text("# none\n")
    (tmp_path / "two").write_text("one\ntwo\n")
    assert cli.main(["serve", "--port", "0", *(word.format(folder=tmp_path) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_it_says_what_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Before it does, which may take long."""
    said: list[str] = []
    monkeypatch.setattr("segue.serve.app.start", lambda *_: said.append(capsys.readouterr().err))
    monkeypatch.setattr("segue.serve.server.run", lambda *_: None)
    monkeypatch.setattr("segue.serve.logs.start", lambda **_: None)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", f"a={tmp_path}", "b", "--port", "0"]) == 0
    assert said == [f"loads a ({tmp_path}), b\n"]


def test_a_port_that_is_taken_is_named(trained_translator: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(trained_translator), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err


def test_an_empty_variable_is_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setenv("SEGUE_API_KEYS", ", ")
    assert cli.main(["serve", f"a={tmp_path}"]) == 2
    assert "SEGUE_API_KEYS: holds no key" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    for name in [name for name in sys.modules if name.startswith(("segue.serve", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert cli.main(["serve", str(tmp_path)]) == 2
    assert "pip install 'segue[serve]'" in capsys.readouterr().err


def test_onnxruntime_reports_nothing(exported_recognizer: Path, tmp_path: Path) -> None:
    """It would keep what it reports, and an id of the machine, in the home directory."""
    program = f"import segue; segue.load({str(exported_recognizer)!r})"
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
    assert not list(tmp_path.iterdir())


def test_serving_imports_no_torch() -> None:
    program = "import sys; from segue.serve import app, server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
