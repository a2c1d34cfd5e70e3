"""The patch discriminator of section 4.2: one score for every patch of a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 -> scores (B, 1, H/8, W/8); each score sees 38 x 38 px."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in range(3):
            layers += [spectral_norm(nn.Conv2d(channels, width << stage, 4, 2, 1)), nn.LeakyReLU(0.2)]
            channels = width << stage
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3, 1, 1)))

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (B, 3, H, W) in -1..1 -> (B, 1, H/8, W/8)."""
        return self.layers(pictures)


def around(pictures: Tensor, middles: Tensor, height: int, width: int) -> Tensor:
    """Windows of that size around places: pictures (B, 3, H, W), middles (B, 2) px, x and y -> (B, 3, height, width).

    A window that would reach beyond the picture is moved inside.
    """
    limit = torch.tensor([pictures.shape[-1] - width, pictures.shape[-2] - height], device=middles.device)
    corners = torch.minimum(
        (middles - torch.tensor([width / 2, height / 2], device=middles.device)).long().clamp_min(0), limit
    )
    return torch.stack(
        [p[:, y : y + height, x : x + width] for p, (x, y) in zip(pictures, corners.tolist(), strict=True)]
    )
