"""Stage 2, landmarks to face (section 3.2): from pictures and points to the picture of the lower face.

Letters: B batch, R references, C latent channels, S sketch channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spear.clip import CROP
from spear.crop import MASK_ROW
from spear.nets.refine import Refine, warp_pixels
from spear.nets.spade_net import Aligned, SpadeNet, SpadeNetConfig, build_spade_net, landmark_flow
from spear.points import Array, draw_sketch

CELL = 8
"""Picture px to a latent cell, in both autoencoders."""
SIDE = CROP // CELL
WHOLE = slice(0, SIDE)
"""All columns of cells."""
FIRST_ROW = 12
"""Small preset: latent rows above are not touched by the mask; leaving them out saves a third of the work."""
_FINER = 2
"""Small preset: flow and weights of the references have cells of 4 px."""
BORDER = 2
"""Latent rows next to a cut that are decoded but not shown, encoded but not used: nothing is seen beyond the cut."""
_REFINE_WIDTH = 48
_DECODED_AT_ONCE = 4
"""Pictures, where memory is to be saved."""


class VAE(Protocol):
    """An image autoencoder with 8x8 px cells."""

    latent_channels: int

    def to(self, device: torch.device) -> Any:
        """Move the weights."""

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, 8 h, 8 w) in -1..1 -> (N, C, h, w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The way back."""
        ...

    def identity(self) -> str:
        """Equal for equal weights."""
        ...


@dataclass(frozen=True)
class Lm2FaceConfig:
    """vae: the identity of the autoencoder that the latents are of. light: the small preset's ways, else the paper's.
    bank: how many frames of a person are made references. references: how many of them, those with the mouth most like
    the target's, serve one frame.

    Light: the target's upper half is encoded alone (the mouth cannot leak), only latent rows from 12 on are computed,
    the sketch is unshuffled to latent size, the flow starts from the landmarks, and the references' pixels are warped
    beside their latents. Paper: masked target and sketches go through the VAE whole, the flow starts at zero.
    """

    vae: str
    latent: int
    width: int = 64
    blocks: int = 3
    references: int = 3
    bank: int = 24
    light: bool = True

    @classmethod
    def paper(cls, vae: str) -> Lm2FaceConfig:
        """Latents (4, 32, 32), one reference."""
        return cls(vae, latent=4, width=256, blocks=4, references=1, bank=1, light=False)

    def with_bank(self, count: int) -> Lm2FaceConfig:
        """The same with so many references; the paper's net has all of them serve every frame."""
        return replace(self, bank=count, references=min(count, Lm2FaceConfig.references) if self.light else count)

    @property
    def sketch(self) -> int:
        """Channels of a sketch as the net reads it."""
        return CELL * CELL if self.light else self.latent

    @property
    def first_row(self) -> int:
        """First latent row that is computed."""
        return FIRST_ROW if self.light else 0

    @property
    def shown_row(self) -> int:
        """First picture row of what the net returns."""
        return (FIRST_ROW + BORDER) * CELL if self.light else 0


class Target(NamedTuple):
    """What is known of a frame before it is painted: the latent of its masked picture (B, C, h, 32), its sketch
    (B, S, h, 32), its points (B, 131, 2) px."""

    masked: Tensor
    sketch: Tensor
    points: Tensor


class References(NamedTuple):
    """References made ready once: latents (B, R, C, h, 32), sketches (B, R, S, h, 32), points (B, R, 131, 2) px, images
    (B, R, 3, 8 h, 256) in -1..1, nearness (B, R) in 0..1: how much each is to serve, see `points.nearest_mouths`;
    where they serve many frames, features (B, R, width, h, 32): what the net's first layer makes of them."""

    latents: Tensor
    sketches: Tensor
    points: Tensor
    images: Tensor
    nearness: Tensor
    features: Tensor | None = None

    def chosen(self, which: Tensor, nearness: Tensor) -> References:
        """Of one bank of N (B = 1) those that serve each of F frames: which (F, R) of the bank, nearness (F, R)."""
        latents, sketches, points, images = (value[0, which] for value in self[:4])
        features = None if self.features is None else self.features[0, which]
        return References(latents, sketches, points, images, nearness, features)

    def floats(self) -> References:
        """The same in fp32."""
        return References(*(value.float() for value in self if value is not None))


class Painted(NamedTuple):
    """What the net makes of targets: latent (B, C, h, 32), what was aligned, picture (b, 3, h, 256) from row
    `config.shown_row` down, and in the small preset the references' warped pixels of the same rows."""

    latent: Tensor
    aligned: Aligned
    picture: Tensor
    warped: Tensor | None


class Lm2Face(nn.Module):
    """The frozen autoencoder, SPADE-Net and, in the small preset, what refines its picture; the autoencoder's weights
    are neither trained nor saved."""

    def __init__(self, config: Lm2FaceConfig, vae: VAE, spade_net: SpadeNet, refine: Refine | None) -> None:
        super().__init__()
        self.config = config
        self.spade_net, self.refine = spade_net, refine
        self._vae = [vae]  # in a list, so that it is no submodule: neither trained, averaged nor saved
        self.saves_memory = False
        """In training, compute activations of net and decoder twice instead of keeping them."""

    @property
    def vae(self) -> VAE:
        """The frozen autoencoder."""
        return self._vae[0]

    @torch.no_grad()
    def encode_picture(self, images: Tensor) -> Tensor:
        """Latents of whole pictures (N, 3, 256, 256) in -1..1, from row `config.first_row` down: (N, C, h, 32)."""
        return self._encode_rows(images)

    @torch.no_grad()
    def encode_masked(self, images: Tensor) -> Tensor:
        """Latents of pictures (N, 3, 256, 256) in -1..1 whose rows from 128 on are never looked at: equation 1's
        E(M(I)), (N, C, 32, 32); small preset: of the rows between `config.first_row` and the mask, (N, C, 4, 32)."""
        upper = images[..., :MASK_ROW, :]
        return self._encode_rows(upper if self.config.light else nn.functional.pad(upper, (0, 0, 0, CROP - MASK_ROW)))

    @torch.no_grad()
    def encode_sketch(self, sketches: Tensor) -> Tensor:
        """Sketches (N, 1, 256, 256) in 0..1 as the net reads them: (N, S, h, 32)."""
        if self.config.light:
            return nn.functional.pixel_unshuffle(sketches, CELL)[..., self.config.first_row :, :]
        return self.vae.encode(sketches.expand(-1, 3, -1, -1) * 2 - 1)

    def _encode_rows(self, images: Tensor) -> Tensor:
        top = self.config.first_row
        above = max(top - BORDER, 0)  # rows above are cut off before they are encoded, but for the border
        return self.vae.encode(images[..., above * CELL :, :])[..., top - above :, :]

    def make_target(self, masked: Tensor, sketch: Tensor, points: Tensor) -> Target:
        """masked: (B, C, ., 32) as `encode_masked` gives it, sketch: (B, S, h, 32), points: (B, 131, 2) px."""
        return Target(nn.functional.pad(masked, (0, 0, 0, sketch.shape[-2] - masked.shape[-2])), sketch, points)

    def make_references(
        self, images: Tensor, points: Tensor, sketches: Tensor, nearness: Tensor | None = None
    ) -> References:
        """images (B, R, 3, 256, 256) in -1..1, points (B, R, 131, 2), sketches (B, R, 1, 256, 256) in 0..1, nearness
        (B, R), all 1 if left out."""
        latents, drawn = (
            encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
            for encode, pictures in ((self.encode_picture, images), (self.encode_sketch, sketches))
        )
        return self.gather_references(latents, drawn, points, images, nearness)

    def gather_references(
        self, latents: Tensor, sketches: Tensor, points: Tensor, images: Tensor, nearness: Tensor | None = None
    ) -> References:
        """The same from latents and sketches that are encoded already."""
        nearness = images.new_ones(images.shape[:2]) if nearness is None else nearness
        return References(latents, sketches, points, images[..., self.config.first_row * CELL :, :], nearness)

    def with_features(self, references: References) -> References:
        """The same references with what the net makes of them whatever the target: they are to serve many frames."""
        features = self.spade_net.align.features(references.latents, references.sketches)
        return references._replace(features=features)

    def forward(
        self, target: Target, references: References, painted: int | None = None, columns: slice = WHOLE
    ) -> Painted:
        """painted: only so many of the targets are decoded to pictures, all if left out. columns: of cells, that are
        decoded; in the small preset those farther beside cost nothing.
        """
        top = self.config.first_row
        known = torch.zeros_like(target.masked[:, :1])
        known[..., : MASK_ROW // CELL - top, :] = 1
        if self.config.light:
            grid = ((SIDE - top) * _FINER, SIDE * _FINER, CELL // _FINER, top * _FINER)
            flow = landmark_flow(references.points, target.points, *grid) / CELL
        else:
            flow = target.masked.new_zeros(*references.latents.shape[:2], 2, SIDE, SIDE)
        inputs = (target.masked, known, target.sketch, references.latents, references.sketches, flow)
        latent, aligned = self._twice(self.spade_net, *inputs, references.nearness, references.features)
        return Painted(latent, aligned, *self._picture(latent[:painted], aligned, references.images[:painted], columns))

    def _picture(
        self, latent: Tensor, aligned: Aligned, images: Tensor, columns: slice
    ) -> tuple[Tensor, Tensor | None]:
        cut = self.config.shown_row // CELL - self.config.first_row
        first, last = max(columns.start - BORDER, 0), min(columns.stop + BORDER, SIDE)
        if self.refine is None:
            first, last = 0, SIDE
        latent = latent[..., first:last]
        parts = latent.split(_DECODED_AT_ONCE if self.saves_memory else len(latent))
        decoded = torch.cat([self._twice(self.vae.decode, part) for part in parts])[..., cut * CELL :, :]
        shown = slice((columns.start - first) * CELL, (columns.stop - first) * CELL)
        if self.refine is None:
            return decoded[..., shown], None
        flow, weight = aligned.flow[: len(latent)], aligned.weight[: len(latent)]
        warped = warp_pixels(images, flow, weight, CELL, slice(cut * CELL, None), slice(first * CELL, last * CELL))
        return self.refine(decoded, warped, latent[..., cut:, :])[..., shown], warped[..., shown]

    def _twice(self, compute: Callable[..., Any], *inputs: Tensor | None) -> Any:
        if self.saves_memory and torch.is_grad_enabled():
            return checkpoint(compute, *inputs, use_reentrant=False)
        return compute(*inputs)


def build_lm2face(config: Lm2FaceConfig, vae: VAE) -> Lm2Face:
    """The net for a config, with fresh weights. Raises ValueError where the autoencoder has other latents."""
    if vae.latent_channels != config.latent:
        raise ValueError(f"the autoencoder has {vae.latent_channels} latent channels, the net wants {config.latent}")
    finer = _FINER if config.light else 1
    spade_net = build_spade_net(SpadeNetConfig(config.latent, config.sketch, config.width, config.blocks, finer))
    net = Lm2Face(config, vae, spade_net, Refine(config.latent, _REFINE_WIDTH) if config.light else None)
    # the layout that CPUs and GPUs convolve fastest in: a fifth less time on two cores
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def sketch_tensor(points: Array) -> Tensor:
    """Sketches as the net takes them: points (N, 131, 2) crop px -> (N, 1, 256, 256) float32 in 0..1."""
    return torch.from_numpy(np.stack([draw_sketch(p, CROP) for p in points]))[:, None].float() / 255


def image_tensor(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1
