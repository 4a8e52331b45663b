#!/usr/bin/env bash
# venv.sh [FOLDER]: create a virtual environment from requirements.lock, with this package editable. Python >= 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv}
stamp="$folder/.rlm-stamp"
expected=$(cat requirements.lock pyproject.toml | sha256sum)
[[ -x $folder/bin/python && $(cat "$stamp" 2>/dev/null) == "$expected" ]] && exit 0

fail() { echo "error: $*" >&2; exit 1; }

python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[[ -n $python ]] || fail "Python 3.11 or newer is missing: install it, or set PYTHON=..., and try again."

if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    sudo=""
    [[ $(id -u) == 0 ]] || sudo=sudo
    [[ -z $sudo ]] || command -v sudo >/dev/null || fail "Python's venv module is missing: install python3-venv as root."
    command -v apt-get >/dev/null || fail "Python's venv module is missing: install it and try again."
    echo "Installing python3-venv with apt-get ..."
    { $sudo apt-get update -q && $sudo apt-get install -qy --no-install-recommends python3-venv; } >/dev/null ||
        fail "apt-get could not install python3-venv: install it yourself and try again."
fi

echo "Installing Python packages into $folder ..."
[[ -x $folder/bin/python ]] || "$python" -m venv --clear "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check install --quiet --quiet)
"${pip[@]}" --require-hashes --requirement requirements.lock
"${pip[@]}" --no-deps --no-build-isolation --no-index --editable .
echo "$expected" > "$stamp"
