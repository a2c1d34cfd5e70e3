"""Nets so small that a test may train them: made, not loaded."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from spear.nets.autoencoder import Autoencoder, AutoencoderConfig
from spear.nets.lm2face import VAE, Lm2Face, Lm2FaceConfig, build_lm2face
from spear.pretrained.vae import KLAutoencoder


def tiny_light() -> Autoencoder:
    """The small preset's autoencoder with random weights and 6 latent channels."""
    torch.manual_seed(0)
    config = AutoencoderConfig(latent_channels=6, wide=8, deep=8, encoder_blocks=1, decoder_blocks=1)
    return Autoencoder(config).eval().requires_grad_(False)


def tiny_kl() -> KLAutoencoder:
    """The paper's autoencoder with random weights and few channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return KLAutoencoder(AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    ))  # fmt: skip


def tiny_lm2face(light: bool, vae: VAE | None = None, references: int = 2, bank: int = 24) -> Lm2Face:
    """Stage 2 of the small or the paper's preset, all weights random, so that every path of influence is open."""
    vae = vae or (tiny_light() if light else tiny_kl())
    if light:
        config = Lm2FaceConfig("tiny", vae.latent_channels, width=8, blocks=2, references=references, bank=bank)
    else:
        config = replace(Lm2FaceConfig.paper("tiny"), width=8, blocks=2)
    net = build_lm2face(config, vae)
    torch.manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net.eval()
