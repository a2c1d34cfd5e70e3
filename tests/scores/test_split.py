"""Scores beside the baseline's and inside the blended hull, with numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import face

from spear.points import LOWER, face_width
from spear.scores.split import SplitClipScores, hull_psnr, split_total

MOUTH = face()
WIDTH = float(face_width(MOUTH))


def gathered(shifts: list[float], pred: float, baseline: float, lost: int | None = None) -> SplitClipScores:
    """A face that moves `shifts` px to the right of its place; prediction and baseline move by a share of that."""
    scores = SplitClipScores("clip")
    for number, shift in enumerate(shifts):
        truth = None if number == lost else MOUTH + np.array([shift, 0], np.float32)
        scores.frames += 1
        scores.add_landmarks(MOUTH[LOWER] + np.array([shift * pred, 0], np.float32), truth)
        scores.add_baseline(MOUTH[LOWER] + np.array([shift * baseline, 0], np.float32), truth)
    return scores


def test_against_the_baseline_by_hand() -> None:
    values = gathered([0, 10, 0], pred=0.75, baseline=0).values()
    # px off: 0, 2.5, 0 and 0, 10, 0; in both steps the prediction is 2.5 px behind the truth's, the baseline 10 px
    assert values["ld_baseline_ratio"] == pytest.approx(10 / 3 / WIDTH, rel=1e-5)
    assert values["lvd_baseline_ratio"] == pytest.approx(10 / WIDTH, rel=1e-5)
    assert values["lvd_baseline_percent"] == pytest.approx(1000 / WIDTH, rel=1e-5)
    assert values["ld_skill"] == pytest.approx(0.75, rel=1e-5)
    assert values["lvd_over_baseline"] == pytest.approx(0.25, rel=1e-5)


def test_the_baseline_itself_has_no_skill_and_one_times_its_lvd() -> None:
    values = gathered([0, 10, 5, 3], pred=0.25, baseline=0.25).values()
    assert values["ld_skill"] == pytest.approx(0, abs=1e-9)
    assert values["lvd_over_baseline"] == pytest.approx(1)


def test_steps_that_touch_a_lost_frame_are_left_out_of_both() -> None:
    scores = gathered([0, 10, 99, 10, 0], pred=0.5, baseline=0, lost=2)
    assert scores.weight("lvd_baseline_percent") == scores.weight("lvd_percent") == 2
    assert scores.values()["lvd_over_baseline"] == pytest.approx(0.5, rel=1e-5)


def test_a_perfect_baseline_makes_no_ratio() -> None:
    values = gathered([0, 10], pred=0.5, baseline=1).values()
    assert (values["ld_skill"], values["lvd_over_baseline"]) == (None, None)


def test_totals_come_from_totals() -> None:
    # LVD over two steps of 20 px, off by 10 and 20; over one step of 4 px, off by 4 and 4:
    # (2 * 10 + 4) / (2 * 20 + 4) = 24 / 44, not the mean of 0.5 and 1
    lively, still = gathered([0, 20, 0], pred=0.5, baseline=0), gathered([0, 4], pred=0, baseline=0)
    values = split_total([lively, still])
    assert values["lvd_over_baseline"] == pytest.approx(24 / 44, rel=1e-5)
    # LD: frames off by 0, 10, 0 and 0, 4 px; of the baseline 0, 20, 0 and 0, 4
    assert values["ld_skill"] == pytest.approx(1 - 14 / 24, rel=1e-5)


def opened(openings: list[float], truth: list[float]) -> SplitClipScores:
    scores = SplitClipScores("clip")
    for pred, true in zip(openings, truth, strict=True):
        scores.frames += 1
        scores.add_landmarks(face(pred), face(true))
        scores.add_baseline(MOUTH[LOWER], face(true))
    return scores


def test_mean_and_lowest_r_count_each_clip_once() -> None:
    good, bad = opened([0, 8, 0, 8] * 3, [0, 4, 0, 4] * 3), opened([8, 0], [0, 4])  # r 1 over 12 frames, -1 over 2
    nobody = SplitClipScores("clip")
    nobody.add_landmarks(None, None)
    nobody.add_baseline(MOUTH[LOWER], None)
    values = split_total([good, bad, nobody])
    assert values["lip_opening_r"] == pytest.approx((12 - 2) / 14)
    assert values["lip_opening_r_mean"] == pytest.approx(0)
    assert values["lip_opening_r_min"] == pytest.approx(-1)
    assert split_total([nobody])["lip_opening_r_min"] is None


def test_hull_psnr_by_hand() -> None:
    truth = np.full((4, 4, 3), 100, np.uint8)
    pred, mask = truth.copy(), np.zeros((4, 4), np.float32)
    pred[0] += 5
    pred[3] += 50
    mask[0] = 1
    # only the first row counts: off by 5, 10 log10(255^2 / 25) = 34.151 dB
    assert hull_psnr(pred, truth, mask) == pytest.approx(34.151, abs=1e-3)
    mask[1] = 0.5
    # half as much weight without error: MSE = 25 * 4 / (4 + 2), 1.761 dB more
    assert hull_psnr(pred, truth, mask) == pytest.approx(34.151 + 10 * np.log10(1.5), abs=1e-3)
    assert hull_psnr(truth, truth, mask) == 100
    assert np.isnan(hull_psnr(pred, truth, np.zeros((4, 4), np.float32)))
