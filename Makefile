# Everything a person or a machine does here is one of these targets; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export PENSTOCK_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/penstock
export MYPY_CACHE_DIR ?= $(PENSTOCK_CACHE)/mypy
# tests side by side: WORKERS=1 for one after the other
export WORKERS ?= 2
SIDE_BY_SIDE := $(if $(filter 1,$(WORKERS)),,-n $(WORKERS))

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@test -x $(PY) || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the development environment (about a minute the first time)"
	@$(PY) -m pip install --quiet uv
	@$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements/dev.lock \
	  || $(PY) -m pip install --quiet --require-hashes -r requirements/dev.lock
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv
venv: $(VENV)/installed ## the development environment

$(VENV)/models: $(VENV)/installed requirements/models.lock
	@echo "installing torch and the converters (some GB, minutes the first time)"
	@$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements/models.lock \
	  || $(PY) -m pip install --quiet --require-hashes -r requirements/models.lock
	@touch $@

.PHONY: venv-models
venv-models: $(VENV)/models ## what converts models as well, for tests/models

##@ quality
.PHONY: lint lint-rules lint-types lint-contracts lint-generated
lint: $(VENV)/installed ## formatting, rules, types, import contracts, generated files (under 30 s)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint-types lint-rules lint-contracts lint-generated
lint-rules:
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
lint-types:
	@$(VENV)/bin/mypy
lint-contracts:
	@$(VENV)/bin/lint-imports
lint-generated:
	@$(VENV)/bin/penstock generate --check

.PHONY: fmt
fmt: $(VENV)/installed ## format and mend what can be mended
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix .

.PHONY: generate
generate: $(VENV)/installed ## CRDs, the chart's copy, reference docs
	@$(VENV)/bin/penstock generate

.PHONY: golden
golden: $(VENV)/installed ## write the golden files anew; read the diff
	@GOLDEN=write $(PY) -m pytest -q tests/unit -k golden

# each worker collects everything: half of that time is rewriting asserts, which is kept where bytecode may be kept
.PHONY: unit
unit: $(VENV)/installed ## unit and property tests (about a minute)
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -q $(SIDE_BY_SIDE) tests/unit

.PHONY: integration
integration: $(VENV)/installed ## against a real API server, registry and tritonserver
	@$(PY) -m pytest -q tests/integration

.PHONY: gitops
gitops: $(VENV)/installed ## Argo CD's own code, kstatus and real Flux controllers; builds them first (25 minutes, once)
	@PENSTOCK_BUILD_TOOLS=1 $(PY) -m pytest -q tests/gitops

.PHONY: e2e
e2e: $(VENV)/installed ## on the local cluster, with the chart
	@$(PY) -m pytest -q tests/e2e

.PHONY: e2e-model-path
e2e-model-path: $(VENV)/models ## every format, gate, image of your own and hostile model on the local cluster; rows in build/e2e/model-path.json (ARGS="-k keras")
	@PENSTOCK_FULL=1 $(PY) -m pytest -q tests/e2e/test_model_path.py tests/e2e/test_proving.py tests/e2e/test_hostile.py $(ARGS)

.PHONY: test
test: $(VENV)/models ## all of it: lint, unit, integration, e2e on a cluster that is removed again if it was started here
	@$(PY) hack/test.py

##@ cluster
.PHONY: cluster-up cluster-down cluster-status
cluster-up: $(VENV)/installed ## a real one-node Kubernetes on this machine
	@$(PY) hack/cluster up
cluster-down: $(VENV)/installed ## remove it without trace
	@$(PY) hack/cluster down
cluster-status: $(VENV)/installed ## what runs, and the kubeconfig
	@$(PY) hack/cluster status

.PHONY: images
images: $(VENV)/installed ## all images; REGISTRY=… PUSH=1 for a registry of your own
	@$(PY) hack/images $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PUSH),--push)

.PHONY: demo
demo: $(VENV)/installed ## the main job: two models, predictions, one replacing the other under load (CLUSTER=existing for yours)
	@$(PY) examples/demo

##@ benchmarks
.PHONY: bench-repository bench-cold-start bench-idle bench-verdicts bench-fleet bench-rollback bench-disruption bench-model-path
bench-repository: $(VENV)/installed ## config.pbtxt: facts to checked text, per second
	@$(PY) tests/bench/repository.py
bench-cold-start: $(VENV)/installed ## apply to first correct prediction
	@$(PY) tests/bench/cold_start.py
bench-idle: $(VENV)/installed ## what 50 Ready deployments cost (SECONDS=60 for a short one)
	@$(PY) tests/bench/idle.py
bench-verdicts: $(VENV)/installed ## false rollbacks and detection times, simulated; goes on where it stopped (RUNS=1000)
	@$(PY) tests/bench/verdicts.py --runs $(or $(RUNS),1000)
bench-fleet: $(VENV)/installed ## what a router pod costs with 200 models, and how fast a weight changes
	@$(PY) tests/bench/fleet.py
bench-rollback: $(VENV)/installed ## bad revisions taken back under 200 requests/s, run by run (ARGS="--faults error-20 --runs 2 --history 60")
	@$(PY) tests/bench/rollback.py $(ARGS)
bench-disruption: $(VENV)/installed ## 1,000 weight changes, 100 replacements and accidents under load (ARGS="--only image")
	@$(PY) tests/bench/rollout_disruption.py $(ARGS)
bench-model-path: $(VENV)/models ## what precision: Auto makes of three networks, and how much faster that is (ARGS="--only encoder")
	@$(PY) tests/bench/model_path.py $(ARGS)

.PHONY: lock
lock: $(VENV)/installed ## resolve the lock files anew
	@bash hack/lock.sh

.PHONY: clean
clean: ## what the build left in the tree; caches outside stay
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
