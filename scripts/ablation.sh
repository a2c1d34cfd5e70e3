#!/usr/bin/env bash
# The paper's Table 3 on any footage: how well stage 1 learns from each speech encoder, and from none as the control.
#
#     bash scripts/ablation.sh VIDEOS [UNSEEN] [EPOCHS]
#
# VIDEOS: at least three videos; their test split is the table of speakers that the training saw. UNSEEN: videos of people who are
# not in VIDEOS ("" for none), the second table. EPOCHS: of every training (30). The tables land in out/ablation/table3.md.
#
# Variables: OUT (folder of all results), ENCODERS, POSES and SEEDS (to narrow the table), SPLIT_BY (clip; speaker, or a .csv file),
# WEIGHTS (a folder with hubert/, wav2vec2-conformer/, unispeech/; without it they are looked up in the local Hugging Face cache).
# A run that was stopped goes on where it was; an encoder whose weights are missing is listed below the tables.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash scripts/ablation.sh VIDEOS [UNSEEN] [EPOCHS]" >&2
    exit 2
fi
videos=$1
unseen=${2:-}
epochs=${3:-30}
out=${OUT:-out/ablation}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="$(dirname "$scripts")/.venv/bin:$PATH"
spear() { command spear "$@" || [ $? -eq 3 ]; } # 3: done, but some clips were left out, as it has said

# Numbers in one table must come from equal trainings on equal footage.
mkdir -p "$out"
made_from="$epochs epochs on $videos, split by ${SPLIT_BY:-clip}"
[ -e "$out/made-from" ] || echo "$made_from" >"$out/made-from"
if [ "$(cat "$out/made-from")" != "$made_from" ]; then
    echo "error: $out holds results of $(cat "$out/made-from"), not of $made_from; name another folder with OUT=FOLDER" >&2
    exit 1
fi

# 1. Videos -> clips with landmarks; people never trained on in a folder of their own.
prepare() { # VIDEOS CLIPS SPLIT_BY
    spear preprocess "$1" --clips "$2" --split-by "$3" --jobs 2
    spear landmarks --clips "$2" --jobs 2
}
prepare "$videos" "$out/clips" "${SPLIT_BY:-clip}"
[ -z "$unseen" ] || prepare "$unseen" "$out/unseen" clip

# 2. What is said, by one encoder. Missing weights are written down as spear's line that says what to download; anything else that
#    fails ends the script.
extract() { # ENCODER CLIPS OPTIONS...
    local weights=()
    [ -z "${WEIGHTS:-}" ] || [ ! -d "$WEIGHTS/$1" ] || weights=(--weights "$WEIGHTS/$1")
    rm -f "$out/$1.missing"
    if ! spear extract-audio-features --encoder "$1" --clips "$2" "${@:3}" "${weights[@]}" 2>"$out/error.part"; then
        cat "$out/error.part" >&2
        grep -qE 'are not on this computer|reads no pickles' "$out/error.part" || exit 1
        mv "$out/error.part" "$out/$1.missing"
        return 1
    fi
}

# 3. One training, and its scores; a JSON gets its name when it is whole.
score() { # RUN TABLE METRICS_OPTIONS...
    local result="$out/$1.$2.json"
    [ ! -e "$result" ] || return 0
    spear metrics --ld --lvd --json --models "$out/$1" "${@:3}" >"$result.part"
    mv "$result.part" "$result"
}
train_and_score() { # ENCODER POSE SEED
    local run="$1.$2.$3"
    if [ ! -e "$out/$run.seen.json" ]; then
        spear train-a2lm --encoder "$1" --pose "$2" --seed "$3" --epochs "$epochs" --clips "$out/clips" --models "$out/$run"
    fi
    score "$run" seen --clips "$out/clips"
    [ -z "$unseen" ] || score "$run" unseen --clips "$out/unseen" --split all
}

for encoder in ${ENCODERS:-hubert wav2vec2-conformer unispeech mfcc whisper none}; do
    extract "$encoder" "$out/clips" || continue
    [ -z "$unseen" ] || extract "$encoder" "$out/unseen" --changed 0 # nothing is trained on them
    for pose in ${POSES:-rigid raw}; do
        for seed in ${SEEDS:-0 1 2}; do
            train_and_score "$encoder" "$pose" "$seed"
        done
    done
done
rm -f "$out/error.part"

# 4. Mean and spread over the seeds.
python "$scripts/ablation_table.py" "$out"
