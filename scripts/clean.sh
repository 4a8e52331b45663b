#!/usr/bin/env bash
# Remove the environment, caches, and rlm's containers and images. Keeps run directories.
set -euo pipefail
cd "$(dirname "$0")/.."
if docker info >/dev/null 2>&1; then
    docker ps --all --quiet --filter label=rlm.run | xargs --no-run-if-empty docker rm --force >/dev/null
    docker images --format '{{.Repository}}:{{.Tag}}' rlm-sandbox | xargs --no-run-if-empty docker rmi >/dev/null
    docker images --format '{{.Repository}}:{{.Tag}}' rlm-base | xargs --no-run-if-empty docker rmi >/dev/null
    docker image prune --force --filter label=rlm.image >/dev/null
fi
rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist viewer/node_modules
find rlm sandbox_image scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
