"""The proof that ranks may be killed, stopped and frozen: none hangs, nothing is lost, a line says why."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import sabotage
from ranks import (
    KILLED,
    LET_DOWN,
    PATIENCE,
    Start,
    assert_same_outcome,
    assert_same_tensors,
    is_running,
    records,
    seen,
    steps,
    training,
    wait_for,
)
from sabotage import Call, call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and the signals of Linux")

# --- gone on with, on other ranks ---


def noting(run: Path) -> Call:
    """What writes down, beside a run, which examples it saw."""
    return call(sabotage.note_examples, str(run.with_name("seen")))


def stopping(at: int) -> Call:
    """What stops a run on the first rank's wish."""
    return call(sabotage.at_step, at, [0], call(sabotage.send, signal.SIGTERM))


def killing(at: int) -> Call:
    """What kills all ranks at once."""
    return call(sabotage.at_step, at, [0], call(sabotage.send_to_all, signal.SIGKILL))


def assert_close(run: Path, undisturbed: Path) -> None:
    """The same steps to rounding, from the same examples in the same order, each once."""
    assert seen(run) == seen(undisturbed)
    assert_close_records(run, undisturbed)


def assert_close_records(run: Path, undisturbed: Path) -> None:
    for found, expected in zip(records(run), records(undisturbed), strict=True):
        assert found["step"] == expected["step"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
        assert [found.get(group) is None for group in ("dev", "averaged")] == [
            expected.get(group) is None for group in ("dev", "averaged")
        ]


@pytest.fixture(scope="module")
def stopped(start: Start, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 copies that was stopped after 5 steps. Not to be written to."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    ended = start(2, training(recipe, run), noting(run), stopping(4)).end()
    assert ended.statuses == [128 + signal.SIGTERM] * 2, ended
    assert steps(run) == [3, 5]
    return run


@pytest.mark.parametrize(
    ("data_parallel", "shard", "tensor_parallel", "workers"),
    [
        pytest.param(2, 1, 1, 2, id="2 copies, other loaders"),
        pytest.param(1, 1, 1, 1, id="alone", marks=pytest.mark.slow),
        pytest.param(1, 2, 1, 0, id="2 shards"),
        pytest.param(1, 1, 2, 0, id="2 tensor-parallel", marks=pytest.mark.slow),
        pytest.param(1, 2, 2, 0, id="2 shards x 2 tensor-parallel", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_other_ranks_and_loaders(
    start: Start,
    recipe: Path,
    tmp_path: Path,
    stopped: Path,
    undisturbed: Path,
    data_parallel: int,
    shard: int,
    tensor_parallel: int,
    workers: int,
) -> None:
    shutil.copytree(stopped.parent, tmp_path, dirs_exist_ok=True)
    run, ranks = tmp_path / "run", data_parallel * shard * tensor_parallel
    layout = (f"data_parallel={data_parallel}", f"shard={shard}", f"tensor_parallel={tensor_parallel}")
    words = training(recipe, run, f"engine.workers={workers}", *(f"engine.{axis}" for axis in layout))
    ended = start(ranks, words, noting(run)).end()
    assert ended.statuses == [0] * ranks, ended
    assert_close(run, undisturbed)
    if data_parallel == 2:
        assert_same_outcome(run, undisturbed)


@pytest.mark.slow
def test_batch_norm_runs_resume_on_other_layouts(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    """One rank, two copies and two shards, one after the other."""
    whole, run = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    for path in (whole, run):
        path.parent.mkdir()

    def train(path: Path, ranks: int, calls: list[Call], *overrides: str) -> list[int]:
        words = ["train", tiny_recipe, "--out", path, "engine.steps=12", "engine.log_every=1", *overrides]
        return start(ranks, words, noting(path), *calls).end().statuses

    stop = 128 + signal.SIGTERM
    assert train(whole, 1, []) == [0]
    assert train(run, 1, [stopping(4)]) == [stop]
    assert train(run, 2, [stopping(7)], "engine.data_parallel=2") == [stop, stop]
    assert train(run, 2, [], "engine.shard=2", "engine.workers=1") == [0, 0]
    assert_close(run, whole)


# --- killed ---


def test_ranks_that_are_killed_lose_nothing(start: Start, recipe: Path, tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    all_in_mid_step = killing(5)
    ended = start(2, training(recipe, run, "engine.workers=1"), all_in_mid_step).end()
    assert ended.statuses == [KILLED, KILLED], ended
    assert steps(run) in ([], [3])

    one_while_it_writes = call(sabotage.die_at, "open", "checkpoints/.partial_00000006", victim=1)
    ended = start(2, training(recipe, run, "engine.workers=1"), one_while_it_writes).end()
    assert ended == ([LET_DOWN, KILLED], ["segue: another rank has exited; its output may say why\n", ""])
    assert steps(run) == [3]

    # Its files are gone.
    one_while_it_deletes = call(sabotage.die_at, "os.rmdir", "checkpoints/.partial_step_00000003")
    ended = start(2, training(recipe, run), one_while_it_deletes).end()
    assert ended == ([KILLED, LET_DOWN], ["", "segue: another rank has exited; its output may say why\n"])
    assert steps(run) == [6, 9]

    ended = start(2, training(recipe, run)).end()
    assert ended == ([0, 0], ["", ""])
    assert_same_outcome(run, undisturbed)


def test_all_ranks_stop_early_together(start: Start, recipe: Path, tmp_path: Path) -> None:
    stuck = ("optimizer.learning_rate=1e-30", "engine.patience=2", "engine.evaluate_every=2", "engine.average_count=0")
    ended = start(2, training(recipe, tmp_path / "run", *stuck)).end()
    assert ended.statuses == [0, 0], ended
    assert records(tmp_path / "run")[-1]["is_last"]
    assert steps(tmp_path / "run")[-1] == 6


@pytest.mark.slow
def test_twenty_kills_lose_nothing(start: Start, recipe: Path, tmp_path: Path) -> None:
    settings = ("engine.steps=400", "engine.save_every=5", "engine.evaluate_every=50")
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert start(2, training(recipe, undisturbed, *settings)).end().statuses == [0, 0]
    draw = random.Random(0)
    for number in range(20):
        words = training(recipe, run, *settings, f"engine.workers={draw.choice((0, 1, 2))}")
        victim = draw.choice(("all", "0", "1"))
        if number % 2:  # at a file operation, most of them while saving
            whose = None if victim == "all" else int(victim)
            ended = start(2, words, call(sabotage.die_at, "*", "checkpoints/", draw.randrange(150), whose)).end()
        else:
            seen_before = (0, len(records(run)))
            job = start(2, words)
            wait_for(lambda: len(records(run)) not in seen_before)  # noqa: B023  # it is called at once
            time.sleep(draw.uniform(0, 1))
            for process in job.ranks if victim == "all" else [job.ranks[int(victim)]]:
                os.kill(process, signal.SIGKILL)
            ended = job.end()
        survivors = {"all": [], "0": [1], "1": [0]}[victim]
        assert ended.statuses == [LET_DOWN if rank in survivors else KILLED for rank in range(2)], (number, ended)
        assert "Traceback" not in "".join(ended.lines)
        steps(run)
    assert start(2, training(recipe, run, *settings)).end().statuses == [0, 0]
    assert_same_outcome(run, undisturbed)


def test_a_hung_loader_does_not_lock_the_run(start: Start, recipe: Path, tmp_path: Path) -> None:
    """Its trainer was killed, and the run can be taken up."""
    words = training(recipe, tmp_path / "run", "engine.workers=1")
    assert start(1, words, call(sabotage.kill_trainer_and_hang_in_loader)).end().statuses == [KILLED]
    ended = start(1, words, call(sabotage.only_say_where_it_resumes)).end()
    assert ended == ([0], ["resumed at 0\n"])


# --- signaled ---


def test_a_signal_to_any_rank_stops_all(start: Start, recipe: Path, tmp_path: Path, undisturbed: Path) -> None:
    """After the same step, which is saved."""
    run = tmp_path / "run"
    for number, ranks, step, act, workers in (
        (signal.SIGTERM, [1], 2, sabotage.send, 0),
        (signal.SIGUSR1, [0, 1], 5, sabotage.send_to_loaders_too, 1),
        (signal.SIGTERM, [0], 8, sabotage.send_to_all_twice, 0),
    ):
        send = call(sabotage.at_step, step, ranks, call(act, number))
        ended = start(2, training(recipe, run, f"engine.workers={workers}"), send).end()
        assert ended.statuses == [128 + number] * 2, ended
        stopped = steps(run)[-1]
        assert stopped in (step, step + 1)
        assert ended.lines == [f"warning: stopped and saved at step {stopped}; the same command continues from there"]
    assert start(2, training(recipe, run)).end() == ([0, 0], ["", ""])
    assert records(run) == records(undisturbed)
    assert_same_tensors(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_signals_do_not_wait_for_evaluations(
    start: Start, recipe: Path, tmp_path: Path, undisturbed: Path, ranks: int
) -> None:
    """Evaluations are at steps 6 and 12, and of the average at the end. Resumed runs make up for them."""
    run = tmp_path / "run"
    for number, stopped, logged in ((1, 6, 5), (1, 6, 5), (2, 12, 11)):
        if stopped == 12:  # once more from step 6, whose evaluation is not owed any more
            assert start(ranks, training(recipe, run), killing(8)).end().statuses == [KILLED] * ranks
        signaled = call(sabotage.signal_in_evaluation, number, of_rank=ranks - 1)
        ended = start(ranks, training(recipe, run), signaled).end()
        assert ended.statuses == [128 + signal.SIGTERM] * ranks, ended
        assert sorted(ended.lines) == [
            "signaled 1",  # nothing more is evaluated after it
            f"warning: stopped and saved at step {stopped}; the same command continues from there",
        ]
        assert max((run / "checkpoints").iterdir()).name == f"step_{stopped:08d}"
        assert [record["step"] for record in records(run)] == list(range(1, logged + 1))
    for _ in range(2):  # the second time nothing is left to do
        assert start(ranks, training(recipe, run)).end().statuses == [0] * ranks
    if ranks == 2:
        assert_same_outcome(run, undisturbed)
    else:
        assert_close_records(run, undisturbed)


def torchrun(recipe: Path, run: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    return subprocess.Popen(
        [*start, "-m", "segue", *map(str, training(recipe, run))],
        cwd=recipe.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendants(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


@pytest.mark.slow
def test_torchrun_restarts_after_a_killed_rank(recipe: Path, tmp_path: Path, undisturbed: Path) -> None:
    once = tmp_path / "once"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def watch(event, arguments):\n"
        f"    if event == 'open' and '.partial_00000006' in str(arguments[0]) and not os.path.exists({str(once)!r}):\n"
        f"        os.close(os.open({str(once)!r}, os.O_CREAT))\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ.get('RANK') == '1':\n"
        "    sys.addaudithook(watch)\n"
    )
    run = tmp_path / "run"
    process = torchrun(recipe, run, "--max-restarts", "2", PYTHONPATH=str(tmp_path))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert once.exists()
    assert said.count("on from step 3 to step 12") == 1
    assert_same_outcome(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torchrun", "every process"])
def test_a_signal_to_torchrun_saves_the_run(recipe: Path, tmp_path: Path, target: str) -> None:
    run = tmp_path / "run"
    process = torchrun(recipe, run)
    wait_for(lambda: records(run) or process.poll() is not None)
    others = descendants(process.pid) if target == "every process" else []
    for each in (process.pid, *others):
        os.kill(each, signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert f"stopped and saved at step {steps(run)[-1]}; the same command continues" in said
    assert process.returncode == 1  # torchrun's own


# --- held up ---


def watched(said: Sequence[str]) -> list[str]:
    """The lines of the first watchdog that spoke."""
    text = next(text for text in said if "no progress for" in text)
    lines = text[text.index("segue: no progress") :].splitlines()
    return lines[: 1 + len(said)]


def test_a_stuck_rank_is_named(start: Start, recipe: Path, tmp_path: Path) -> None:
    """With its step and its examples."""
    sleep = call(sabotage.sleep_in_loss, 5, of_rank=1)  # the first of two micro-batches in step 3
    ended = start(2, training(recipe, tmp_path / "run", "engine.watchdog_seconds=5"), sleep).end()
    assert ended.statuses == [LET_DOWN, LET_DOWN], ended
    ids = ended.said[1].splitlines()[0].split()[2:]
    assert ids
    first, innocent, culprit = watched(ended.said)
    assert first == "segue: no progress for 5 s (engine.watchdog_seconds):"
    assert innocent.startswith("  rank 0 at step 3, computes gradients: train.jsonl:")
    assert culprit.startswith(f"  rank 1 (holds the others up) at step 3, computes the loss: {', '.join(ids)}, for ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "innocent", "culprit"),
    [
        pytest.param(
            *(None, "step 0, prepares the data", "step 0, no sign of life since it prepares the data"),
            id="before the first step",
            marks=pytest.mark.slow,
        ),
        pytest.param(4, "step 5, waits for the other ranks", "step 4, no sign of life since it ", id="after a step"),
    ],
)
def test_a_rank_that_is_frozen_is_named(
    start: Start, recipe: Path, tmp_path: Path, at: int | None, innocent: str, culprit: str
) -> None:
    run = str(tmp_path / "run")
    freeze = (
        call(sabotage.freeze_while_preparing, run, of_rank=1)
        if at is None
        else call(sabotage.at_step, at, [1], call(sabotage.freeze_when_noted, run, f"[{at}, "))
    )
    job = start(2, training(recipe, tmp_path / "run", "engine.watchdog_seconds=8"), freeze)
    wait_for(lambda: not is_running(job.ranks[0]))
    os.kill(job.ranks[1], signal.SIGKILL)  # nothing else ends it
    ended = job.end()
    assert ended.statuses == [LET_DOWN, KILLED]
    _, first, second = watched(ended.said)
    assert first.startswith(f"  rank 0 at {innocent}, for ")
    assert second.startswith(f"  rank 1 (holds the others up) at {culprit}")


def test_an_example_that_hangs_a_loader_is_named(start: Start, recipe: Path, tmp_path: Path) -> None:
    words = training(recipe, tmp_path / "run", "engine.watchdog_seconds=5", "engine.workers=2")
    ended = start(1, words, call(sabotage.hang_at_pair, "train.jsonl:7")).end()
    assert ended.statuses == [LET_DOWN], ended
    _, place = watched(ended.said)
    assert re.fullmatch(r"  rank 0 at step \d, reads data: .*train\.jsonl:7\b.*, for \d+ s", place), place
    loader = re.search(r"loader (\d+)", ended.said[0])
    assert loader is not None
    wait_for(lambda: not is_running(int(loader[1])))  # no process is left behind
