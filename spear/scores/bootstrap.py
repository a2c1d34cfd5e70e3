"""How sure a mean is: 95 % intervals by the bootstrap (Efron 1979), over clips, or over the seconds of a single one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spear.clip import FPS
from spear.scores.compare import ClipScores

LEAST = 5
"""From fewer parts an interval would say more about luck than about the score."""
ROUNDS = 2000
_SEED = 0
_AT_A_TIME = 100
"""Rounds that are counted at once: memory for ten thousand clips stays below 10 MB."""

Matrix = NDArray[np.float64]


def resampled_means(clips: Sequence[ClipScores]) -> dict[str, Matrix]:
    """Name of a value -> its mean in each of 2000 rounds, (2000,): the clips drawn anew, with replacement, each
    weighted with its frames as in `total`.

    Of a single clip its seconds are drawn, and only means over frames are there: frames next to each other are alike,
    single ones would make the interval too narrow. Empty below 5 clips or seconds. The seed is fixed.
    """
    alone = len(clips) == 1
    parts = _seconds(clips[0]) if alone else list(clips)
    if len(parts) < LEAST:
        return {}
    rows = [part.values() for part in parts]
    names = [name for name in dict.fromkeys(name for row in rows for name in row)
             if not (alone and name.startswith("lip_"))]  # fmt: skip
    known = np.array([[row.get(name) is not None for name in names] for row in rows])
    values = np.array([[row.get(name) or 0.0 for name in names] for row in rows], np.float64)
    weights = known * np.array([[part.weight(name) for name in names] for part in parts], np.float64)
    random, n, means = np.random.default_rng(_SEED), len(parts), []
    for start in range(0, ROUNDS, _AT_A_TIME):
        drawn = random.multinomial(n, np.full(n, 1 / n), size=min(_AT_A_TIME, ROUNDS - start)).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((drawn @ (values * weights)) / (drawn @ weights))
    return dict(zip(names, np.concatenate(means).T, strict=True))


def intervals(means: dict[str, Matrix]) -> dict[str, list[float]]:
    """Name -> [lower, upper] end of the 95 % percentile interval of what `resampled_means` gave.

    Rounds in which a value is not defined do not count; where it never is, the name is absent.
    """
    ends = {}
    for name, rounds in means.items():
        known = rounds[np.isfinite(rounds)]
        if len(known):
            ends[name] = [float(end) for end in np.percentile(known, [2.5, 97.5])]
    return ends


def _seconds(clip: ClipScores) -> list[ClipScores]:
    longest = max(map(len, clip.series.values()), default=0)
    return [clip.part(slice(start, start + FPS)) for start in range(0, longest, FPS)]
