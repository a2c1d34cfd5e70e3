"""The patch discriminator, and the window that it looks at."""

from __future__ import annotations

import pytest
import torch

from spear.nets.critic import Critic, around


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


@pytest.mark.parametrize(
    ("middle", "row", "column"),
    [
        ((5.0, 3.0), 2, 3),  # 2 rows and 4 columns around x 5, y 3: from y 3 - 1, x 5 - 2
        ((5.9, 3.9), 2, 3),
        ((1.0, 0.0), 0, 0),  # would begin at x -1, y -1
        ((9.0, 5.9), 4, 6),  # 6 rows, 10 columns: begins at y 6 - 2, x 10 - 4 at the latest
        ((-50.0, 99.0), 4, 0),
    ],
    ids=["inside", "between pixels", "top left", "bottom right", "far outside"],
)
def test_a_window_around_a_place(middle: tuple[float, float], row: int, column: int) -> None:
    picture = (10 * torch.arange(6.0)[:, None] + torch.arange(10.0)).expand(1, 3, 6, 10)  # 10 y + x
    window = around(picture, torch.tensor([middle]), height=2, width=4)
    assert window.shape == (1, 3, 2, 4)
    assert window[0, 0, 0].tolist() == [10 * row + column + i for i in range(4)]
    assert window[0, 2, 1].tolist() == [10 * (row + 1) + column + i for i in range(4)]


def test_each_picture_has_its_own_window_and_gradients_reach_only_that() -> None:
    pictures = torch.randn(2, 3, 6, 10, requires_grad=True)
    windows = around(pictures, torch.tensor([[2.0, 1.0], [8.0, 5.0]]), height=2, width=4)
    assert torch.equal(windows, torch.stack([pictures[0, :, 0:2, 0:4], pictures[1, :, 4:6, 6:10]]))
    windows.sum().backward()
    seen = torch.zeros(2, 3, 6, 10)
    seen[0, :, 0:2, 0:4] = seen[1, :, 4:6, 6:10] = 1
    assert torch.equal(pictures.grad, seen)
