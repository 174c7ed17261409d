"""The proof that what is damaged, full, locked or wrong ends all ranks with a line that says what to do."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest
import sabotage
from ranks import LET_DOWN, Start, assert_same_outcome, steps, training, wait_for
from sabotage import call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and the signals of Linux")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_all_ranks_skip_a_damaged_checkpoint(
    start: Start, recipe: Path, run: Path, undisturbed: Path, damage: str
) -> None:
    path = run / "checkpoints" / "step_00000012" / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    calls = [] if damage == "missing" else [call(sabotage.only_say_where_it_resumes)]
    ended = start(2, training(recipe, run), *calls).end()
    assert ended.statuses == [0, 0], ended
    warning, *rest = ended.lines
    assert warning.startswith(f"warning: {path.parent}: damaged checkpoint skipped: ")
    assert path.name in warning
    if damage == "missing":
        assert rest == []
        assert_same_outcome(run, undisturbed)
    else:
        assert rest == ["resumed at 9"] * 2


def test_all_checkpoints_damaged_is_one_line(start: Start, recipe: Path, run: Path) -> None:
    for path in (run / "checkpoints").glob("step_*/shard-00001*"):
        os.truncate(path, 100)
    ended = start(2, training(recipe, run)).end()
    assert ended.statuses == [2, 2]
    *warnings, mistake = ended.lines
    assert [re.findall(r"step_000000\d\d: damaged checkpoint skipped", line) for line in warnings] == [
        ["step_00000012: damaged checkpoint skipped"],
        ["step_00000009: damaged checkpoint skipped"],
    ]
    assert mistake == (
        f"segue: {run}/checkpoints: no checkpoint in it can be read; delete this folder to train from the start"
    )


def test_another_models_checkpoint_is_refused(start: Start, recipe: Path, run: Path) -> None:
    """The message names the first parameter that differs."""
    text = (run / "recipe.toml").read_text()
    assert "width = 32\n" in text
    (run / "recipe.toml").write_text(text.replace("width = 32\n", "width = 16\n"))
    ended = start(2, training(recipe, run, "model.width=16")).end()
    assert ended.statuses == [2, 2], ended
    [mistake] = ended.lines
    assert mistake.startswith(f"segue: {run}/checkpoints/step_00000012: a checkpoint of another model: model.")
    assert re.search(r": model\.\S*embedding\.weight is \(\d+, 16\), the checkpoint has \(\d+, 32\)$", mistake)


# --- the disk ---


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_ranks_full_disk_ends_all(start: Start, recipe: Path, tmp_path: Path, rank: int) -> None:
    """With one line; earlier checkpoints stay."""
    run = tmp_path / "run"
    fill = call(sabotage.fill_disk, f"{run}/checkpoints/step_00000003")
    words = training(recipe, run, "engine.evaluate_every=12")
    ended = start(2, words, call(sabotage.at_step, 4, [rank], fill)).end()
    assert ended.statuses == [2, 2], ended
    [mistake] = ended.lines
    assert mistake == (
        f"segue: {run}/checkpoints/step_00000006: cannot save this checkpoint: File too large; "
        "earlier ones are intact, so make room and train again"
    )
    assert steps(run) == [3]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000003"]
    assert start(2, words, call(sabotage.only_say_where_it_resumes)).end().lines == ["resumed at 3"] * 2


def test_a_read_only_folder_is_one_line(start: Start, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    ended = start(2, training(recipe, folder / "run"), call(sabotage.lay_down_roots_rights)).end()
    assert ended.statuses == [2, 2], ended
    assert ended.lines == [f"segue: {folder}/run: Permission denied"]
    assert list(folder.iterdir()) == []


def test_two_trainings_never_share_a_run_directory(start: Start, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(2, training(recipe, run), call(sabotage.at_step, 1, [0], call(sabotage.sleep)))
    wait_for((run / "tokenizer.json").exists)
    ended = start(2, training(recipe, run)).end()
    first.kill()
    first.end()
    assert ended.statuses == [2, 2], ended
    assert ended.lines == [
        f"segue: {run}: process {first.ranks[0]} on {socket.gethostname()} is training there; "
        "give another --out, or wait"
    ]


# --- mistakes ---


def test_a_mistake_on_the_first_rank_ends_all(start: Start, recipe: Path, tmp_path: Path) -> None:
    """With one line."""
    (tmp_path / "file").write_text("")
    ended = start(2, training(recipe, tmp_path / "file" / "run")).end()
    assert ended == ([2, 2], [f"segue: --out {tmp_path}/file/run: {tmp_path}/file is a file\n", ""])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("engine.stpes=1", "engine.stpes: no such key (did you mean 'steps'?)"),
        ("data.root=nowhere", "nowhere"),
        ("batch.micro_batches=3", "batch.micro_batches: 3 cannot be dealt out to 2 ranks"),
    ],
)
def test_mistakes_on_all_ranks_are_printed_once(
    start: Start, recipe: Path, tmp_path: Path, override: str, said: str
) -> None:
    ended = start(2, training(recipe, tmp_path / "run", override)).end()
    assert ended.statuses == [2, 2], ended
    [line] = ended.lines
    assert said in line


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_bad_data_on_another_rank_ends_all(start: Start, recipe: Path, tmp_path: Path, workers: int) -> None:
    words = training(recipe, tmp_path / "run", "engine.steps=40", f"engine.workers={workers}")
    ended = start(2, words, call(sabotage.spoil_pair, "train.jsonl:7", of_rank=1)).end()
    assert ended.statuses == [LET_DOWN, 2], ended
    hint = "(--skip-bad leaves such examples out and counts them)"
    assert ended.lines == [
        "segue: another rank has exited; its output may say why",
        f"segue: train.jsonl:7: no text {hint}",
    ]


# --- not finite ---


def test_a_nonfinite_loss_ends_all_and_replays(start: Start, recipe: Path, tmp_path: Path) -> None:
    """One rank prints it, with the examples of all."""
    # One example of rank 1 makes the feed-forward layer of the encoder overflow.
    overflow = call(sabotage.overflow_at_pair, "train.jsonl:30")
    run = tmp_path / "run"
    ended = start(2, training(recipe, run), overflow).end()
    assert ended.statuses == [2, 2], ended
    [mistake], [path] = ended.lines, list(run.glob("replay_*"))
    assert mistake.startswith("segue: step 3: the loss is nan; ")
    assert mistake.endswith(f"(segue train --replay {path} takes it again)")
    named = re.findall(r"train\.jsonl:\d+", mistake)

    ended = start(1, ["train", "--replay", path], overflow).end()
    assert ended.statuses == [0], ended
    found = [line for line in ended.lines if line.startswith("loss ")]
    assert len(found) == 4
    for micro_batch in found:  # two of each rank
        assert set(re.findall(r"train\.jsonl:\d+", micro_batch)) & set(named)
    at = ended.lines.index(next(line for line in found if line.startswith("loss nan ")))
    assert "train.jsonl:30" in ended.lines[at]
    assert ended.lines[at + 1] == "  first output that is not finite: encoder.0.feed_forward.up"
    assert [line for line in ended.lines if "alone: loss nan" in line] == ["  train.jsonl:30 alone: loss nan"]


@pytest.mark.parametrize("change", ["data.root=nowhere", "data.train=['dev.jsonl']", "engine.tensor_parallel=2"])
def test_a_refused_start_keeps_the_runs_recipe(start: Start, recipe: Path, run: Path, change: str) -> None:
    before = (run / "recipe.toml").read_text()
    ended = start(1, training(recipe, run, change)).end()
    assert ended.statuses == [2], ended
    assert (run / "recipe.toml").read_text() == before
