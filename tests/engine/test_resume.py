"""The proof that training can be stopped at any moment: what comes out is the same to the last bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import segue
from segue.data import audio

# Python reports each file operation to a hook just before it happens: DIE_AT is an operation's name (or *), a part of
# its path, and how often to let it pass.
PROGRAM = """
import os, signal, sys
from segue.cli import main

trainer, moment = os.getpid(), os.environ.get("DIE_AT", "")
if moment:
    operation, part, left = moment.split(" ")
    left = int(left)

    def watch(event, arguments):
        global left
        if operation in ("*", event) and part in repr(arguments) and os.getpid() == trainer:
            left -= 1
            if left < 0:
                os.kill(trainer, signal.SIGKILL)

    sys.addaudithook(watch)
exec(os.environ.get("SABOTAGE", ""))
sys.exit(main())
"""
SIGNAL_AT_STEP = """
import multiprocessing
from segue.engine.log import Log

advance = Log.advance

def advance_and_send(log, step):
    advance(log, step)
    if step == {step}:
        loaders = [each.pid for each in multiprocessing.active_children()]
        print("loader processes:", *loaders, file=sys.stderr, flush=True)
        os.kill({target}, {signal})

Log.advance = advance_and_send
"""
GROUP, TRAINER = "-trainer", "trainer"
"""Who is sent a signal: every process, as Ctrl-C does, or the trainer alone."""

PATIENCE = 120
"""Seconds until something hangs; far more than anything takes."""


def start(recipe: Path, run: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """`segue train` as a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "train", str(recipe), "--out", str(run), *overrides],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and standard error; fails instead of waiting for ever."""
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def records(run: Path) -> list[dict[str, Any]]:
    """The log's complete lines, without what depends on the clock."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    clock = ("time", "rate", "data_wait", "memory_gb")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def newest_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step_*"))


def assert_same_outcome(run: Path, uninterrupted: Path) -> None:
    """Model, optimizer, averages and log, each step once."""
    assert records(run) == records(uninterrupted)
    checkpoint, expected = newest_checkpoint(run), newest_checkpoint(uninterrupted)
    assert checkpoint.name == expected.name
    files = [path.name for path in expected.glob("*.safetensors")]
    assert files
    for file in files:
        assert (checkpoint / file).read_bytes() == (expected / file).read_bytes(), file
    for file in ("model.safetensors", "tokenizer.json", "README.md"):
        assert (run / "model" / file).read_bytes() == (uninterrupted / "model" / file).read_bytes(), file


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    segue.train(tiny_recipe, run)
    steps = [record["step"] for record in records(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 30
    return run


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def killed(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A run that was killed three times before it came to its end, and the loader processes of the first try."""
    run = tmp_path_factory.mktemp("killed") / "run"

    in_mid_epoch = SIGNAL_AT_STEP.format(step=13, target=TRAINER, signal=int(signal.SIGKILL))  # saved at step 8
    status, said = finish(start(tiny_recipe, run, "engine.workers=2", SABOTAGE=in_mid_epoch))
    assert status == -signal.SIGKILL, said
    workers = [int(word) for word in said.rpartition("loader processes:")[2].split()]

    while_saving = "open checkpoints/.partial_00000024/.partial_shard 0"
    status, said = finish(start(tiny_recipe, run, DIE_AT=while_saving))
    assert status == -signal.SIGKILL, said
    assert newest_checkpoint(run).name == "step_00000016"

    before_publishing = "os.rename checkpoints/.partial_00000030 0"  # after the last evaluation
    status, said = finish(start(tiny_recipe, run, DIE_AT=before_publishing))
    assert status == -signal.SIGKILL, said
    assert newest_checkpoint(run).name == "step_00000024"

    status, said = finish(start(tiny_recipe, run, "engine.workers=2"))
    assert status == 0, said
    return run, workers


def test_resumed_run_equals_uninterrupted_run(killed: tuple[Path, list[int]], uninterrupted: Path) -> None:
    assert_same_outcome(killed[0], uninterrupted)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_loader_processes_do_not_survive_a_killed_trainer(killed: tuple[Path, list[int]]) -> None:
    workers = killed[1]
    assert len(workers) == 2
    deadline = time.monotonic() + PATIENCE
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_interrupted_run_saves_says_how_to_go_on_and_goes_on_exactly(
    tiny_recipe: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    for number, step, workers in ((signal.SIGINT, 5, 2), (signal.SIGTERM, 18, 0)):
        send = SIGNAL_AT_STEP.format(step=step, target=GROUP, signal=int(number))
        status, said = finish(start(tiny_recipe, run, f"engine.workers={workers}", SABOTAGE=send))
        assert status == 128 + number, said
        assert "Traceback" not in said
        assert newest_checkpoint(run).name == f"step_{step:08d}"
        assert f"saved at step {step}" in said.splitlines()[-1]
        assert "same command goes on" in said.splitlines()[-1]
    status, said = finish(start(tiny_recipe, run))
    assert status == 0, said
    assert_same_outcome(run, uninterrupted)


def test_a_run_to_which_nobody_listens_any_more_goes_on(tiny_recipe: Path, tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    with start(tiny_recipe, run) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()  # segue train ... 2>&1 | head -n 1
        assert process.wait(PATIENCE) == 0
    assert_same_outcome(run, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(tiny_recipe: Path, tmp_path: Path) -> None:
    settings = ("engine.steps=400", "engine.save_every=5", "engine.evaluate_every=25", "engine.log_every=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    segue.train(tiny_recipe, whole, *settings)
    draw = random.Random(0)
    for number in range(20):
        overrides = (*settings, f"engine.workers={draw.choice((0, 1, 2))}")
        if number % 2:
            process = start(tiny_recipe, run, *overrides, DIE_AT=f"* {run} {draw.randrange(200)}")
        else:
            before = len(records(run))
            process = start(tiny_recipe, run, *overrides)
            while process.poll() is None and len(records(run)) in (0, before):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            process.kill()
        status, said = finish(process)
        assert status == -signal.SIGKILL, (number, said)
    status, said = finish(start(tiny_recipe, run, *settings))
    assert status == 0, said
    assert_same_outcome(run, whole)


@pytest.fixture
def broken_corpus(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with one training recording that only reading it shows to be silent: its header is right."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in corpus.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "train_17.wav").unlink()
    sound = audio.read(corpus / "train_17.wav", 8000)
    audio.write(folder / "train_17.wav", 0 * sound, 8000)
    return folder


@pytest.mark.parametrize(
    "sabotage",
    [
        "from segue.engine.trainer import Trainer; Trainer._evaluate_and_keep = lambda self: 1 / 0",
        "from segue.data.examples import Utterance; Utterance.samples = lambda *_: 1 / 0",
    ],
    ids=["in the trainer", "in a loader process"],
)
def test_a_fault_with_loader_processes_alive_ends_the_process(tiny_recipe: Path, tmp_path: Path, sabotage: str) -> None:
    settings = ("engine.workers=2", "engine.evaluate_every=3")
    status, said = finish(start(tiny_recipe, tmp_path / "run", *settings, SABOTAGE=sabotage))
    assert status == 1, said
    assert "Traceback" in said


def test_a_loader_process_that_dies_is_reported_with_the_example_it_held(tiny_recipe: Path, tmp_path: Path) -> None:
    sabotage = (
        "from segue.data.examples import Utterance\n"
        "read = Utterance.samples\n"
        "def deadly(utterance, rate):\n"
        "    if utterance.id.endswith('train_17.wav'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(utterance, rate)\n"
        "Utterance.samples = deadly"
    )
    settings = ("engine.workers=2", "augmentation.joined_utterances=1")
    status, said = finish(start(tiny_recipe, tmp_path / "run", *settings, SABOTAGE=sabotage))
    assert status == 2, said
    assert re.search(
        r"^segue: a process that reads data died \(SIGKILL.*\); .* example .*train_17\.wav$", said, re.M
    ), said


def test_a_mistake_found_by_a_loader_process_is_one_line(
    tiny_recipe: Path, tmp_path: Path, broken_corpus: Path
) -> None:
    settings = ("engine.workers=2", f"data.root={broken_corpus}")
    status, said = finish(start(tiny_recipe, tmp_path / "run", *settings))
    assert status == 2, said
    _, *lines = said.splitlines()  # the first one introduces the run
    (mistake,) = [line for line in lines if not line.startswith("step ")]
    assert mistake.startswith(f"segue: {broken_corpus}/train.jsonl:18: {broken_corpus}/train_17.wav: silent")


def test_a_mistake_found_while_loader_processes_are_alive_is_one_line(tiny_recipe: Path, tmp_path: Path) -> None:
    sabotage = (
        "from segue.engine.state.checkpoint import Checkpoints; Checkpoints.save = lambda *_: open('/no such folder/x')"
    )
    settings = ("engine.workers=2", "engine.save_every=3")
    status, said = finish(start(tiny_recipe, tmp_path / "run", *settings, SABOTAGE=sabotage))
    assert status == 2, said
    _, *lines = said.splitlines()  # the first one introduces the run
    (mistake,) = [line for line in lines if not line.startswith("step ")]
    assert mistake == "segue: /no such folder/x: No such file or directory"


def test_a_run_killed_while_it_is_set_up_starts_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)  # the recipe is written, but not under its name
        patch.setattr(os, "unlink", killed)  # nor does what is killed clean up
        with pytest.raises(KeyboardInterrupt):
            segue.train(tiny_recipe, run)
    assert sorted(path.name for path in run.iterdir()) == [".lock", ".partial_recipe.toml"]
    assert segue.train(tiny_recipe, run, "engine.steps=1").step == 1
