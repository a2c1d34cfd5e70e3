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
export OMP_WAIT_POLICY=PASSIVE # two test processes share the cores: a thread that waits must not take one
run "$python" -m pytest -n 2 --dist loadfile
