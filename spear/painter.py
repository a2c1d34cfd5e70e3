"""Stage 2 at work, for rendering and for scores: references made ready once, then batches of faces painted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, nn

from spear.checkpoint import load_checkpoint
from spear.crop import MASK_ROW
from spear.errors import SpearError
from spear.nets.autoencoder import load_autoencoder
from spear.nets.blending import blend_mask
from spear.nets.int8 import has_int8, to_int8
from spear.nets.lm2face import (
    CELL,
    WHOLE,
    Lm2Face,
    Lm2FaceConfig,
    Painted,
    References,
    build_lm2face,
    image_tensor,
    sketch_tensor,
)  # fmt: skip
from spear.points import Array, nearest_mouths, spread_over_opening
from spear.pretrained.vae import DEFAULT as DEFAULT_VAE
from spear.pretrained.vae import load_kl_autoencoder
from spear.video import Frame

BATCH = 8
PRECISIONS = ("auto", "fp32", "bf16", "int8")


def half_precision(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Convolutions inside compute in bf16, where `computes_half` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_half(device, precision))


def computes_half(device: torch.device, precision: str = "auto") -> bool:
    """`auto`: where the device can (CPUs without avx512_bf16 emulate it, slower); `bf16` anywhere, else nowhere."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def check_precision(precision: str, light: bool = True) -> None:
    """Raises SpearError for what is none of `PRECISIONS`, or what this device or a net that is not light cannot do."""
    if precision not in PRECISIONS:
        raise SpearError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    if precision == "int8" and not light:
        raise SpearError("--precision int8 is for models of the small preset; leave --precision out")
    if precision == "int8" and not has_int8(PartialState().device):
        raise SpearError("--precision int8 wants a CPU with AVX-512 VNNI, beside a GPU --device cpu; leave it out")


def load_lm2face(path: Path, vae: str | None = None) -> Lm2Face:
    """A trained net with its autoencoder, frozen. Raises SpearError where file or autoencoder do not fit each other."""
    weights, about = load_checkpoint(path, "lm2face")
    try:
        config = Lm2FaceConfig(**about["config"])
    except TypeError as error:
        raise _another_version(path) from error
    autoencoder: Any = load_autoencoder() if config.light else load_kl_autoencoder(vae or DEFAULT_VAE)
    if autoencoder.identity() != config.vae:
        raise SpearError(
            f"{path} was trained in the latents of {config.vae}, here is {autoencoder.identity()}; "
            "train it again, or take the spear version or --vae that it was trained with"
        )
    net = build_lm2face(config, autoencoder)
    try:
        net.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:
        raise _another_version(path) from error
    return net.eval().requires_grad_(False)


def _another_version(path: Path) -> SpearError:
    return SpearError(
        f"{path} is of another version of spear, its net is built in another way; run `spear train-lm2face --restart`"
    )


class Painter:
    """Paints the lower face of one person from points; `net` is placed by Accelerate. Several threads may paint."""

    def __init__(
        self,
        net: Lm2Face,
        points: Array,
        read: Callable[[list[int]], NDArray[np.uint8]],
        precision: str = "auto",
        columns: slice = WHOLE,
    ) -> None:
        """points: (F, 131, 2) crop px of all frames that may be references; read: their crops (N, 256, 256, 3).

        precision: `auto` (int8 for the small preset on CPUs that have it, else bf16 where there is that), `fp32`,
        `bf16`, `int8`. columns: where only what the blend can show is wanted, its columns of cells
        (`blend_columns`); beside them the crops stay as they are. Raises SpearError as `check_precision` does.
        """
        self._device, self._columns = PartialState().device, columns
        check_precision(precision, net.config.light)
        int8 = precision == "int8" or (precision == "auto" and net.config.light and has_int8(self._device))
        half = computes_half(self._device, "auto" if int8 else precision)  # of references, which are made once
        self.precision = "int8" if int8 else "bf16" if half else "fp32"
        """What the convolutions of `net` compute in."""
        self.net = _halved(net) if half and net.config.light else net
        self.net.to(self._device)
        self.net.vae.to(self._device)
        chosen = spread_over_opening(points, min(net.config.bank, len(points)))
        self._bank = faces = points[chosen]
        with torch.inference_mode(), half_precision(self._device, "bf16" if half else "fp32"):
            tensors = (image_tensor(read(chosen)), torch.from_numpy(faces), sketch_tensor(faces))
            references = self.net.make_references(*(t[None].to(self._device) for t in tensors))
            self.references = self.net.with_features(references)
        if int8:
            self.net, self.references = _in_integers(net), self.references.floats()

    def paint(self, crops: list[Frame], driven: Array, own: Array) -> list[tuple[Frame, Array]]:
        """Faces for N frames: crops (256, 256, 3) uint8 of the ref, driven (N, 131, 2): its points with the predicted
        lower face, own (N, 131, 2): its points as detected. Returns crop and blend mask (256, 256) of each."""
        images, columns = np.stack(crops), self._columns
        with torch.inference_mode():
            lower = self.lower_faces(*self.inputs(images, driven))
            pixels = ((lower.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        images[:, self.net.config.shown_row :, columns.start * CELL : columns.stop * CELL] = pixels
        return [(face, blend_mask([a, b])) for face, a, b in zip(images, driven, own, strict=True)]

    def inputs(self, images: NDArray[np.uint8], driven: Array) -> tuple[References, Tensor, Tensor, Tensor]:
        """What the nets are given for crops (N, 256, 256, 3) and points (N, 131, 2), on the device: references,
        pictures (N, 3, 128, 256) in -1..1, sketches (N, 1, 256, 256) in 0..1, points."""
        which, nearness = (torch.from_numpy(v) for v in nearest_mouths(self._bank, driven, self.net.config.references))
        given = (image_tensor(images[:, :MASK_ROW]), sketch_tensor(driven), torch.from_numpy(driven))
        pictures, sketches, points = (value.to(self._device) for value in given)
        references = self.references.chosen(which.to(self._device), nearness.to(self._device))
        return references, pictures, sketches, points

    @torch.inference_mode()
    def lower_faces(self, references: References, pictures: Tensor, sketches: Tensor, points: Tensor) -> Tensor:
        """What the nets make of their inputs: (N, 3, h, w) about -1..1, from row `shown_row` down."""
        net = self.net
        with half_precision(self._device, self.precision):
            target = net.make_target(net.encode_masked(pictures), net.encode_sketch(sketches), points)
            painted: Painted = net(target, references, columns=self._columns)
            return painted.picture


def _in_integers(net: Lm2Face) -> Lm2Face:
    """A copy whose convolutions compute in 8-bit integers."""
    copied = copy.deepcopy(net)
    to_int8(copied)
    assert isinstance(copied.vae, nn.Module)
    to_int8(copied.vae)
    return copied


def _halved(net: Lm2Face) -> Lm2Face:
    """A copy whose convolutions are in bf16 already, which autocast would otherwise do again in every batch."""
    copied = copy.deepcopy(net)
    for part in (copied, copied.vae):
        for layer in part.modules() if isinstance(part, nn.Module) else ():
            if isinstance(layer, nn.Conv2d):
                layer.bfloat16()
    return copied


def with_lower_face(points: Array, lower: Array) -> Array:
    """The points (F, 131, 2) with their lower face replaced by (F, 57, 2)."""
    return np.concatenate([points[:, : points.shape[1] - lower.shape[1]], lower], axis=1)
