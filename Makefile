# One environment, made on first use and mended when pyproject.toml or constraints.txt change.
# Needs Python 3.11 or newer and make; nothing else, also no git.
#
#   make tune PYTHON=python3.12          another interpreter
#   make test VENV=/scratch/skiptune     another place for the environment (no spaces in it)
#   make test ARGS="-k schedule"         more words for the command behind a target

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# One thread: the bundled network is too small to gain from a second one (592 against 557 images
# through the network per second on two quiet cores). Threads that spin while they
# wait make two busy processes on two cores run many times slower than threads that sleep.
export OMP_NUM_THREADS ?= 1
export GOMP_SPINCOUNT ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

ifneq "$(words $(VENV))" "1"
$(error VENV: expected one path without spaces, found "$(VENV)")
endif

# The stamp holds the checkout that is installed, so that an environment shared by two checkouts
# never tests the other one's code.
STAMP := $(VENV)/.skiptune
INSTALLED := $(shell cat "$(STAMP)" 2>/dev/null)
IN_VENV := "$(VENV)/bin/python" -m

.DEFAULT_GOAL := help
.PHONY: help tune test check format constraints clean FORCE
.NOTPARALLEL:

help:
	@sed -n 's/^\([a-z]*\):.*## */\1	/p' Makefile | while IFS='	' read -r target text; do \
	    printf 'make %-12s %s\n' "$$target" "$$text"; done

tune: $(STAMP)  ## tune the bundled network, confirm the winner, show before and after
	"$(VENV)/bin/skiptune" tune fashion $(ARGS)

test: $(STAMP)  ## run the tests
	$(IN_VENV) pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(STAMP)  ## lint, format and types, as continuous integration sees them
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy

format: $(STAMP)  ## sort imports and format the code
	$(IN_VENV) ruff check --select I --fix
	$(IN_VENV) ruff format

constraints:  ## pin anew what `make` installs (needs Python 3.11, the oldest supported)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	    echo 'error: PYTHON' >&2; \
	    echo '       expected: Python 3.11, whose newest packages run on newer Pythons too' >&2; \
	    echo "       found: $$("$(PYTHON)" --version 2>&1)" >&2; \
	    echo >&2; echo 'hint: make constraints PYTHON=python3.11' >&2; exit 1; }
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	extras=$$("$(PYTHON)" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"], sep=",")') && \
	"$(PYTHON)" -m venv "$$scratch/venv" && \
	"$$scratch/venv/bin/python" -m pip install --editable ".[$$extras]" && \
	"$$scratch/venv/bin/python" -m pip freeze --all --exclude pip --exclude-editable > "$$scratch/frozen" && \
	{ echo '# Made by `make constraints` with Python 3.11 on Linux: the versions that `make` installs.'; \
	  echo '# What skiptune runs with is wider: see the lower bounds in pyproject.toml.'; \
	  sed 's/+[^ ;]*//' "$$scratch/frozen"; } > "$$scratch/constraints.txt" && \
	cp "$$scratch/constraints.txt" constraints.txt

clean:  ## remove caches and build products (the environment, studies and results stay)
	rm -rf build dist skiptune.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

ifneq "$(INSTALLED)" "$(CURDIR)"
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Installing into $(VENV): PyTorch with its CUDA libraries takes 5.5 GB and a few minutes, once'
	$(IN_VENV) pip install --constraint constraints.txt --editable '.[test]'
	@printf '%s\n' "$(CURDIR)" > "$@"

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'error: PYTHON=$(PYTHON)' >&2; \
	    echo '       expected: Python 3.11 or newer' >&2; \
	    echo "       found: $$("$(PYTHON)" --version 2>&1 | head -n 1)" >&2; \
	    echo >&2; echo 'hint: make $(MAKECMDGOALS) PYTHON=python3.12, or whatever your Python is called' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'error: PYTHON=$(PYTHON)' >&2; \
	    echo '       expected: a Python that can make environments with pip in them' >&2; \
	    echo '       found: one without the module ensurepip or venv' >&2; \
	    echo >&2; echo 'hint: on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
