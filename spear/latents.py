"""Latents of every frame of a clip, computed once, for trainings that read them often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from spear.clip import Clip
from spear.face_pairs import read_faces
from spear.nets.lm2face import Lm2Face, image_tensor, sketch_tensor
from spear.painter import half_precision
from spear.progress import Progress

_AT_ONCE = 16


def keep_latents(clips: Sequence[Clip], net: Lm2Face, device: torch.device, progress: Progress) -> None:
    """Encode the clips that have no latents of this autoencoder yet; equation 1's four inputs but for the references,
    which are frames of the same clip. Picture and masked picture, and for the paper's net the sketch."""
    missing = [(clip, s) for clip in clips if not clip.fits(clip.latents_path, s := _settings(net, clip))]
    for done, (clip, settings) in enumerate(missing):
        progress(done, len(missing), f"encoding {clip.id}")
        points, _ = clip.landmarks()
        parts = [_encode(net, clip, points[i : i + _AT_ONCE], i, device) for i in range(0, len(points), _AT_ONCE)]
        clip.write_latents({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, settings)


def _settings(net: Lm2Face, clip: Clip) -> dict[str, Any]:
    settings = {"vae": net.config.vae, "light": net.config.light}
    if not net.config.light:  # its sketches are encoded, too, and are of these landmarks
        settings["landmarks"] = clip.storage.about(clip.landmarks_path)["sha256"]
    return settings


def _encode(net: Lm2Face, clip: Clip, points: Any, first: int, device: torch.device) -> dict[str, torch.Tensor]:
    images = image_tensor(read_faces(clip, list(range(first, first + len(points))))).to(device)
    with half_precision(device):
        latents = {"picture": net.encode_picture(images), "masked": net.encode_masked(images)}
        if not net.config.light:  # the small preset's sketches are only unshuffled
            latents["sketch"] = net.encode_sketch(sketch_tensor(points).to(device))
    return {name: value.half().cpu() for name, value in latents.items()}
