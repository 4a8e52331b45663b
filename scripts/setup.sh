#!/usr/bin/env bash
# Everything that the rest needs on a fresh Debian machine: the virtual environment and a Docker engine.
set -euo pipefail
here=$(dirname "$0")
"$here/venv.sh"
"$here/engine.sh"
