# Python 3.11 or 3.12 and make are all this needs; everything else is installed into .venv on first use.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CANDIDATES := python3.12 python3.11 python3 python

# Fitted bodies and compiled programs outlive a run, so that only the first one pays for them.
MJX_EXO_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mjx-exo
JAX_COMPILATION_CACHE_DIR ?= $(MJX_EXO_CACHE_DIR)/jax
export MJX_EXO_CACHE_DIR JAX_COMPILATION_CACHE_DIR

# A name on the PATH can be an empty shim, a version too old, or a Python without venv: ask each one.
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

.PHONY: help setup test demo lint base-check

help:
	@echo "make setup       create .venv and install everything, pinned by constraints.txt"
	@echo "make test        run the tests; make test ARGS='-k muscle' passes arguments on to pytest"
	@echo "make demo        the whole chain in a few minutes, ending with where the results are"
	@echo "make lint        ruff and mypy"
	@echo "make base-check  install the base package alone and start the device loop without JAX or MuJoCo"
	@echo "make … PYTHON=/path/to/python chooses the interpreter of a new .venv"

setup: $(STAMP)
	@echo "$(VENV) is ready ($$($(BIN)/python --version))"

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		found=; \
		for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
			if $$candidate -c '$(SUITABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "error: no suitable Python among: $(or $(PYTHON),$(CANDIDATES))" >&2; \
			echo "mjx-exo needs Python 3.11 or 3.12 with venv; name one: make setup PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "Creating $(VENV) with $$($$found --version)"; \
		$$found -m venv $(VENV) || exit 1; \
	fi
	@echo "Installing into $(VENV); the first time this downloads JAX, MuJoCo and their like"
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	@touch $(STAMP)

# One test process per core, four at most; a file's tests stay together, for what they share is made once. Files begin in
# the order of tests/conftest.py, the long ones first, and not by how many tests they have.
test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

demo: setup
	$(BIN)/python -m mjx_exo.demo $(ARGS)

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

base-check: setup
	.ci/base_check $(BIN)/python
