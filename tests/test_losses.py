"""Equations 5 to 8, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spear.losses import a2lm_loss, critic_loss, generator_loss, landmark_mse, landmark_velocity, masked_mse


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
