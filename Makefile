# Every target sets up its own environment in .venv; nothing else is needed on a fresh machine but Python 3.11+.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# What must hold with every supported version of peft, transformers and trl: the method, its files, trainers, decoding
# and the command line. The rest of the suite is about our own numbers.
CONTRACT := $(wildcard tests/test_*.py) tests/families tests/peft_paths \
	tests/train tests/preservation tests/cli
BACKENDS := bitsandbytes torchao optimum-quanto hqq

.PHONY: demo test test-gpu test-peft test-versions test-quantised check fix bench clean

demo: $(READY)
	$(BIN)/excitor demo
	$(BIN)/excitor demo --vision

test: $(READY)
	$(BIN)/pytest -n auto

test-gpu: $(READY)
	$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make test-gpu needs a CUDA device")'
	$(BIN)/pytest -m "not slow" tests/kernels tests/test_recompute.py tests/test_implementation.py

test-versions: .venv-oldest/.ready .venv-newest/.ready
	.venv-oldest/bin/pytest -n auto $(CONTRACT)
	.venv-newest/bin/pytest -n auto $(CONTRACT)

test-quantised: .venv-quantised/.ready
	.venv-quantised/bin/python -c 'import bitsandbytes, hqq, optimum.quanto, torchao'
	.venv-quantised/bin/pytest tests/test_quantised.py tests/train/test_quantised.py tests/test_generation.py

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
	$(BIN)/python benchmarks/speed
	$(BIN)/python benchmarks/speed/decode.py
	$(BIN)/python benchmarks/speed/projection.py
	$(BIN)/python benchmarks/mmlu.py

# torch comes first and pinned: a looser requirement would pull a build of several gigabytes on some machines.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

# An environment for each file in constraints/.
.venv-%/.ready: pyproject.toml constraints/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet $(TORCH)
	.venv-$*/bin/pip install --quiet -c constraints/$*.txt -e '.[test]' $(EXTRA)
	touch $@

.venv-quantised/.ready: EXTRA := $(BACKENDS)

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache
