"""The paper's autoencoder: AutoencoderKL of Stable Diffusion, frozen (section 3.2.1)."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from spear.errors import SpearError

DEFAULT = "stabilityai/sd-vae-ft-mse"
_WEIGHTS = "diffusion_pytorch_model.safetensors"


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

    folder = _folder(source)
    if not (folder / _WEIGHTS).exists():  # diffusers would look for a pickle, and on the network
        raise SpearError(f"no {_WEIGHTS} in {folder}; give a whole AutoencoderKL with --vae")
    try:
        with warnings.catch_warnings(action="ignore"):  # diffusers passes the hub an option that it has given up
            net, info = AutoencoderKL.from_pretrained(
                folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise SpearError(
            f"the autoencoder in {folder} cannot be loaded ({reason}); give a whole AutoencoderKL with --vae"
        ) from error
    if info["missing_keys"]:
        raise SpearError(
            f"{source} lacks the weight {sorted(info['missing_keys'])[0]}; give a whole AutoencoderKL with --vae"
        )
    return KLAutoencoder(net)


def _folder(source: str) -> Path:
    """Where it is on this computer. diffusers itself asks the network, even where it was told not to."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise SpearError(
            f"the autoencoder {source} is neither a folder nor in the hub's cache; "
            f"fetch it with `hf download {source}` or give a folder with --vae"
        ) from error
