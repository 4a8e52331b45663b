# Every target runs what it needs first. `make` alone says what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup image niah niah-local eval test test-unit test-long security reliability check format bench viewer clean lock

PY := .venv/bin/python
ifeq ($(origin LINES),environment)  # a terminal's height, not ours
LINES :=
endif
NIAH := $(foreach name,MODEL SUB_MODEL DEPTH TRIALS LINES SEED OUT,\
    $(if $($(name)),--$(shell echo $(name) | tr 'A-Z_' 'a-z-') '$($(name))'))

# Tests that may run beside each other: they measure nothing.
BESIDE := tests/unit tests/security/test_attacks.py $(foreach part,repl exec hosting,tests/integration/test_$(part).py)

TASKS ?= ruler/single_1 ruler/multivalue seed_niah/facts oolong/trec_coarse oolong_pairs
METHODS ?= rlm:1 keyword
EVAL = $(if $(RESUME),--resume '$(RESUME)',$(TASKS) $(foreach name,$(METHODS),--method $(name))) \
    $(if $(N),-n $(N)) $(if $(LENGTHS),--lengths '$(LENGTHS)') \
    $(foreach name,MODEL SUB_MODEL SEED OUT,$(if $($(name)),--$(shell echo $(name) | tr 'A-Z_' 'a-z-') '$($(name))'))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## virtual environment and Docker engine; what is there is used
	@scripts/setup.sh

image: setup ## the sandbox image; more packages: EXTRA="numpy pandas"
	@$(PY) -m rlm.sandbox.docker.build $(if $(filter undefined,$(origin EXTRA)),,--extra "$(EXTRA)")

niah: image ## needle in a haystack; MODEL= SUB_MODEL= DEPTH= TRIALS= LINES= SEED= OUT= VERBOSE=
	@.venv/bin/rlm niah $(NIAH) $(if $(VERBOSE),--verbose)

niah-local: image ## the needle with a real small model below the scripted root; LINES= TRIALS= LOCAL_GGUF= LOCAL_URL= LOCAL_ROOT=
	@LINES='$(LINES)' TRIALS='$(TRIALS)' OUT='$(OUT)' $(PY) scripts/niah_local.py

eval: image ## several tasks by several methods; TASKS= METHODS= N= LENGTHS= MODEL= SUB_MODEL= SEED= OUT= RESUME=
	@.venv/bin/rlm eval $(EVAL)

test: image check viewer/node_modules ## checks and all tests but the long ones
	@$(PY) -m pytest -n auto --maxprocesses 4 $(BESIDE)
	@$(PY) -m pytest $(addprefix --ignore=,$(BESIDE))

test-unit: ## tests without Docker
	@scripts/venv.sh
	@$(PY) -m pytest tests/unit

test-long: image ## the long tests, and those of openai's older major version and of Inspect AI
	@$(PY) -m pytest -m long || [ $$? -eq 5 ]
	@scripts/test_openai2.sh
	@scripts/test_inspect.sh

security: image ## all attacks, on both runtimes and transports; writes docs/security-results.md
	@RLM_SOAK_SECONDS=800 $(PY) -m pytest tests/security -m "" --results docs/security-results.md

reliability: image ## all faults; writes docs/reliability-results.md
	@RLM_RUNS=500 $(PY) -m pytest tests/faults -m "" --record docs/reliability-results.md

check: ## lint, format, types, import rules
	@scripts/venv.sh
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@PYTHONPATH=sandbox_image .venv/bin/lint-imports

format: ## format the code and mend what the linter can
	@scripts/venv.sh
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

bench: image ## times and ratios of the system itself
	@$(PY) scripts/bench.py
	@$(PY) scripts/bench_live.py

viewer: viewer/node_modules ## build the page of `rlm view` anew (needs node)
	@cd viewer && npm run --silent build

viewer/node_modules: viewer/package-lock.json  # without them, the tests of the page in a browser are skipped
	@cd viewer && npm ci --silent --no-audit --no-fund && touch node_modules || \
	echo "npm is not there, or has no packages: the page of \`rlm view\` is not tested in a browser."

clean: ## remove environment, caches, our containers and our images
	@scripts/clean.sh

lock: ## write the lock files anew (needs uv)
	@scripts/lock.sh
