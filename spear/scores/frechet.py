"""Frechet distance between two sets of features, from their mean and covariance, gathered in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spear.scores.image import Picture

Matrix = NDArray[np.float64]
Embed = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Pictures (N, H, W, 3) uint8 -> features (N, D)."""
FEW_PICTURES = 2048
"""Below as many pictures as features the covariance is singular and FID is biased upwards."""


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches; memory of one (D, D) matrix at most, whatever the count.

    Up to D vectors are kept as they are, which is less; more are summed in float64. Sums are joined as in Chan, Golub &
    LeVeque (1979), which does not lose digits as a sum of squares does; the same rule merges the statistics of several
    processes, so that sharded equals whole.
    """

    def __init__(self, width: int = 2048) -> None:
        """width: D, the length of one feature vector."""
        self.count, self.width = 0, width
        self._few: list[NDArray[np.floating[Any]]] = []
        self._sums: tuple[int, Matrix, Matrix] | None = None
        """How many vectors, their mean and the scatter about it."""

    def add(self, features: ArrayLike) -> None:
        """Add a batch (N, D). Raises ValueError for another shape or non-finite values."""
        batch = np.asarray(features)
        if batch.ndim != 2 or batch.shape[1] != self.width:
            raise ValueError(f"features must be (N, {self.width}), not {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features must be finite")
        if len(batch) == 0:
            return
        self.count += len(batch)
        self._few.append(batch)
        if sum(map(len, self._few)) > self.width:
            self._sum_up()

    def merge(self, other: FeatureStatistics) -> None:
        """Take in what another one gathered, as if its batches had been added here. Raises ValueError for another D."""
        if other.width != self.width:
            raise ValueError(f"cannot merge features of width {other.width} into {self.width}")
        if other._sums is not None:
            self.count += other._sums[0]
            self._join(*other._sums)
        for batch in other._few:
            self.add(batch)

    def tensors(self) -> dict[str, NDArray[np.floating[Any]]]:
        """What was gathered, as arrays for a file: `rows` (N, D), or `mean` (D,), `scatter` (D, D) and `count` (1,)."""
        if self._sums is None:
            return {"rows": np.concatenate(self._few)} if self._few else {}
        self._sum_up()
        count, mean, scatter = self._sums
        return {"mean": mean, "scatter": scatter, "count": np.array([count], np.float64)}

    @classmethod
    def of(cls, tensors: dict[str, NDArray[np.floating[Any]]], width: int = 2048) -> FeatureStatistics:
        """The statistics that `tensors` told of."""
        statistics = cls(width)
        if "rows" in tensors:
            statistics.add(tensors["rows"])
        elif tensors:
            statistics.count = int(tensors["count"][0])
            statistics._join(statistics.count, tensors["mean"], tensors["scatter"])
        return statistics

    def _sum_up(self) -> None:
        if self._few:
            batch = np.concatenate(self._few).astype(np.float64)
            self._few = []
            mean = batch.mean(axis=0)
            centred = batch - mean
            self._join(len(batch), mean, centred.T @ centred)

    def _join(self, count: int, mean: Matrix, scatter: Matrix) -> None:
        if self._sums is None:
            self._sums = (count, mean.copy(), scatter.copy())
            return
        before, old_mean, old_scatter = self._sums
        apart, total = mean - old_mean, before + count
        old_scatter += scatter
        old_scatter += np.outer(apart, apart * (before * count / total))
        self._sums = (total, old_mean + apart * (count / total), old_scatter)

    @property
    def mean(self) -> Matrix:
        """(D,). Raises ValueError without any vector."""
        self._sum_up()
        if self._sums is None:
            raise ValueError("a mean needs at least one feature vector")
        return self._sums[1]

    @property
    def covariance(self) -> Matrix:
        """(D, D), divided by N - 1 as numpy.cov does. Raises ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two feature vectors, not {self.count}")
        self._sum_up()
        assert self._sums is not None
        return self._sums[2] / (self.count - 1)


class FrechetScore:
    """FID over any number of clips: pictures in, one distance out; the network is passed in."""

    def __init__(self, embed: Embed | None, width: int = 2048, batch: int = 16) -> None:
        """embed: None for one that only takes in what others gathered."""
        self.pred, self.truth = FeatureStatistics(width), FeatureStatistics(width)
        self._embed, self._batch = embed, batch
        self._waiting: list[tuple[Picture, Picture]] = []

    def add(self, pred: Picture, truth: Picture) -> None:
        """Add one picture of each side, (H, W, 3) uint8, all of one size."""
        self._waiting.append((pred, truth))
        if len(self._waiting) >= self._batch:
            self._flush()

    def merge(self, other: FrechetScore) -> None:
        """Take in the pictures of another one."""
        other._flush()
        self.pred.merge(other.pred)
        self.truth.merge(other.truth)

    def closed(self) -> FrechetScore:
        """What was gathered, without the network: it can go to another process or into a file."""
        self._flush()
        self._embed = None
        return self

    def _flush(self) -> None:
        if self._waiting and self._embed is not None:
            preds, truths = zip(*self._waiting, strict=True)
            self.pred.add(self._embed(np.stack(preds)))
            self.truth.add(self._embed(np.stack(truths)))
            self._waiting = []

    def value(self) -> float | None:
        """The distance so far; None below two pictures."""
        self._flush()
        return frechet_distance(self.pred, self.truth) if self.pred.count >= 2 else None

    def notes(self) -> list[str]:
        """A warning where the number of pictures is too small for a number that can be compared."""
        self._flush()
        if self.pred.count < 2:
            return [f"fid is not defined: {self.pred.count} face crops, two are needed"]
        if self.pred.count >= FEW_PICTURES:
            return []
        return [
            f"fid from {self.pred.count} pictures is biased upwards: compare it only at equal counts, best above 2048"
        ]


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
