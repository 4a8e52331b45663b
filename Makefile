# Each target runs what it needs first. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup image niah niah-local prompts-local eval test test-unit test-long security reliability check format bench \
    viewer docs pictures clean lock

PY := .venv/bin/python
ifeq ($(origin LINES),environment)  # the height of the terminal, not the option
LINES :=
endif
NIAH := $(foreach name,MODEL SUB_MODEL DEPTH TRIALS LINES SEED OUT,\
    $(if $($(name)),--$(shell echo $(name) | tr 'A-Z_' 'a-z-') '$($(name))'))

# Options for tests without the mark `serial`.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

TASKS ?= ruler/single_1 ruler/multivalue seed_niah/facts oolong/trec_coarse oolong_pairs
METHODS ?= rlm:1 keyword
EVAL = $(if $(RESUME),--resume '$(RESUME)',$(TASKS) $(foreach name,$(METHODS),--method $(name))) \
    $(if $(N),-n $(N)) $(if $(LENGTHS),--lengths '$(LENGTHS)') \
    $(foreach name,MODEL SUB_MODEL SEED OUT,$(if $($(name)),--$(shell echo $(name) | tr 'A-Z_' 'a-z-') '$($(name))'))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## create the virtual environment and start a Docker engine, where missing
	@scripts/setup.sh

image: setup ## build the sandbox image; EXTRA="numpy pandas" adds packages
	@$(PY) -m rlm.sandbox.docker.build $(if $(filter undefined,$(origin EXTRA)),,--extra "$(EXTRA)")

niah: image ## find a needle in a haystack; MODEL= SUB_MODEL= DEPTH= TRIALS= LINES= SEED= OUT= VERBOSE=
	@.venv/bin/rlm niah $(NIAH) $(if $(VERBOSE),--verbose)

niah-local: image ## the same with a small local model for sub-calls; LINES= TRIALS= LOCAL_MODEL= LOCAL_GGUF= LOCAL_URL= LOCAL_ROOT=
	@LINES='$(LINES)' TRIALS='$(TRIALS)' OUT='$(OUT)' $(PY) scripts/niah_local.py

prompts-local: image ## measure a system prompt with a small local root model; PROMPT= TASK= N= LINES= LOCAL_MODEL= OUT=
	@$(PY) scripts/measure_prompts.py $(foreach name,PROMPT TASK N LINES OUT,\
	    $(if $($(name)),--$(shell echo $(name) | tr 'A-Z_' 'a-z-') '$($(name))'))

eval: image ## evaluate methods on tasks; TASKS= METHODS= N= LENGTHS= MODEL= SUB_MODEL= SEED= OUT= RESUME=
	@.venv/bin/rlm eval $(EVAL)

test: image check viewer/node_modules ## run the checks and all tests except the long ones
	@$(PY) -m pytest $(PARALLEL) -m "not serial and not long"
	@$(PY) -m pytest -m "serial and not long"

test-unit: ## run the tests that need no Docker; PYTHON= chooses the interpreter
	@scripts/venv.sh
	@$(PY) -m pytest $(PARALLEL) tests/unit

test-long: image ## run the long tests, more examples of properties, and those of the older openai and of Inspect AI
	@$(PY) -m pytest $(PARALLEL) --hypothesis-profile long -m "hypothesis and not long"
	@$(PY) -m pytest --hypothesis-profile long -m long
	@scripts/test_openai2.sh
	@scripts/test_inspect.sh

security: image ## run all attacks on both runtimes and transports; writes docs/security-results.md
	@RLM_SOAK_SECONDS=800 $(PY) -m pytest tests/security -m "" --results docs/security-results.md

reliability: image ## inject all faults; writes docs/reliability-results.md
	@RLM_RUNS=500 $(PY) -m pytest tests/faults -m "" --record docs/reliability-results.md

check: ## check lint, format, types, import rules and the CI workflow
	@scripts/venv.sh
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@PYTHONPATH=sandbox_image .venv/bin/lint-imports
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: ## format the code and apply the linter's fixes
	@scripts/venv.sh
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

bench: image ## benchmark the overhead of the system
	@$(PY) scripts/bench.py
	@$(PY) scripts/bench_live.py

viewer: viewer/node_modules ## rebuild the page of `rlm view` (needs node)
	@cd viewer && npm run --silent build

viewer/node_modules: viewer/package-lock.json  # without it, the browser tests of the page are skipped
	@cd viewer && npm ci --silent --no-audit --no-fund && touch node_modules || \
	echo "npm is missing or failed: the browser tests of \`rlm view\` will be skipped."

docs: ## build the documentation as a site in .cache/site
	@scripts/venv.sh
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

pictures: image ## remake the pictures in docs/ and the outputs in README and tutorial, from real runs
	@$(PY) scripts/make_pictures.py

clean: ## remove the environment, caches, and the containers and images of rlm
	@scripts/clean.sh

lock: ## update the lock files (needs uv)
	@scripts/lock.sh
