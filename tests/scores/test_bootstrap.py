"""Bootstrap intervals: by the normal theory of a mean, weights, too few parts, one clip by its seconds."""

from __future__ import annotations

import numpy as np
import pytest

from spear.scores.bootstrap import LEAST, ROUNDS, intervals, resampled_means
from spear.scores.compare import ClipScores, total


def clip(name: str, values: np.ndarray) -> ClipScores:
    scores = ClipScores(name)
    for value in values:
        scores.frames += 1
        scores.add({"psnr_full": float(value)})
    return scores


def test_as_the_normal_theory_says() -> None:
    # 400 clips of one frame with standard deviation 2: the mean is sure to 1.96 * 2 / sqrt(400) = .196 to either side
    values = np.random.default_rng(1).normal(30, 2, 400)
    clips = [clip(str(i), values[i : i + 1]) for i in range(400)]
    low, high = intervals(resampled_means(clips))["psnr_full"]
    mean = total(clips)["psnr_full"]
    assert mean is not None
    assert mean - low == pytest.approx(0.196, rel=0.1)
    assert high - mean == pytest.approx(0.196, rel=0.1)


def test_equal_clips_leave_no_doubt_whatever_their_weight() -> None:
    clips = [clip(str(i), np.full(i + 1, 33.0)) for i in range(LEAST)]
    assert intervals(resampled_means(clips))["psnr_full"] == pytest.approx([33.0, 33.0])


def test_a_long_clip_counts_for_more() -> None:
    # a hundred frames at 40 dB, four clips of one frame at 20: most rounds hold the long one, the upper end is near 40
    clips = [clip("long", np.full(100, 40.0)), *(clip(str(i), np.full(1, 20.0)) for i in range(4))]
    low, high = intervals(resampled_means(clips))["psnr_full"]
    assert low == 20  # (4/5)^5 = 33 % of the rounds do not hold it
    assert high == pytest.approx((200 * 40 + 3 * 20) / 203, abs=0.5)


def test_one_clip_is_drawn_by_its_seconds() -> None:
    # ten seconds, 0 and 1 by turns: were frames drawn, the half width would be .06; of ten seconds it is about .3
    values = np.repeat(np.tile([0.0, 1.0], 5), 25)
    means = resampled_means([clip("a", values)])
    low, high = intervals(means)["psnr_full"]
    assert means["psnr_full"].shape == (ROUNDS,)
    assert (low, high) == (pytest.approx(0.2, abs=0.11), pytest.approx(0.8, abs=0.11))


def test_too_few_say_nothing() -> None:
    assert resampled_means([clip(str(i), np.ones(9)) for i in range(LEAST - 1)]) == {}
    assert resampled_means([clip("a", np.ones(4 * 25))]) == {}
    assert resampled_means([]) == {}


def test_a_value_that_some_clips_lack() -> None:
    clips = [clip(str(i), np.full(2, np.nan if i else 31.0)) for i in range(6)]
    assert intervals(resampled_means(clips))["psnr_full"] == [31.0, 31.0]
    assert intervals(resampled_means([clip(str(i), np.full(2, np.nan)) for i in range(6)])) == {}


def test_the_same_twice() -> None:
    clips = [clip(str(i), np.full(3, float(i))) for i in range(8)]
    assert intervals(resampled_means(clips)) == intervals(resampled_means(clips))
