#!/usr/bin/env bash
# Removes what set-up, tests and runs made: the environment, caches, our containers and our images. Nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
if docker info >/dev/null 2>&1; then
    docker ps --all --quiet --filter label=rlm.run | xargs --no-run-if-empty docker rm --force >/dev/null
    for name in rlm-sandbox rlm-base; do
        if docker image inspect "$name" >/dev/null 2>&1; then docker rmi "$name" >/dev/null; fi
    done
    docker image prune --force --filter label=rlm.image >/dev/null
fi
rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
find rlm sandbox_image scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
