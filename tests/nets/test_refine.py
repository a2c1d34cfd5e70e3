"""The references' pixels in their new places, and the shares of them and of the decoded picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spear.nets.refine import Refine, warp_pixels
from spear.nets.spade import warp


def _pictures(rows: int = 16, columns: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoded and warped pictures, and the latent with 5 channels."""
    torch.manual_seed(0)
    return *torch.randn(2, 2, 3, rows, columns), torch.randn(2, 5, rows // 8, columns // 8)


def test_a_fresh_net_shows_mostly_the_warped_reference() -> None:
    # of a warped pixel 1 beside a decoded 0: 1 / (1 + e^-2) = 0.8808
    decoded, warped, latent = torch.zeros(1, 3, 16, 24), torch.ones(1, 3, 16, 24), torch.randn(1, 5, 2, 3)
    torch.testing.assert_close(
        Refine(5, 8)(decoded, warped, latent), torch.full((1, 3, 16, 24), 0.8808), atol=1e-4, rtol=0
    )
    decoded, warped, latent = _pictures()
    share = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(Refine(5, 8)(decoded, warped, latent), share * warped + (1 - share) * decoded)


def test_share_and_correction_by_hand() -> None:
    net = Refine(5, 8)
    with torch.no_grad():  # the last 16 of 64 channels are the share of the 16 pixels of a patch, the first 48 colours
        net.outward.bias[48:] = -2.0  # logit 2 - 2: half of each
        net.outward.bias[:16] = 0.25  # red
        net.outward.bias[48] = 98.0  # the patch's first pixel is all warped
    result = net(torch.full((1, 3, 8, 8), -0.2), torch.full((1, 3, 8, 8), 0.6), torch.zeros(1, 5, 1, 1))[0]
    half = torch.full((8, 8), 0.2)
    half[::4, ::4] = 0.6
    torch.testing.assert_close(result, torch.stack([half + 0.25, half, half]))


def test_every_input_counts_where_it_is() -> None:
    """A change in one place is seen there, not at the other end of the picture."""
    net = Refine(5, 8)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    inputs = _pictures(rows=8, columns=96)
    before = net(*inputs)
    for i in range(3):
        changed = [value.clone() for value in inputs]
        changed[i][..., 0] += 1
        moved = (net(*changed) != before).any((0, 1, 2))
        assert moved[:4].any()
        # 6 convolutions of 3x3 reach 6 patches of 4 px beyond the cell of 8 px
        assert not moved[8 + 24 :].any()


def test_half_precision_inside_gives_full_precision_outside() -> None:
    decoded, warped, latent = _pictures()
    with torch.autocast("cpu", torch.bfloat16):
        result = Refine(5, 8)(decoded.bfloat16(), warped, latent.bfloat16())
    assert result.dtype == torch.float32
    share = 1 / (1 + math.exp(-2))  # the warped pixels are not rounded
    torch.testing.assert_close(result, share * warped + (1 - share) * decoded.bfloat16().float())


def test_every_parameter_learns() -> None:
    net = Refine(5, 8)
    for parameter in net.parameters():  # the head that starts at zero blocks the gradient of what is before it
        nn.init.normal_(parameter, std=0.2)
    net(*_pictures()).square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if not parameter.grad.any()] == []


def test_without_flow_the_pixels_are_mixed_by_the_weights() -> None:
    images = torch.randn(2, 3, 3, 16, 24)
    weight = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1, 1).expand(2, 3, 1, 4, 6)
    mixed = warp_pixels(images, torch.zeros(2, 3, 2, 4, 6), weight, cell=8)
    torch.testing.assert_close(
        mixed, 0.5 * images[:, 0] + 0.3 * images[:, 1] + 0.2 * images[:, 2], atol=1e-5, rtol=1e-5
    )


def test_flow_is_in_cells_and_pixels_move_by_whole_ones() -> None:
    # half a cell of 8 px to the right and a whole one up: pixel (y, x) shows what is at (y - 8, x + 4)
    images, flow = torch.randn(1, 1, 3, 32, 32), torch.zeros(1, 1, 2, 8, 8)
    flow[:, :, 0], flow[:, :, 1] = 0.5, -1.0
    moved = warp_pixels(images, flow, torch.ones(1, 1, 1, 8, 8), cell=8)
    torch.testing.assert_close(moved[..., 8:, :28], images[:, 0, :, :24, 4:], atol=1e-5, rtol=1e-5)


def test_weights_pass_into_each_other_from_cell_to_cell() -> None:
    # two cells of 4 px have their middles at x 1.5 and 5.5: pixel 2 is an eighth of the way, 3 three eighths ...
    images = torch.stack([torch.zeros(3, 4, 8), torch.ones(3, 4, 8)])[None]
    second = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)
    row = warp_pixels(images, torch.zeros(1, 2, 2, 1, 2), torch.cat([1 - second, second], 1), cell=8)[0, 0, 0]
    assert row.tolist() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1], abs=1e-5)


def test_a_part_of_the_picture_is_that_of_the_whole() -> None:
    torch.manual_seed(0)
    images, flow = torch.rand(2, 3, 3, 32, 48), torch.randn(2, 3, 2, 8, 12)
    weight = torch.rand(2, 3, 1, 8, 12).softmax(1)
    whole = warp_pixels(images, flow, weight, cell=8)
    part = warp_pixels(images, flow, weight, 8, slice(16, None), slice(8, 40))
    torch.testing.assert_close(part, whole[..., 16:, 8:40])


def test_flow_and_weights_are_stretched_as_interpolate_does() -> None:
    torch.manual_seed(0)
    images, flow, weight = torch.rand(1, 2, 3, 24, 32), torch.randn(1, 2, 2, 6, 8), torch.rand(1, 2, 1, 6, 8)
    spread = nn.functional.interpolate(
        torch.cat([flow * 8, weight], 2)[0], size=(24, 32), mode="bilinear", align_corners=False
    )
    by_hand = (warp(images[0], spread[:, :2], "bicubic") * spread[:, 2:]).sum(0)
    torch.testing.assert_close(warp_pixels(images, flow, weight, cell=8)[0], by_hand, rtol=1e-4, atol=1e-4)
