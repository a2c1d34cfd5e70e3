"""SPADE-Net: what it is before it has learned anything, and the flow that the landmarks tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from made_up import face
from torch import Tensor, nn

from spear.nets.spade import warp
from spear.nets.spade_net import SpadeNetConfig, build_spade_net, landmark_flow

CONFIG = SpadeNetConfig(latent=4, sketch=3, width=8, blocks=2)
FINER = replace(CONFIG, finer=2)


def _inputs(batch: int = 2, references: int = 3, rows: int = 6, columns: int = 8, finer: int = 1) -> dict[str, Tensor]:
    size = (rows, columns)
    return {
        "masked": torch.randn(batch, 4, *size), "known": torch.ones(batch, 1, *size),
        "sketch": torch.randn(batch, 3, *size), "ref_latents": torch.randn(batch, references, 4, *size),
        "ref_sketches": torch.randn(batch, references, 3, *size),
        "first_flow": 0.2 * torch.randn(batch, references, 2, rows * finer, columns * finer),
        "nearness": torch.rand(batch, references),
    }  # fmt: skip


def test_fresh_net_returns_the_references_warped_and_weighed_by_their_nearness() -> None:
    # nearness 1, 0.5 and 0, and 0.0001 more of each: 1.0001 / 1.5003, 0.5001 / 1.5003, 0.0001 / 1.5003
    inputs = {**_inputs(), "nearness": torch.tensor([[1.0, 0.5, 0.0]]).expand(2, 3)}
    latent, aligned = build_spade_net(CONFIG)(**inputs)
    shares = [0.6666, 0.33333, 0.0000667]
    warped = [warp(inputs["ref_latents"][:, r], inputs["first_flow"][:, r]) for r in range(3)]
    torch.testing.assert_close(latent, sum(s * w for s, w in zip(shares, warped, strict=True)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(aligned.latent, latent)
    torch.testing.assert_close(aligned.flow, inputs["first_flow"])
    assert aligned.weight[0, :, 0, 2, 3].tolist() == pytest.approx(shares, rel=1e-3)
    assert (aligned.weight.flatten(2).std(2) < 1e-6).all()  # the same at every place


@pytest.mark.parametrize("nearness", [0.0, 0.3, 1.0])
def test_references_that_are_equally_near_share_equally(nearness: float) -> None:
    _, aligned = build_spade_net(CONFIG)(**{**_inputs(), "nearness": torch.full((2, 3), nearness)})
    torch.testing.assert_close(aligned.weight, torch.full((2, 3, 1, 6, 8), 1 / 3))


def test_a_finer_flow_moves_a_latent_by_its_mean() -> None:
    # 2 x 2 flows to a cell: 1, 2, 3 and 6 cells to the right, on the mean 3; three channels for x, y and weight
    net, inputs = build_spade_net(FINER), _inputs(finer=2, references=1)
    inputs["first_flow"].zero_()
    with torch.no_grad():
        net.align.to_flow.bias[:4] = torch.tensor([1.0, 2, 3, 6])
    latent, aligned = net(**inputs)
    assert aligned.flow.shape == (2, 1, 2, 12, 16)
    assert aligned.weight.shape == (2, 1, 1, 12, 16)
    assert aligned.flow[0, 0, 0, 2:4, 4:6].tolist() == [[1, 2], [3, 6]]
    assert not aligned.flow[:, :, 1].any()
    right = inputs["ref_latents"][:, 0][..., [3, 4, 5, 6, 7, 7, 7, 7]]
    torch.testing.assert_close(latent, right, atol=1e-5, rtol=1e-5)


def test_shapes_of_the_paper() -> None:
    paper = SpadeNetConfig(latent=4, sketch=4, width=16, blocks=4)
    sizes = {"masked": 4, "known": 1, "sketch": 4, "ref_latents": 4, "ref_sketches": 4, "first_flow": 2}
    inputs = {
        name: torch.randn(1, *([1] if "ref" in name or "flow" in name else []), channels, 32, 32)
        for name, channels in sizes.items()
    }
    latent, aligned = build_spade_net(paper)(**inputs, nearness=torch.ones(1, 1))
    assert latent.shape == (1, 4, 32, 32)
    assert aligned.flow.shape == (1, 1, 2, 32, 32)
    assert aligned.weight.shape == (1, 1, 1, 32, 32)
    assert (aligned.weight == 1).all()  # one reference
    assert aligned.feature.shape == (1, 16, 32, 32)
    assert aligned.latent.shape == (1, 4, 32, 32)


@pytest.mark.parametrize("config", [CONFIG, FINER], ids=["as latents", "finer"])
def test_weights_of_the_references_sum_to_one_at_every_place(config: SpadeNetConfig) -> None:
    net, finer = build_spade_net(config), config.finer
    nn.init.normal_(net.align.to_flow.weight)
    _, aligned = net(**_inputs(finer=finer))
    assert (aligned.weight.flatten(2).std(2) > 0).all()  # the net has its say at every place
    torch.testing.assert_close(aligned.weight.sum(1), torch.ones(2, 1, 6 * finer, 8 * finer))


def test_the_order_of_the_references_does_not_matter() -> None:
    torch.manual_seed(0)
    net, inputs = build_spade_net(FINER), _inputs(finer=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    of_references = {"ref_latents", "ref_sketches", "first_flow", "nearness"}
    other = {name: value[:, [2, 0, 1]] if name in of_references else value for name, value in inputs.items()}
    torch.testing.assert_close(net(**inputs)[0], net(**other)[0])


def test_the_last_block_is_conditioned_on_the_warped_latent_the_others_on_the_feature() -> None:
    conditions = [block.spade_1.shared[0].in_channels for block in build_spade_net(CONFIG).paint.blocks]
    assert conditions == [8, 4]  # equation 3: width of the feature, channels of the latent


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = build_spade_net(FINER)
    for parameter in net.parameters():  # heads that start at zero block the gradient of what is before them
        nn.init.normal_(parameter, std=0.2)
    net(**_inputs(finer=2))[0].square().sum().backward()
    silent = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


@pytest.mark.parametrize(("cell", "x", "y"), [(8, 11.5, 19.5), (4, 5.5, 9.5)])
def test_flow_of_one_point_by_hand(cell: int, x: float, y: float) -> None:
    # the middle of (row 2, column 1): x = 1.5 * 8 - 0.5 = 11.5, y = 2.5 * 8 - 0.5 = 19.5 in cells of 8 px;
    # the reference has the point 8 px further right and 4 px higher
    target = torch.tensor([[[x, y]]])
    flow = landmark_flow(target[:, None] + torch.tensor([8.0, -4.0]), target, rows=4, columns=9, cell=cell)
    assert flow.shape == (1, 1, 2, 4, 9)
    # at the point itself: a share of 1 / 1.08, then 1 / 1.08 of the 0.08 / 1.08 that are left
    share = 1 / 1.08 + 0.08 / 1.08 / 1.08
    assert share == pytest.approx(0.9945, abs=1e-4)
    assert flow[0, 0, :, 2, 1].tolist() == pytest.approx([8 * share, -4 * share], rel=1e-5)
    # 16 px to the right: weights exp(-16^2 / (2 * 20^2)) and exp(-16^2 / (2 * 6^2)), shares w / (w + 0.08)
    far, near = math.exp(-0.32), math.exp(-256 / 72)
    share = far / (far + 0.08) + 0.08 / 1.08 * near / (near + 0.08)
    assert share == pytest.approx(0.9203, abs=1e-4)
    assert flow[0, 0, :, 2, 1 + 16 // cell].tolist() == pytest.approx([8 * share, -4 * share], rel=1e-5)


def test_points_far_from_each_other_have_their_own_flow() -> None:
    # 25 cells of 8 px apart: what the other one says is less than e^-50
    target = torch.tensor([[[11.5, 19.5], [211.5, 19.5]]])
    moves = torch.tensor([[8.0, -4.0], [-3.0, 6.0]])
    flow = landmark_flow(target[:, None] + moves, target, rows=4, columns=32, cell=8)[0, 0]
    assert flow[:, 2, 1].tolist() == pytest.approx([8 * 0.9945, -4 * 0.9945], rel=1e-4)
    assert flow[:, 2, 26].tolist() == pytest.approx([-3 * 0.9945, 6 * 0.9945], rel=1e-4)


def test_lips_part_sharply() -> None:
    # two points 12 px below each other that move 10 px apart. 20 px far they cancel each other but for
    # (1 - w) / (1 + w + 0.08), w = exp(-12^2 / 800) = 0.8353: 0.0860; of the rest 6 px far, w = exp(-2), 0.7115
    target = torch.tensor([[[12.0, 8.0], [12.0, 20.0]]])
    moves = torch.tensor([[0.0, -5.0], [0.0, 5.0]])
    assert pytest.approx(0.7363, abs=1e-4) == 0.0860 + (1 - 0.0860) * 0.7115
    flow = landmark_flow(target[:, None] + moves, target, rows=24, columns=24, cell=1)[0, 0]
    assert flow[1, [8, 20], 12].tolist() == pytest.approx([-5 * 0.7363, 5 * 0.7363], rel=1e-3)


def test_a_shifted_face_flows_as_it_was_shifted_and_by_nothing_far_away() -> None:
    target = torch.from_numpy(face(size=100.0, at=(150.0, 140.0)))[None]
    flow = landmark_flow(target[:, None] + torch.tensor([8.0, 0.0]), target, 32, 32, 8)[0, 0]
    mouth = (slice(19, 22), slice(17, 20))  # y 152..175, x 136..159
    torch.testing.assert_close(flow[0][mouth], torch.full((3, 3), 8.0), rtol=0.01, atol=0)
    assert flow[1].abs().max() < 1e-5
    assert flow[0, :3].abs().max() < 0.02 * 8  # 80 px above the brows
    # and the warp by it, a cell of 8 px, brings the reference's mouth to where the target's is
    picture = torch.zeros(1, 1, 32, 32)
    picture[..., 20, 19] = 1
    assert warp(picture, flow[None] / 8)[0, 0].argmax() == 20 * 32 + 18


def test_a_cut_grid_has_the_flow_of_the_rows_of_the_whole_one() -> None:
    torch.manual_seed(0)
    target = torch.from_numpy(face())[None]
    references = target[:, None] + 5 * torch.randn(1, 2, 131, 2)
    whole, cut = (landmark_flow(references, target, rows, 64, 4, top) for rows, top in ((64, 0), (40, 24)))
    torch.testing.assert_close(cut, whole[..., 24:, :])


def test_the_flow_is_the_weighted_mean_point_by_point() -> None:
    """The weights are separated into rows and columns; here they are not."""
    torch.manual_seed(0)
    target = torch.from_numpy(face())[None]
    references = target[:, None] + 5 * torch.randn(1, 2, 131, 2)
    rest, flow = (references - target[:, None]).double()[0], torch.zeros(2, 2, 20, 32, dtype=torch.float64)
    y, x = ((torch.arange(n) + 0.5) * 8 - 0.5 for n in (20, 32))
    grid = torch.stack([x.expand(20, 32), y[:, None].expand(20, 32)], -1).double().flatten(0, 1)
    points = target[0].double()
    for reach in (20.0, 6.0):
        near, own = (
            torch.exp(-(places[:, None] - points).square().sum(-1) / (2 * reach**2)) for places in (grid, points)
        )
        spread, back = (w @ rest / (w.sum(1, keepdim=True) + 0.08) for w in (near, own))
        flow, rest = flow + spread.transpose(1, 2).unflatten(2, (20, 32)), rest - back
    torch.testing.assert_close(landmark_flow(references, target, 20, 32, 8)[0].double(), flow, atol=1e-4, rtol=1e-4)


def test_features_may_be_computed_ahead() -> None:
    torch.manual_seed(0)
    net, inputs = build_spade_net(FINER), _inputs(finer=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    ahead = net.align.features(inputs["ref_latents"], inputs["ref_sketches"])
    torch.testing.assert_close(net(**inputs, ref_features=ahead), net(**inputs))


def test_a_face_that_does_not_move_has_no_flow() -> None:
    target = torch.from_numpy(face())[None]
    assert not landmark_flow(target[:, None], target, 32, 32, 8).any()
