"""Equations 5 to 8 of the paper (section 4.2). Letters: B batch, T frames, N points."""

from __future__ import annotations

import torch
from torch import Tensor


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


def masked_mse(pred: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error where mask (B, 1, H, W) in 0..1 is set; pred, truth: (B, 3, H, W)."""
    return ((pred - truth).square() * mask).sum() / (mask.sum() * pred.shape[1]).clamp_min(1.0)


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the patch discriminator; its raw scores for true and generated pictures, any shape."""
    return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the generator: the discriminator's raw scores for generated pictures -> scalar."""
    return -fake.mean()
