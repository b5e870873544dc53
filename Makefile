# Every target sets up what it needs. `make` alone prints this file's targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Three processes, whatever the machine: each starts a Ray of its own, and mostly waits for it. What kills
# and waits (chaos) comes first, so that files of the other tests fill up the end.
TOGETHER := --numprocesses 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup compiled demo test unit check fix integration acceptance chaos bench docs clean

help: ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv with everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON); or say PYTHON=…"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	# pip would compile one file after the other, a minute of it. Templates among them do not compile.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $(STAMP)

# Renders kuberay/ in tests.
$(BIN)/kubectl: tests/support/kubectl.txt | $(STAMP)
	$(BIN)/python tests/support/kubectl.py $(BIN)

# In many images Python is told to write no bytecode. pytest would then compile the tests anew in each
# process, and all of hypothesis and schemathesis, whose assertions it rewrites as well.
unexport PYTHONDONTWRITEBYTECODE

# Tests start hundreds of processes: none should compile the package.
compiled: setup
	@$(BIN)/python -m compileall -q lakehouse_ray jobs

demo: setup ## the main job, offline: replica exchange, archive -> bronze -> silver, an answer
	$(BIN)/lakehouse demo

test: check unit integration ## all checks, unit and integration tests

unit: compiled $(BIN)/kubectl ## tests without Ray and network
	$(BIN)/python -m pytest --numprocesses auto tests/unit

check: setup ## format, lint, types, imports, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

fix: setup ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

integration: compiled $(BIN)/kubectl ## tests on a local Ray, real HTTP, real stores
	$(BIN)/python -m pytest $(TOGETHER) tests/chaos tests/integration -m "not slow"

acceptance: setup ## the finished commands on real data of ../shared/data
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest tests/acceptance

chaos: setup ## kill drivers, workers and nodes at seeded moments, and all that is slow; an hour
	$(BIN)/python -m pytest tests/chaos tests/integration -m "chaos or slow"

bench: setup ## benchmarks; figures go to .bench/
	mkdir -p .bench
	$(BIN)/python tests/benchmarks/bench_ingest.py --json .bench/ingest.json
	$(BIN)/python tests/benchmarks/bench_stream.py
	$(BIN)/python tests/benchmarks/bench_planning.py --json .bench/planning.json
	$(BIN)/python tests/benchmarks/bench_gaps.py --json .bench/gaps.json
	$(BIN)/python tests/benchmarks/bench_resample.py --json .bench/resample.json
	$(BIN)/python tests/benchmarks/bench_build.py --json .bench/build.json
	$(BIN)/python tests/benchmarks/bench_quality.py --json .bench/quality.json
	$(BIN)/python tests/benchmarks/bench_anomalies.py --json .bench/anomalies.json
	$(BIN)/python tests/benchmarks/bench_indicators.py --json .bench/indicators.json
	$(BIN)/python tests/benchmarks/bench_serve.py --json .bench/serve.json
	$(BIN)/python tests/benchmarks/bench_replica_streams.py --json .bench/replica_streams.json
	$(BIN)/python tests/benchmarks/bench_update.py --json .bench/update.json
	$(BIN)/python tests/benchmarks/bench_live.py --json .bench/live.json
	$(BIN)/python tests/benchmarks/bench_commits.py

docs: setup ## write the pages of docs/ that come from the code
	$(BIN)/python docs/generate.py

clean: ## remove what can be made again
	rm -rf .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
