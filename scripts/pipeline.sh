#!/usr/bin/env bash
# From a folder of videos to a talking face and its scores, in the current folder:
#
#     bash scripts/pipeline.sh VIDEOS [MINUTES]
#
# VIDEOS: at least three videos of people who speak. MINUTES: for each of the two trainings (20).
# Every command does only what is missing, so a run that was stopped goes on where it was.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash scripts/pipeline.sh VIDEOS [MINUTES]" >&2
    exit 2
fi
videos=$1
minutes=${2:-20}
PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin:$PATH"
spear() { command spear "$@" || [ $? -eq 3 ]; } # 3: done, but some clips were left out, as it has said

# 1. Videos -> clips/<id>/: the face as 256x256 pixels at 25 fps, its voice at 16 kHz, and a split into train, val and test.
spear preprocess "$videos" --jobs 2

# 2. What is said: speech features, one row for each video frame.
spear extract-audio-features --jobs 2

# 3. How it looks: 131 points on every face.
spear landmarks --jobs 2

# 4. Stage 1 learns to move the 57 points of jaw and lips by the speech, stage 2 to paint a face for the points.
spear train-a2lm --max-minutes "$minutes"
spear train-lm2face --max-minutes "$minutes"

# 5. A face that no training has seen speaks its own words ...
clip=$(dirname "$(grep -l '"split": "test"' clips/*/clip.json | sed -n 1p)")
spear render --audio "$clip/audio.wav" --ref "$clip/face.mp4" -o out.mp4

# 6. ... so that there is a truth to compare with; and then the whole test split.
spear metrics out.mp4 "$clip/face.mp4" --ld --lvd --psnr --ssim
spear metrics --ld --lvd --psnr --ssim
