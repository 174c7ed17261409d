"""What the pages in docs/ and the README say is there."""

import re
from pathlib import Path

import pytest

from segue import recipe, tasks
from segue.cli import COMMANDS
from segue.engine.settings import EngineSection

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    keys = set(re.findall(r"\bengine\.(\w+)", text))
    assert keys <= set(EngineSection.model_fields)
    batch = set(re.findall(r"\bbatch\.(\w+)", text))
    sections = [tasks.recipe_type(task).model_fields["batch"].annotation for task in tasks.TASKS]
    assert batch <= {name for section in sections for name in section.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"^(?:\$ |    |.*-m )?segue (\w+)", text, re.MULTILINE))
    assert commands <= set(COMMANDS), page
    named = set(re.findall(r"segue train ([a-z0-9_]+) ", text))
    assert named <= set(recipe.shipped())
