# Every target makes the virtual environment that it needs.
PYTHON ?= python3
# Another Python than the default has an environment of its own.
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN = $(VENV)/bin
ARGS ?=
PIP_FLAGS = --quiet --disable-pip-version-check
# Tests of a file share what they compile, so that each file is one process's.
PARALLEL = -n 2 --dist loadfile

.PHONY: help setup train compare study memory throughput bench collectives notebooks notebooks-run docs test test-slow test-oldest test-latest test-gpu-plans lint package format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

setup: $(VENV)/.ready ## make the virtual environment with the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Installing the dependencies into $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[test,lint,docs,recipes]'
	@touch $@

train: setup ## train a small LLaMA on real text with SinkGD; options in ARGS
	@$(BIN)/python -m examples.llama.train $(ARGS)

compare: setup ## every optimizer on the same weights and batches, half an hour; options in ARGS
	@$(BIN)/python -m examples.measure.compare $(ARGS)

study: setup ## the learning study, hours on a CPU; goes on where it stopped; options in ARGS
	@$(BIN)/python -m examples.measure.study $(ARGS)

memory: setup ## what every preset needs with every optimizer, from shapes and compiled steps; options in ARGS
	@$(BIN)/python -m examples.measure.memory $(ARGS)

throughput: setup ## tokens/s of whole train steps, as ratios to AdamW; options in ARGS
	@$(BIN)/python -m examples.measure.throughput $(ARGS)

bench: setup ## the time of an update, beside the project's targets; options in ARGS
	@$(BIN)/python -m examples.measure.bench $(ARGS)

collectives: setup ## what devices send one another for an update of the 7b model; options in ARGS
	@$(BIN)/python -m examples.measure.collectives $(ARGS)

notebooks: $(VENV)/.notebooks ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab notebooks $(ARGS)

notebooks-run: $(VENV)/.notebooks ## execute the notebooks anew and keep what they show
	@$(BIN)/python notebooks/execute_notebooks.py $(ARGS)

$(VENV)/.notebooks: $(VENV)/.ready
	@$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[notebooks]'
	@touch $@

docs: setup ## build the documentation into docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html
	@echo "Written: docs/_build/html/index.html"

test: setup ## all tests but the slow ones
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-slow: setup ## the slow tests: runs that are killed or stopped, and several processes
	@$(BIN)/python -m pytest $(PARALLEL) -m slow $(ARGS)

# These compile as for users; tests/conftest.py otherwise compiles quickly.
test-oldest test-latest test-gpu-plans: export JAX_DISABLE_MOST_OPTIMIZATIONS = 0

test-oldest: ## all tests on the lowest supported versions
	@$(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install $(PIP_FLAGS) --constraint constraints-oldest.txt --editable '.[test]'
	@.venv-oldest/bin/python -m pytest $(PARALLEL) $(ARGS)

test-latest: ## all tests on the newest releases
	@$(PYTHON) -m venv .venv-latest
	@.venv-latest/bin/python -m pip install $(PIP_FLAGS) --upgrade --upgrade-strategy eager --editable '.[test]'
	@.venv-latest/bin/python -m pytest $(PARALLEL) $(ARGS)

test-gpu-plans: export JAX_PLATFORMS = cpu
test-gpu-plans: ## what XLA plans for an NVIDIA GPU, which need not be there
	@$(PYTHON) -m venv .venv-gpu-plans
	@.venv-gpu-plans/bin/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[test]'
	@.venv-gpu-plans/bin/python -m pip install $(PIP_FLAGS) --no-deps $$(.venv-gpu-plans/bin/python -c \
		"import jax; print(*(f'jax-cuda12-{part}=={jax.__version__}' for part in ('plugin', 'pjrt')))")
	@.venv-gpu-plans/bin/python -m pytest -n 2 $(ARGS) tests/test_gpu_plans.py

lint: setup ## formatting, lint, types and spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell

package: ## wheel and sdist in dist/, checked in a new environment that has nothing else
	@rm -rf dist .venv-package
	@$(PYTHON) -m venv .venv-package
	@.venv-package/bin/python -m pip install $(PIP_FLAGS) build twine
	@.venv-package/bin/python -m build --outdir dist > /dev/null
	@.venv-package/bin/python -m twine check --strict dist/*
	@$(PYTHON) -m venv --clear .venv-package
	@.venv-package/bin/python -m pip install $(PIP_FLAGS) dist/*.whl
	@cd dist && ../.venv-package/bin/python ../tests/check_wheel.py *.whl ../README.md
	@rm -rf .venv-package

format: setup ## format the code and apply safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove environments and caches, not results
	rm -rf docs/_build docs/tutorials/notebooks dist .venv .venv-oldest .venv-latest .venv-gpu-plans .venv-package .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
