# make demo, make test: set up .venv on first use, then run. Needs Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test floors check format docs study bench clean

help:
	@echo "make demo    train and compare the objectives on the embedded data set -> runs/demo"
	@echo "make test    run the tests, doctests and README snippets; shows what of the code they run"
	@echo "make floors  the tests with the oldest releases that the package metadata admits"
	@echo "make check   formatting, lint and types"
	@echo "make format  write the formatting"
	@echo "make docs    docs/scores.md from the code, docs/accuracy.md and docs/results/arity.md measured anew"
	@echo "make study   docs/objectives.md: every objective and score, five seeds; half an hour, goes on where it stopped"
	@echo "make bench   benchmarks/results/: what losses and scores cost here, against the published formulas; a quarter of an hour"
	@echo "make setup   create $(VENV) (the other targets do it themselves)"

setup: $(VENV)/.ready

# torch goes first and alone, so that no other requirement can pick another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/gramian demo --output runs/demo

# Commands that a test starts, torchrun's processes among them, are measured too; forked loading processes are not.
test: setup
	$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered

# Old releases warn of things that newer ones have fixed, so warnings are no errors here.
floors:
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-floors.txt torch
	.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-floors.txt \
		--editable '.[train,plots]' pytest hypothesis scipy pillow pyyaml
	.venv-floors/bin/python -m pytest -W default

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python -m gramian.scores > docs/scores.md
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/arity.py

study: setup
	$(BIN)/gramian benchmark objectives --page docs/objectives.md --resume

bench: setup
	$(BIN)/gramian bench --output benchmarks/results

clean:
	rm -rf $(VENV) .venv-floors runs build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
