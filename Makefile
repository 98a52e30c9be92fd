PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help train test test-slow test-browser test-versions bench results lint board
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

train: $(VENV)/.ready  ## train the published recipe; ARGS="optimizer=adamw trainer.max_epochs=3" overrides it
	@$(BIN)/python train.py $(ARGS)

test: $(VENV)/.ready  ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.ready  ## run the tests that take longer
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: $(VENV)/.ready  ## run the tests of the page and of TensorBoard in Chromium; as root on Debian, install it
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "Chromium is not installed (Debian, Ubuntu, as root: apt-get install chromium)" >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(ARGS)

test-versions:  ## run lint and the tests on each Python from 3.10 to 3.13 that is installed, in .venv-VERSION
	@.ci/test-versions

bench: $(VENV)/.ready  ## time training beside the plain loop; ARGS=--quick for the short form
	@$(BIN)/python -m benchmarks $(ARGS)

results: $(VENV)/.ready  ## train the recipes over seeds and renew docs/results.md; ARGS="--only fast" for a part
	@$(BIN)/python -m results $(ARGS)

lint: $(VENV)/.ready  ## check style, format, the direction of imports, and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --summary=none

board: $(VENV)/.ready  ## open TensorBoard over outputs/
	@$(BIN)/tensorboard --logdir outputs $(ARGS)

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than 3.10: name a newer one, as in make train PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
