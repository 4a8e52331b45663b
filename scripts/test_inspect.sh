#!/usr/bin/env bash
# Run the tests of the extra `inspect` in a separate environment under .cache/.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.cache/venv-inspect
stamp="$folder/.inspect-stamp"
expected=$(cat requirements.lock requirements-inspect.lock pyproject.toml | sha256sum)
if [[ $(cat "$stamp" 2>/dev/null) != "$expected" ]]; then
    rm -rf "$folder"
    scripts/venv.sh "$folder"
    echo "Adding Inspect AI ..."
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --require-hashes \
        --requirement requirements-inspect.lock
    echo "$expected" > "$stamp"
fi
"$folder/bin/python" -m pytest tests/inspect -o filterwarnings=default "$@"
