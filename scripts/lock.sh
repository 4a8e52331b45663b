#!/usr/bin/env bash
# Update the hashed lock files from pyproject.toml. Needs uv. The files hold no index address.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "error: uv is missing: install it (pip install uv) and try again." >&2; exit 1; }

compile() {
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header "$@"
}
echo "hatchling>=1.26" | compile pyproject.toml - --extra eval --extra otel --group dev --output-file requirements.lock
pinned() { sed -n 's/^\([a-z0-9].*==.*\) \\$/\1/p' requirements.lock; }  # with markers and without hashes
# The older major of openai, for a separate environment on top of the first file (test_openai2.sh).
echo "openai[aiohttp]>=2.54,<3" | compile - --constraints <(pinned | grep -v '^openai==') \
    --output-file requirements-openai2.lock
# Inspect AI, in a separate environment too (test_inspect.sh): nothing else needs its many dependencies.
echo "inspect-ai>=0.3.285" | compile - --constraints <(pinned | grep -v '^python-dateutil==') \
    --output-file requirements-inspect.lock
