"""What is an imported model? A recipe, weights and tokenizers, which become an ordinary model directory."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from segue import recipe
from segue.card import card
from segue.engine.state.checkpoint import WEIGHTS, checksum_of, write_tensors, write_text
from segue.errors import UserError
from segue.files import PARTIAL

_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license: *([a-z0-9][a-z0-9.+-]*) *\n(?:.*\n)*?---\n")


class Imported(NamedTuple):
    """The contents of a model directory, from another toolkit."""

    recipe: Any
    """The task's recipe: the model, and settings for fine-tuning it."""
    weights: Mapping[str, Tensor]
    """By the names of the task's model."""
    file: Path
    """The file that they come from."""
    save_tokenizers: Callable[[Path], None]
    """Writes the files of the tokenizers to a folder."""
    title: str
    """Of the model card."""
    kind: str
    """`pipeline_tag` of the Hugging Face Hub."""
    facts: Sequence[str]
    """Sentences for the model card."""
    use: Callable[[str], str]
    """Folder name -> section of the model card that shows how to use the model."""
    languages: Sequence[str] = ()
    """For the model card."""
    saved_as: str = WEIGHTS
    """The name of the file for the weights."""


def license_of(folder: Path) -> str:
    """The license that the model card in a Hugging Face directory names."""
    path = folder / "README.md"
    found = _LICENSE.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    return found[1] if found else "unknown"


def check_out(out: Path) -> None:
    """Raises a UserError if the directory to write exists."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists already; give another directory")


def write(imported: Imported, source: Path, out: Path) -> None:
    """Writes the model directory `out`, complete or not at all."""
    check_out(out)
    made_from = f"From {source.resolve().name} (SHA-256 of {imported.file.name}: {checksum_of(imported.file)[:16]})."
    partial = out.with_name(f"{PARTIAL}{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        write_text(partial / "recipe.toml", recipe.dump(imported.recipe))
        imported.save_tokenizers(partial)
        write_tensors(partial / imported.saved_as, dict(imported.weights))
        text = card(
            imported.title,
            made="Imported",
            kind=imported.kind,
            license_id=imported.recipe.license,
            languages=imported.languages,
            facts=[made_from, *imported.facts],
            use=imported.use(out.name),
        )
        write_text(partial / "README.md", text)
        check_out(out)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
