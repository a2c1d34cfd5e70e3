"""Kept scores: equal to what was saved, for equal inputs only, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spear import score_cache
from spear.score_cache import load_scores, save_scores
from spear.scores.compare import ClipScores
from spear.scores.frechet import FrechetScore, frechet_distance
from spear.scores.split import SplitClipScores

RNG = np.random.default_rng(0)
ABOUT = {"pred": "1", "truth": "2", "which": ["ld"]}


def scored(frames: int = 30, pictures: int = 3) -> ClipScores:
    scores = ClipScores("a")
    truth = RNG.uniform(50, 200, (frames, 131, 2)).astype(np.float32)
    for number, points in enumerate(truth):
        scores.frames += 1
        scores.add_landmarks(None if number == 4 else points + np.float32(1), points)
        scores.add({"psnr_full": 30.0 + number, "csim": np.nan})
        scores.windows.append(np.full(4, float(number)))
    scores.whole, scores.counts, scores.remarks = {"sync_r": None, "lse_d": 6.5}, {"frames_pred": 31}, ["a remark"]
    scores.frechet = FrechetScore(lambda x: x.reshape(len(x), -1)[:, :5].astype(np.float64), width=5)
    for _ in range(pictures):
        scores.frechet.add(*RNG.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8))
    scores.frechet.closed()
    return scores


@pytest.mark.parametrize("pictures", [3, 40])  # fewer and more than features
def test_what_was_saved_comes_back(pictures: int) -> None:
    scores = scored(pictures=pictures)
    save_scores(scores, ABOUT)
    kept = load_scores(ClipScores, "b", ABOUT)
    assert kept is not None
    assert kept.row() == scores.row() | {"clip": "b"}
    assert kept.notes() == [note.replace("a:", "b:") for note in scores.notes()]
    for name in ("pred_points", "truth_points", "windows"):
        assert np.array_equal(getattr(kept, name), getattr(scores, name), equal_nan=True)
    assert kept.frechet is not None
    assert scores.frechet is not None
    assert kept.frechet.pred.count == pictures
    assert frechet_distance(kept.frechet.pred, kept.frechet.truth) == pytest.approx(
        frechet_distance(scores.frechet.pred, scores.frechet.truth), rel=1e-12
    )


def test_scores_of_a_split_come_back_with_their_baseline() -> None:
    scores = SplitClipScores("a")
    truth = RNG.uniform(50, 200, (20, 131, 2)).astype(np.float32)
    for points in truth:
        scores.frames += 1
        scores.add_landmarks(points + np.float32(1), points)
        scores.add_baseline(points[74:] + np.float32(2), points)
    save_scores(scores, ABOUT)
    kept = load_scores(SplitClipScores, "a", ABOUT)
    assert kept is not None
    assert kept.values() == scores.values()
    assert kept.values()["ld_skill"] == pytest.approx(0.5)


def test_other_inputs_and_other_code_have_scores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    save_scores(scored(), ABOUT)
    assert load_scores(ClipScores, "a", ABOUT | {"pred": "3"}) is None
    monkeypatch.setattr(score_cache, "_code", lambda: "changed")
    assert load_scores(ClipScores, "a", ABOUT) is None


def test_a_damaged_file_is_not_trusted() -> None:
    save_scores(scored(), ABOUT)
    path = score_cache._path(ABOUT)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert load_scores(ClipScores, "a", ABOUT) is None
    path.write_bytes(b"")
    assert load_scores(ClipScores, "a", ABOUT) is None


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    save_scores(scored(), ABOUT)
    assert load_scores(ClipScores, "a", ABOUT) is None
