"""Frozen feature nets for the perceptual loss (section 4.2: computed in the latent space of a pretrained network)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spear.errors import SpearError
from spear.nets.autoencoder import Autoencoder

VGG19_FILE = "vgg19-dcbb9e9d.pth"
_VGG19: list[int | str] = [
    64,
    64,
    "M",
    128,
    128,
    "M",
    256,
    256,
    256,
    256,
    "M",
    512,
    512,
    512,
    512,
    "M",
    512,
    512,
    512,
    512,
]
_VGG19_TAPS = (1, 6, 11, 20, 29)  # relu1_1, 2_1, 3_1, 4_1, 5_1
_MOBILE = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
]  # expansion, width, blocks, stride
_MOBILE_TAPS = (1, 3, 6, 10, 13)


class PerceptualLoss(nn.Module):
    """Mean absolute difference of a frozen net's features, each scaled by its mean size in the true picture."""

    def __init__(self, stages: Sequence[nn.Module], mean: Sequence[float], std: Sequence[float]) -> None:
        """stages: applied in turn, each one's output is compared; mean, std: how the net wants pictures in 0..1."""
        super().__init__()
        self.stages = nn.ModuleList(stages).eval().requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stay in eval mode: frozen means frozen."""
        return super().train(False)

    def forward(self, generated: Tensor, truth: Tensor) -> Tensor:
        """Pictures in -1..1, (B, 3, H, W) each -> scalar."""
        x, y = (((picture + 1) / 2 - self.mean) / self.std for picture in (generated, truth))
        total = x.new_zeros(())
        for stage in self.stages:
            x = stage(x)
            with torch.no_grad():
                y = stage(y)
            off, size = (value.abs().mean((1, 2, 3)) for value in (x - y, y))
            total = total + (off / size.clamp_min(1e-6)).mean()
        return total / len(self.stages)


def autoencoder_perceptual(net: Autoencoder) -> PerceptualLoss:
    """Features of the autoencoder that ships: nothing to download."""
    return PerceptualLoss([net.fine, net.coarse, net.to_latent], mean=(0.5,) * 3, std=(0.5,) * 3)


def load_perceptual(path: Path) -> PerceptualLoss:
    """VGG19 or MobileNetV2 with torchvision's key names, told apart by their keys. Raises SpearError."""
    if not path.is_file():
        raise SpearError(
            f"{path} is absent; give torchvision's {VGG19_FILE} or mobilenet_v2-b0353104.pth with --perceptual"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        net, taps = (_vgg19(), _VGG19_TAPS) if "features.0.bias" in weights else (_mobilenet_v2(), _MOBILE_TAPS)
        wanted = net.state_dict()
        net.load_state_dict({name: weights[f"features.{name}"].float() for name in wanted})
    except (KeyError, RuntimeError, AttributeError, TypeError, EOFError, ValueError) as error:
        raise SpearError(
            f"{path} holds neither torchvision's VGG19 nor its MobileNetV2; give one of these state dicts"
        ) from error
    except Exception as error:  # weights_only refuses pickled code with an UnpicklingError
        raise SpearError(
            f"{path} is not a plain state dict ({type(error).__name__}); give torchvision's file"
        ) from error
    stages = [net[a:b] for a, b in zip([0, *(t + 1 for t in taps)], (t + 1 for t in taps), strict=False)]
    return PerceptualLoss(stages, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def find_vgg19() -> Path:
    """Where torch hub keeps VGG19."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG19_FILE


def _vgg19() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG19:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers[: _VGG19_TAPS[-1] + 1])


def _mobilenet_v2() -> nn.Sequential:
    layers: list[nn.Module] = [_conv_norm(3, 32, 3, stride=2)]
    channels = 32
    for expansion, width, count, stride in _MOBILE:
        for block in range(count):
            layers.append(_InvertedResidual(channels, width, stride if block == 0 else 1, expansion))
            channels = width
    return nn.Sequential(*layers)


def _conv_norm(channels: int, width: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.conv = nn.Sequential(
            *([_conv_norm(channels, hidden, 1)] if expansion > 1 else []),
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self._adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))."""
        return x + self.conv(x) if self._adds else self.conv(x)
