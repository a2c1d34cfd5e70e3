"""Which clips and which moments a report shows: the worst and the best, so that a mean hides neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spear.clip import FPS

if TYPE_CHECKING:
    from spear.report.page import Shown

WORST = BEST = 6
"""How many clips, and how many moments, are shown of either end."""
MOMENTS_PER_CLIP = 2
APART = FPS
"""Moments of one clip are at least one second apart: neighbouring frames look alike."""
LARGE_IS_BAD = {"ld": True, "psnr_crop": False, "psnr_full": False, "ssim_crop": False}
"""What is chosen by, the first of them that was measured, and whether a large value is a bad one."""


@dataclass(frozen=True)
class Moment:
    """One frame that is shown: of which clip, which frame, and its value there."""

    clip: int
    frame: int
    value: float


def chosen_by(shown: Sequence[Shown]) -> str | None:
    """The series that tells bad from good: the first of LARGE_IS_BAD with a number in any clip; None without one."""
    for name in LARGE_IS_BAD:
        if any(np.isfinite(clip.series.get(name, ())).any() for clip in shown):
            return name
    return None


def clips_to_show(shown: Sequence[Shown]) -> list[int]:
    """Positions of the clips that get players and curves, worst first: all, or the six worst and the six best.

    Clips without a number come after those with one, and are left out first.
    """
    name = chosen_by(shown)
    if name is None:
        return list(range(min(len(shown), WORST + BEST)))
    badness = np.array([_mean(_badness(clip, name)) for clip in shown])
    order = [int(i) for i in np.argsort(-badness, kind="stable")]  # NaN goes to the end
    ranked = [i for i in order if np.isfinite(badness[i])]
    if len(ranked) > WORST + BEST:
        return ranked[:WORST] + ranked[-BEST:]
    return order[: WORST + BEST]


def moments_to_show(shown: Sequence[Shown]) -> tuple[list[Moment], list[Moment]]:
    """The worst moments, worst first, and the best, best first: at most six each, two of one clip, a second apart."""
    name = chosen_by(shown)
    if name is None:
        return [], []
    worst = _extremes([_badness(clip, name) for clip in shown], WORST)
    goodness = [-_badness(clip, name) for clip in shown]
    for clip, frame in worst:  # of a clip with one frame the best one is the worst one: shown once
        goodness[clip][frame] = np.nan
    worst_moments, best_moments = (
        [Moment(clip, frame, float(shown[clip].series[name][frame])) for clip, frame in found]
        for found in (worst, _extremes(goodness, BEST))
    )
    return worst_moments, best_moments


def _extremes(series: list[NDArray[np.float64]], count: int) -> list[tuple[int, int]]:
    """Clip and frame of the largest values; of equal ones the earlier clip's, and its earlier frame."""
    found = [(-values[frame], clip, frame) for clip, values in enumerate(series) for frame in _peaks(values)]
    return [(clip, frame) for _, clip, frame in sorted(found)[:count]]


def _peaks(values: NDArray[np.float64]) -> list[int]:
    """Frames of one clip's largest values, none within a second of another."""
    left, peaks = np.where(np.isfinite(values), values, -np.inf), list[int]()
    while len(peaks) < MOMENTS_PER_CLIP and left.max(initial=-np.inf) > -np.inf:
        frame = int(left.argmax())
        peaks.append(frame)
        left[max(frame - APART + 1, 0) : frame + APART] = -np.inf
    return peaks


def _badness(clip: Shown, name: str) -> NDArray[np.float64]:
    """The series, (F,), turned so that large is bad; NaN where there is none. A copy."""
    values = np.array(clip.series.get(name, np.full(len(clip.windows), np.nan)), np.float64)
    return values if LARGE_IS_BAD[name] else -values


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
