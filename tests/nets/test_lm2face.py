"""Stage 2's net: the mouth of the target is never looked at, the autoencoder stays frozen, the blend shows no edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import face, picture, track
from torch import Tensor, nn

from spear.losses import critic_loss, generator_loss, masked_mse
from spear.nets.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from spear.nets.critic import Critic
from spear.nets.lm2face import (
    VAE,
    Lm2Face,
    Lm2FaceConfig,
    blend_mask,
    build_lm2face,
    composite,
    image_tensor,
    sketch_tensor,
)
from spear.pretrained.perceptual import PerceptualLoss
from spear.pretrained.vae import KLAutoencoder


def _tiny_kl() -> KLAutoencoder:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return KLAutoencoder(AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    ))  # fmt: skip


def _tiny_light() -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(latent_channels=6, wide=8, deep=8, encoder_blocks=1, decoder_blocks=1)
    return Autoencoder(config).eval().requires_grad_(False)


def _net(light: bool, vae: VAE | None = None) -> Lm2Face:
    """All weights random, so that every path of influence is open."""
    if light:
        vae = vae or _tiny_light()
        config = Lm2FaceConfig("tiny", vae.latent_channels, width=8, blocks=2, references=2)
    else:
        vae = vae or _tiny_kl()
        config = replace(Lm2FaceConfig.paper("tiny"), width=8, blocks=2)
    net = build_lm2face(config, vae)
    torch.manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


def _run(net: Lm2Face, target: Tensor, points: np.ndarray) -> Tensor:
    refs = track(net.config.references, seed=5)
    images = image_tensor(np.stack([picture(p) for p in refs]))
    references = net.make_references(images[None], torch.from_numpy(refs)[None], sketch_tensor(refs)[None])
    return net(target, torch.from_numpy(points)[None], sketch_tensor(points[None]), references)[0]


@pytest.mark.parametrize("light", [True, False], ids=["small", "paper"])
def test_rows_of_the_target_from_128_on_have_no_influence_at_all(light: bool) -> None:
    net, target = _net(light), image_tensor(picture(face(10))[None])
    other = target.clone()
    other[..., 128:, :] = torch.rand(1, 3, 128, 256) * 2 - 1
    first = _run(net, target, face(20))
    assert torch.equal(_run(net, other, face(20)), first)
    other = target.clone()
    other[..., 100:128, :] = 0  # the rows above do have some
    assert not torch.equal(_run(net, other, face(20)), first)
    assert not torch.equal(_run(net, target, face(0)), first)  # and so does the sketch


def test_small_preset_returns_rows_from_112_on() -> None:
    net = _net(light=True)
    assert net.config.shown_row == 112
    assert _run(net, torch.zeros(1, 3, 256, 256), face()).shape == (1, 3, 144, 256)


def test_paper_preset_is_that_of_section_3_2() -> None:
    config = Lm2FaceConfig.paper("kl")
    assert (config.latent, config.references, config.sketch, config.first_row, config.shown_row) == (4, 1, 4, 0, 0)
    net, seen = build_lm2face(config, _tiny_kl()).eval(), {}
    net.spade_net.register_forward_pre_hook(lambda _, inputs: seen.update(enumerate(inputs)))
    with torch.no_grad():
        result = _run(net, torch.zeros(1, 3, 256, 256), face())
    assert result.shape == (1, 3, 256, 256)
    # equation 1: four latents (4, 32, 32); the first flow of the paper is zero
    masked, known, sketch, ref_latents, ref_sketches, first_flow = (seen[i] for i in range(6))
    assert masked.shape == sketch.shape == (1, 4, 32, 32)
    assert ref_latents.shape == ref_sketches.shape == (1, 1, 4, 32, 32)
    assert first_flow.shape == (1, 1, 2, 32, 32)
    assert not first_flow.any()
    assert known[0, 0, :, 0].tolist() == [1.0] * 16 + [0.0] * 16


def test_fresh_small_net_shows_the_warped_reference() -> None:
    """Before any training: the target is 8 px beside the reference, and the mouth is already in its new place."""
    vae = load_autoencoder()
    net = build_lm2face(Lm2FaceConfig(vae.identity(), vae.latent_channels, width=8, references=1), vae)
    ref, target = face(20), face(20, at=(136.0, 120.0))
    images, points = image_tensor(picture(ref)[None]), torch.from_numpy(ref)
    references = net.make_references(images[None], points[None, None], sketch_tensor(ref[None])[None])
    with torch.no_grad():
        lower, _ = net(
            image_tensor(picture(target)[None]), torch.from_numpy(target)[None], sketch_tensor(target[None]), references
        )
    truth = image_tensor(picture(target)[None])[..., 112:, :]
    unmoved = images[..., 112:, :]
    box = (slice(None), slice(None), slice(28, 80), slice(95, 180))  # around the lips
    assert (lower - truth)[box].square().mean() < 0.35 * (unmoved - truth)[box].square().mean()


class _Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


@pytest.mark.parametrize("light", [True, False], ids=["small", "paper"])
def test_a_training_step_moves_the_net_and_nothing_of_the_autoencoder(light: bool) -> None:
    vae = _tiny_light() if light else _tiny_kl()
    net, critic = _net(light, vae), Critic(4)
    frozen = {name: value.clone() for name, value in vae.state_dict().items()}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    truth, shown = image_tensor(picture(face(10))[None]), net.config.shown_row
    mask = torch.from_numpy(blend_mask([face(10)]))[None, None]
    generated = _run(net, truth, face(10))
    seen, lower = composite(generated, truth, mask, shown), truth[..., shown:, :]
    perceptual = PerceptualLoss([_Squares()], (0.5,) * 3, (0.5,) * 3)
    mouth = mask[..., shown:, :]
    # equation 8 with the weights of section 4.3
    loss = masked_mse(seen, lower, mouth) + 4 * perceptual(seen, lower) + generator_loss(critic(seen))
    loss = loss + 2.5 * masked_mse(seen, lower, mouth)
    loss.backward()
    optimiser.step()
    critic_loss(critic(lower), critic(seen.detach())).backward()
    assert all(p.grad is None for p in vae.parameters())
    assert all(torch.equal(frozen[name], value) for name, value in vae.state_dict().items())
    assert all(not torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is not None for p in critic.parameters())


def test_the_autoencoder_is_no_part_of_what_is_saved() -> None:
    net = _net(light=True)
    assert all(name.startswith("spade_net.") for name in net.state_dict())
    assert len(list(net.children())) == 1


def test_another_latent_space_is_refused() -> None:
    with pytest.raises(ValueError, match="the autoencoder has 6 latent channels, the net wants 4"):
        build_lm2face(Lm2FaceConfig.paper("kl"), _tiny_light())


def test_pictures_and_sketches_as_the_net_takes_them() -> None:
    # 0 -> -1, 255 -> 1, 51 -> 51 / 127.5 - 1 = -0.6
    image = np.array([[[0, 51, 255]]], np.uint8)[None]
    torch.testing.assert_close(image_tensor(image), torch.tensor([-1.0, -0.6, 1.0]).view(1, 3, 1, 1))
    sketch = sketch_tensor(track(2))
    assert sketch.shape == (2, 1, 256, 256)
    assert (sketch.min(), sketch.max()) == (0, 1)


def test_composite_by_hand() -> None:
    # rows from 1 on: truth 2, generated 6, weights 0, 0.25, 1 -> 2, 3, 6
    target, mask = torch.full((1, 3, 4, 1), 2.0), torch.tensor([9.0, 0, 0.25, 1]).view(1, 1, 4, 1)
    result = composite(torch.full((1, 3, 3, 1), 6.0), target, mask, 1)
    assert result[0, 0, :, 0].tolist() == [2, 3, 6]


@pytest.mark.parametrize(
    "faces",
    [[face()], [face(0), face(40)], [face(at=(150.0, 130.0))], [face(40, at=(128.0, 150.0))], [face(size=230.0)]],
    ids=["one", "two", "aside", "jaw at the crop's edge", "close up"],
)
def test_blend_mask_has_no_edge(faces: list[np.ndarray]) -> None:
    mask = blend_mask(faces)
    assert mask.shape == (256, 256)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask.max() == 1
    beyond = np.pad(mask, 1)  # outside of the crop nothing is pasted: its edge must not show, either
    for axis in (0, 1):
        assert np.abs(np.diff(beyond, axis=axis)).max() < 0.09  # at most 23 of 255 grey levels from pixel to pixel


def test_blend_mask_covers_the_mouth_and_leaves_eyes_and_background() -> None:
    points = face(30)
    mask = blend_mask([points])
    lips = np.round(points[91:]).astype(int)  # after 74 points of the pose and 17 of the jaw
    assert (mask[lips[:, 1], lips[:, 0]] > 0.95).all()
    assert not mask[:112].any()
    assert not mask[:, :20].any()
    assert not mask[:, 236:].any()


def test_blend_mask_covers_the_old_jaw_as_well_as_the_new_one() -> None:
    closed, opened = face(0), face(0)
    opened[74:91, 1] += np.linspace(0, 1, 17) * np.linspace(1, 0, 17) * 80  # the jaw drops by up to 20 px
    both = blend_mask([closed, opened])
    assert (both >= np.maximum(blend_mask([closed]), blend_mask([opened])) - 0.01).all()
