"""All tests of formats share graphs."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_shared(traced_once: None) -> None:
    del traced_once
