PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test test-slow test-browser bench results lint board
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

train: .venv/.ready  ## train the published recipe; ARGS="optimizer=adamw trainer.max_epochs=3" overrides it
	@$(BIN)/python train.py $(ARGS)

test: .venv/.ready  ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-slow: .venv/.ready  ## run the tests that take longer
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: .venv/.ready  ## run the tests of the page in Chromium; as root on Debian, install it
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "Chromium is not installed (Debian, Ubuntu, as root: apt-get install chromium)" >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(ARGS)

bench: .venv/.ready  ## time training beside the plain loop; ARGS=--quick for the short form
	@$(BIN)/python -m benchmarks $(ARGS)

results: .venv/.ready  ## train the recipes over seeds and renew docs/results.md; ARGS="--only fast" for a part
	@$(BIN)/python -m results $(ARGS)

lint: .venv/.ready  ## check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

board: .venv/.ready  ## open TensorBoard over outputs/
	@$(BIN)/tensorboard --logdir outputs $(ARGS)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than 3.10: name a newer one, as in make train PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
