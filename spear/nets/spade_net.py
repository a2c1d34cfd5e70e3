"""SPADE-Net (section 3.2.2): align references to the target's landmarks, then paint the target's latent.

Letters: B batch, R references, C latent channels, S sketch channels, H x W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear.nets.spade import SpadeBlock, start_at_zero, warp


@dataclass(frozen=True)
class SpadeNetConfig:
    """latent, sketch: channels in; width: channels inside; blocks: N of the paper, in each of the two modules."""

    latent: int
    sketch: int
    width: int = 64
    blocks: int = 3


class Aligned(NamedTuple):
    """What the first module hands on, equation 2: flow (B, R, 2, H, W), weight of each reference (B, R, 1, H, W),
    warped SPADE feature (B, width, H, W), warped reference latent (B, C, H, W)."""

    flow: Tensor
    weight: Tensor
    feature: Tensor
    latent: Tensor


class Align(nn.Module):
    """G1, equation 2: references and their sketches, conditioned on the target's sketch -> flow, then both warped."""

    def __init__(self, config: SpadeNetConfig) -> None:
        super().__init__()
        self.inward = nn.Conv2d(config.latent + config.sketch, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(SpadeBlock(config.width, config.sketch, config.width) for _ in range(config.blocks))
        self.to_flow = nn.Conv2d(config.width, 3, 3, padding=1)
        start_at_zero(self.to_flow)

    def forward(self, latents: Tensor, sketches: Tensor, target_sketch: Tensor, first_flow: Tensor) -> Aligned:
        """latents (B, R, C, H, W), sketches (B, R, S, H, W), target_sketch (B, S, H, W), first_flow (B, R, 2, H, W):
        the displacement that the landmarks tell, to which the net adds what it learned."""
        shape = latents.shape[:2]
        x = self.inward(torch.cat([latents, sketches], 2).flatten(0, 1))
        for block in self.blocks:
            x = block(x, target_sketch)
        out = self.to_flow(x)
        flow = first_flow.flatten(0, 1) + 0.1 * out[:, :2]
        weight = out[:, 2:].unflatten(0, shape).softmax(1)
        warped = warp(torch.cat([x, latents.flatten(0, 1)], 1), flow).unflatten(0, shape)
        mixed = (warped * weight).sum(1)
        width = x.shape[1]
        return Aligned(flow.unflatten(0, shape), weight, mixed[:, :width], mixed[:, width:])


class Paint(nn.Module):
    """G2, equation 3: the masked target and its sketch, conditioned on the warped feature, in the last block on the
    warped reference latent -> the target's latent. Its output is added to that latent, so that it starts as a warp."""

    def __init__(self, config: SpadeNetConfig) -> None:
        super().__init__()
        self.inward = nn.Conv2d(config.latent + 1 + config.sketch, config.width, 3, padding=1)
        conditions = [config.width] * (config.blocks - 1) + [config.latent]
        self.blocks = nn.ModuleList(SpadeBlock(config.width, condition, config.width) for condition in conditions)
        self.outward = nn.Conv2d(config.width, config.latent, 3, padding=1)
        start_at_zero(self.outward)

    def forward(self, masked: Tensor, known: Tensor, sketch: Tensor, aligned: Aligned) -> Tensor:
        """masked (B, C, H, W), known (B, 1, H, W): 1 where the target is seen, sketch (B, S, H, W) -> (B, C, H, W)."""
        x = self.inward(torch.cat([masked, known, sketch], 1))
        for block in self.blocks[:-1]:
            x = block(x, aligned.feature)
        x = self.blocks[-1](x, aligned.latent)
        return aligned.latent + self.outward(nn.functional.leaky_relu(x, 0.2))


class SpadeNet(nn.Module):
    """Align, then paint (Figure 2)."""

    def __init__(self, align: Align, paint: Paint) -> None:
        super().__init__()
        self.align, self.paint = align, paint

    def forward(
        self,
        masked: Tensor,
        known: Tensor,
        sketch: Tensor,
        ref_latents: Tensor,
        ref_sketches: Tensor,
        first_flow: Tensor,
    ) -> tuple[Tensor, Aligned]:
        """Shapes as in Align and Paint. Returns the target's latent (B, C, H, W) and the aligned references."""
        aligned = self.align(ref_latents, ref_sketches, sketch, first_flow)
        return self.paint(masked, known, sketch, aligned), aligned


def build_spade_net(config: SpadeNetConfig) -> SpadeNet:
    """The net for a config, with fresh weights."""
    return SpadeNet(Align(config), Paint(config))


def landmark_flow(references: Tensor, targets: Tensor, rows: int, columns: int, cell: int, top: int = 0) -> Tensor:
    """The displacement from target to reference that the landmarks tell, spread over the latent grid.

    references (B, R, P, 2) and targets (B, P, 2) in crop px; a cell of the grid is `cell` px wide, the first row is row
    `top` of the whole grid. At a grid point p it is the mean of reference - target over the points, with weights
    exp(-|p - target|^2 / (2 * 14^2)), denominator + 0.08, so that it fades to zero away from the face.
    Returns (B, R, 2, rows, columns) in units of half the grid, as `warp` takes it.
    """
    device = targets.device
    y = (torch.arange(rows, device=device) + top + 0.5) * cell - 0.5
    x = (torch.arange(columns, device=device) + 0.5) * cell - 0.5
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 1, 2)
    weight = torch.exp(-(grid - targets[:, None]).square().sum(-1) / (2 * 14.0**2))  # (B, rows * columns, P)
    weight = weight / (weight.sum(-1, keepdim=True) + 0.08)
    moved = torch.einsum("bgp,brpc->brcg", weight, references - targets[:, None])
    scale = torch.tensor([2 / (columns - 1), 2 / (rows - 1)], device=device) / cell
    return (moved * scale[:, None]).unflatten(-1, (rows, columns))
