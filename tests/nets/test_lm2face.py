"""Stage 2's net: the mouth of the target is never looked at, the autoencoder stays frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import face, picture, track
from tiny_nets import tiny_kl, tiny_light, tiny_lm2face
from torch import Tensor, nn

from spear.losses import critic_loss, generator_loss, masked_mse
from spear.nets.autoencoder import load_autoencoder
from spear.nets.blending import blend_mask, composite
from spear.nets.critic import Critic
from spear.nets.lm2face import (
    WHOLE,
    Lm2Face,
    Lm2FaceConfig,
    Painted,
    References,
    Target,
    build_lm2face,
    image_tensor,
    sketch_tensor,
)
from spear.pretrained.perceptual import PerceptualLoss

BOTH = pytest.mark.parametrize("light", [True, False], ids=["small", "paper"])


def _target(net: Lm2Face, images: Tensor, points: np.ndarray) -> Target:
    sketches = net.encode_sketch(sketch_tensor(points))
    return net.make_target(net.encode_masked(images), sketches, torch.from_numpy(points))


def _references(net: Lm2Face, count: int = 1) -> References:
    """For so many targets: faces of a track, not all as near."""
    number = net.config.references
    faces = np.stack([track(number, seed=5 + i) for i in range(count)])
    images = image_tensor(np.stack([picture(p) for p in faces.reshape(-1, 131, 2)]))
    sketches = sketch_tensor(faces.reshape(-1, 131, 2))
    images, sketches = (value.unflatten(0, (count, number)) for value in (images, sketches))
    nearness = torch.linspace(0.9, 0.2, number).expand(count, number)
    return net.make_references(images, torch.from_numpy(faces), sketches, nearness)


def _run(net: Lm2Face, target: Tensor, points: np.ndarray) -> Painted:
    return net(_target(net, target, points[None]), _references(net))


@BOTH
def test_rows_of_the_target_from_128_on_have_no_influence_at_all(light: bool) -> None:
    net, target = tiny_lm2face(light), image_tensor(picture(face(10))[None])
    other = target.clone()
    other[..., 128:, :] = torch.rand(1, 3, 128, 256) * 2 - 1
    with torch.no_grad():
        first = _run(net, target, face(20)).picture
        assert torch.equal(_run(net, other, face(20)).picture, first)
        other = target.clone()
        other[..., 100:128, :] = 0  # the rows above do have some
        assert not torch.equal(_run(net, other, face(20)).picture, first)
        assert not torch.equal(_run(net, target, face(0)).picture, first)  # and so do the sketch and the points


def test_small_preset_paints_rows_from_112_on() -> None:
    # latents from row 96 = 12 cells of 8 px on, two rows of cells more than are shown; the flow has cells of 4 px
    net = tiny_lm2face(light=True)
    assert net.config.first_row == 12
    assert net.config.shown_row == 112
    with torch.no_grad():
        painted = _run(net, torch.zeros(1, 3, 256, 256), face())
    assert painted.latent.shape == painted.aligned.latent.shape == (1, 6, 20, 32)
    assert painted.aligned.flow.shape == (1, 2, 2, 40, 64)
    assert painted.aligned.weight.shape == (1, 2, 1, 40, 64)
    assert painted.picture.shape == painted.warped.shape == (1, 3, 144, 256)


def test_what_the_small_preset_reads_of_a_picture() -> None:
    net, images = tiny_lm2face(light=True), image_tensor(picture(face())[None])
    masked, sketch = net.encode_masked(images), net.encode_sketch(sketch_tensor(face()[None]))
    assert net.encode_picture(images).shape == (1, 6, 20, 32)
    assert masked.shape == (1, 6, 4, 32)  # rows 96 to 127
    assert sketch.shape == (1, 64, 20, 32)
    target = net.make_target(masked, sketch, torch.from_numpy(face()[None]))
    assert torch.equal(target.masked[..., :4, :], masked)
    assert not target.masked[..., 4:, :].any()
    assert target.masked.shape == (1, 6, 20, 32)
    # what is far above the mask is cut off before it is encoded
    other = images.clone()
    other[..., :80, :] = 1
    assert torch.equal(net.encode_masked(other), masked)
    assert torch.equal(net.encode_picture(other), net.encode_picture(images))


def test_a_sketch_pixel_is_a_channel_of_its_cell() -> None:
    # x 41 = 5 * 8 + 1, y 96 + 19 = 96 + 2 * 8 + 3: column 5, row 2, channel 3 * 8 + 1
    sketch = torch.zeros(1, 1, 256, 256)
    sketch[..., 115, 41] = 1
    assert tiny_lm2face(light=True).encode_sketch(sketch).nonzero().tolist() == [[0, 25, 2, 5]]


def test_paper_preset_is_that_of_section_3_2() -> None:
    config = Lm2FaceConfig.paper("kl")
    assert (config.latent, config.references, config.bank, config.sketch) == (4, 1, 1, 4)
    assert (config.first_row, config.shown_row) == (0, 0)
    net, seen = build_lm2face(config, tiny_kl()).eval(), {}
    net.spade_net.register_forward_pre_hook(lambda _, inputs: seen.update(enumerate(inputs)))
    with torch.no_grad():
        painted = _run(net, torch.zeros(1, 3, 256, 256), face())
    # equation 1: four latents (4, 32, 32); the first flow of the paper is zero
    masked, known, sketch, ref_latents, ref_sketches, first_flow = (seen[i] for i in range(6))
    assert masked.shape == sketch.shape == (1, 4, 32, 32)
    assert ref_latents.shape == ref_sketches.shape == (1, 1, 4, 32, 32)
    assert first_flow.shape == (1, 1, 2, 32, 32)
    assert not first_flow.any()
    assert known[0, 0, :, 0].tolist() == [1.0] * 16 + [0.0] * 16
    # equation 2: flow, warped feature, warped latent; the one reference serves alone and, untrained, is not moved
    assert painted.aligned.flow.shape == (1, 1, 2, 32, 32)
    assert not painted.aligned.flow.any()
    assert (painted.aligned.weight == 1).all()
    assert painted.aligned.feature.shape == (1, 256, 32, 32)
    torch.testing.assert_close(painted.aligned.latent, ref_latents[:, 0], atol=1e-4, rtol=1e-4)
    # equations 3 and 4: a latent, and the picture that the decoder makes of it, without anything beside it
    assert painted.latent.shape == (1, 4, 32, 32)
    assert painted.picture.shape == (1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(painted.picture, net.vae.decode(painted.latent))
    assert painted.warped is None
    assert net.refine is None


def test_paper_preset_encodes_the_target_with_its_lower_half_grey() -> None:
    net, images = tiny_lm2face(light=False), image_tensor(picture(face())[None])
    masked = images.clone()
    masked[..., 128:, :] = 0  # M(I) of equation 1, in -1..1
    torch.testing.assert_close(net.encode_masked(images), net.vae.encode(masked))
    torch.testing.assert_close(net.encode_picture(images), net.vae.encode(images))
    sketch = sketch_tensor(face()[None])
    torch.testing.assert_close(net.encode_sketch(sketch), net.vae.encode(sketch.repeat(1, 3, 1, 1) * 2 - 1))


@pytest.mark.parametrize(
    ("config", "count", "bank", "references"),
    [
        (Lm2FaceConfig("kl", 32), 24, 24, 3),
        (Lm2FaceConfig("kl", 32), 100, 100, 3),
        (Lm2FaceConfig("kl", 32), 2, 2, 2),
        (Lm2FaceConfig.paper("kl"), 1, 1, 1),
        (Lm2FaceConfig.paper("kl"), 4, 4, 4),
    ],
    ids=["small", "small with many", "small with few", "paper", "paper with more"],
)
def test_banks_of_another_size(config: Lm2FaceConfig, count: int, bank: int, references: int) -> None:
    """The small preset takes three of the bank for a frame, the paper's net all."""
    other = config.with_bank(count)
    assert (other.bank, other.references) == (bank, references)
    assert replace(other, bank=config.bank, references=config.references) == config


def test_chosen_references_are_those_of_the_bank() -> None:
    # a bank of four, numbered; two frames with two references each
    numbers = torch.arange(4.0)
    bank = References(*(numbers.view(1, 4, *[1] * n).expand(1, 4, *[2] * n) for n in (3, 3, 2, 3)), torch.ones(1, 4))
    which, nearness = torch.tensor([[2, 0], [3, 3]]), torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    chosen = bank.chosen(which, nearness)
    for value in chosen[:4]:
        assert value.shape[:2] == (2, 2)
        assert torch.equal(value.flatten(2).amax(2), which.float())
        assert torch.equal(value.flatten(2).amin(2), which.float())
    assert torch.equal(chosen.nearness, nearness)


def test_references_count_alike_where_nothing_else_is_said() -> None:
    net, faces = tiny_lm2face(light=True), track(2)
    images = image_tensor(np.stack([picture(p) for p in faces]))
    references = net.make_references(images[None], torch.from_numpy(faces)[None], sketch_tensor(faces)[None])
    assert references.nearness.tolist() == [[1.0, 1.0]]
    assert torch.equal(references.images, images[None, ..., 96:, :])


@BOTH
def test_painting_only_some_gives_the_same_of_them(light: bool) -> None:
    net, points = tiny_lm2face(light), track(3)
    images = image_tensor(np.stack([picture(p) for p in points]))
    target, references = _target(net, images, points), _references(net, 3)
    with torch.no_grad():
        whole, first = net(target, references), net(target, references, painted=1)
    assert whole.picture.shape[0] == 3
    assert first.picture.shape[0] == 1
    assert torch.equal(first.latent, whole.latent)  # the latent of all: they are compared in latent space
    torch.testing.assert_close(first.picture, whole.picture[:1], atol=1e-4, rtol=1e-4)
    if light:
        torch.testing.assert_close(first.warped, whole.warped[:1])


@contextmanager
def _kept() -> Iterator[list[int]]:
    """Bytes that are kept for the gradient."""
    sizes: list[int] = []

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel() * value.element_size())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes


@pytest.mark.parametrize(("light", "count", "share"), [(True, 5, 0.8), (False, 1, 0.01)], ids=["small", "paper"])
def test_saving_memory_changes_neither_picture_nor_gradient(light: bool, count: int, share: float) -> None:
    """Five pictures are decoded as four and one. What refines them keeps its activations, and beside nets so tiny that
    is most: with those that ship it is a quarter."""
    net, points = tiny_lm2face(light), track(count)
    images = image_tensor(np.stack([picture(p) for p in points]))
    target, references = _target(net, images, points), _references(net, count)
    results, sizes = [], []
    for net.saves_memory in (False, True):
        net.zero_grad()
        with _kept() as kept:
            painted = net(target, references)
        (painted.picture.square().mean() + painted.latent.square().mean()).backward()
        results.append([painted.picture, painted.latent, *(p.grad for p in net.parameters())])
        sizes.append(sum(kept))
    for without, saving in zip(*results, strict=True):
        torch.testing.assert_close(saving, without, atol=1e-5, rtol=1e-3)
    assert sizes[1] < share * sizes[0]


def test_fresh_small_net_shows_the_warped_reference() -> None:
    """Before any training: the target is 8 px beside the reference, and the mouth is already in its new place."""
    vae = load_autoencoder()
    net = build_lm2face(Lm2FaceConfig(vae.identity(), vae.latent_channels, width=8, references=1), vae)
    ref, target = face(20), face(20, at=(136.0, 120.0))
    images, points = image_tensor(picture(ref)[None]), torch.from_numpy(ref)
    references = net.make_references(images[None], points[None, None], sketch_tensor(ref[None])[None])
    truth = image_tensor(picture(target)[None])
    with torch.no_grad():
        painted = net(_target(net, truth, target[None]), references)
    box = (slice(None), slice(None), slice(28, 80), slice(95, 180))  # around the lips, from row 112 on
    off = {
        name: (value - truth[..., 112:, :])[box].square().mean()
        for name, value in (("unmoved", images[..., 112:, :]), *painted._asdict().items())
        if name in ("unmoved", "picture", "warped")
    }
    assert off["picture"] < 0.1 * off["unmoved"]
    assert off["warped"] < 0.1 * off["unmoved"]


class _Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


@BOTH
def test_a_training_step_moves_the_net_and_nothing_of_the_autoencoder(light: bool) -> None:
    vae = tiny_light() if light else tiny_kl()
    net, critic = tiny_lm2face(light, vae), Critic(4)
    frozen = {name: value.clone() for name, value in vae.state_dict().items()}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    truth, shown = image_tensor(picture(face(10))[None]), net.config.shown_row
    mask = torch.from_numpy(blend_mask([face(10)]))[None, None]
    generated = _run(net, truth, face(10)).picture
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


@BOTH
def test_the_autoencoder_is_no_part_of_what_is_saved(light: bool) -> None:
    net = tiny_lm2face(light)
    parts = {"spade_net", "refine"} if light else {"spade_net"}
    assert {name.split(".")[0] for name in net.state_dict()} == parts
    assert {name for name, _ in net.named_children()} == parts


def test_another_latent_space_is_refused() -> None:
    with pytest.raises(ValueError, match="the autoencoder has 6 latent channels, the net wants 4"):
        build_lm2face(Lm2FaceConfig.paper("kl"), tiny_light())


def test_pictures_and_sketches_as_the_net_takes_them() -> None:
    # 0 -> -1, 255 -> 1, 51 -> 51 / 127.5 - 1 = -0.6
    image = np.array([[[0, 51, 255]]], np.uint8)[None]
    torch.testing.assert_close(image_tensor(image), torch.tensor([-1.0, -0.6, 1.0]).view(1, 3, 1, 1))
    sketch = sketch_tensor(track(2))
    assert sketch.shape == (2, 1, 256, 256)
    assert (sketch.min(), sketch.max()) == (0, 1)


@BOTH
def test_columns_that_are_asked_for_are_like_those_of_the_whole(light: bool) -> None:
    net, points = tiny_lm2face(light), track(2)
    images = image_tensor(np.stack([picture(p) for p in points]))
    whole, part = (
        net(_target(net, images, points), _references(net, 2), columns=columns) for columns in (WHOLE, slice(6, 26))
    )
    rows = whole.picture.shape[-2]
    assert part.picture.shape == (2, 3, rows, 160)
    torch.testing.assert_close(part.latent, whole.latent)
    true = whole.picture[..., 48:208]
    assert (part.picture - true).abs().mean() < 0.01 * true.std()  # two cells more are computed on both sides
    if light:
        torch.testing.assert_close(part.warped, whole.warped[..., 48:208])


def test_features_ahead_give_the_same_picture() -> None:
    net, points = tiny_lm2face(light=True), track(2)
    images = image_tensor(np.stack([picture(p) for p in points]))
    target, references = _target(net, images, points), _references(net, 2)
    ahead = net.with_features(references)
    assert ahead.features is not None
    torch.testing.assert_close(net(target, ahead).picture, net(target, references).picture)
    bank = References(*(value[:1] for value in ahead[:5]), ahead.features[:1])
    which = torch.tensor([[1, 0], [0, 0]])
    chosen = bank.chosen(which, torch.ones(2, 2))
    assert chosen.features is not None
    torch.testing.assert_close(chosen.features, net.with_features(chosen).features)
