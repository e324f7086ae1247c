# Everything a developer or a new user runs. Each target does its own set-up: it needs Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench docs clean setup help

help:
	@echo "make demo   set up, then walk through the life of an image"
	@echo "make test   set up, then run the tests that this machine allows"
	@echo "make lint   set up, then check style, types, layering and generated docs"
	@echo "make bench  set up, then run the benchmarks (minutes; peers are used where installed)"
	@echo "make docs   write the generated parts of docs/ anew"
	@echo "make clean  remove what the targets above made"

$(STAMP): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python tools/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_parts.py
	$(BIN)/python tools/gen_docs.py --check

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(STAMP)
	$(BIN)/python tools/gen_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
