# Everything runs in .venv, which any target makes on first use. PYTHON=... chooses another interpreter,
# ARGS=... is passed on, as in: make test ARGS="tests/data -k excel"

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help ready quickstart test test-all check bench docs lock clean

export PYTHON
BIN := .venv/bin
ARGS ?=
# Tests share the cores; ARGS="-n 0" runs them in one process, as a debugger needs it.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ready: ## install into .venv (instant when nothing changed)
	@tools/install.sh

quickstart: ready ## tune the built-in model on the sample workbook and show what it learned
	@$(BIN)/tunesmith quickstart $(ARGS)

test: ready ## the quick tests
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: ready ## every test
	@$(PYTEST) $(ARGS)

check: ready ## lint, format, types, architecture, generated pages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/architecture/test_layers.py tests/architecture/test_rules.py
	$(BIN)/python docs/generate.py --check

bench: ## train side by side with other trainers (hours); ARGS=--quick tries everything out
	@VENV=.venv-bench EXTRA=bench/requirements.txt tools/install.sh
	@.venv-bench/bin/python -m bench.train $(ARGS)

docs: ready ## write the generated pages: settings, command line, recipes, scores, performance
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m bench.report

lock: ## write requirements.lock anew with the newest versions
	@tools/lock.sh

clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf .venv .venv-bench build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench docs tools examples -name __pycache__ -type d -prune -exec rm -rf {} +
