"""The InceptionV3 of FID: 2048 features of a picture, from the weight file that pytorch-fid publishes; torch only.

It is the network of Szegedy et al. (2015, arXiv:1512.00567) as TensorFlow ran it in 2015 (Heusel et al. 2018): its
average pools do not count the padding, and its last block pools by maximum. Numbers from torchvision's ImageNet weights
are no FID.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spear.errors import SpearError
from spear.pretrained.state_dict import read_state_dict

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256_PREFIX = "6726825d"
"""The file's own name says how its SHA-256 begins."""
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}"
FEATURES = 2048
_SIDE = 299

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]
"""One convolution: the name of its weights, its output channels, its kernel."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(
        self, channels: int, out: int, kernel: Kernel, stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, out, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """An Inception block: chains of convolutions side by side, then a pooled branch, joined along the channels.

    In a chain a step may be a list: its convolutions then all see the same input and end the chain side by side.
    halve=True takes two pixels at a time in the last step of each chain and in the pool, which then has no convolution.
    """

    def __init__(
        self,
        channels: int,
        chains: list[list[Step | list[Step]]],
        pooled: int = 0,
        halve: bool = False,
        max_pool: bool = False,
    ) -> None:
        super().__init__()
        self._chains: list[list[list[str]]] = []
        for chain in chains:
            width, names = channels, []
            for place, step in enumerate(chain):
                split = step if isinstance(step, list) else [step]
                down = halve and place == len(chain) - 1
                for name, out, kernel in split:
                    self.add_module(name, ConvNorm(width, out, kernel, 2 if down else 1, 0 if down else _same(kernel)))
                width = split[0][1]
                names.append([name for name, _, _ in split])
            self._chains.append(names)
        self._halve, self._max_pool = halve, max_pool
        if not halve:
            self.branch_pool = ConvNorm(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, C', H', W'), all branches joined."""
        parts: list[Tensor] = []
        for chain in self._chains:
            ends = [x]
            for names in chain:
                ends = [self.get_submodule(name)(ends[0]) for name in names]
            parts += ends
        return torch.cat([*parts, self._pool(x)], dim=1)

    def _pool(self, x: Tensor) -> Tensor:
        if self._halve:
            return F.max_pool2d(x, 3, stride=2)
        if self._max_pool:
            return self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
        return self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))


def _same(kernel: Kernel) -> tuple[int, int]:
    """Padding that keeps the size."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    return high // 2, wide // 2


def _grid35(channels: int, pooled: int) -> Mixed:
    double: list[Step | list[Step]] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    return Mixed(channels, [[("branch1x1", 64, 1)], [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)], double], pooled)


def _to_grid17(channels: int) -> Mixed:
    double: list[Step | list[Step]] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    return Mixed(channels, [[("branch3x3", 384, 3)], double], halve=True)


def _grid17(channels: int, inner: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    single: list[Step | list[Step]] = [
        ("branch7x7_1", inner, 1), ("branch7x7_2", inner, row), ("branch7x7_3", 192, column),
    ]  # fmt: skip
    double: list[Step | list[Step]] = [
        ("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, column), ("branch7x7dbl_3", inner, row),
        ("branch7x7dbl_4", inner, column), ("branch7x7dbl_5", 192, row),
    ]  # fmt: skip
    return Mixed(channels, [[("branch1x1", 192, 1)], single, double], pooled=192)


def _to_grid8(channels: int) -> Mixed:
    long: list[Step | list[Step]] = [
        ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3),
    ]  # fmt: skip
    return Mixed(channels, [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)], long], halve=True)


def _grid8(channels: int, max_pool: bool) -> Mixed:
    single: list[Step | list[Step]] = [
        ("branch3x3_1", 384, 1),
        [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
    ]
    double: list[Step | list[Step]] = [
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
    ]
    return Mixed(channels, [[("branch1x1", 320, 1)], single, double], pooled=192, max_pool=max_pool)


class Inception(nn.Module):
    """Pictures (B, 3, H, W) float in 0..1 -> features (B, 2048). Its parts are named as in the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = _grid35(192, 32)
        self.Mixed_5c = _grid35(256, 64)
        self.Mixed_5d = _grid35(288, 64)
        self.Mixed_6a = _to_grid17(288)
        self.Mixed_6b = _grid17(768, 128)
        self.Mixed_6c = _grid17(768, 160)
        self.Mixed_6d = _grid17(768, 160)
        self.Mixed_6e = _grid17(768, 192)
        self.Mixed_7a = _to_grid8(768)
        self.Mixed_7b = _grid8(1280, max_pool=False)
        self.Mixed_7c = _grid8(2048, max_pool=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (B, 3, H, W) in 0..1 -> (B, 2048)."""
        x = F.interpolate(pictures, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))

    @torch.inference_mode()
    def embed(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, 2048) of pictures (B, H, W, 3) uint8 RGB."""
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.Conv2d_1a_3x3.conv.weight.device)
        features: NDArray[np.float32] = self(batch.permute(0, 3, 1, 2).float() / 255).cpu().numpy()
        return features


def find_inception_weights(path: Path | None = None) -> Path:
    """The weight file: `path` if given, else in torch hub's cache, where pytorch-fid keeps it. SpearError if absent."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME if path is None else Path(path)
    if not place.is_file():
        raise SpearError(
            f"no Inception weights at {place}, FID needs them; download {WEIGHTS_URL} and put it there, "
            "or give it with `--inception-weights FILE`"
        )
    return place


def load_inception(path: Path | None = None) -> Inception:
    """The FID network with its weights, in eval mode and frozen; no pickled code runs.

    Raises SpearError where the file is absent, damaged, or holds other weights; never returns random weights.
    """
    place = find_inception_weights(path)
    advice = f"give pytorch-fid's {WEIGHTS_NAME} with `--inception-weights FILE`"
    weights = read_state_dict(place, advice)
    for name in ("fc.weight", "fc.bias"):  # the classifier, which FID does not use
        weights.pop(name, None)
    net = Inception()
    try:
        net.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise SpearError(f"{place} holds other weights than the FID InceptionV3; {advice}") from error
    return net.eval().requires_grad_(False)
