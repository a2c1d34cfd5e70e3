#!/usr/bin/env bash
# What SPEAR does with bad input, full disks, kills and hostile files, and the score: about 22 minutes on 2 quiet cores.
# Installs into .venv the first time, like test.sh. Arguments go to pytest: `bash scripts/reliability.sh -k truncated`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

SPEAR_TALLY=$(mktemp)
trap 'rm -f "$SPEAR_TALLY"' EXIT
export SPEAR_TALLY OMP_WAIT_POLICY=PASSIVE
"$python" -m pytest tests/reliability -m "" -n 2 --dist worksteal "$@"
