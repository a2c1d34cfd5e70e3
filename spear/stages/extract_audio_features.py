"""`spear extract-audio-features`: the speech of every clip through one audio encoder, one feature per video frame."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from spear.audio import fit_to_frames, load_audio
from spear.clip import Clip, find_clips
from spear.errors import SpearError, UnusableClip
from spear.pretrained.audio_encoders import AudioEncoder, load_encoder
from spear.progress import Progress, Report, no_progress


def extract_audio_features(
    clips: Path, encoder: str = "whisper", weights: str | None = None, progress: Progress = no_progress
) -> Report:
    """Write clips/<id>/<encoder>.safetensors, features (F, L, W), for every clip with sound (paper 3.1.1).

    Clips whose features are there and still fit are kept; clips without sound are listed in the report. Speech that
    several clips share (one take, several cameras) is computed once. Raises SpearError where there are no clips, none
    of them has sound, or the encoder's weights are absent.
    """
    found = find_clips(clips)
    if not any(clip.info.has_audio for clip in found):
        raise SpearError(f"no clip in {clips} has an audio track; run `spear preprocess` on videos with sound")
    net = load_encoder(encoder, weights)
    report, computed = Report(), dict[str, Clip]()
    for number, clip in enumerate(found):
        progress(number, len(found), clip.id)
        if not clip.info.has_audio:
            report.skipped.append((clip.id, "no audio track"))
        elif clip.fits(clip.features_path(net.name), net.settings):
            report.kept += 1
        else:
            try:
                clip.write_features(net.name, _features(clip, net, computed), net.settings)
            except UnusableClip as error:
                report.skipped.append((clip.id, str(error)))
            else:
                report.done += 1
    progress(len(found), len(found), "")
    return report


def _features(clip: Clip, net: AudioEncoder, computed: dict[str, Clip]) -> torch.Tensor:
    """(F, L, W) of one clip. computed: digest of the samples -> the clip whose file holds their features by now."""
    from accelerate import PartialState

    samples = fit_to_frames(load_audio(clip.audio_path), clip.info.frames)
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    if digest in computed:
        return computed[digest].features(net.name)
    features = net(torch.from_numpy(samples).to(PartialState().device))
    assert features.shape == (clip.info.frames, *net.shape), (features.shape, clip.info.frames, net.shape)
    if not features.half().isfinite().all():
        raise SpearError(
            f"{net.name} gives numbers beyond float16 for {clip.audio_path}; its weights look damaged, "
            "give others with --weights FOLDER"
        )
    computed[digest] = clip
    return features
