# make quickstart   the whole road on synthesised speech, in minutes
# make test-fast    for every change, in under a minute: lint, import contracts, tests that train and export nothing
# make test         before it is shared, in minutes: lint, types, import contracts, tests; in three processes at
#                   the same time, so that two cores are busy
# make test-slow    the long proofs: faults, real data, other random inputs each time
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Threads that wait should sleep: spinning ones cost up to six times on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE
# Each process would compile the tests and the package anew.
unexport PYTHONDONTWRITEBYTECODE
# What `make test-fast` runs: these neither train nor export a model.
FAST := $(addprefix tests/test_,$(addsuffix .py,align alignment architecture audio batching channels containers corpora conversations \
	ctc distinct docs documents dropout encodings errors features files loss manifest metrics nemo_features paragraphs readers recipe recordings report segments sentences \
	splits subtitle_files subtitle_lines subtitle_tags subtitles subwords tables text token_files tokenizer windows words)) \
	$(addprefix tests/engine/test_,$(addsuffix .py,optimizer schedule))

# What `make test` runs beside all other tests: those of the engine, and as many others as make both take as long.
BESIDE := tests/engine $(addprefix tests/test_,$(addsuffix .py,autoregressive automatic classification_task classify doctor marian mixture readers recipe_mistakes subtitle_translation \
	transformer tutorial))

.PHONY: install quickstart lint types test-fast test test-beside test-rest test-slow clean

install: $(VENV)/installed

# torch first and alone, so that pip takes a CPU build where one is at hand.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/segue quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

test-fast: lint
	$(BIN)/pytest -m 'not slow' --hypothesis-profile fast $(FAST)

test: lint
	$(MAKE) --jobs 3 --output-sync types test-beside test-rest

test-beside: install
	$(BIN)/pytest -m 'not slow' $(BESIDE)

test-rest: install
	$(BIN)/pytest -m 'not slow' $(addprefix --ignore=,$(BESIDE))

test-slow: install
	$(BIN)/pytest -m slow
	$(BIN)/pytest -m 'hypothesis and not slow' --hypothesis-profile search

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
