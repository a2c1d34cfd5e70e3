"""The patch discriminator of section 4.2: one score for every patch of a picture."""

from __future__ import annotations

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
        return self.layers(pictures)
