# One obvious command each. The environment in .venv is made and kept up to date by the first target that needs it.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Test files at once: many of them wait for engines of their own. JOBS=0 runs them one after the other.
JOBS ?= 4
RUN_ARGS ?=
BENCH_ARGS ?=

.PHONY: help run test test-all lint format bench docs clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

run: $(VENV)/.dev ## Start the engine on its defaults with three example functions
	@$(BIN)/lambda-engine serve --examples $(RUN_ARGS)

test: lint ## Lint, types, architecture, then every test that is not slow
	$(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-all: lint ## The same with the slow tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --hypothesis-profile=default $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, import directions
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Sort imports and apply ruff's safe fixes
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure: tables, JSON and plots in bench/results
	$(BIN)/python -m bench $(BENCH_ARGS)

docs: $(VENV)/.dev ## Write the generated pages of docs/ anew
	$(BIN)/python -m tests.structure.generate

clean: ## Remove caches, build products and bench results (the environment stays: rm -r .venv)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks bench/results
	find engine runtime_bootstrap tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: pyproject.toml Makefile hatch_build.py engine/supervisor/_lane.pyx engine/sandbox/_copy.c engine/sandbox/_layout.c engine/sandbox/_pages.h engine/sandbox/_pins.h runtime_bootstrap/agent/_warm.c
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found on PATH" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing the engine and its tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,sam,postgres,signing,gateway,kafka,mq,dev,bench]'
	@touch $@
