"""The proof that training can be stopped at any moment: what comes out is the same to the last bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sabotage
from ranks import PATIENCE, Start, is_running, records, wait_for
from sabotage import Call, call

import segue
from segue.data import audio


def begin(recipe: Path, run: Path, *overrides: str, calls: Sequence[Call] = ()) -> subprocess.Popen[str]:
    """`segue train` as a process group of its own, as a terminal starts it.

    For how Python itself ends, which a forked process does not show; it takes seconds to import torch.
    """
    return subprocess.Popen(
        [sys.executable, sabotage.__file__, "train", str(recipe), "--out", str(run), *overrides],
        env={**os.environ, **sabotage.environment(calls)},
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


def train(start: Start, recipe: Path, run: Path, *overrides: str, calls: Sequence[Call] = ()) -> tuple[int, str]:
    """Exit status of `segue train` in a forked process, and what it said."""
    (status,), (said,) = start(1, ["train", recipe, "--out", run, *overrides], *calls).end()
    return status, said


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


@pytest.fixture(scope="module")
def killed(start: Start, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A run that was killed three times before it came to its end, and the loader processes of the first try."""
    run = tmp_path_factory.mktemp("killed") / "run"

    killed = call(sabotage.name_loaders_and_send, signal.SIGKILL, to_group=False)
    in_mid_epoch = call(sabotage.at_step, 13, [0], killed)  # saved at step 8
    status, said = train(start, tiny_recipe, run, "engine.workers=2", calls=[in_mid_epoch])
    assert status == -signal.SIGKILL, said
    workers = [int(word) for word in said.rpartition("loader processes:")[2].splitlines()[0].split()]

    while_saving = call(sabotage.die_at, "open", "checkpoints/.partial_00000024/.partial_shard")
    status, said = train(start, tiny_recipe, run, calls=[while_saving])
    assert status == -signal.SIGKILL, said
    assert newest_checkpoint(run).name == "step_00000016"

    # After the last evaluation.
    before_publishing = call(sabotage.die_at, "os.rename", "checkpoints/.partial_00000030")
    status, said = train(start, tiny_recipe, run, calls=[before_publishing])
    assert status == -signal.SIGKILL, said
    assert newest_checkpoint(run).name == "step_00000024"

    status, said = train(start, tiny_recipe, run, "engine.workers=2")
    assert status == 0, said
    return run, workers


def test_resumed_run_equals_uninterrupted_run(killed: tuple[Path, list[int]], uninterrupted: Path) -> None:
    assert_same_outcome(killed[0], uninterrupted)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_loaders_end_with_their_killed_trainer(killed: tuple[Path, list[int]]) -> None:
    workers = killed[1]
    assert len(workers) == 2
    wait_for(lambda: not any(map(is_running, workers)))


@pytest.mark.parametrize(
    ("number", "step", "workers"),
    [(signal.SIGINT, 5, 2), pytest.param(signal.SIGTERM, 18, 0, marks=pytest.mark.slow)],
)
def test_interrupted_runs_save_and_resume_exactly(
    start: Start,
    tiny_recipe: Path,
    tmp_path: Path,
    uninterrupted: Path,
    number: signal.Signals,
    step: int,
    workers: int,
) -> None:
    """A message says how to go on."""
    run = tmp_path / "run"
    send = call(sabotage.at_step, step, [0], call(sabotage.send_to_all, number))
    status, said = train(start, tiny_recipe, run, f"engine.workers={workers}", calls=[send])
    assert status == 128 + number, said
    assert "Traceback" not in said
    assert newest_checkpoint(run).name == f"step_{step:08d}"
    assert f"saved at step {step}" in said.splitlines()[-1]
    assert "same command continues" in said.splitlines()[-1]
    status, said = train(start, tiny_recipe, run)
    assert status == 0, said
    assert_same_outcome(run, uninterrupted)


@pytest.mark.slow
def test_a_closed_stderr_does_not_end_a_run(tiny_recipe: Path, tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    with begin(tiny_recipe, run) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()  # segue train ... 2>&1 | head -n 1
        assert process.wait(PATIENCE) == 0
    assert_same_outcome(run, uninterrupted)


@pytest.mark.slow
def test_runs_survive_kills_at_random_moments(tiny_recipe: Path, tmp_path: Path) -> None:
    """They end as an uninterrupted one."""
    settings = ("engine.steps=400", "engine.save_every=5", "engine.evaluate_every=25", "engine.log_every=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    segue.train(tiny_recipe, whole, *settings)
    draw = random.Random(0)
    for number in range(20):
        overrides = (*settings, f"engine.workers={draw.choice((0, 1, 2))}")
        if number % 2:
            process = begin(
                tiny_recipe, run, *overrides, calls=[call(sabotage.die_at, "*", str(run), draw.randrange(200))]
            )
        else:
            before = len(records(run))
            process = begin(tiny_recipe, run, *overrides)
            while process.poll() is None and len(records(run)) in (0, before):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            process.kill()
        status, said = finish(process)
        assert status == -signal.SIGKILL, (number, said)
    status, said = finish(begin(tiny_recipe, run, *settings))
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(sabotage.fail_in_evaluation, id="in the trainer", marks=pytest.mark.slow),
        pytest.param(sabotage.fail_to_read, id="in a loader process"),
    ],
)
def test_a_crash_with_live_loaders_ends_the_run(tiny_recipe: Path, tmp_path: Path, fault: Callable[[], None]) -> None:
    settings = ("engine.workers=2", "engine.evaluate_every=3")
    status, said = finish(begin(tiny_recipe, tmp_path / "run", *settings, calls=[call(fault)]))
    assert status == 1, said
    assert "ZeroDivisionError" in said


def test_a_dead_loader_is_named_with_its_example(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    settings = ("engine.workers=2", "augmentation.joined_utterances=1")
    deadly = call(sabotage.die_at_recording, "train_17.wav")
    status, said = train(start, tiny_recipe, tmp_path / "run", *settings, calls=[deadly])
    assert status == 2, said
    assert re.search(
        r"^segue: a process that reads data died \(SIGKILL.*\); .* example .*train_17\.wav$", said, re.M
    ), said


def test_a_mistake_in_a_loader_is_one_line(
    start: Start, tiny_recipe: Path, tmp_path: Path, broken_corpus: Path
) -> None:
    settings = ("engine.workers=2", f"data.root={broken_corpus}")
    status, said = train(start, tiny_recipe, tmp_path / "run", *settings)
    assert status == 2, said
    (mistake,) = said.splitlines()
    assert mistake.startswith(f"segue: {broken_corpus}/train.jsonl:18: {broken_corpus}/train_17.wav: silent")


def test_a_mistake_beside_loaders_is_one_line(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    settings = ("engine.workers=2", "engine.save_every=3")
    status, said = train(start, tiny_recipe, tmp_path / "run", *settings, calls=[call(sabotage.fail_to_save)])
    assert status == 2, said
    (mistake,) = said.splitlines()
    assert mistake == "segue: /no such folder/x: No such file or directory"


def test_a_run_killed_during_setup_starts_again(
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
