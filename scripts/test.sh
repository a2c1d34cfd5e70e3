#!/usr/bin/env bash
# From a fresh machine to a verdict: installs into .venv (the first time), then style, types, tests. Stops at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

run() {
    echo "+ $*"
    "$@"
}
run "$python" -m ruff check .
run "$python" -m ruff format --check .
run "$python" -m mypy
run "$python" -m pytest -n 2 --dist loadgroup
