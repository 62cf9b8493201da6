# Everything below needs Python 3.11 or newer, make and git; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# dvc starts the stages with `python`: the one of .venv must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro tune test test-all lint docs ui experiments lock bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(READY) ## install what requirements.lock names into .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -nE 's/^(uv==[^ ]+).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode --quiet requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --quiet --editable .
	@touch $@

# DVC passes over what comes after a run that failed, and the report comes after all: then it is made of what is there.
# JOBS=n: before that n trainings at a time, which DVC, whose stages come one by one, then only publishes.
repro: $(READY) ## redo whatever changed, to the report; JOBS=n: n trainings at a time; a run that fails hinders no other
	$(BIN)/genloom check
	@[ -z "$(JOBS)" ] || $(BIN)/genloom train --jobs $(JOBS) || true
	@$(BIN)/dvc repro --keep-going; status=$$?; \
	[ $$status -eq 0 ] || python -m pipeline.stages.report; \
	python -m pipeline.stages.outcome && exit $$status

tune: $(READY) ## search for the best params of a run, as params.yaml says: make tune RUN=vae
	@[ -n "$(RUN)" ] || { echo "error: name the run: make tune RUN=vae, one under search in params.yaml"; exit 1; }
	$(BIN)/genloom check
	$(BIN)/dvc repro search/dvc.yaml:search@$(RUN)

test: $(READY) ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-all: $(READY) ## all tests
	$(BIN)/python -m pytest -m ''

lint: $(READY) ## ruff, mypy and pydoclint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet --config pyproject.toml pipeline

docs: $(READY) ## build the documentation's pages: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

ui: $(READY) ## the MLflow UI on http://127.0.0.1:5000
	$(BIN)/genloom ui

# DVC's table has a column for every dependency, and names of them all in full.
experiments: $(READY) ## experiments side by side: what was changed, and the metrics
	$(BIN)/dvc exp show --only-changed --drop '^(out/(?!runs/.*metrics\.json)|pipeline$$|data$$)'

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --upgrade pyproject.toml -o requirements.lock

bench: $(READY) ## the benchmarks of bench/README.md
	$(BIN)/python bench/loop.py
	$(BIN)/python bench/ray_cost.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/startup.py

clean: ## drop scratch: checkpoints and journals of finished and interrupted runs
	rm -rf .genloom
