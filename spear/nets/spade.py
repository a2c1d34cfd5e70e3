"""SPADE (Park et al. 2019), own code from its equation: norm(x) * (1 + gamma(c)) + beta(c)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def start_at_zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Set weight and bias to zero: the layer adds nothing until it has learned something."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Spade(nn.Module):
    """Normalise x, then scale and shift every pixel by what the condition says there.

    x (B, C, H, W), condition (B, K, H, W) -> (B, C, H, W). gamma and beta start at zero: at first it only normalises.
    """

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.shared = nn.Sequential(nn.Conv2d(condition, hidden, 3, padding=1), nn.ReLU())
        self.gamma_beta = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        start_at_zero(self.gamma_beta)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B R, C, H, W), condition (B, K, H, W), the same for the R of a target -> (B R, C, H, W)."""
        gamma_beta = self.gamma_beta(self.shared(condition))
        if not torch.is_grad_enabled() and x.device.type == "cpu":
            return _modulated(x, gamma_beta, self.norm.eps)
        gamma, beta = gamma_beta.chunk(2, 1)
        if x.shape[0] != condition.shape[0]:  # several references of one target: its gamma and beta are computed once
            each = x.shape[0] // condition.shape[0]
            gamma, beta = gamma.repeat_interleave(each, 0), beta.repeat_interleave(each, 0)
        return self.norm(x) * (1 + gamma) + beta


def _modulated(x: Tensor, gamma_beta: Tensor, eps: float) -> Tensor:
    """What Spade computes from x (B * R, C, H, W) and gamma and beta (B, 2 C, H, W), for CPUs that need no gradient.

    InstanceNorm2d leaves the layout in which the convolutions compute, and everything after it then strides through
    memory: half of the time of a layer. Here rows of channels stay together, and values are rounded to x's type once.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2).float()
    rows = rows - rows.mean(1, keepdim=True)
    rows *= (rows.square().mean(1, keepdim=True) + eps).rsqrt()
    gamma, beta = gamma_beta.permute(0, 2, 3, 1).flatten(1, 2).float().chunk(2, -1)
    of_a_target = rows.unflatten(0, (len(gamma), -1))
    made = torch.addcmul(beta[:, None], of_a_target, 1 + gamma[:, None]).flatten(0, 1)
    return made.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class SpadeBlock(nn.Module):
    """Two SPADE layers, each before a 3x3 convolution, beside the identity: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.spade_1, self.spade_2 = (Spade(channels, condition, hidden) for _ in range(2))
        self.conv_1, self.conv_2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B R, C, H, W), condition (B, K, H, W), the same for the R of a target -> (B R, C, H, W)."""
        y = self.conv_1(nn.functional.leaky_relu(self.spade_1(x, condition), 0.2))
        return x + self.conv_2(nn.functional.leaky_relu(self.spade_2(y, condition), 0.2))


def warp(features: Tensor, flow: Tensor, mode: str = "bilinear", corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Sample features where the flow points: zero flow is the identity.

    features (B, C, H, W); flow (B, 2, h, w), x and y, in cells of the features, for the places whose first is in row
    and column `corner`. Beyond the edge the edge is repeated. mode: `bilinear`, or `bicubic` where softness would show.
    """
    features, flow = features.float(), flow.float()  # half precision would place samples half a cell off
    steps = [2 / max(side - 1, 1) for side in reversed(features.shape[-2:])]  # of a cell, where all is -1..1
    height, width = flow.shape[-2:]
    columns, rows = ((torch.arange(n, device=flow.device, dtype=flow.dtype) + first) * step - 1
                     for n, first, step in zip((width, height), reversed(corner), steps, strict=True))  # fmt: skip
    still = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
    place = torch.addcmul(still, flow, flow.new_tensor(steps)[:, None, None]).permute(0, 2, 3, 1)
    return nn.functional.grid_sample(features, place, mode=mode, padding_mode="border", align_corners=True)
