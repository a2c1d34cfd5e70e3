"""Equations 5 to 8 and the loss of stage 1's small preset, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spear.losses import (
    a2lm_loss,
    critic_loss,
    generator_loss,
    landmark_length_loss,
    landmark_mse,
    landmark_velocity,
    masked_mse,
)


@pytest.fixture
def track() -> tuple[Tensor, Tensor]:
    """One clip, F = 3 frames, N = 2 points. Errors (pred - truth), point by point:

    frame 0: (3, 4) (0, 0)    squared norms 25, 0
    frame 1: (0, 0) (1, 0)                   0, 1
    frame 2: (0, 0) (1, 2)                   0, 5
    """
    errors = torch.tensor([[[[3.0, 4], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [1, 2]]]])
    truth = torch.arange(12.0).view(1, 3, 2, 2)
    return truth + errors, truth


def test_equation_5_mean_squared_distance(track: tuple[Tensor, Tensor]) -> None:
    # (25 + 0 + 0 + 1 + 0 + 5) / (3 frames * 2 points)
    assert landmark_mse(*track).item() == pytest.approx(31 / 6)


def test_equation_6_squared_difference_of_velocities(track: tuple[Tensor, Tensor]) -> None:
    # steps of the errors: 0 -> 1: (-3, -4) (1, 0), squared 25, 1; 1 -> 2: (0, 0) (0, 2), squared 0, 4
    # (25 + 1 + 0 + 4) / (2 steps * 2 points)
    assert landmark_velocity(*track).item() == pytest.approx(30 / 4)


def test_equation_7_is_their_sum(track: tuple[Tensor, Tensor]) -> None:
    assert a2lm_loss(*track).item() == pytest.approx(31 / 6 + 30 / 4)


def test_a_constant_offset_costs_no_velocity() -> None:
    truth = torch.randn(2, 5, 57, 2)
    assert landmark_velocity(truth + 7, truth).item() == pytest.approx(0, abs=1e-10)


def test_one_frame_has_no_velocity(track: tuple[Tensor, Tensor]) -> None:
    pred, truth = (value[:, :1] for value in track)
    assert landmark_velocity(pred, truth).item() == 0


def test_length_loss_of_a_constant_offset() -> None:
    # every point is off by (0.03, 0.04), a length of 0.05; round at the bottom: sqrt(0.05^2 + 0.002^2) - 0.002
    # = 0.05004 - 0.002 = 0.04804; the offset does not change over time, so velocities cost nothing
    truth = torch.rand(2, 5, 57, 2, dtype=torch.float64)
    pred = truth + torch.tensor([0.03, 0.04])
    assert landmark_length_loss(pred, truth).item() == pytest.approx(0.04804, abs=1e-6)


def test_length_loss_of_one_point_in_one_frame() -> None:
    # F = 3 frames, N = 2 points; one point of the middle frame is off by (3, 4), 5 long. So much is left of a length
    # of 5 beside a tremble of 0.002: 4.998. Places: 4.998 / (3 * 2). Velocities: there and back, 2 * 4.998 / (2 * 2)
    truth = torch.arange(12.0, dtype=torch.float64).view(1, 3, 2, 2)
    pred = truth.clone()
    pred[0, 1, 0] += torch.tensor([3.0, 4.0])
    assert landmark_length_loss(pred, truth).item() == pytest.approx(4.998 / 6 + 4.998 / 2, abs=1e-5)


def test_length_loss_of_one_frame_has_no_velocity() -> None:
    truth = torch.zeros(1, 1, 2, 2)
    pred = truth + torch.tensor([3.0, 4.0])
    assert landmark_length_loss(pred, truth).item() == pytest.approx(4.998, abs=1e-5)


def test_length_loss_is_round_where_nothing_is_off() -> None:
    """A length alone has no slope at 0: the gradient would not be finite."""
    pred = torch.zeros(1, 4, 3, 2, requires_grad=True)
    loss = landmark_length_loss(pred, torch.zeros(1, 4, 3, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert pred.grad is not None
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_length_loss_minds_outliers_less_than_equation_7() -> None:
    """One frame that is ten times as far off costs ten times as much by length, a hundred times as much by squares."""
    truth = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    near, far = truth + torch.tensor([0.0, 1.0]), truth + torch.tensor([0.0, 10.0])
    assert (landmark_length_loss(far, truth) / landmark_length_loss(near, truth)).item() == pytest.approx(10, rel=0.01)
    assert (a2lm_loss(far, truth) / a2lm_loss(near, truth)).item() == pytest.approx(100)


def test_masked_mse_is_a_weighted_mean_over_the_mask() -> None:
    # errors of 2, 4 and 9 in each of 3 channels, weights 1, 0.5 and 0:
    # (4 * 1 + 16 * 0.5 + 81 * 0) * 3 channels / ((1 + 0.5) * 3 channels) = 12 / 1.5 = 8
    truth = torch.zeros(1, 3, 1, 3)
    pred = truth + torch.tensor([2.0, 4, 9])
    assert masked_mse(pred, truth, torch.tensor([[[[1.0, 0.5, 0]]]])).item() == pytest.approx(8)


def test_masked_mse_of_an_empty_mask_is_zero() -> None:
    assert masked_mse(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 0


def test_hinge_loss_of_the_critic() -> None:
    # true pictures: max(0, 1 - 0.5), max(0, 1 - 2) = 0.5, 0, mean 0.25
    # generated:     max(0, 1 - 2), max(0, 1 + 0) = 0, 1, mean 0.5
    assert critic_loss(torch.tensor([0.5, 2]), torch.tensor([-2.0, 0])).item() == pytest.approx(0.75)


def test_hinge_loss_of_the_generator() -> None:
    assert generator_loss(torch.tensor([-2.0, 0, 5])).item() == pytest.approx(-1)
