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
        pictures = nn.functional.pixel_unshuffle(torch.cat([decoded, warped.to(decoded.dtype)], 1), _PATCH)
        seen = nn.functional.interpolate(latent, scale_factor=8 / _PATCH)
        out = self.outward(torch.relu(self.blocks(self.inward(torch.cat([pictures, seen], 1)))))
        out = nn.functional.pixel_shuffle(out, _PATCH).float()
        share = torch.sigmoid(out[:, 3:] + _MOSTLY_WARPED)
        return decoded.float() + share * (warped - decoded.float()) + out[:, :3]


def warp_pixels(
    images: Tensor, flow: Tensor, weight: Tensor, cell: int, rows: slice = slice(None), columns: slice = slice(None)
) -> Tensor:
    """The references' pixels in their new places, mixed: images (B, R, 3, H, W), flow (B, R, 2, H/k, W/k) in cells of
    `cell` px, weight (B, R, 1, H/k, W/k) -> the rows and columns asked for of (B, 3, H, W)."""
    shape, device = images.shape[:2], images.device
    spread = torch.cat([flow * cell, weight], 2).flatten(0, 1).float()
    # as matrix products, of the part that is wanted: interpolate would first change the layout, which takes longer
    down = _stretched(spread.shape[-2], images.shape[-2], device)[rows]
    across = _stretched(spread.shape[-1], images.shape[-1], device)[columns]
    with torch.autocast(device.type, enabled=False):
        spread = down @ (spread @ across.T)
    # bicubic: bilinear sampling takes a fifth of the sharpness of lips
    corner = (rows.start or 0, columns.start or 0)
    warped = warp(images.flatten(0, 1), spread[:, :2], "bicubic", corner).unflatten(0, shape)
    weights = spread[:, 2:].unflatten(0, shape)
    mixed = warped[:, 0] * weights[:, 0]
    for other in range(1, shape[1]):  # a product of all and its sum would go through memory twice
        mixed = torch.addcmul(mixed, warped[:, other], weights[:, other])
    return mixed


def _stretched(cells: int, pixels: int, device: torch.device) -> Tensor:
    """The matrix (pixels, cells) that interpolates linearly between the middles of cells."""
    one = torch.eye(cells, device=device)[None]
    return nn.functional.interpolate(one, size=pixels, mode="linear", align_corners=False)[0].T
