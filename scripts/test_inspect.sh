#!/usr/bin/env bash
# The tests of the extra `inspect`, in an environment of its own under .cache/.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.cache/venv-inspect
stamp="$folder/.inspect-stamp"
wanted=$(cat requirements.lock requirements-inspect.lock pyproject.toml | sha256sum)
if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
    rm -rf "$folder"
    scripts/venv.sh "$folder"
    echo "Installing Inspect AI over it ..."
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --require-hashes \
        --requirement requirements-inspect.lock
    echo "$wanted" > "$stamp"
fi
"$folder/bin/python" -m pytest tests/inspect -o filterwarnings=default "$@"
