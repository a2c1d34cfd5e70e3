"""Frechet distance between two sets of features, from their mean and covariance, gathered in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches; float64, memory of one (D, D) matrix whatever the count.

    Batches are joined as in Chan, Golub & LeVeque (1979), which does not lose digits as a sum of squares does; the same
    rule merges the statistics of several processes, so that sharded equals whole.
    """

    def __init__(self, width: int = 2048) -> None:
        """width: D, the length of one feature vector."""
        self.count = 0
        self.mean: Matrix = np.zeros(width)
        self._scatter: Matrix = np.zeros((width, width))

    @property
    def width(self) -> int:
        return len(self.mean)

    def add(self, features: ArrayLike) -> None:
        """Add a batch (N, D). Raises ValueError for another shape or non-finite values."""
        batch = np.asarray(features, np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.width:
            raise ValueError(f"features must be (N, {self.width}), not {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features must be finite")
        if len(batch) == 0:
            return
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._join(len(batch), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Take in what another one gathered, as if its batches had been added here. Raises ValueError for another D."""
        if other.width != self.width:
            raise ValueError(f"cannot merge features of width {other.width} into {self.width}")
        if other.count:
            self._join(other.count, other.mean, other._scatter)

    def _join(self, count: int, mean: Matrix, scatter: Matrix) -> None:
        total = self.count + count
        apart = mean - self.mean
        self._scatter += scatter
        self._scatter += np.outer(apart, apart * (self.count * count / total))
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Matrix:
        """(D, D), divided by N - 1 as numpy.cov does. Raises ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two feature vectors, not {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) between two Gaussians with the given means and covariances; >= 0.

    tr (S1 S2)^1/2 equals tr (S1^1/2 S2 S1^1/2)^1/2, which is symmetric and so needs eigh only: no complex numbers, no
    epsilon on the diagonal, defined for fewer vectors than dimensions too.
    Raises ValueError for unequal widths or fewer than two vectors.
    """
    if a.width != b.width:
        raise ValueError(f"cannot compare features of width {a.width} and {b.width}")
    first, second = a.covariance, b.covariance
    apart = a.mean - b.mean
    half = _half(first)
    inner = half.T @ second @ half
    values = np.linalg.eigvalsh((inner + inner.T) / 2)
    shared = np.sqrt(_positive(values)).sum()
    distance = float(apart @ apart + np.trace(first) + np.trace(second) - 2 * shared)
    return max(0.0, distance)


def _half(covariance: Matrix) -> Matrix:
    """H (D, rank) with H H^T = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    values = _positive(values)
    kept = values > 0
    return vectors[:, kept] * np.sqrt(values[kept])


def _positive(values: Matrix) -> Matrix:
    """Eigenvalues with rounding noise set to 0: a root would blow 1e-16 up to 1e-8, times thousands of dimensions."""
    noise = len(values) * np.finfo(np.float64).eps * max(values.max(initial=0.0), 0.0)
    return np.where(values > noise, values, 0.0)
