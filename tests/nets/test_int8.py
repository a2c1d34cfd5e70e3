"""Convolutions in 8-bit integers: exact where numbers fit the steps, near where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spear.nets.autoencoder import Autoencoder, Block
from spear.nets.int8 import Int8Conv, has_int8, to_int8
from spear.nets.spade import SpadeBlock

pytestmark = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="this CPU has no AVX-512 VNNI")


def _conv(*shape: int, **options: int) -> nn.Conv2d:
    """Weights and biases are whole numbers, the largest weight of every channel is 127."""
    conv = nn.Conv2d(*shape, **options)
    torch.manual_seed(1)
    conv.weight.data = torch.randint(-127, 128, conv.weight.shape).float()
    conv.weight.data[:, 0, 0, 0] = 127
    conv.bias.data = torch.randint(-999, 999, conv.bias.shape).float()
    return conv.requires_grad_(False)


def _whole(low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers, both ends among them."""
    x = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(2)).float()
    x.view(-1)[:2] = torch.tensor([low, high])
    return x


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-255, 0), (-55, 200)])
def test_whole_numbers_come_out_exact(low: int, high: int) -> None:
    """256 steps of 1: nothing is rounded; the border is 0 whatever the range."""
    conv, x = _conv(16, 8, 3, padding=1), _whole(low, high, 2, 16, 5, 7)
    assert torch.equal(Int8Conv(conv)(x), conv.double()(x.double()).float())


def test_the_steps_are_those_of_each_input() -> None:
    """255 steps from the least to the greatest value, and 0 always is one of them."""
    layer = Int8Conv(conv := _conv(16, 8, 3, padding=1))
    conv.double()
    for scale, (low, high) in ((1.0, (0, 255)), (0.25, (-55, 200)), (8.0, (-128, 127))):
        x = scale * _whole(low, high, 2, 16, 5, 7)
        torch.testing.assert_close(layer(x), conv(x.double()).float(), rtol=1e-6, atol=1e-3)
    assert torch.equal(layer(torch.zeros(1, 16, 2, 2)), conv.bias.float().view(1, 8, 1, 1).expand(1, 8, 2, 2))


def _same() -> Int8Conv:
    """One pixel, one channel: what comes out is what went in."""
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.data.fill_(1.0)
    conv.bias.data.fill_(0.0)
    return Int8Conv(conv)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([-1.0, -0.6, 0.0, 0.4, 1.6, 100.2, 99.8, 254.0], [-1, -1, 0, 0, 2, 100, 100, 254]),
        ([-55.5, 199.5, 0.0, 10.0], [-56, 199, 0, 10]),  # 0 is a step, so the greatest value lies beyond the last one
        ([510.0, 300.6, 301.6, 1.2], [510, 300, 302, 2]),  # a step is 2, from 0 on
    ],
)
def test_values_are_rounded_to_the_nearest_step(given: list[float], expected: list[float]) -> None:
    made = _same()(torch.tensor(given).view(1, 1, 1, -1)).flatten()
    assert made.tolist() == pytest.approx(expected, abs=1e-3)


def test_weights_are_rounded_to_the_nearest_step() -> None:
    conv = nn.Conv2d(3, 1, 1)
    conv.weight.data = torch.tensor([127.0, 1.6, -2.7]).view(1, 3, 1, 1)
    conv.bias.data.zero_()
    x = torch.tensor([0.0, 255.0, 100.0]).view(1, 3, 1, 1)
    assert Int8Conv(conv)(x).item() == pytest.approx(255 * 2 - 100 * 3, abs=1e-3)


def test_each_channel_that_comes_out_has_its_own_steps() -> None:
    torch.manual_seed(5)
    conv, x = nn.Conv2d(16, 8, 3, padding=1).requires_grad_(False), torch.randn(2, 16, 12, 12)
    conv.weight.data *= torch.logspace(-2, 0, 8).view(8, 1, 1, 1)
    conv.bias.data.zero_()
    off, wanted = Int8Conv(conv)(x) - conv(x), conv(x)
    assert (off.std((0, 2, 3)) / wanted.std((0, 2, 3))).max() < 0.02


def test_strides_padding_and_dilation_are_those_of_the_convolution() -> None:
    for options in ({"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2}):
        conv, x = _conv(4, 8, 3, **options), _whole(0, 255, 3, 4, 8, 6)
        assert torch.equal(Int8Conv(conv)(x), conv(x))


def test_half_floats_are_taken_too() -> None:
    conv, x = _conv(4, 8, 3), _whole(0, 255, 1, 4, 5, 5)
    assert torch.equal(Int8Conv(conv)(x.bfloat16()), Int8Conv(conv)(x))


@pytest.mark.parametrize("name", ["block", "autoencoder", "spade"])
def test_a_net_in_integers_is_near_the_one_in_floats(name: str) -> None:
    torch.manual_seed(3)
    net: nn.Module = {"block": Block(16), "autoencoder": Autoencoder(), "spade": SpadeBlock(8, 4, 8)}[name]
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.1)  # gamma and beta start at zero
    given = {"block": (16,), "autoencoder": (32,), "spade": (8, 4)}[name]
    inputs = [torch.randn(2, channels, 8, 8) for channels in given]

    def run() -> Tensor:
        return net.decode(*inputs) if isinstance(net, Autoencoder) else net(*inputs)

    with torch.no_grad():
        wanted = run()
        to_int8(net)
        made = run()
    assert not any(isinstance(layer, nn.Conv2d) for layer in net.modules())
    assert 0 < (made - wanted).std() < 0.015 * wanted.std()
