"""SPADE: norm(x) * (1 + gamma(c)) + beta(c), and the warp."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spear.nets.spade import Spade, SpadeBlock, warp


class _Says(nn.Module):
    """In place of the convolution that tells gamma and beta."""

    def __init__(self, gamma: float, beta: float) -> None:
        super().__init__()
        self.values = torch.tensor([gamma, beta]).view(1, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.values.expand(x.shape[0], 2, *x.shape[2:])


def test_fresh_spade_is_instance_norm() -> None:
    x, condition = torch.randn(2, 8, 5, 7), torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(Spade(8, 3, 16)(x, condition), nn.functional.instance_norm(x))


def test_spade_by_hand() -> None:
    # one channel with 0 and 2: mean 1, standard deviation 1, so normalised -1 and 1;
    # gamma 2, beta 0.5: -1 * 3 + 0.5 and 1 * 3 + 0.5
    spade = Spade(1, 1, 4)
    spade.gamma_beta = _Says(gamma=2.0, beta=0.5)
    result = spade(torch.tensor([[[[0.0, 2]]]]), torch.zeros(1, 1, 1, 2))
    torch.testing.assert_close(result, torch.tensor([[[[-2.5, 3.5]]]]), atol=1e-3, rtol=0)


def test_gamma_and_beta_differ_from_pixel_to_pixel() -> None:
    torch.manual_seed(0)
    spade = Spade(4, 2, 8)
    nn.init.normal_(spade.gamma_beta.weight)
    x, condition = torch.randn(1, 4, 6, 6), torch.zeros(1, 2, 6, 6)
    other = condition.clone()
    other[..., 0, 0] = 1
    changed = (spade(x, condition) != spade(x, other)).any(1)[0]
    assert changed[:3, :3].all()  # two 3x3 convolutions reach two pixels far
    assert not changed[3:].any()
    assert not changed[:, 3:].any()


@pytest.mark.parametrize("layer", [Spade, SpadeBlock])
def test_references_of_one_target_share_its_condition(layer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = layer(4, 2, 8)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, condition = torch.randn(6, 4, 5, 5), torch.randn(2, 2, 5, 5)  # 2 targets with 3 references each
    alone = [net(x[i : i + 1], condition[i // 3 : i // 3 + 1]) for i in range(6)]
    torch.testing.assert_close(net(x, condition), torch.cat(alone))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
@pytest.mark.parametrize("references", [1, 3])
def test_without_gradients_it_is_computed_in_another_way_to_the_same_end(
    references: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    net = SpadeBlock(8, 3, 16)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, condition = torch.randn(2 * references, 8, 5, 7) + 4, torch.randn(2, 3, 5, 7)
    x = x.to(memory_format=layout)
    before, with_gradient = x.clone(), net(x, condition)
    with torch.inference_mode():
        torch.testing.assert_close(net(x, condition), with_gradient, rtol=1e-4, atol=1e-4)
        half = net.bfloat16()(x.bfloat16(), condition.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - with_gradient).abs().mean() < 0.01 * with_gradient.abs().mean()
    assert torch.equal(x, before)


def test_block_is_the_identity_beside_a_branch() -> None:
    block, x = SpadeBlock(4, 2, 8), torch.randn(1, 4, 5, 5)
    nn.init.zeros_(block.conv_2.weight)
    nn.init.zeros_(block.conv_2.bias)
    assert torch.equal(block(x, torch.randn(1, 2, 5, 5)), x)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(32, 32), (20, 32), (5, 3), (1, 4)])
def test_zero_flow_is_the_identity(size: tuple[int, int], mode: str) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(warp(x, torch.zeros(2, 2, *size), mode), x, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_flow_of_one_cell_fetches_the_next_cell_and_repeats_the_border(mode: str) -> None:
    x = torch.arange(12.0).view(1, 1, 4, 3)
    right, down = torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 4, 3)
    right[:, 0] = down[:, 1] = 1.0
    torch.testing.assert_close(warp(x, right, mode), x[..., [1, 2, 2]])
    torch.testing.assert_close(warp(x, down, mode), x[..., [1, 2, 3, 3], :])


def test_half_a_cell_across_an_edge_by_hand() -> None:
    # bilinear takes 1/2 of both neighbours; bicubic -3/32, 19/32, 19/32, -3/32 of four, which keeps the edge steep
    x, flow = torch.tensor([[[[0.0, 0, 0, 1, 1, 1]]]]), torch.zeros(1, 2, 1, 6)
    flow[:, 0] = 0.5
    assert warp(x, flow)[0, 0, 0, 1:4].tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)
    assert warp(x, flow, "bicubic")[0, 0, 0, 1:4].tolist() == pytest.approx([-3 / 32, 0.5, 1 + 3 / 32], abs=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_part_of_the_places_is_warped_as_in_the_whole(mode: str) -> None:
    torch.manual_seed(0)
    x, flow = torch.randn(2, 3, 12, 16), torch.randn(2, 2, 12, 16)
    part = warp(x, flow[..., 4:9, 6:], mode, corner=(4, 6))
    torch.testing.assert_close(part, warp(x, flow, mode)[..., 4:9, 6:])


def test_half_precision_does_not_blur_the_warp() -> None:
    x = torch.randn(1, 2, 20, 32).bfloat16()
    torch.testing.assert_close(warp(x, torch.zeros(1, 2, 20, 32).bfloat16()), x.float(), atol=1e-4, rtol=0)
