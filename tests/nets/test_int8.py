"""Convolutions in 8-bit integers: exact where numbers fit the steps, near where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spear.nets.autoencoder import Autoencoder, Block
from spear.nets.int8 import Int8Conv, has_int8, to_int8, watch_ranges
from spear.nets.spade import SpadeBlock

needs_vnni = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="this CPU has no AVX-512 VNNI")


def _conv(*shape: int, **options: int) -> nn.Conv2d:
    """Weights and biases are whole numbers, the largest weight of every channel is 127."""
    conv = nn.Conv2d(*shape, **options)
    torch.manual_seed(1)
    conv.weight.data = torch.randint(-127, 128, conv.weight.shape).float()
    conv.weight.data[:, 0, 0, 0] = 127
    conv.bias.data = torch.randint(-999, 999, conv.bias.shape).float()
    return conv.requires_grad_(False)


def _whole(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(2)).float()


@needs_vnni
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-255, 0), (-55, 200)])
def test_whole_numbers_come_out_exact(low: int, high: int) -> None:
    """256 steps of 1: nothing is rounded; the border is 0 whatever the range."""
    conv, x = _conv(16, 8, 3, padding=1), _whole(low, high, 2, 16, 5, 7)
    assert torch.equal(Int8Conv(conv, low, high)(x), conv.double()(x.double()).float())


@needs_vnni
def test_steps_and_padding_are_those_of_the_convolution() -> None:
    conv, x = _conv(4, 8, 3, stride=2, padding=1), _whole(0, 255, 3, 4, 8, 6)
    made = Int8Conv(conv, 0, 255)(x)
    assert made.shape == (3, 8, 4, 3)
    assert torch.equal(made, conv(x))


@needs_vnni
def test_values_are_rounded_to_steps_and_cut_off_at_the_ends() -> None:
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.data.fill_(1.0)
    conv.bias.data.fill_(0.0)
    x = torch.tensor([-3.0, -1.0, 0.0, 0.4, 1.6, 100.2, 254.0, 999.0]).view(1, 1, 2, 4)
    made = Int8Conv(conv, -1, 254)(x)
    assert made.flatten().tolist() == pytest.approx([-1, -1, 0, 0, 2, 100, 254, 254], abs=1e-4)


@needs_vnni
def test_what_is_handed_on_is_the_relu_as_the_next_one_takes_it() -> None:
    first, second = _conv(4, 4, 1), _conv(4, 2, 3, padding=1)
    x = _whole(0, 255, 1, 4, 6, 6)
    high = float(first(x).max())
    one, two = Int8Conv(first, 0, 255), Int8Conv(second, 0, high)
    apart = two(torch.relu(one(x)))
    one.hand_to(two)
    between = one(x)
    assert between.dtype == torch.uint8
    assert torch.equal(between.float(), (torch.relu(first(x)) * 255 / high).round())
    assert torch.allclose(two(between), apart, rtol=1e-5)


def test_ranges_hold_zero_and_all_that_was_seen() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    net[0].weight.data.fill_(-2.0)
    net[0].bias.data.fill_(1.0)
    with watch_ranges(net) as ranges, torch.no_grad():
        net(torch.tensor([[[[3.0, 5.0]]]]))
        net(torch.tensor([[[[4.0, -1.0]]]]))
    net(torch.full((1, 1, 1, 1), -50.0))  # nobody watches any more
    assert ranges == {"0": (-1.0, 5.0), "2": (0.0, 3.0)}


@needs_vnni
@pytest.mark.parametrize("net", [Block(16), Autoencoder()], ids=["block", "autoencoder"])
def test_a_net_in_integers_is_near_the_one_in_floats(net: nn.Module) -> None:
    torch.manual_seed(3)
    channels = 16 if isinstance(net, Block) else net.latent_channels
    run = net if isinstance(net, Block) else net.decode
    x = torch.randn(2, channels, 8, 8)
    with torch.no_grad():
        with watch_ranges(net) as ranges:
            wanted = run(x)
        to_int8(net, ranges)
        made = run(x)
    left = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    assert all(name.startswith(("fine", "coarse", "to_latent")) for name in left)  # what was not run stays
    assert 0 < (made - wanted).std() < 0.03 * wanted.std()


@needs_vnni
def test_a_spade_block_in_integers_is_near_the_one_in_floats() -> None:
    torch.manual_seed(4)
    net = SpadeBlock(8, 4, 8)
    for layer in (net.spade_1.gamma_beta, net.spade_2.gamma_beta):
        nn.init.normal_(layer.weight, std=0.1)
    x, condition = torch.randn(6, 8, 8, 8), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        with watch_ranges(net) as ranges:
            wanted = net(x, condition)
        to_int8(net, ranges)
        made = net(x, condition)
    assert not any(isinstance(layer, nn.Conv2d) for layer in net.modules())
    assert 0 < (made - wanted).std() < 0.03 * wanted.std()
