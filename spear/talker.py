"""Stage 1 at work: the lower face for speech, for rendering, validation and scores."""

from __future__ import annotations

from pathlib import Path

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from spear.checkpoint import load_checkpoint
from spear.clip import Clip
from spear.dataset import cached_points
from spear.errors import SpearError
from spear.nets.a2lm import A2LM, A2LMConfig, build_a2lm, carried_lower_face, predict_landmarks
from spear.points import Array, head_motion, part_lips, pose_input, spread_over_opening

_STEADYING = 0.7
"""Gaussian sigma, frames, for the mouth on the head, not the head: on strangers of a val split LVD over the baseline's
falls from 1.04 to .99 and r rises from .77 to .78; 1.0 would take 8 % of the opening's amplitude."""


def load_a2lm(path: Path) -> A2LM:
    """A trained net, frozen, on the CPU. Raises SpearError where the file is absent, damaged or of another kind."""
    weights, about = load_checkpoint(path, "a2lm")
    try:
        config = A2LMConfig(**{**about["config"], "feature_shape": tuple(about["config"]["feature_shape"])})
        net = build_a2lm(config)
        net.load_state_dict({name: value.float() for name, value in weights.items()})
    except (TypeError, KeyError, RuntimeError) as error:
        raise SpearError(
            f"{path} is of another version of spear, its net is built in another way; run `spear train-a2lm --restart`"
        ) from error
    return net.eval().requires_grad_(False)


def predict_clip(net: A2LM, clip: Clip) -> tuple[Tensor, Tensor]:
    """Predicted lower face and the baseline (the references' mean carried by the head), (F, 57, 2) crop px each."""
    points = cached_points(clip)
    references = points[spread_over_opening(points, net.config.references)]
    pred = speak(net, features_of(net, clip), points, references)
    head = torch.from_numpy(head_motion(points)[None])
    return pred, carried_lower_face(head, torch.from_numpy(references[None]))[0]


def features_of(net: A2LM, clip: Clip) -> Tensor:
    """The clip's speech features as this net reads them, (F, L, W), late or early sound corrected."""
    return clip.speech(net.config.encoder, align=net.config.av_align)


def speak(net: A2LM, features: Tensor, points: Array, references: Array) -> Tensor:
    """The lower face (F, 57, 2) in crop px for features (F, L, W), by the upper face in points (F, 131, 2), whose lower
    face is not looked at, and references (R, 131, 2)."""
    pose, head = torch.from_numpy(pose_input(points, net.config.pose)), torch.from_numpy(head_motion(points))
    faces = torch.from_numpy(references)
    pred = predict_landmarks(net, features, pose, faces, head)
    if not net.config.light:
        return pred
    carried = carried_lower_face(head[None], faces[None])[0]
    mouth = gaussian_filter1d((pred - carried).numpy(), _STEADYING, axis=0, mode="nearest")
    return torch.from_numpy(part_lips(carried.numpy() + mouth))
