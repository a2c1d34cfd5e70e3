"""AutoencoderKL through diffusers: a tiny one with random weights, saved to disk and loaded by the real code."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spear.errors import SpearError
from spear.pretrained.vae import DEFAULT, load_kl_autoencoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8,) * 4, "norm_num_groups": 4, "latent_channels": 4, "scaling_factor": 0.18215,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("vae") / "tiny-vae"
    AutoencoderKL(**blocks).save_pretrained(path)
    return path


def test_parity_with_diffusers_and_the_scaling_factor(folder: Path) -> None:
    from diffusers import AutoencoderKL

    theirs, ours = AutoencoderKL.from_pretrained(folder).eval(), load_kl_autoencoder(str(folder))
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        mean = theirs.encode(picture).latent_dist.mean
        torch.testing.assert_close(ours.encode(picture), mean * 0.18215)
        torch.testing.assert_close(ours.decode(mean * 0.18215), theirs.decode(mean).sample, atol=1e-5, rtol=1e-4)


def test_shapes_and_no_chance(folder: Path) -> None:
    net, picture = load_kl_autoencoder(str(folder)), torch.rand(1, 3, 256, 256)
    latent = net.encode(picture)
    assert net.latent_channels == 4
    assert latent.shape == (1, 4, 32, 32)
    assert torch.equal(net.encode(picture), latent)
    assert net.decode(latent).shape == (1, 3, 256, 256)


def test_frozen_means_frozen(folder: Path) -> None:
    net = load_kl_autoencoder(str(folder))
    net.train()
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    net.decode(net.encode(picture)).sum().backward()
    assert picture.grad is not None  # gradients pass through it
    assert all(p.grad is None for p in net.parameters())


def test_identity_is_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    """A copy elsewhere is the same latent space, other weights of the same name are not."""
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(folder, tmp_path / folder.name)
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    weights["quant_conv.bias"] += 0.01
    save_file(weights, tmp_path / folder.name / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    identity, copy, other = (
        load_kl_autoencoder(str(path)).identity() for path in (folder, tmp_path / "copy", tmp_path / folder.name)
    )
    assert re.fullmatch("AutoencoderKL [0-9a-f]{16}", identity)
    assert copy == identity != other


def test_no_such_autoencoder() -> None:
    with pytest.raises(SpearError) as caught:
        load_kl_autoencoder("nobody/nothing")
    assert str(caught.value) == (
        "the autoencoder nobody/nothing is neither a folder nor in the hub's cache; "
        "fetch it with `hf download nobody/nothing` or give a folder with --vae"
    )
    assert DEFAULT == "stabilityai/sd-vae-ft-mse"


def test_missing_weight_is_named_and_never_left_random(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    del weights["decoder.conv_in.weight"]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(SpearError, match=r"lacks the weight decoder\.conv_in\.weight; give a whole AutoencoderKL"):
        load_kl_autoencoder(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "other sizes", "no config", "no weights"])
def test_damaged_folder(folder: Path, tmp_path: Path, damage: str) -> None:
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    if damage != "no weights":
        data = weights.read_bytes()
        (tmp_path / weights.name).write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    if damage != "no config":
        known = json.loads(config.read_text())
        changed = {"block_out_channels": [16] * 4} if damage == "other sizes" else {}
        (tmp_path / config.name).write_text(json.dumps(known | changed))
    with pytest.raises(SpearError, match=r"--vae$"):
        load_kl_autoencoder(str(tmp_path))


def test_the_network_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where))
    with pytest.raises(SpearError, match="fetch it with `hf download nobody/nothing`"):
        load_kl_autoencoder("nobody/nothing")
    assert asked == []
