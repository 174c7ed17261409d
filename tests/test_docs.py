"""What the pages in docs/ and the README say is there."""

import re
from pathlib import Path

import pytest

from segue import recipe, tasks
from segue.commands import COMMANDS
from segue.engine.settings import EngineSection
from segue.runtime.table import TASKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    keys = set(re.findall(r"\bengine\.(\w+)", text))
    assert keys <= set(EngineSection.model_fields)
    batch = set(re.findall(r"\bbatch\.(\w+)", text))
    known = {key for task in TASKS for key in recipe.keys_of(tasks.recipe_type(task))}
    assert {f"batch.{name}" for name in batch} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"^(?:\$ |    |.*-m )?segue (\w+)", text, re.MULTILINE))
    assert commands <= set(COMMANDS), page
    named = set(re.findall(r"segue train ([a-z0-9_]+) ", text))
    assert named <= set(recipe.shipped())


def test_readme_scores_have_the_printed_format() -> None:
    blocks = re.findall(
        r"^\$ segue evaluate .*\n((?:(?!\$|```).*\n)*)", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(blocks) == 2
    for block in blocks:
        scores = re.findall(
            r"^(?:bleu|chrf|ter|word error rate|character error rate) +[\d.]+%?(.*)$", block, re.MULTILINE
        )
        assert scores
        assert all(re.fullmatch(r"  \[.+\]", interval) for interval in scores)
        assert "\n95 % intervals: bootstrap, 1,000 draws of " in block


def test_readme_has_the_measured_quickstart_score() -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    readme = PAGES[0].read_text(encoding="utf-8")
    [now] = re.findall(r"^\| as they are \| [\d.]+ \| ([\d.]+) \|$", results, re.MULTILINE)
    [seconds] = re.findall(r"(\d+) CPU-seconds of training", results)
    [said, minutes] = re.findall(r"^\| quickstart: .* \| ([\d.]+) % \| (\d+) CPU-minutes \|$", readme, re.MULTILINE)[0]
    assert said == now
    assert int(minutes) == round(int(seconds) / 60)
    assert f"make quickstart      # Python 3.11 or newer and make; {minutes} CPU-minutes of training" in readme
