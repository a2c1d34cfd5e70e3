"""Equations 6 and 9 with numbers worked by hand, and the lip opening scores."""

from __future__ import annotations

import numpy as np
import pytest

from spear.scores.landmark import (
    best_lag,
    landmark_distance,
    landmark_velocity_distance,
    opening_amplitude,
    opening_correlation,
)

TRUTH = np.zeros((3, 2, 2))
PRED = np.array([[[3, 4], [0, 0]], [[3, 4], [0, 2]], [[0, 0], [0, 2]]], float)
"""Two points in three frames. Their distances from zero are 5 and 0, 5 and 2, 0 and 2 px."""


def test_eq_9_by_hand() -> None:
    # width 10: frame means (5+0)/2, (5+2)/2, (0+2)/2 = 2.5, 3.5, 1 px; mean 7/3 px; over 10 px: 7/30
    assert landmark_distance(PRED, TRUTH, 10) == pytest.approx(7 / 30, abs=1e-15)
    # widths 10, 5, 2 px: 2.5/10 + 3.5/5 + 1/2 = 0.25 + 0.7 + 0.5 = 1.45; over 3 frames
    assert landmark_distance(PRED, TRUTH, [10, 5, 2]) == pytest.approx(1.45 / 3, abs=1e-15)


def test_eq_6_by_hand() -> None:
    # steps of the difference: frame 1->2: (0,0), (0,2): squares 0, 4; frame 2->3: (-3,-4), (0,0): squares 25, 0
    # eq. 6: ((0+4)/2 + (25+0)/2) / 2 = (2 + 12.5) / 2 = 7.25 px^2
    assert landmark_velocity_distance(PRED, TRUTH, 1, squared=True) == pytest.approx(7.25, abs=1e-15)
    # without the square: ((0+2)/2 + (5+0)/2) / 2 = 1.75 px; at width 10: 0.0725 and 0.175
    assert landmark_velocity_distance(PRED, TRUTH, 1, squared=False) == pytest.approx(1.75, abs=1e-15)
    assert landmark_velocity_distance(PRED, TRUTH, 10, squared=True) == pytest.approx(0.0725, abs=1e-15)
    assert landmark_velocity_distance(PRED, TRUTH, 10, squared=False) == pytest.approx(0.175, abs=1e-15)
    # widths 10, 10, 30: the steps are over 10 and 20: ((0+2)/10/2 + (5+0)/20/2) / 2 = (0.1 + 0.125) / 2
    assert landmark_velocity_distance(PRED, TRUTH, [10, 10, 30], squared=False) == pytest.approx(0.1125, abs=1e-15)


def test_steps_into_and_out_of_a_lost_frame_are_left_out() -> None:
    pred = np.concatenate([PRED, np.full((1, 2, 2), np.nan), PRED[:1]])
    truth = np.concatenate([TRUTH, np.full((1, 2, 2), np.nan), TRUTH[:1]])
    found = np.array([True, True, True, False, True])
    assert landmark_velocity_distance(pred, truth, 1, squared=True, found=found) == 7.25
    with pytest.raises(ValueError, match="no two neighbouring frames"):
        landmark_velocity_distance(pred, truth, 1, squared=True, found=np.array([True, False, True, False, True]))


def test_known_directions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20, 57, 2)).cumsum(0) * 3
    width = np.full(20, 50.0)
    shifted = truth + np.array([1, 0])  # one pixel to the right: LD = 1 / width, no change of velocity
    assert landmark_distance(shifted, truth, width) == pytest.approx(1 / 50, abs=1e-12)
    assert landmark_velocity_distance(shifted, truth, width, squared=True) == pytest.approx(0, abs=1e-20)
    late = np.roll(truth, 1, axis=0)
    assert landmark_distance(late[1:], truth[1:], 50) > 0.01
    assert landmark_velocity_distance(late[1:], truth[1:], 50, squared=False) > 0.01
    assert landmark_distance(truth, truth, width) == 0
    assert landmark_velocity_distance(truth, truth, width, squared=True) == 0


@pytest.mark.parametrize(
    ("pred", "truth", "width"),
    [
        (PRED[:2], TRUTH, 1),
        (PRED[0], TRUTH[0], 1),
        (PRED[..., :1], TRUTH[..., :1], 1),
        (PRED[:0], TRUTH[:0], 1),
        (PRED, TRUTH, [1, 1]),
        (PRED, TRUTH, 0),
        (PRED * np.nan, TRUTH, 1),
        (PRED, TRUTH, np.inf),
    ],
)
def test_what_cannot_be_scored_is_refused(pred: np.ndarray, truth: np.ndarray, width: object) -> None:
    with pytest.raises(ValueError, match=r"points|width"):
        landmark_distance(pred, truth, width)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points|width"):
        landmark_velocity_distance(pred, truth, width, squared=True)  # type: ignore[arg-type]


def test_velocity_needs_two_frames() -> None:
    with pytest.raises(ValueError, match="F >= 2"):
        landmark_velocity_distance(PRED[:1], TRUTH[:1], 1, squared=True)


def test_opening_by_hand_and_as_numpy() -> None:
    # deviations (-1, 0, 1) and (-1, 1, 0): r = 1 / sqrt(2 * 2) = 0.5; standard deviations are equal
    assert opening_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5, abs=1e-15)
    assert opening_amplitude([1, 2, 3], [1, 3, 2]) == pytest.approx(1, abs=1e-15)
    assert opening_amplitude([0.5, 1, 1.5], [1, 3, 2]) == pytest.approx(0.5, abs=1e-15)
    a, b = np.random.default_rng(1).normal(size=(2, 100))
    assert opening_correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)


def test_a_still_mouth_follows_nothing() -> None:
    still, moving = np.full(9, 0.1), np.linspace(0, 1, 9)
    assert opening_correlation(still, moving) == opening_correlation(moving, still) == 0.0
    assert opening_amplitude(still, moving) == pytest.approx(0, abs=1e-15)
    assert opening_amplitude(moving, still) == np.inf
    assert opening_amplitude(still, still) == 1.0
    assert best_lag(still, moving) == (0.0, 0)


@pytest.mark.parametrize("lag", [-6, -1, 0, 1, 6])
def test_best_lag_says_how_late_the_prediction_is(lag: int) -> None:
    truth = np.random.default_rng(2).normal(size=60)
    pred = np.roll(truth, lag)  # pred[f + lag] = truth[f]
    r, found = best_lag(pred, truth)
    assert found == lag
    assert r == pytest.approx(1, abs=1e-12)


def test_best_lag_over_gaps_and_in_short_clips() -> None:
    truth = np.random.default_rng(3).normal(size=60)
    pred = np.roll(truth, 2)
    known = np.ones(60, bool)
    known[[20, 21, 40]] = False
    pred[20], truth[40] = np.nan, np.nan
    r, lag = best_lag(pred, truth, known)
    assert (lag, r) == (2, pytest.approx(1, abs=1e-12))
    # five frames: lags beyond 2 leave fewer than three, which correlate by chance
    assert abs(best_lag([0, 1, 0, 0, 0], [0, 0, 0, 1, 0])[1]) <= 2
    assert best_lag([0, 1], [1, 0]) == (0.0, 0)


def test_openings_are_checked() -> None:
    for pred, truth in (([1, 2], [1, 2, 3]), ([1], [1]), ([[1, 2]], [[1, 2]]), ([1, np.nan], [1, 2])):
        for score in (opening_correlation, opening_amplitude):
            with pytest.raises(ValueError, match="lip openings"):
                score(pred, truth)
