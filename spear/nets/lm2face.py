"""Stage 2, landmarks to face (section 3.2): from pictures and points to the picture of the lower face.

Letters: B batch, R references, C latent channels, S sketch channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spear.clip import CROP
from spear.face import MASK_ROW
from spear.nets.spade_net import Aligned, SpadeNet, SpadeNetConfig, build_spade_net, landmark_flow
from spear.points import OVAL, Array, draw_sketch

CELL = 8
"""Picture px to a latent cell, in both autoencoders."""
SIDE = CROP // CELL
_FIRST_ROW = 12
"""Small preset: latent rows above are not touched by the mask; leaving them out saves a third of the work."""
_BORDER = 2
"""Latent rows next to a cut that are decoded but not shown: the decoder sees nothing beyond the cut."""
_HULL_SCALE = np.array([0.94, 1.03], np.float32)
"""The blend stays inside the cheeks, where hair and background begin, and reaches a little below the chin."""


class VAE(Protocol):
    """An image autoencoder with 8x8 px cells."""

    latent_channels: int

    def to(self, device: torch.device) -> Any: ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def identity(self) -> str: ...


@dataclass(frozen=True)
class Lm2FaceConfig:
    """vae: the identity of the autoencoder that the latents are of. light: the small preset's ways, else the paper's.

    Light: the target's upper half is encoded alone (the mouth cannot leak), only latent rows from 12 on are computed,
    the sketch is unshuffled to latent size, the flow starts from the landmarks. Paper: masked target and sketches go
    through the VAE whole, the flow starts at zero.
    """

    vae: str
    latent: int
    width: int = 64
    blocks: int = 3
    references: int = 4
    light: bool = True

    @classmethod
    def paper(cls, vae: str) -> Lm2FaceConfig:
        """Latents (4, 32, 32), one reference."""
        return cls(vae, latent=4, width=256, blocks=4, references=1, light=False)

    @property
    def sketch(self) -> int:
        return CELL * CELL if self.light else self.latent

    @property
    def first_row(self) -> int:
        return _FIRST_ROW if self.light else 0

    @property
    def shown_row(self) -> int:
        """First picture row of what the net returns."""
        return (_FIRST_ROW + _BORDER) * CELL if self.light else 0


class References(NamedTuple):
    """References made ready once: latents (B, R, C, h, 32), sketches (B, R, S, h, 32), points (B, R, 131, 2) px."""

    latents: Tensor
    sketches: Tensor
    points: Tensor


class Lm2Face(nn.Module):
    """The frozen autoencoder and SPADE-Net together; only the latter's weights are trained and saved."""

    def __init__(self, config: Lm2FaceConfig, vae: VAE, spade_net: SpadeNet) -> None:
        super().__init__()
        self.config = config
        self.spade_net = spade_net
        self._vae = [vae]  # in a list, so that it is no submodule: neither trained, averaged nor saved

    @property
    def vae(self) -> VAE:
        return self._vae[0]

    def make_references(self, images: Tensor, points: Tensor, sketches: Tensor) -> References:
        """images (B, R, 3, 256, 256) in -1..1, points (B, R, 131, 2), sketches (B, R, 1, 256, 256) in 0..1."""
        count = images.shape[:2]
        with torch.no_grad():
            latents = self.vae.encode(images.flatten(0, 1)).unflatten(0, count)
            drawn = self._embed(sketches.flatten(0, 1)).unflatten(0, count)
        top = self.config.first_row
        return References(latents[..., top:, :], drawn[..., top:, :], points)

    def forward(self, target: Tensor, points: Tensor, sketch: Tensor, references: References) -> tuple[Tensor, Aligned]:
        """target (B, 3, 256, 256) in -1..1, of which the rows from 128 on are never looked at; points (B, 131, 2) px;
        sketch (B, 1, 256, 256) in 0..1. Returns the picture from row `config.shown_row` down, and what was aligned.
        """
        top = self.config.first_row
        with torch.no_grad():
            masked = self._encode_masked(target)[..., top:, :]
            drawn = self._embed(sketch)[..., top:, :]
        known = torch.zeros_like(masked[:, :1])
        known[..., : MASK_ROW // CELL - top, :] = 1
        rows = SIDE - top
        if self.config.light:
            flow = landmark_flow(references.points, points, rows, SIDE, CELL, top)
        else:
            flow = masked.new_zeros(*references.latents.shape[:2], 2, rows, SIDE)
        latent, aligned = self.spade_net(masked, known, drawn, references.latents, references.sketches, flow)
        return self.vae.decode(latent)[..., self.config.shown_row - top * CELL :, :], aligned

    def _encode_masked(self, target: Tensor) -> Tensor:
        upper = target[..., :MASK_ROW, :]
        below = (0, 0, 0, CROP - MASK_ROW)
        if self.config.light:
            return nn.functional.pad(self.vae.encode(upper), tuple(b // CELL for b in below))
        return self.vae.encode(nn.functional.pad(upper, below))

    def _embed(self, sketch: Tensor) -> Tensor:
        if self.config.light:
            return nn.functional.pixel_unshuffle(sketch, CELL)
        return self.vae.encode(sketch.expand(-1, 3, -1, -1) * 2 - 1)


def build_lm2face(config: Lm2FaceConfig, vae: VAE) -> Lm2Face:
    """The net for a config, with fresh weights. Raises ValueError where the autoencoder has other latents."""
    if vae.latent_channels != config.latent:
        raise ValueError(f"the autoencoder has {vae.latent_channels} latent channels, the net wants {config.latent}")
    net = SpadeNetConfig(config.latent, config.sketch, config.width, config.blocks)
    # the layout that CPUs and GPUs convolve fastest in: a fifth less time on two cores
    return Lm2Face(config, vae, build_spade_net(net)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def sketch_tensor(points: Array) -> Tensor:
    """Sketches as the net takes them: points (N, 131, 2) crop px -> (N, 1, 256, 256) float32 in 0..1."""
    return torch.from_numpy(np.stack([draw_sketch(p, CROP) for p in points]))[:, None].float() / 255


def image_tensor(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def blend_mask(faces: list[Array]) -> Array:
    """Where the generated picture replaces the true one: a feathered hull of the lower faces, (256, 256) in 0..1.

    faces: (131, 2) crop px each; the predicted face and the one in the frame, since the old jaw must be covered too.
    The hull reaches from the nose's base to a little below the jaw; its edge fades over 10 px, so no rectangle shows.
    """
    canvas = np.zeros((CROP, CROP), np.uint8)
    for points in faces:
        outline = points[OVAL[3:-3]]
        middle = np.array([outline[:, 0].mean(), MASK_ROW], np.float32)
        hull = (outline - middle) * _HULL_SCALE + middle
        cv2.fillConvexPoly(canvas, cv2.convexHull(np.round(hull).astype(np.int32)), 255)
    canvas[: MASK_ROW - 2] = 0
    canvas[-12:] = canvas[:, :12] = canvas[:, -12:] = 0  # a jaw at the crop's edge must fade inside it, too
    soft = cv2.GaussianBlur(canvas, (0, 0), 5.0).astype(np.float32) / 255
    soft[: (_FIRST_ROW + _BORDER) * CELL] = 0
    return soft


def composite(generated: Tensor, target: Tensor, mask: Tensor, shown_row: int) -> Tensor:
    """Blend in the crop: generated (B, 3, h, 256) from `shown_row` down, target and mask (B, ., 256, 256)."""
    lower, weight = target[..., shown_row:, :], mask[..., shown_row:, :]
    return lower + weight * (generated - lower)
