.PHONY: fleet bench-fleet gateway bench-gateway setup-litellm load cross-check bench-load setup-load soak-releases gpu-acceptance build bench-build bench-path bench-engine bench-overload bench-functions serve test test-long test-build docs check format setup setup-dev setup-build publish lock train clean help
.DEFAULT_GOAL := help

# The first interpreter of a supported version on the PATH; say PYTHON=... to choose another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
ifneq ($(words $(CURDIR)),1)
$(error Triton cannot start model processes from a path with spaces: move $(CURDIR))
endif

PIP = -m pip --disable-pip-version-check -q
VENV = .venv
VENV_BUILD = .venv-build
VENV_LITELLM = .venv-litellm

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

define make_venv
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.10, 3.11 or 3.12 found. Install one, or say: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@[ -x $(1)/bin/python ] || { echo "Making $(1) with $(PYTHON) ..." >&2; $(PYTHON) -m venv $(1); }
endef

$(VENV)/.core: requirements/core.txt pyproject.toml
	$(call make_venv,$(VENV))
	@echo "Installing pinned dependencies (about a minute the first time) ..." >&2
	@$(VENV)/bin/python $(PIP) install --require-hashes -r requirements/core.txt
	@$(VENV)/bin/python $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The environment of developers holds what load tests need, too.
$(VENV)/.load: requirements/load.txt $(VENV)/.core
	@[ -e $(VENV)/.dev ] || $(VENV)/bin/python $(PIP) install --require-hashes -r requirements/load.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.core
	@$(VENV)/bin/python $(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV_BUILD)/.build: requirements/build.txt requirements/torch.txt pyproject.toml
	$(call make_venv,$(VENV_BUILD))
	@echo "Installing torch and what else training and checking need ..." >&2
	@$(VENV_BUILD)/bin/python $(PIP) install --no-deps --require-hashes -r requirements/build.txt
	@$(VENV_BUILD)/bin/python $(PIP) install --no-deps -r requirements/torch.txt
	@$(VENV_BUILD)/bin/python $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What the gateway is compared with, in an environment of its own: it pins hundreds of packages.
$(VENV_LITELLM)/.litellm: requirements/litellm.txt
	$(call make_venv,$(VENV_LITELLM))
	@echo "Installing LiteLLM's proxy, to compare with ..." >&2
	@$(VENV_LITELLM)/bin/python $(PIP) install --require-hashes -r requirements/litellm.txt
	@touch $@

setup: $(VENV)/.core
setup-load: $(VENV)/.load
setup-dev: $(VENV)/.dev
setup-build: $(VENV_BUILD)/.build
setup-litellm: $(VENV_LITELLM)/.litellm

serve: setup ## Start a real Triton server on the model repository, and a gateway; ARGS="--http-port 9000" and so on
	@exec $(VENV)/bin/trireme serve --profile cpu --gateway-port 8080 $(ARGS)

fleet: setup ## Start three servers behind HAProxy; ARGS="--replicas 5" and so on, `trireme fleet down` stops them
	@$(VENV)/bin/trireme fleet up $(ARGS)

gateway: setup ## Start a gateway for OpenAI's API; ARGS="--config gateway.toml"
	@exec $(VENV)/bin/trireme gateway $(ARGS)

load: setup-load ## 60 s of mixed streaming traffic over gRPC, and a report; HOST=127.0.0.1:8001 for a server that runs
	@$(VENV)/bin/trireme load --scenario mixed $(if $(HOST),--host $(HOST),--serve) $(ARGS)

# Two files at a time, and then, with nothing beside them, those that load the machine or measure it. pytest says 5 where
# ARGS leave nothing of one half.
test: setup-dev ## The whole suite against real servers; ARGS="-k streaming" for a part of it
	@$(VENV)/bin/python -m pytest -m "not torch and not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS) || [ $$? -eq 5 ]
	@$(VENV)/bin/python -m pytest -m "alone and not torch" $(ARGS) || [ $$? -eq 5 ]

test-long: setup-dev ## The suite with many more examples and rounds
	@TRIREME_LONG=1 $(VENV)/bin/python -m pytest -m "not torch" -o timeout=1800 $(ARGS)

test-build: setup-build ## The tests that need torch, in an environment of their own; TRIREME_LONG=1 for all prompts
	@$(VENV_BUILD)/bin/python -m pytest -m torch $(ARGS)

check: setup-dev ## Formatting, lint and types
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check --no-cache .
	@$(VENV)/bin/mypy -p trireme_runtime -p trireme_build -p trireme_client -p trireme_gateway -p trireme_load -p trireme_ops

format: setup-dev ## Format and mend what can be mended
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

train: setup-build ## Train the reference checkpoint again (about 80 minutes on two cores)
	@$(VENV_BUILD)/bin/python -m trireme_build.reference.train --out build/checkpoints/trireme-reference

LOCK = uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" pyproject.toml requirements/install.in

bench-path: setup ## Everything around an engine, against the naive way (about 4 minutes)
	@$(VENV)/bin/trireme bench path $(ARGS)

bench-engine: setup ## The path with the CPU engine, against the engine alone (about 12 minutes)
	@$(VENV)/bin/trireme bench engine $(ARGS)

bench-functions: setup-dev ## Detokenizing and stop matching, in tokens/s
	@$(VENV)/bin/python -m pytest -q -s tests/bench --benchmark-enable --benchmark-warmup=on --benchmark-disable-gc $(ARGS)

bench-overload: setup ## What is served in time under more load than can be done (about 4 minutes)
	@$(VENV)/bin/trireme bench overload $(ARGS)

bench-load: setup-load ## How many messages/s one process of the load generator takes (about a minute)
	@$(VENV)/bin/trireme bench load $(ARGS)

bench-gateway: setup setup-litellm ## What the gateway costs, against bare gRPC and LiteLLM's proxy (about 3 minutes)
	@$(VENV)/bin/trireme bench gateway $(ARGS)

bench-fleet: setup-load ## Three servers behind HAProxy: what they carry, and what a lost one costs (about 3 minutes)
	@$(VENV)/bin/trireme bench fleet $(ARGS)

cross-check: setup-load ## The same load by trireme load and by NVIDIA's perf_analyzer (about 6 minutes)
	@$(VENV)/bin/trireme bench cross-check $(ARGS)

bench-build: setup-build ## How long building takes, and how much memory (about 6 minutes)
	@$(VENV_BUILD)/bin/trireme bench build

soak-releases: setup ## 50 promotes and 50 rollbacks under load (about 25 minutes); ARGS="--swaps 10" for fewer
	@$(VENV)/bin/trireme bench releases $(ARGS)

build: setup-build ## A version from a checkpoint: RECIPE=build/recipes/reference-fp8.toml
	@$(VENV_BUILD)/bin/trireme build $(RECIPE) $(ARGS)

gpu-acceptance: setup-build ## With an NVIDIA GPU and docker: the reference checkpoint in FP8 on TensorRT-LLM, judged
	@$(VENV_BUILD)/bin/python -m trireme_ops.gpu_acceptance $(ARGS)

publish: setup ## Write the manifests (and tokenizer folders) of version 1 again
	@$(VENV)/bin/python -m trireme_build.reference.publish

docs: setup ## Write docs/tensors.md again
	@$(VENV)/bin/python -m trireme_ops.tensor_reference

lock: ## Compile the pinned requirements again (needs uv)
	@$(LOCK) --extra gateway -o requirements/core.txt
	@$(subst pyproject.toml requirements/install.in,requirements/litellm.in,$(LOCK)) -o requirements/litellm.txt
	@$(LOCK) -c requirements/core.txt --extra load -o requirements/load.txt
	@$(LOCK) -c requirements/core.txt --extra dev --extra load -o requirements/dev.txt
	@$(LOCK) -c requirements/core.txt -c requirements/dev.txt --extra dev --extra load --extra gateway requirements/torch-deps.in --override requirements/overrides.txt -o requirements/build.txt
	@$(VENV)/bin/python docker/subset.py

clean: ## Remove environments, caches and generated models; keys and the ledger stay (.trireme/gateway.db)
	@[ ! -d .trireme ] || find .trireme -mindepth 1 -maxdepth 1 ! -name 'gateway.db*' ! -name 'ledger-*.noted' -exec rm -rf {} +
	@rm -rf $(VENV) $(VENV_BUILD) $(VENV_LITELLM) .mypy_cache .ruff_cache .pytest_cache .hypothesis model_repository/tensorrt_llm/1/engine
