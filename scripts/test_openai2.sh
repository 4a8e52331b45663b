#!/usr/bin/env bash
# Repeat the openai tests with its older major version, in a separate environment under .cache/.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.cache/venv-openai2
stamp="$folder/.openai2-stamp"
expected=$(cat requirements.lock requirements-openai2.lock pyproject.toml | sha256sum)
if [[ $(cat "$stamp" 2>/dev/null) != "$expected" ]]; then
    rm -rf "$folder"
    scripts/venv.sh "$folder"
    echo "Replacing openai with version 2 ..."
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --require-hashes \
        --requirement requirements-openai2.lock
    echo "$expected" > "$stamp"
fi
"$folder/bin/python" -c 'import openai; assert openai.__version__ < "3", openai.__version__; print("openai", openai.__version__)'
"$folder/bin/python" -m pytest tests -k openai -m "long or not long" "$@"
