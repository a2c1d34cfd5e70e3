"""The paper's autoencoder: AutoencoderKL of Stable Diffusion, frozen (section 3.2.1)."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from spear.errors import SpearError

DEFAULT = "stabilityai/sd-vae-ft-mse"


class KLAutoencoder(nn.Module):
    """Picture in -1..1 (B, 3, H, W) <-> scaled latent (B, 4, H/8, W/8); the posterior's mean: no chance."""

    def __init__(self, net: Any) -> None:
        """net: diffusers' AutoencoderKL."""
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.latent_channels: int = net.config.latent_channels

    def train(self, mode: bool = True) -> KLAutoencoder:
        """Stay in eval mode: frozen means frozen."""
        return super().train(False)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 4, H/8, W/8), times the scaling factor."""
        return self.net.encode(images).latent_dist.mode() * self.net.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 8h, 8w), about -1..1."""
        return self.net.decode(latents / self.net.config.scaling_factor).sample

    def identity(self) -> str:
        """What a net trained in this latent space must name: the checksum of the weights, wherever they lie."""
        digest = hashlib.sha256()
        for name, value in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
        return f"AutoencoderKL {digest.hexdigest()[:16]}"


def load_kl_autoencoder(source: str = DEFAULT) -> KLAutoencoder:
    """From a folder, or a hub id in the cache; never goes to the network. Raises SpearError naming what is missing."""
    from diffusers import AutoencoderKL

    try:
        with warnings.catch_warnings(action="ignore"):  # diffusers passes the hub an option that it has given up
            net, info = AutoencoderKL.from_pretrained(
                source, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise SpearError(
            f"the autoencoder {source} is neither a folder nor in the hub's cache; "
            f"fetch it with `hf download {source}` or give a folder with --vae"
        ) from error
    if info["missing_keys"]:
        raise SpearError(
            f"{source} lacks the weight {sorted(info['missing_keys'])[0]}; give a whole AutoencoderKL with --vae"
        )
    return KLAutoencoder(net)
