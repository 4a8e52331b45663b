#!/usr/bin/env bash
# Create the virtual environment and start a Docker engine, where missing.
set -euo pipefail
here=$(dirname "$0")
"$here/venv.sh"
"$here/engine.sh"
