"""The light autoencoder that ships."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spear.checkpoint import save_checkpoint
from spear.errors import SpearError
from spear.nets.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder, packaged_digest, save_autoencoder
from spear.nets.lm2face import image_tensor

TINY = AutoencoderConfig(latent_channels=4, wide=8, deep=8, encoder_blocks=1, decoder_blocks=1)


def test_shapes() -> None:
    net = load_autoencoder()
    with torch.no_grad():
        latent = net.encode(torch.zeros(1, 3, 256, 256))
        assert latent.shape == (1, 32, 32, 32)
        assert net.decode(latent).shape == (1, 3, 256, 256)
        assert net.decode(latent[..., 12:, :]).shape == (1, 3, 160, 256)
    seen = net.features(torch.zeros(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in seen] == [
        (64, 16, 16),
        (96, 8, 8),
        (32, 8, 8),
    ]


def test_a_half_encoded_alone_differs_only_near_the_cut() -> None:
    """What lm2face rests on: it encodes the upper half without the lower one, and decodes without the upper rows."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 256, 256) * 2 - 1
    net = load_autoencoder()
    whole, upper = net.encode(picture), net.encode(picture[..., :128, :])
    torch.testing.assert_close(upper[..., :8, :], whole[..., :8, :], atol=1e-5, rtol=0)
    assert not torch.allclose(upper[..., 15, :], whole[..., 15, :], atol=1e-2)
    torch.testing.assert_close(
        net.decode(whole[..., 12:, :])[..., 80:, :], net.decode(whole)[..., 176:, :], atol=1e-5, rtol=0
    )


def test_what_ships_brings_a_face_back(portrait_png: Path) -> None:
    crop = cv2.resize(cv2.imread(str(portrait_png))[20:180, 80:240, ::-1], (256, 256), interpolation=cv2.INTER_CUBIC)
    picture, net = image_tensor(crop[None]), load_autoencoder()
    with torch.no_grad():
        error = (net.decode(net.encode(picture)).clamp(-1, 1) - picture) * 127.5
    assert 20 * np.log10(255 / error.square().mean().sqrt().item()) > 32  # dB; a copy blurred by sigma 2 px has 28.4


def test_what_ships_is_frozen_and_shared() -> None:
    net = load_autoencoder()
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert load_autoencoder() is net
    assert net.identity() == f"light {packaged_digest()}"
    assert len(packaged_digest()) == 16


def test_saved_as_half_precision_with_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Autoencoder(TINY).eval()
    save_autoencoder(tmp_path / "ae.safetensors", net, note="test")
    again, picture = load_autoencoder(tmp_path / "ae.safetensors"), torch.rand(1, 3, 32, 32)
    assert again.config == TINY
    assert (tmp_path / "ae.safetensors").stat().st_size < 2.5 * sum(p.numel() for p in net.parameters()) + 10_000
    torch.testing.assert_close(again.encode(picture), net.encode(picture), atol=5e-3, rtol=0)


def test_absent_weights(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(SpearError) as caught:
        load_autoencoder(path)
    assert str(caught.value) == f"{path} is absent; reinstall spear, or make it with scripts/make_autoencoder.py"


def test_weights_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a2lm.safetensors"
    save_checkpoint(path, "a2lm", {}, {"x": torch.zeros(1)})
    with pytest.raises(SpearError, match="holds a checkpoint of kind 'a2lm', 'autoencoder' is needed here"):
        load_autoencoder(path)
