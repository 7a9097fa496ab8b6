# make demo, make test: set up .venv on first use, then run. Needs Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: most of them never are, and all at once take half a minute. What is
# compiled is kept, though images of containers often forbid it: else every process that a test starts compiles it again.
PIP := --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test coverage numeric numeric-plain numeric-avx2 floors check format docs docs-site figures release-check types study bench clean

help:
	@echo "make demo    train and compare the objectives on the embedded data set -> runs/demo"
	@echo "make test    run the tests, doctests and README snippets; the numeric ones on other instructions and threads too"
	@echo "make numeric run the numeric tests on other instructions and threads alone"
	@echo "make coverage run the tests and show what they reach"
	@echo "make floors  run the tests with the oldest releases that the package metadata allows"
	@echo "make check   check formatting, lint and types"
	@echo "make format  format the code and fix lint"
	@echo "make docs    write docs/scores.md from the code; measure docs/accuracy.md and docs/results/arity.md again"
	@echo "make docs-site build the book -> docs/_build/index.html; fetches the digits once, and nothing else"
	@echo "make figures draw docs/figures/ again"
	@echo "make types   how much of the public interface a type checker knows, by pyright (needs Node.js)"
	@echo "make release-check build sdist and wheel, and use the wheel in a new environment without extras"
	@echo "make study   write docs/objectives.md: every objective and score, five seeds; half an hour on an idle machine, resumes where it stopped"
	@echo "make bench   write benchmarks/results/: the cost of losses and scores against the published formulas; a quarter of an hour"
	@echo "make setup   create $(VENV) (the other targets do so themselves)"

setup: $(VENV)/.ready

# torch is installed first and alone, so that no other requirement can select another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt torch
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/gramian demo --output runs/demo

test: setup
	$(BIN)/python -m pytest -n auto
	@$(MAKE) --no-print-directory --jobs 2 numeric

# By itself, as it takes a fifth longer and decides nothing. It includes commands that a test starts, but no forked processes.
coverage: setup
	$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered

# Sums round differently with other vector instructions and numbers of threads; nothing that the tests hold may depend on it.
# MKL, which multiplies and factorises matrices, picks its instructions by itself. Few examples; no gradcheck,
# whose tolerance is far wider than rounding; neither what is refused, nor how large tensors are, nor what only needs many
# steps. With AVX2, what is nearest to the instructions: losses and metrics are made of it. Two threads that spin while they
# wait take the cores of the other run.
NUMERIC = HYPOTHESIS_PROFILE=few $(BIN)/python -m pytest -p no:cacheprovider
NUMERIC_SKIPPED = not named and not bad and not grows and not exact_at and not are_exact and not intervals and not descent and not learned
NUMERIC_TESTS = $(patsubst %,tests/test_%.py,geometry scores ranks kernels canonical)
NUMERIC_DOCTESTS = $(addprefix src/gramian/,geometry.py factorisations.py scores losses kernels canonical evaluation/metrics.py)

numeric: numeric-plain numeric-avx2

numeric-plain: setup
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1 $(NUMERIC) -k "$(NUMERIC_SKIPPED)" \
		$(NUMERIC_TESTS) $(NUMERIC_DOCTESTS) $(patsubst %,tests/test_%.py,metrics losses losses_options)

# Elsewhere than on x86 the number of threads alone differs: torch warns of instructions that it does not know.
numeric-avx2: setup
	$(if $(filter x86_64,$(shell uname -m)),ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2) OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
		$(NUMERIC) -k "$(NUMERIC_SKIPPED)" $(NUMERIC_TESTS)

# Old releases warn about things that newer ones have fixed, so warnings are not errors here.
floors:
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install $(PIP) --constraint constraints-floors.txt torch
	.venv-floors/bin/python -m pip install $(PIP) --constraint constraints-floors.txt \
		--editable '.[train,plots]' pytest hypothesis scipy pillow pyyaml
	.venv-floors/bin/python -m pytest -W default

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python -m gramian.scores > docs/scores.md
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/arity.py

# -W: a warning fails the build. Notebooks run on one thread each, on real data.
docs-site: $(VENV)/.docs
	$(BIN)/gramian prepare digits
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt --editable '.[docs]'
	touch $@

figures: setup
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py

types: setup
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt pyright
	$(BIN)/python .ci/public_types.py

release-check: setup
	rm -rf dist .venv-release
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install $(PIP) --constraint constraints.txt torch
	.venv-release/bin/python -m pip install $(PIP) --constraint constraints.txt dist/*.whl
	cd dist && ../.venv-release/bin/python ../.ci/release.py *.whl *.tar.gz

study: setup
	$(BIN)/gramian benchmark objectives --page docs/objectives.md --resume

bench: setup
	$(BIN)/gramian bench --output benchmarks/results

clean:
	rm -rf $(VENV) .venv-floors .venv-release runs build dist docs/_build docs/generated .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
