.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint golden bench docs clean

PYTHON ?= python3
BIN := .venv/bin
# One thread a process: the models of demo and tests are too small for more.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export PYTHONUNBUFFERED := 1

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/.installed  ## make .venv and install the pinned packages

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,cluster,lora,teachers,paraphrase]'
	touch $@

demo: setup  ## train the embedded model on four tasks, edit held-out photos, write pictures and a table to runs/demo
	$(BIN)/ip2p-train hydra.run.dir=runs/demo loader.workers=1
	$(BIN)/ip2p-evaluate runs/demo --prompts heldout --draws 12 --sheet-examples 1
	@echo
	@echo "look at: runs/demo/sheet-test-heldout.png   scores: runs/demo/scores.csv"
	@echo "curves:  $(BIN)/tensorboard --logdir runs/demo"
	@echo "edit:    $(BIN)/ip2p-edit runs/demo PHOTO.jpg \"remove the noise\" -o edited.png"

test: setup  ## run the core tests
	$(PYTEST)

# Tests whose numbers depend on the order of floating-point sums, which differs between processors.
NUMERIC := tests/networks tests/diffusion tests/data tests/oracle tests/editing tests/training/test_module.py \
	tests/training/test_golden.py tests/training/test_split_independence.py
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: setup  ## all tests: also drills at full size, loggers, other float orders, and SLURM where one answers
	$(BIN)/pip install -q -c constraints.txt -e '.[wandb,mlflow]'
	$(PYTEST) -m ''
	ATEN_CPU_CAPABILITY=avx2 $(PYTEST) $(NUMERIC)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(NUMERIC)

lint: setup  ## check style, format, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

golden: setup  ## record the losses that tests/training/test_golden.py compares with
	$(BIN)/python -m tests.support.record_golden

bench: setup  ## measure, and compare with the recorded ratios (benchmarks/run.py --record writes them)
	$(BIN)/python -m benchmarks.run

docs: setup  ## write the README's picture and table from runs/demo
	$(BIN)/python docs/make_readme.py runs/demo

clean:  ## remove what can be made again (not runs/)
	rm -rf .venv dist build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
