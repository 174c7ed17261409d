"""One server for all tests of it, with the small models that other tests train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.serve.loaded import Source

from .running import Running, running


@pytest.fixture(scope="session")
def served(trained: Path, trained_translator: Path, trained_language_model: Path) -> Iterator[Running]:
    """A recognizer `tones`, a translator `reversal` and a language model `counting`."""
    sources = [
        Source("tones", trained),
        Source("reversal", trained_translator, ("xx", "en")),
        Source("counting", trained_language_model),
    ]
    with running(sources) as found:
        yield found
