"""A light autoencoder for two CPU cores: (3, 256, 256) <-> (32, 32, 32), about 5 GFLOP both ways."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spear.checkpoint import load_checkpoint, read_about, save_checkpoint
from spear.errors import SpearError

PACKAGED = Path(__file__).parent.parent / "weights" / "autoencoder.safetensors"
"""The autoencoder that ships; scripts/make_autoencoder.py makes it again from footage."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths at 64x64 and 32x32, and blocks at 32x32."""

    latent_channels: int = 32
    wide: int = 64
    deep: int = 96
    encoder_blocks: int = 2
    decoder_blocks: int = 3


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class Autoencoder(nn.Module):
    """Picture in -1..1 (B, 3, H, W) <-> latent (B, 32, H/8, W/8). Size-agnostic, no normalisation, no attention:
    parts of a picture can be encoded and decoded alone."""

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        wide, deep = config.wide, config.deep
        self.fine = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, wide, 3, padding=1), Block(wide), Block(wide))
        self.coarse = nn.Sequential(
            nn.Conv2d(wide, deep, 3, stride=2, padding=1), *(Block(deep) for _ in range(config.encoder_blocks))
        )
        self.to_latent = nn.Conv2d(deep, config.latent_channels, 3, padding=1)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, deep, 3, padding=1), *(Block(deep) for _ in range(config.decoder_blocks)),
            nn.Conv2d(deep, wide * 4, 3, padding=1), nn.PixelShuffle(2), Block(wide),
            nn.Conv2d(wide, wide * 2, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(inplace=True),
            nn.Conv2d(wide // 2, wide // 2, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(wide // 2, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def features(self, images: Tensor) -> list[Tensor]:
        """What the encoder sees on the way: (B, 64, H/4, W/4), (B, 96, H/8, W/8), latent (B, 32, H/8, W/8)."""
        fine = self.fine(images)
        coarse = self.coarse(fine)
        return [fine, coarse, self.to_latent(coarse)]

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 32, H/8, W/8)."""
        return self.features(images)[-1]

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 32, h, w) -> (B, 3, 8h, 8w), about -1..1."""
        return self.decoder(latents)

    def identity(self) -> str:
        """What a net trained in this latent space must name: the checksum of the weights that ship."""
        return f"light {packaged_digest()}"


def packaged_digest() -> str:
    """First 16 hex digits of the checksum of the autoencoder that ships."""
    return str(read_about(PACKAGED)["sha256"])[:16]


def save_autoencoder(path: Path, net: Autoencoder, **about: object) -> None:
    """Write weights as float16, half the size, with their config."""
    weights = {name: value.half() for name, value in net.state_dict().items()}
    save_checkpoint(path, "autoencoder", asdict(net.config), weights, **about)


@functools.cache
def load_autoencoder(path: Path = PACKAGED) -> Autoencoder:
    """The frozen autoencoder, in eval mode. Raises SpearError where the file is absent or of another kind."""
    if not path.exists():
        raise SpearError(f"{path} is absent; reinstall spear, or make it with scripts/make_autoencoder.py")
    weights, about = load_checkpoint(path, "autoencoder")
    net = Autoencoder(AutoencoderConfig(**about["config"]))
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
