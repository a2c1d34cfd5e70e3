"""Scores gathered frame by frame equal those over whole arrays; means are weighted; JSON holds no NaN."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spear.points import LOWER, face_width, lip_opening
from spear.scores.compare import ClipScores, Scores, picture_values, total
from spear.scores.frechet import FrechetScore, frechet_distance
from spear.scores.landmark import landmark_distance, landmark_velocity_distance, opening_correlation

RNG = np.random.default_rng(0)
SHAPE = RNG.uniform(50, 200, (131, 2))
TRUTH = (SHAPE + RNG.normal(0, 2, (30, 131, 2))).astype(np.float32)
PRED = (TRUTH + RNG.normal(0, 1, TRUTH.shape)).astype(np.float32)


def gathered(name: str, pred: np.ndarray, truth: np.ndarray, lost: tuple[int, ...] = ()) -> ClipScores:
    scores = ClipScores(name)
    for frame in range(len(truth)):
        scores.frames += 1
        scores.add_landmarks(None if frame in lost else pred[frame], truth[frame])
    return scores


def test_frame_by_frame_is_the_whole() -> None:
    values = gathered("a", PRED, TRUTH).values()
    width = face_width(TRUTH)
    pred, truth = PRED[:, LOWER], TRUTH[:, LOWER]
    assert values["ld_ratio"] == pytest.approx(landmark_distance(pred, truth, width), rel=1e-12)
    assert values["lvd_ratio"] == pytest.approx(
        landmark_velocity_distance(pred, truth, width, squared=False), rel=1e-12
    )
    squared = landmark_velocity_distance(pred, truth, width, squared=True)
    assert values["lvd_squared_ratio"] == pytest.approx(squared, rel=1e-12)
    assert values == gathered("a", pred, TRUTH).values()  # the lower half of the prediction is all that counts


def test_units() -> None:
    # px at a crop of 256 px that is 1.5 face widths wide: ratio * 256 / 1.5, so 0.03 face widths are 5.12 px
    values = gathered("a", PRED, TRUTH).values()
    ratio, squared = values["ld_ratio"], values["lvd_squared_ratio"]
    assert ratio is not None
    assert squared is not None
    assert values["ld_percent"] == pytest.approx(100 * ratio)
    assert values["ld_px256"] == pytest.approx(5.12 / 0.03 * ratio)
    assert values["lvd_squared_percent"] == pytest.approx(1e4 * squared)
    assert values["lvd_squared_px256"] == pytest.approx((5.12 / 0.03) ** 2 * squared)


def test_lost_faces_are_counted_and_left_out() -> None:
    scores = gathered("a", PRED, TRUTH, lost=(4, 10, 11))
    kept = [f for f in range(30) if f not in (4, 10, 11)]
    width = face_width(TRUTH)
    expected = landmark_distance(PRED[kept][:, LOWER], TRUTH[kept][:, LOWER], width[kept])
    assert scores.values()["ld_ratio"] == pytest.approx(expected, rel=1e-12)
    found = np.isin(np.arange(30), kept)
    steps = landmark_velocity_distance(PRED[:, LOWER], TRUTH[:, LOWER], width, squared=False, found=found)
    assert scores.values()["lvd_ratio"] == pytest.approx(steps, rel=1e-12)
    row = scores.row()
    assert (row["frames"], row["frames_both_faces"], row["frames_without_face_pred"]) == (30, 27, 3)
    # 29 steps; 3->4, 4->5, 9->10, 10->11, 11->12 touch a lost frame
    assert scores.weight("lvd_px256") == 24
    assert scores.notes() == ["a: no face in 3 of 30 frames of the prediction; not in LD and LVD"]


def test_lips_stand_beside_ld() -> None:
    values = gathered("a", TRUTH, TRUTH).values()
    assert values["lip_opening_r"] == pytest.approx(1)
    assert values["lip_opening_amplitude"] == pytest.approx(1)
    assert values["lip_opening_best_lag_frames"] == 0
    moving = gathered("a", PRED, TRUTH).values()["lip_opening_r"]
    width = face_width(TRUTH)
    opening = lip_opening(PRED) * face_width(PRED) / width  # both over the truth's width
    assert moving == pytest.approx(opening_correlation(opening, lip_opening(TRUTH)), abs=1e-6)


def test_no_face_at_all() -> None:
    scores = gathered("a", PRED, TRUTH, lost=tuple(range(30)))
    assert set(scores.values().values()) == {None}
    assert "not defined: ld_ratio" in scores.notes()[-1]
    assert total([scores])["ld_ratio"] is None


def test_total_is_weighted_with_frames() -> None:
    # clip a: LD 1/w over 30 frames, clip b: 4/w over 10 frames: (30 * 1 + 10 * 4) / 40 = 1.75 / w
    truth = np.repeat(TRUTH[:1], 30, axis=0)
    width = float(face_width(TRUTH[0]))
    a = gathered("a", truth + np.array([1, 0]), truth)
    b = gathered("b", truth[:10] + np.array([0, 4]), truth[:10])
    assert total([a, b])["ld_ratio"] == pytest.approx(1.75 / width, rel=1e-6)
    nothing = gathered("c", truth, truth, lost=tuple(range(30)))
    assert total([a, b, nothing])["ld_ratio"] == total([a, b])["ld_ratio"]


def test_pictures() -> None:
    scores = ClipScores("a")
    truth = np.full((16, 16, 3), 100, np.uint8)
    for pred in (truth, truth + np.uint8(16)):
        scores.frames += 1
        scores.add(picture_values("full", frozenset({"psnr"}), pred, truth))
    scores.add(picture_values("crop", frozenset({"psnr"}), None, None))
    # identical frames count 100 dB, a difference of 16 24.0484 dB
    assert scores.values() == {"psnr_full": pytest.approx((100 + 24.0484) / 2, abs=1e-4), "psnr_crop": None}
    assert scores.notes()[0] == "a: no face in 1 of 1 frames; not in psnr_crop"  # of those looked at


def test_frechet_score_batches() -> None:
    def embed(pictures: np.ndarray) -> np.ndarray:
        return pictures.reshape(len(pictures), -1)[:, :5].astype(np.float64)

    score = FrechetScore(embed, width=5, batch=4)
    assert score.value() is None
    assert score.notes() == ["fid is not defined: 0 face crops, two are needed"]
    pictures = RNG.integers(0, 256, (2, 10, 4, 4, 3), dtype=np.uint8)
    for pred, truth in zip(*pictures, strict=True):
        score.add(pred, truth)
    value = score.value()
    assert score.pred.count == score.truth.count == 10
    assert value == pytest.approx(frechet_distance(score.pred, score.truth))
    assert "biased upwards" in score.notes()[0]


def test_json_has_no_nan() -> None:
    scores = Scores({"fps": 25}, {"a": math.nan, "b": 1.0}, [{"clip": "x", "c": math.inf}], ["note"])
    assert json.loads(scores.to_json()) == {
        "protocol": {"fps": 25},
        "values": {"a": None, "b": 1.0},
        "per_clip": [{"clip": "x", "c": None}],
        "notes": ["note"],
        "intervals": {},
        "groups": {},
        "pairs": [],
        "against": [],
        "left_out": 0,
    }
