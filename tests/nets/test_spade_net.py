"""SPADE-Net: what it is before it has learned anything, and the flow that the landmarks tell."""

from __future__ import annotations

import math

import pytest
import torch
from made_up import face
from torch import nn

from spear.nets.spade import warp
from spear.nets.spade_net import SpadeNetConfig, build_spade_net, landmark_flow

CONFIG = SpadeNetConfig(latent=4, sketch=3, width=8, blocks=2)


def _inputs(batch: int = 2, references: int = 3, rows: int = 6, columns: int = 8) -> dict[str, torch.Tensor]:
    size = (rows, columns)
    return {
        "masked": torch.randn(batch, 4, *size), "known": torch.ones(batch, 1, *size),
        "sketch": torch.randn(batch, 3, *size), "ref_latents": torch.randn(batch, references, 4, *size),
        "ref_sketches": torch.randn(batch, references, 3, *size),
        "first_flow": 0.2 * torch.randn(batch, references, 2, *size),
    }  # fmt: skip


def test_fresh_net_returns_the_mean_of_the_warped_references() -> None:
    inputs = _inputs()
    latent, aligned = build_spade_net(CONFIG)(**inputs)
    warped = [warp(inputs["ref_latents"][:, r], inputs["first_flow"][:, r]) for r in range(3)]
    torch.testing.assert_close(latent, sum(warped) / 3)
    torch.testing.assert_close(aligned.latent, latent)
    torch.testing.assert_close(aligned.flow, inputs["first_flow"])
    torch.testing.assert_close(aligned.weight, torch.full_like(aligned.weight, 1 / 3))


def test_shapes_of_the_paper() -> None:
    paper = SpadeNetConfig(latent=4, sketch=4, width=16, blocks=4)
    sizes = {"masked": 4, "known": 1, "sketch": 4, "ref_latents": 4, "ref_sketches": 4, "first_flow": 2}
    inputs = {
        name: torch.randn(1, *([1] if "ref" in name or "flow" in name else []), channels, 32, 32)
        for name, channels in sizes.items()
    }
    latent, aligned = build_spade_net(paper)(**inputs)
    assert latent.shape == (1, 4, 32, 32)
    assert aligned.flow.shape == (1, 1, 2, 32, 32)
    assert aligned.feature.shape == (1, 16, 32, 32)
    assert aligned.latent.shape == (1, 4, 32, 32)


def test_weights_of_the_references_sum_to_one_at_every_place() -> None:
    net = build_spade_net(CONFIG)
    nn.init.normal_(net.align.to_flow.weight)
    _, aligned = net(**_inputs())
    assert (aligned.weight.std(1) > 0).any()
    torch.testing.assert_close(aligned.weight.sum(1), torch.ones(2, 1, 6, 8))


def test_the_order_of_the_references_does_not_matter() -> None:
    torch.manual_seed(0)
    net, inputs = build_spade_net(CONFIG), _inputs()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    other = {name: value[:, [2, 0, 1]] if "ref" in name or "flow" in name else value for name, value in inputs.items()}
    torch.testing.assert_close(net(**inputs)[0], net(**other)[0])


def test_the_last_block_is_conditioned_on_the_warped_latent_the_others_on_the_feature() -> None:
    conditions = [block.spade_1.shared[0].in_channels for block in build_spade_net(CONFIG).paint.blocks]
    assert conditions == [8, 4]  # equation 3: width of the feature, channels of the latent


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = build_spade_net(CONFIG)
    for parameter in net.parameters():  # heads that start at zero block the gradient of what is before them
        nn.init.normal_(parameter, std=0.2)
    net(**_inputs())[0].square().sum().backward()
    silent = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


def test_flow_of_one_point_by_hand() -> None:
    # the centre of cell (row 2, column 1) of 8 px is at x = 1.5 * 8 - 0.5 = 11.5, y = 2.5 * 8 - 0.5 = 19.5;
    # the reference has the point 8 px (a cell) further right and 4 px higher
    target = torch.tensor([[[11.5, 19.5]]])
    reference = target[:, None] + torch.tensor([8.0, -4.0])
    flow = landmark_flow(reference, target, rows=4, columns=5, cell=8)
    assert flow.shape == (1, 1, 2, 4, 5)
    # at the point itself: weight 1 / (1 + 0.08); one cell is 2 / (5 - 1) across, 2 / (4 - 1) down
    assert flow[0, 0, 0, 2, 1].item() == pytest.approx(1 / 1.08 * 2 / 4, rel=1e-5)
    assert flow[0, 0, 1, 2, 1].item() == pytest.approx(-0.5 / 1.08 * 2 / 3, rel=1e-5)
    # two cells to the right, 16 px away: weight w = exp(-16^2 / (2 * 14^2)), share w / (w + 0.08)
    w = math.exp(-(16**2) / (2 * 14**2))
    assert flow[0, 0, 0, 2, 3].item() == pytest.approx(w / (w + 0.08) * 2 / 4, rel=1e-5)


def test_a_shifted_face_flows_by_one_cell_inside_and_by_nothing_far_away() -> None:
    target = torch.from_numpy(face(size=100.0, at=(150.0, 140.0)))[None]
    flow = landmark_flow(target[:, None] + torch.tensor([8.0, 0.0]), target, 32, 32, 8)[0, 0]
    cell = 2 / 31
    mouth = (slice(19, 22), slice(17, 20))  # y 152..175, x 136..159
    torch.testing.assert_close(flow[0][mouth], torch.full((3, 3), cell), rtol=0.03, atol=0)
    assert flow[1].abs().max() < 1e-6
    assert flow[0, :, :4].abs().max() < 0.01 * cell
    # and the warp by it brings the reference's mouth to where the target's is
    picture = torch.zeros(1, 1, 32, 32)
    picture[..., 20, 19] = 1
    assert warp(picture, flow[None])[0, 0].argmax() == 20 * 32 + 18


def test_a_cut_grid_has_the_flow_of_the_rows_of_the_whole_one() -> None:
    torch.manual_seed(0)
    target = torch.from_numpy(face())[None]
    references = target[:, None] + 5 * torch.randn(1, 2, 131, 2)
    whole, cut = (landmark_flow(references, target, rows, 32, 8, top) for rows, top in ((32, 0), (20, 12)))
    torch.testing.assert_close(cut[:, :, 0], whole[:, :, 0, 12:])
    # half of the height is 31 / 2 cells in one, 19 / 2 in the other
    torch.testing.assert_close(cut[:, :, 1], whole[:, :, 1, 12:] * 31 / 19)
