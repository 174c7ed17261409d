"""Model cards in Markdown: front matter for the Hugging Face Hub, facts about the model, and how to use it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

LicenseId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
"""SPDX identifier in lowercase, as on the Hugging Face Hub."""
USE = "\n## Use\n"


def card(
    title: str,
    *,
    kind: str,
    license_id: str,
    languages: Sequence[str],
    facts: Sequence[str],
    use: str,
    made: str = "Trained",
) -> str:
    """A card in Markdown. `kind` is the hub's `pipeline_tag`; `facts` become a list; `made` says what Segue did."""
    listed = "".join(f"\n- {language}" for language in languages)
    language = f"\nlanguage:{listed}" if languages else ""
    points = "\n".join(f"- {fact}" for fact in facts)
    return f"""---
license: {license_id}{language}
library_name: segue
pipeline_tag: {kind}
---

# {title}

{made} with [Segue](https://pypi.org/project/segue/).

{points}
{USE}
{use.strip()}
"""


def with_use(text: str, use: str, more: str = "") -> str:
    """The card `text`, which its owner may have edited, with a new section "## Use" and with `more` at its end."""
    before, _, after = text.partition(USE)
    _, mark, others = after.partition("\n## ")
    return f"{before.rstrip()}\n{USE}\n{use.strip()}\n{mark}{others}{more}"


def length(seconds: float) -> str:
    """How much sound there is: "2.2 minutes", "1.5 hours"."""
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:,.1f} hours"


def in_segue(folder: str, command: str, call: str) -> str:
    """How to use the model in `folder` with Segue: a command, and a method `call` of what `segue.load` returns."""
    code = f'import segue\n\nprint(segue.load("{folder}").{call})'
    return f"""From the folder that holds this one, which is called `{folder}` here, on the command line:

    {command}

or in Python:

{python(code)}"""


def python(code: str) -> str:
    """A Python code block in Markdown."""
    return f"```python\n{code.strip()}\n```\n"
