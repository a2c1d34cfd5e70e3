#!/usr/bin/env bash
# Make every weight that ships again, from ../shared (data and small pretrained weights), into spear/weights:
#
#     bash scripts/make_model.sh [WORK] [MINUTES]
#
# WORK: a scratch folder (work). MINUTES: for stage 2 (16: twice and three times as long wins on the people of the footage and
# loses on others); the autoencoder takes 20, stage 1 takes 3. Only footage that may be redistributed: GRID (CC BY 4.0), a
# presidential address and portraits of Congress (public domain). A run that was stopped goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=${1:-work}
minutes=${2:-16}
shared=../shared
PATH="$PWD/.venv/bin:$PATH"
spear() { command spear "$@" || [ $? -eq 3 ]; } # 3: done, but some clips were left out, as it has said
mkdir -p "$work"

# 1. GRID and the address -> clips, landmarks, features of the encoder that ships. A folder for each speaker; of the one with 240
#    clips every tenth is held out for the test and every tenth for validation, of the others there is too little to spare.
echo clip,split >"$work/splits.csv"
awk -F, '$3 == "ship" && $1 ~ /^train\// { print $1, $2 }' "$shared/data/manifest.csv" | while read -r file speaker; do
    mkdir -p "$work/people/$speaker"
    ln -sf "$PWD/$shared/data/$file" "$work/people/$speaker/"
done
for video in "$work"/people/grid_s1/*; do
    name=${video##*/}
    echo "grid_s1_${name%.*}"
done | awk 'NR % 10 == 1 { print $0 ",test" } NR % 10 == 6 { print $0 ",val" }' >>"$work/splits.csv"
spear preprocess "$work/people" --clips "$work/clips" --split-by "$work/splits.csv" --jobs 2
spear landmarks --clips "$work/clips" --jobs 2
spear extract-audio-features --clips "$work/clips" --encoder whisper --jobs 2

# 2. The autoencoder, with portraits for variety of faces
[ -e "$work/autoencoder.safetensors" ] || python scripts/make_autoencoder.py --clips "$work/clips" \
    --portraits "$shared/data/portraits_pd" --weights "$shared/weights" --out "$work/autoencoder.safetensors" --minutes 20
cp "$work/autoencoder.safetensors" spear/weights/

# 3. Stage 1 and stage 2; stage 2 compares features of MobileNetV2 (BSD-3), which does not ship
spear train-a2lm --clips "$work/clips" --models "$work/models" --encoder whisper
spear train-lm2face --clips "$work/clips" --models "$work/models" --max-minutes "$minutes" \
    --perceptual "$shared/weights/mobilenet_v2-b0353104.pth"
cp "$work/models/a2lm.safetensors" "$work/models/lm2face.safetensors" spear/weights/

# 4. How good they are on clips that no training saw
spear metrics --clips "$work/clips" --models "$work/models" --ld --lvd --psnr --ssim
