"""Stage 2 at work, for rendering and for scores: references made ready once, then batches of faces painted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from spear.face import Frame
from spear.nets.lm2face import Lm2Face, blend_mask, image_tensor, sketch_tensor
from spear.points import Array, spread_over_opening

BATCH = 8


def half_precision(device: torch.device) -> torch.autocast:
    """Convolutions inside compute in bf16, where the device can: CPUs without avx512_bf16 emulate it, slower."""
    if device.type == "cuda":
        pays = torch.cuda.is_bf16_supported()
    else:
        pays = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=pays)


class Painter:
    """Paints the lower face of one person from points; `net` is placed by Accelerate."""

    def __init__(self, net: Lm2Face, points: Array, read: Callable[[list[int]], NDArray[np.uint8]]) -> None:
        """points: (F, 131, 2) crop px of all frames that may be references; read: their crops (N, 256, 256, 3)."""
        self._device = PartialState().device
        self._net = net.to(self._device)
        net.vae.to(self._device)
        chosen = spread_over_opening(points, net.config.references)
        faces = points[chosen]
        with torch.inference_mode(), half_precision(self._device):
            tensors = (image_tensor(read(chosen)), torch.from_numpy(faces), sketch_tensor(faces))
            self._references = net.make_references(*(t[None].to(self._device) for t in tensors))

    def paint(self, crops: list[Frame], driven: Array, own: Array) -> list[tuple[Frame, Array]]:
        """Faces for N frames: crops (256, 256, 3) uint8 of the ref, driven (N, 131, 2): its points with the predicted
        lower face, own (N, 131, 2): its points as detected. Returns crop and blend mask (256, 256) of each."""
        count = len(crops)
        images = np.stack(crops)
        references = self._references._replace(**{
            name: value.expand(count, *value.shape[1:]) for name, value in self._references._asdict().items()
        })  # fmt: skip
        with torch.inference_mode(), half_precision(self._device):
            inputs = (image_tensor(images), torch.from_numpy(driven), sketch_tensor(driven))
            lower, _ = self._net(*(t.to(self._device) for t in inputs), references)
        lower = ((lower.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        faces = images.copy()
        faces[:, self._net.config.shown_row :] = lower
        return [(face, blend_mask([a, b])) for face, a, b in zip(faces, driven, own, strict=True)]


def with_lower_face(points: Array, lower: Array) -> Array:
    """The points (F, 131, 2) with their lower face replaced by (F, 57, 2)."""
    return np.concatenate([points[:, : points.shape[1] - lower.shape[1]], lower], axis=1)
