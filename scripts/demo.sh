#!/usr/bin/env bash
# From a fresh machine to a talking picture: installs into .venv (the first time), renders out/demo/astronaut.mp4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

mkdir -p out/demo
"$python" - <<'PYTHON'
import skimage

skimage.io.imsave("out/demo/astronaut.png", skimage.data.astronaut())  # Eileen Collins, NASA, public domain
PYTHON
"$python" -m spear_cli render --audio scripts/demo/speech.wav --ref out/demo/astronaut.png -o out/demo/astronaut.mp4
echo "$PWD/out/demo/astronaut.mp4"
