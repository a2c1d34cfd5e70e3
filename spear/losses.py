"""Equations 5 to 8 of the paper (section 4.2). Letters: B batch, T frames, N points."""

from __future__ import annotations

import torch
from torch import Tensor

_TREMBLE = 0.002
"""Sides of the crop: half a pixel of 256."""


def landmark_mse(pred: Tensor, truth: Tensor) -> Tensor:
    """Equation 5: squared distance of a frame's landmarks, summed over its coordinates, mean over frames.

    pred, truth: (B, T, N, 2) in any unit of length. The sum over N points is divided by N, so that the weight beside
    equation 6 does not hang on how many points there are.
    """
    return (pred - truth).square().sum(-1).mean()


def landmark_velocity(pred: Tensor, truth: Tensor) -> Tensor:
    """Equation 6: squared norm of the difference of velocities, mean over points and frame pairs; (B, T, N, 2)."""
    if pred.shape[1] < 2:
        return pred.new_zeros(())
    return ((pred - truth).diff(dim=1)).square().sum(-1).mean()


def a2lm_loss(pred: Tensor, truth: Tensor) -> Tensor:
    """Equation 7: equation 5 + equation 6."""
    return landmark_mse(pred, truth) + landmark_velocity(pred, truth)


def landmark_length_loss(pred: Tensor, truth: Tensor) -> Tensor:
    """What LD and LVD measure: mean distance of points plus that of their velocities, where equation 7 has squares.

    pred, truth: (B, T, N, 2) in sides of the crop. For stage 1's small preset: squares are ruled by the few frames that
    nobody can foresee (on held-out clips of a seen speaker, skill .54 against .51 with equation 7).
    """
    off = pred - truth
    return _length(off) + (_length(off.diff(dim=1)) if pred.shape[1] > 1 else 0.0)


def _length(off: Tensor) -> Tensor:
    # round at the bottom: the tremble of the detector, half a pixel, is nothing to learn
    return (off.square().sum(-1) + _TREMBLE**2).sqrt().mean() - _TREMBLE


def masked_mse(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error where mask (B, 1, H, W) in 0..1 is set: of each sample of pred and truth
    (B, C, H, W), then their mean.

    A mean over all that the masks of a batch show would hang on which samples share a batch or a process.
    """
    squared, shown = ((pred - truth).square() * mask).sum((1, 2, 3)), mask.sum((1, 2, 3)) * pred.shape[1]
    return (squared / shown.clamp_min(1.0)).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the patch discriminator; its raw scores for true and generated pictures, any shape."""
    return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the generator: the discriminator's raw scores for generated pictures -> scalar."""
    return -fake.mean()
