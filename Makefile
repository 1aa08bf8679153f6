# make demo   train the embedded default and print where the report is
# make demo-dllm   the same for the embedded language model: it learns to look at more than the rows of a Sudoku
# make test   run the tests
# All make .venv from requirements.lock first; that is done again only when the lock or pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3

.PHONY: demo demo-dllm test lint setup

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@scripts/install.sh $(VENV) $(PYTHON)
	@touch $@

demo: $(STAMP)
	@$(BIN)/flowgrpo train demo

demo-dllm: $(STAMP)
	@$(BIN)/flowgrpo train diffu_grpo_demo

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
