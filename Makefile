# make quickstart   the whole road on synthesised speech, in minutes
# make test         lint, types, import contracts, tests
# make test-slow    the long proofs: faults, real data
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Threads that wait should sleep: spinning ones cost up to six times on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install quickstart test test-slow clean

install: $(VENV)/installed

# torch first and alone, so that pip takes a CPU build where one is at hand.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/segue quickstart

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m 'not slow'

test-slow: install
	$(BIN)/pytest -m slow

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
