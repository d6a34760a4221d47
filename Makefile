# Every target sets up what it needs, in .venv and in the user's cache directory. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python -m
PYTEST ?=

.PHONY: help demo test test-unit test-integration test-e2e soak bench bench-large bench-gateway lint format crds manifests image lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## A Kubernetes, the operator, a model, an answer; KEEP=1 leaves it up (root, or Docker with kind)
	@$(RUN) tests.demo

test: $(READY) ## All tests; those that need a node run with root, or Docker with kind (PYTEST="-k name" for some)
	$(RUN) pytest -n 2 --no-loadscope-reorder tests/e2e tests/integration tests/unit $(PYTEST)

test-unit: $(READY) ## Tests that start nothing
	$(RUN) pytest tests/unit $(PYTEST)

test-integration: $(READY) ## Tests against a real control plane with fake nodes
	$(RUN) pytest tests/integration $(PYTEST)

test-e2e: $(READY) ## Tests whose pods truly run (root, or Docker with kind)
	$(RUN) pytest tests/e2e $(PYTEST)

soak: $(READY) ## Long fault tests, about 40 minutes (BUD_SOAK_MINUTES: length of each of three loops, 10)
	$(RUN) pytest tests/soak --capture=no $(PYTEST)

bench: $(READY) ## How fast, beside a bare client: about 10 minutes; writes docs/benchmarks.md
	$(RUN) tests.bench

bench-large: $(READY) ## How the cost grows with 1,000, 5,000 and 10,000 Deployments: about 45 minutes
	$(RUN) tests.bench --large

bench-gateway: $(READY) ## The gateway beside a bare relay and LiteLLM's proxy, one core each: about 8 minutes
	$(RUN) tests.bench.gateway

lint: $(READY) ## Style, types and layers
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## Put the code into shape
	$(RUN) ruff check --fix
	$(RUN) ruff format

crds: $(READY) ## Write crds/ and the chart's copy from operator/bud/api, then the manifests
	$(RUN) tools.generate crds manifests

manifests: $(READY) ## Write manifests/operator.yaml from the chart
	$(RUN) tools.generate manifests

image: $(READY) ## Build the image (Docker, or buildah as root); prints its name and its archive
	@$(RUN) tests.image

LOCK := .cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url
CLIENTS := tests/integration/gateway/libraries
lock: ## Move the locked dependencies to their newest releases
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/pip install --quiet uv
	$(LOCK) pyproject.toml --upgrade --extra tiny --group dev --output-file requirements-dev.lock
	$(LOCK) pyproject.toml --upgrade --extra tiny --constraints requirements-dev.lock --output-file requirements.lock
	for name in langchain schemathesis; do \
	  $(LOCK) $(CLIENTS)/$$name.in --upgrade --constraints requirements-dev.lock --output-file $(CLIENTS)/$$name.lock \
	    $$(sed -nE 's/^([a-z0-9._-]+)(\[.*\])?==.*/--no-emit-package \1/p' requirements-dev.lock); \
	done

clean: ## Remove what was built here (not the user's cache directory)
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find operator tests tools -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python >= 3.11 is needed: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV): a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
