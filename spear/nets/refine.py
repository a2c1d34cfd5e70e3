"""Small preset: what cells of 8 px lose comes back from the references' own pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spear.nets.autoencoder import Block
from spear.nets.spade import start_at_zero, warp

_PATCH = 4
"""Pixels of a patch are channels of one place: a quarter of the size, where convolutions are cheap."""
_MOSTLY_WARPED = 2.0
"""Logit of the share of warped pixels before any training."""


class Refine(nn.Module):
    """At every pixel: the shares of warped reference and decoded picture, and a correction."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        pixels = _PATCH * _PATCH
        self.inward = nn.Conv2d(2 * 3 * pixels + latent, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.outward = nn.Conv2d(width, (3 + 1) * pixels, 3, padding=1)
        start_at_zero(self.outward)

    def forward(self, decoded: Tensor, warped: Tensor, latent: Tensor) -> Tensor:
        """decoded, warped (B, 3, H, W) in -1..1, latent (B, C, H/8, W/8) that was decoded -> picture (B, 3, H, W)."""
        shuffled = (nn.functional.pixel_unshuffle(picture, _PATCH) for picture in (decoded, warped))
        seen = nn.functional.interpolate(latent, scale_factor=8 / _PATCH)
        out = self.outward(torch.relu(self.blocks(self.inward(torch.cat([*shuffled, seen], 1)))))
        out = nn.functional.pixel_shuffle(out, _PATCH).float()
        share = torch.sigmoid(out[:, 3:] + _MOSTLY_WARPED)
        return decoded.float() + share * (warped - decoded.float()) + out[:, :3]


def warp_pixels(images: Tensor, flow: Tensor, weight: Tensor, cell: int) -> Tensor:
    """The references' pixels in their new places, mixed: images (B, R, 3, H, W), flow (B, R, 2, H/k, W/k) in cells of
    `cell` px, weight (B, R, 1, H/k, W/k) -> (B, 3, H, W)."""
    shape, size = images.shape[:2], images.shape[-2:]
    spread = torch.cat([flow * cell, weight], 2).flatten(0, 1)
    spread = nn.functional.interpolate(spread, size=size, mode="bilinear", align_corners=False)
    # bicubic: bilinear sampling takes a fifth of the sharpness of lips
    warped = warp(images.flatten(0, 1), spread[:, :2], "bicubic") * spread[:, 2:]
    return warped.unflatten(0, shape).sum(1)
