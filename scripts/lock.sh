#!/usr/bin/env bash
# Writes the hashed lock files anew from pyproject.toml. Needs uv; no index address gets into the files.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "error: uv is missing: install it, for example with pip, and try again." >&2; exit 1; }

compile() {
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header "$@"
}
echo "hatchling>=1.26" | compile pyproject.toml - --extra eval --extra otel --group dev --output-file requirements.lock
pinned() { sed -n 's/^\([a-z0-9].*==.*\) \\$/\1/p' requirements.lock; }  # with markers, without hashes
# The older major of openai, installed over the first file in an environment of its own (test_openai2.sh).
echo "openai[aiohttp]>=2.54,<3" | compile - --constraints <(pinned | grep -v '^openai==') \
    --output-file requirements-openai2.lock
# Inspect AI, over the first file too (test_inspect.sh): its many dependencies are no one else's.
echo "inspect-ai>=0.3.285" | compile - --constraints <(pinned | grep -v '^python-dateutil==') \
    --output-file requirements-inspect.lock
