"""The averaged net: by hand, and to the bit what diffusers' EMAModel makes."""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from spear.average import WeightAverage


def test_the_first_steps_by_hand() -> None:
    """After step 1 the average is the weight; step 2 keeps 1 - 2 ** -.75 = .4054 of it, so 0 and 1 give .5946."""
    weight = nn.Parameter(torch.zeros(1))
    average = WeightAverage([weight])
    average.step([weight])
    assert average.weights[0].item() == 0
    with torch.no_grad():
        weight.fill_(1.0)
    average.step([weight])
    assert abs(average.weights[0].item() - 2**-0.75) < 1e-6


def test_the_numbers_are_those_of_diffusers() -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 4)
    ours = WeightAverage(net.parameters())
    theirs = EMAModel(net.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    for step in range(12_000):  # 1 - n ** -.75 reaches .999 after 10,000 steps
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
        ours.step(net.parameters())
        theirs.step(net.parameters())
        if step in (0, 1, 100, 11_999):
            assert all(torch.equal(a, b) for a, b in zip(ours.weights, theirs.shadow_params, strict=True))
    assert ours.steps == theirs.optimization_step


def test_the_average_stands_in_for_a_while() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage([weight])
    with torch.no_grad():
        weight.fill_(3.0)
    with average.in_place_of([weight]):
        assert weight.item() == 1
    assert weight.item() == 3
    assert weight.requires_grad
