# One door to everything. `make help` lists what there is.

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := $(UV) run --frozen --no-sync
export UV_PYTHON_DOWNLOADS := never
# A proxy that signs with a certificate of its own is known to the system, not to uv's own list.
SYSTEM_CERTS := $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt)
export UV_SYSTEM_CERTS ?= $(if $(SYSTEM_CERTS),1,0)
# The tests start many processes: what they import is compiled once, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

IMAGE ?=
VIDEO ?=
JOBS ?= 200
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo run test lint types check format chaos fleet-chaos bench soak image openapi samples clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .uv || { rm -rf .uv; \
	  echo "'$(PYTHON) -m venv' does not work here. On Debian or Ubuntu install it with"; \
	  echo "  sudo apt-get install python3-venv"; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.done: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet --all-extras --compile-bytecode --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

setup: .venv/.done ## Install everything that is needed into .venv

demo: .venv/.done ## The main job on the stand-in; IMAGE=me.jpg VIDEO=dance.mp4 takes your own files
	@$(RUN) steadydancer demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(VIDEO),--video "$(VIDEO)")

run: .venv/.done ## Start the gateway in front of a ComfyUI on port 8188 (GATEWAY_* settings)
	@$(RUN) steadydancer serve

test: .venv/.done ## Run the tests
	@$(RUN) pytest

lint: .venv/.done ## Check style and the arrows between the rooms
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) lint-imports

types: .venv/.done ## Check the types
	@$(RUN) mypy

check: lint types test ## Everything that must pass before a change lands

format: .venv/.done ## Format the code
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

chaos: .venv/.done ## Kill gateway and engine at every commit, then at random moments: JOBS=200 SEED=...
	@GATEWAY_TEST_ALL=1 $(RUN) pytest tests/chaos/test_crash_points.py
	@$(RUN) python -m tests.chaos.campaign --jobs $(JOBS) $(if $(SEED),--seed $(SEED))

fleet-chaos: .venv/.done ## The same to a fleet on PostgreSQL, its database too: JOBS=1000 WORKERS=4 SEED=...
	@$(RUN) python -m tests.fleet.campaign $(if $(filter command line environment,$(origin JOBS)),--jobs $(JOBS)) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(if $(SEED),--seed $(SEED))

bench: .venv/.done ## Measure: ROWS=polls,lists for some, QUICK=1 for small sizes, BENCH_FLAGS=--write-docs
	@$(RUN) python -m tests.bench $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--quick) $(BENCH_FLAGS)

soak: .venv/.done ## Thousands of jobs with watchers: JOBS=10000 WATCHERS=50
	@$(RUN) python -m tests.bench.soak $(if $(filter command line environment,$(origin JOBS)),--jobs $(JOBS)) $(if $(WATCHERS),--watchers $(WATCHERS))

openapi: .venv/.done ## Write docs/openapi.json
	@$(RUN) steadydancer openapi > docs/openapi.json

samples: .venv/.done ## Draw the sample photo and dance again
	@$(RUN) python docs/samples/make_samples.py

image: ## Build the GPU image (needs docker): FLASH_ATTN_SHA256=..., or WITH_FLASH_ATTN=0
	docker build -f docker/Dockerfile.zr4 -t steadydancer-gateway:local \
	  $(foreach name,FLASH_ATTN_SHA256 FLASH_ATTN_URL WITH_FLASH_ATTN,$(if $($(name)),--build-arg $(name)='$($(name))')) .

clean: ## Remove what make made
	rm -rf .uv .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-data demo.mp4
