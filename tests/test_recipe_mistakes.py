"""Whatever a recipe or a command line holds, a user is told what is wrong with it, and sees no fault of ours."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue import key_hints, recipe, tasks
from segue.cli import main
from segue.errors import UserError
from segue.runtime.table import TASKS

SHIPPED = sorted(recipe.shipped().values())
KEYS = sorted({key for task in TASKS for key in recipe.keys_of(tasks.recipe_type(task))})

names = st.sampled_from([*KEYS, "lr", "engine.epochs", "model.blocks.0.kernel", "tokenizer.kind", "x"]) | st.text(
    max_size=9
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**30, 2**63, 1e308, -0.0])
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["auto", "held_out", "jasper", "transformer", "bpe", "adamw", "1 epoch", "\x00", "\udcff"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


def taken(path: Path, overrides: list[str]) -> None:
    """The recipe is read and reads back the same, or its mistakes are told."""
    with suppress(UserError):
        section = read(path, overrides)
        assert recipe.loads(recipe.dump(section), type(section)) == section


def read(path: Path, overrides: list[str]) -> recipe.Section:
    draft = recipe.read(path, overrides)
    section: recipe.Section = recipe.validate(draft, tasks.module_of(draft).Recipe)
    return section


@given(path=st.sampled_from(SHIPPED), changes=st.lists(st.tuples(names, values), max_size=4))
@settings(deadline=None, max_examples=60)
def test_any_override_is_taken_or_refused(path: Path, changes: list[tuple[str, Any]]) -> None:
    taken(path, [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in changes])


@given(path=st.sampled_from(SHIPPED), data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_a_recipe_is_taken_or_refused(path: Path, data: st.DataObject, tmp_path: Path) -> None:
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        text[start:end] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"[", b"]\n", b'"', b"\n[x]\n", b"=", b"kind"])
        )
    damaged = tmp_path / "damaged.toml"
    damaged.write_bytes(text)
    taken(damaged, [])


@pytest.mark.parametrize(
    "text",
    [
        *("task = [1]", "task = {}", "task = 3", "a = " + "[" * 3000 + "]" * 3000, "[" + ".".join("a" * 3000) + "]"),
        *('task = "speech_recognition"\nextends = 3', "\x00", "a = 1\na = 2", 'task = "translation"\nmodel = []'),
    ],
)
def test_odd_recipes_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(UserError):
        read(tmp_path / "odd.toml", [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=99999999999999999999", "command line: seed: whole numbers have 64 bits, not 99999999999999999999"),
        ("model.blocks.0.channels=99999999999", "model.blocks.0.channels: should be less than or equal to 65536"),
        ("a" + ".a" * 3000 + "=1", "tables or arrays are nested too deeply"),
        ("augmentation.time_masks=999999999999", "augmentation.time_masks: should be less than or equal to 1000"),
    ],
)
def test_numbers_no_machine_holds_are_refused(override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "digits_jasper", override]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimizer.lr", "learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("batch.batch_size", "seconds"),
        ("learning_rate", "optimizer.learning_rate"),
        ("engine.learning_rate", "optimizer.learning_rate"),
        ("max_steps", "engine.steps"),
        ("engine.num_epochs", "steps"),
        ("trainer.max_epochs", "engine.steps"),
        ("engine.grad_clip", "clip_norm"),
        ("sample_rate", "features.sample_rate_hz"),
        ("optimizer.weight_deacy", "weight_decay"),
        ("schedule.warmup", "warmup_steps"),
        ("num_workers", "engine.workers"),
        ("data.val", "dev"),
        ("fp16", "engine.precision"),
        ("accumulate_grad_batches", "batch.micro_batches"),
        ("optimizer.adam_beta1", "betas"),
        ("tokenizer.labels", "alphabet"),
        ("zzz", None),
    ],
)
def test_keys_of_other_toolkits_get_a_hint(key: str, meant: str | None) -> None:
    draft = recipe.read(recipe.find("digits_jasper"))
    keys = list(recipe.keys_of(tasks.module_of(draft).Recipe, draft.values))
    hint = key_hints.hint(key, keys)
    assert hint is None if meant is None else hint is not None and f"'{meant}'" in hint


def test_every_key_that_is_hinted_at_exists() -> None:
    assert {each for each in key_hints.OTHER_NAMES if each != "batch"} <= set(KEYS)
