"""Streaming mean and covariance against numpy, the Frechet distance by hand and against scipy's matrix root."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from spear.scores.frechet import FeatureStatistics, frechet_distance


def gathered(features: np.ndarray, batch: int = 7) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for start in range(0, len(features), batch):
        statistics.add(features[start : start + batch])
    return statistics


def by_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + np.trace(first + second) - 2 * np.trace(np.real(sqrtm(first @ second))))


def correlated(seed: int, count: int, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) / 5 + rng.normal(size=width)


def test_streaming_is_numpy_even_far_from_zero() -> None:
    features = correlated(0, 500) + 1e4  # a sum of squares would lose eight digits here
    statistics = gathered(features)
    assert statistics.count == 500
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), atol=1e-9)


def test_sharded_equals_whole() -> None:
    features = correlated(1, 300)
    whole, merged = gathered(features), FeatureStatistics(48)
    for shard in (features[:10], features[10:11], features[11:11], features[11:200], features[200:]):
        merged.merge(gathered(shard))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, atol=1e-9)
    other = gathered(correlated(2, 300))
    assert frechet_distance(merged, other) == pytest.approx(frechet_distance(whole, other), abs=1e-9)


def test_distance_by_hand() -> None:
    # one dimension: -1, 1 has mean 0, variance 2; 1, 9 has mean 5, variance 32
    # (0-5)^2 + 2 + 32 - 2 sqrt(2 * 32) = 25 + 34 - 16 = 43
    a, b = gathered(np.array([[-1.0], [1.0]])), gathered(np.array([[1.0], [9.0]]))
    assert frechet_distance(a, b) == pytest.approx(43, abs=1e-12)


def test_as_scipy_and_symmetric() -> None:
    first, second = correlated(3, 400), correlated(4, 300)
    a, b = gathered(first), gathered(second)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(first, second), abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), abs=1e-9)


def test_truth_against_truth_and_known_directions() -> None:
    features = correlated(5, 200)
    a = gathered(features)
    assert frechet_distance(a, gathered(features)) == pytest.approx(0, abs=1e-9)
    # shifted by 1 in each of 48 dimensions: the covariances are equal, 48 is left
    assert frechet_distance(a, gathered(features + 1)) == pytest.approx(48, abs=1e-8)
    # doubled about the mean: trace S + 4 trace S - 2 * 2 trace S = trace S
    doubled = features.mean(0) + 2 * (features - features.mean(0))
    assert frechet_distance(a, gathered(doubled)) == pytest.approx(np.trace(a.covariance), abs=1e-8)


def test_fewer_pictures_than_dimensions() -> None:
    few = correlated(6, 20)
    a = gathered(few)
    assert frechet_distance(a, gathered(few)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, gathered(few + 2)) == pytest.approx(4 * 48, abs=1e-8)


def test_what_cannot_be_scored_is_refused() -> None:
    a = FeatureStatistics(4)
    with pytest.raises(ValueError, match="must be"):
        a.add(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="finite"):
        a.add(np.full((3, 4), np.nan))
    a.add(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(a, a)
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge(FeatureStatistics(5))
    with pytest.raises(ValueError, match="cannot compare"):
        frechet_distance(a, FeatureStatistics(5))
