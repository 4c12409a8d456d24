# Everything a newcomer and CI run. `make help` lists it; `make check` runs exactly what CI runs before the tests.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The Python that the environments are made from: 3.11 or 3.12.
PYTHON ?= python3.11
# cpu, gpu, or auto: what the environments were made for, else gpu where nvidia-smi lists one.
ACCELERATOR ?= auto
# An index for torch alone, such as https://download.pytorch.org/whl/cpu for the small build without CUDA.
TORCH_INDEX ?=
# Which environments to make: train, triton or both.
SIDES ?= train,triton
# What .venv gets besides its lock, and keeps from then on: spark, scann or both (spark,scann).
EXTRAS ?=
# Passed on to the script or to pytest: make demo ARGS="towers.width=64", make test ARGS="-k spec".
ARGS ?=

RUN := .venv/bin/python
# One thread a library: two torch threads on busy cores are five times slower than one, and tests start processes.
TEST_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Processes that share the tests, file by file (0: this one alone). What is made once a session is made once in each, but for
# the run that many files look at (tests/conftest.py).
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile
# Waiting threads sleep rather than spin, so that training and a server can share two cores.
export OMP_WAIT_POLICY := PASSIVE
export PYTHON ACCELERATOR
# Set-up leaves most modules uncompiled: without .pyc files every process would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo serve test check test-full test-gpu bench doctor locks clean

help: ## List the targets
	@echo "make TARGET [VARIABLE=value]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo; echo "Variables: PYTHON, ACCELERATOR=cpu|gpu, TORCH_INDEX, SIDES, EXTRAS, WORKERS, ARGS; the Makefile says what each means."

setup: ## Make .venv and .venv-triton from the lock files; does nothing where they agree
	@$(PYTHON) -c "" 2>/dev/null || { echo "make setup: $(PYTHON) does not run: apt-get install python3.11 python3.11-venv," \
		"or name another Python 3.11 or 3.12: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) scripts/setup_env.py --accelerator $(ACCELERATOR) --torch-index "$(TORCH_INDEX)" --sides $(SIDES) \
		--extras "$(EXTRAS)"

demo: setup ## From raw logs to recommendations out of a Triton server; can be run again
	@$(RUN) scripts/run_pipeline.py $(ARGS)

serve: ## Serve the released model: Triton and the gateway, until Ctrl-C
	@$(call needs,.venv/bin/python)
	@$(RUN) scripts/serve.py $(ARGS)

test: setup ## Set up, check, and run the tests (not those marked slow or gpu)
	@$(MAKE) check
	@$(TEST_THREADS) $(RUN) -m pytest $(PARALLEL) -m "not slow and not gpu" $(ARGS)

check: ## What CI checks before the tests: ruff, mypy, imports, lock files; sets nothing up
	@$(call needs,.venv/bin/ruff)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict
	.venv/bin/mypy --strict scripts
	.venv/bin/mypy --strict triton_models/recommend/1/model.py
	.venv/bin/mypy --strict triton_models/change_items/1/model.py
	.venv/bin/mypy --strict triton_models/backends/onnxruntime/model.py
	.venv/bin/lint-imports --no-logo
	$(RUN) scripts/check_locks.py

test-full: setup ## All tests but those that need a GPU: soaks, full parity (up to an hour)
	@$(MAKE) check
	@$(TEST_THREADS) $(RUN) -m pytest $(PARALLEL) -m "not gpu" $(ARGS)

test-gpu: ## The tests that need an NVIDIA GPU
	@$(call needs,.venv/bin/python)
	@nvidia-smi -L >/dev/null 2>&1 || { echo "make test-gpu: nvidia-smi lists no GPU here; see make doctor" >&2; exit 1; }
	@$(RUN) -m pytest -m gpu $(ARGS)

bench: ## Measure: runs every scripts/bench_*.py (docs/benchmarks/README.md)
	@$(call needs,.venv/bin/python)
	@for script in $(or $(sort $(wildcard scripts/bench_*.py)),none); do \
		[ "$$script" != none ] || { echo "make bench: there is no scripts/bench_*.py yet" >&2; exit 1; }; \
		echo "$$script"; $(RUN) "$$script" $(ARGS); done

doctor: ## Say what this machine has, what will be used, what is missing and how to mend it
	@$(or $(shell command -v python3),$(PYTHON)) scripts/doctor.py $(ARGS)

locks: ## Remake requirements/*.lock from the .in files; UPGRADE=1 takes the newest versions
	@$(call needs,.venv/bin/python)
	@$(RUN) scripts/make_locks.py $(if $(UPGRADE),--upgrade)

clean: ## Remove caches and build leftovers; environments and outputs stay
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -path ./.venv -prune -o -path ./.venv-triton -prune -o -path ./outputs -prune \
		-o -type d -name __pycache__ -exec rm -rf {} +

needs = [ -x $(1) ] || { echo "$(1) is missing: run make setup first" >&2; exit 1; }
