#!/usr/bin/env bash
# Writes the hashed lock files anew from pyproject.toml. Needs uv; no index address gets into the files.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "error: uv is missing: install it, for example with pip, and try again." >&2; exit 1; }

compile() {
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header "$@"
}
echo "hatchling>=1.26" | compile pyproject.toml - --extra dev --output-file requirements.lock
# The older major of openai, installed over the first file in an environment of its own (test_openai2.sh).
echo "openai[aiohttp]>=2.54,<3" | compile - --constraints <(grep -o '^[^ ]*==[^ ]*' requirements.lock | grep -v '^openai==') \
    --output-file requirements-openai2.lock
