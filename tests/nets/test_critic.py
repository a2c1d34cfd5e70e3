"""The patch discriminator."""

from __future__ import annotations

import torch

from spear.nets.critic import Critic


def test_one_score_for_each_8x8_cell() -> None:
    assert Critic(8)(torch.randn(2, 3, 144, 256)).shape == (2, 1, 18, 32)


def test_a_score_sees_38_x_38_px() -> None:
    # three 4x4 convolutions of stride 2, then a 3x3: 4, 4 + 3 * 2 = 10, 10 + 3 * 4 = 22, 22 + 2 * 8 = 38
    picture = torch.randn(1, 3, 128, 128, requires_grad=True)
    Critic(4)(picture)[0, 0, 8, 8].backward()
    rows, columns = (picture.grad.abs().sum((0, 1)).sum(axis).nonzero().flatten() for axis in (1, 0))
    assert len(rows) == len(columns) == 38
    assert rows[-1] - rows[0] == 37


def test_no_layer_stretches_by_more_than_one() -> None:
    torch.manual_seed(0)
    critic = Critic(8)
    for _ in range(50):  # spectral_norm estimates the norm anew at every pass in training mode
        critic(torch.randn(1, 3, 32, 32))
    for layer in critic.layers[::2]:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert abs(norm.item() - 1) < 0.02
