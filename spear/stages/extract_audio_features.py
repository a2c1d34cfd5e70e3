"""`spear extract-audio-features`: the speech of every clip through one audio encoder, one feature per video frame."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear.audio import fit_to_frames, load_audio
from spear.augment import change_speech, near_silence
from spear.clip import SAMPLE_RATE, Clip, find_clips
from spear.errors import SpearError, UnusableClip
from spear.pretrained.audio_encoders import AudioEncoder, load_encoder
from spear.progress import Progress, Report, no_progress

Changed = tuple[Tensor, float]
"""Features of a changed copy, (F', L, W), and how many times faster it is."""
CHANGED_COPIES = 4
"""Of a training clip's speech. Without them the landmarks of strangers are worse (skill .14 for .16)."""

SILENT_SECONDS = 3


def extract_audio_features(
    clips: Path,
    encoder: str = "whisper",
    weights: str | None = None,
    changed: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Write clips/<id>/<encoder>.safetensors, features (F, L, W), for every clip with sound (paper 3.1.1).

    changed: for clips of the train split, also the features of so many changed copies of the speech (see `augment`),
    for stage 1's small preset; left out: CHANGED_COPIES for the small encoders mfcc and whisper, else none.
    Clips whose features are there and still fit are kept; clips without sound are listed in the report. Speech that
    several clips share (one take, several cameras) is computed once. Raises SpearError where there are no clips, none
    of them has sound, or the encoder's weights are absent.
    """
    if changed is None:
        changed = CHANGED_COPIES if encoder in ("mfcc", "whisper") else 0
    found = find_clips(clips)
    if not any(clip.info.has_audio for clip in found):
        raise SpearError(f"no clip in {clips} has an audio track; run `spear preprocess` on videos with sound")
    net = load_encoder(encoder, weights)
    report, computed = Report(), dict[Any, Clip]()
    for number, clip in enumerate(found):
        progress(number, len(found), clip.id)
        if not clip.info.has_audio:
            report.skipped.append((clip.id, "no audio track"))
            continue
        copies = changed if clip.info.split == "train" else 0
        if clip.fits(clip.features_path(net.name), net.settings) and len(clip.speeds(net.name)) == copies:
            report.kept += 1
        else:
            try:
                features, copied, silence = _features(clip, net, copies, computed)
                clip.write_features(net.name, features, net.settings, copied, silence)
            except UnusableClip as error:
                report.skipped.append((clip.id, str(error)))
            else:
                report.done += 1
    progress(len(found), len(found), "")
    return report


def _features(
    clip: Clip, net: AudioEncoder, copies: int, computed: dict[Any, Clip]
) -> tuple[Tensor, list[Changed], Tensor | None]:
    """(F, L, W) of one clip, its changed copies, and three seconds of silence beside copies.

    computed: digest of the samples, copies -> a clip whose file holds all that by now.
    """
    from accelerate import PartialState

    samples = fit_to_frames(load_audio(clip.audio_path), clip.info.frames)
    digest = hashlib.sha256(samples.tobytes())
    key = (digest.hexdigest(), copies)
    if key in computed:
        same = computed[key]
        changed = [(same.features(net.name, name=f"changed{i}"), s) for i, s in enumerate(same.speeds(net.name))]
        return same.features(net.name), changed, same.features(net.name, name="silence") if copies else None
    device = PartialState().device
    features = net(torch.from_numpy(samples).to(device))
    assert features.shape == (clip.info.frames, *net.shape), (features.shape, clip.info.frames, net.shape)
    changed, random = [], np.random.default_rng(list(digest.digest()))
    for _ in range(copies):
        other, speed = change_speech(samples, random)
        changed.append((net(torch.from_numpy(other).to(device)), speed))
    silence = None
    if copies:
        silence = net(torch.from_numpy(near_silence(SILENT_SECONDS * SAMPLE_RATE, random)).to(device))
    made = [features, *(copy for copy, _ in changed), *([] if silence is None else [silence])]
    if not all(part.half().isfinite().all() for part in made):
        raise SpearError(
            f"{net.name} gives numbers beyond float16 for {clip.audio_path}; its weights look damaged, "
            "give others with --weights FOLDER"
        )
    computed[key] = clip
    return features, changed, silence
