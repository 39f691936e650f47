# Every target sets up its own environment in .venv; nothing else is needed on a fresh machine but Python 3.11+.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-peft check fix bench clean

demo: $(READY)
	$(BIN)/excitor demo

test: $(READY)
	$(BIN)/pytest -n auto

# PEFT's own tests, fetched from PyPI into a cache folder.
test-peft: $(READY)
	$(BIN)/python scripts/peft_suite

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests scripts docs README.md CONTRIBUTING.md
	$(BIN)/pyright

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/mmlu.py

# torch comes first and pinned: a looser requirement would pull a build of several gigabytes on some machines.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
