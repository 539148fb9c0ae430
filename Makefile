# `make demo` and `make test` each work as the first command on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test bench bench-decode roofline kernels-report lint types clean

demo: $(VENV)/.demo
	$(BIN)/genarm demo --output out/demo

# The kernels run first in Triton's interpreter (it must be on before triton is imported), then everything else.
test: $(VENV)/.dev
	$(BIN)/coverage erase
	TRITON_INTERPRET=1 $(PYTEST) tests/interpreter --cov --cov-report=
	$(PYTEST) tests --ignore=tests/interpreter --cov --cov-append --cov-report=term --cov-fail-under=90

# Without a GPU: the CPU paths at small shapes.
bench: $(VENV)/.dev
	bench/device.sh

# Whole decoding steps: the digest, the rows as tables, and one picture per sweep. A few minutes; 12 on a CPU with AVX2
# alone, where the peers read their prompts slowly.
bench-decode: $(VENV)/.dev
	SUITES=decode BUDGET=$${BUDGET:-1800} bench/device.sh
	$(BIN)/python -m bench.tables out/device/decode.json > out/device/decode.md
	$(BIN)/python -m bench.plots out/device/decode.json out/device

roofline: $(VENV)/.dev
	$(BIN)/python -m bench.plots out/device/sampling.json out
	$(BIN)/python -m bench.tables out/device/sampling.json > out/roofline.md

# Registers, loads and instructions an id of every kernel as compiled for sm_90, and the times they predict.
kernels-report: $(VENV)/.dev
	@$(BIN)/python -m bench.kernels_report

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python setup.py constraints.txt
	$(INSTALL) -e '.[plots]'
	touch $@

$(VENV)/.dev: $(BIN)/python setup.py constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info out .coverage*
