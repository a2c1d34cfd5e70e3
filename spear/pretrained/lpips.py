"""LPIPS v0.1 with AlexNet (Zhang et al. 2018, arXiv:1801.03924): how different two pictures look; torch only.

Each picture goes through five stages of an AlexNet trained on ImageNet; the features of a place are scaled to length 1,
their squared differences are weighted by a learned head, averaged over the places and added up over the stages.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spear.errors import SpearError
from spear.pretrained.state_dict import read_state_dict

ALEXNET_NAME = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_NAME}"
HEADS_NAME = "lpips_alex.pth"
HEADS_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth"
WIDTHS = (64, 192, 384, 256, 256)
"""Channels of the five stages that are compared."""
_TAPS = (1, 4, 7, 9, 11)
"""Where the stages end: the place of their ReLU among AlexNet's features."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, R G B, for pictures in -1..1; rounded so by LPIPS's authors."""
_EPSILON = 1e-10
_LEAST_SIDE = 31
"""Smaller pictures leave nothing after the second pool."""


class Lpips(nn.Module):
    """Two batches of pictures (B, 3, H, W) in -1..1 -> distances (B,). `features` is named as in torchvision's file."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleList([nn.Conv2d(width, 1, 1, bias=False) for width in WIDTHS])
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, pred: Tensor, truth: Tensor) -> Tensor:
        """pred, truth (B, 3, H, W) in -1..1 -> (B,), 0 for equal ones."""
        x, y = ((picture - self.shift) / self.scale for picture in (pred, truth))
        total, stage = x.new_zeros(len(x)), 0
        for place, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if place == _TAPS[stage]:
                total = total + self.heads[stage]((_unit(x) - _unit(y)) ** 2).mean(dim=(1, 2, 3))
                stage += 1
        return total

    @torch.inference_mode()
    def distance(self, pred: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Distances (B,) of pictures (B, H, W, 3) uint8 RGB; 0 where they are equal.

        Raises ValueError for other shapes or types, and for sides below 31 px.
        """
        if pred.ndim != 4 or pred.shape[-1] != 3 or pred.shape != truth.shape or min(pred.shape[1:3]) < _LEAST_SIDE:
            shapes = f"{pred.shape} and {truth.shape}"
            raise ValueError(f"pictures must be (B, H, W, 3) and equal with sides >= {_LEAST_SIDE}, not {shapes}")
        if pred.dtype != np.uint8 or truth.dtype != np.uint8:
            raise ValueError(f"pictures must be uint8, not {pred.dtype} and {truth.dtype}")
        distances: NDArray[np.float32] = self(self._tensor(pred), self._tensor(truth)).cpu().numpy()
        return distances

    def _tensor(self, pictures: NDArray[np.uint8]) -> Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.shift.device)
        return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def _unit(features: Tensor) -> Tensor:
    """Scale the features of each place to length 1; all zeros stay so."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


def find_lpips_weights() -> tuple[Path, Path]:
    """The files of AlexNet (torch hub's cache) and of the heads (an installed lpips package, else torch hub's cache).

    Imports nothing: the lpips package would bring torchvision. Raises SpearError naming what is absent and its place.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    alexnet, heads = folder / ALEXNET_NAME, _packaged_heads() or folder / HEADS_NAME
    wanted = ((alexnet, ALEXNET_URL), (heads, HEADS_URL))
    absent = [f"{url} to {path}" for path, url in wanted if not path.is_file()]
    if absent:
        raise SpearError(f"LPIPS has no weights; download {' and '.join(absent)}")
    return alexnet, heads


def _packaged_heads() -> Path | None:
    spec = importlib.util.find_spec("lpips")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "weights" / "v0.1" / "alex.pth"
        if path.is_file():
            return path
    return None


def load_lpips() -> Lpips:
    """The net with its weights, in eval mode and frozen; no pickled code runs.

    Raises SpearError where a file is absent, damaged, or holds other weights; never returns random weights.
    """
    alexnet, heads = find_lpips_weights()
    net = Lpips()
    weights = read_state_dict(alexnet, f"download {ALEXNET_URL} again").items()
    features = {name.removeprefix("features."): tensor for name, tensor in weights if name.startswith("features.")}
    _fill(net.features, features, alexnet, ALEXNET_URL)
    # lin0.model.1.weight .. lin4.model.1.weight: the 1x1 convolution stands behind a dropout there
    names = {f"lin{stage}.model.1.weight": f"{stage}.weight" for stage in range(len(WIDTHS))}
    lines = {
        names.get(name, name): tensor for name, tensor in read_state_dict(heads, f"download {HEADS_URL} again").items()
    }
    _fill(net.heads, lines, heads, HEADS_URL)
    return net.eval().requires_grad_(False)


def _fill(part: nn.Module, weights: dict[str, Tensor], path: Path, url: str) -> None:
    try:
        part.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise SpearError(f"{path} holds other weights than LPIPS v0.1 with AlexNet; download {url} again") from error
