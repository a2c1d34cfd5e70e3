"""Scores of the clips of a split: beside those of any two videos the baseline's, and the blended hull's.

The baseline is a face that does not speak: the references' mean lower face, carried by the head.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spear.points import LOWER, Array, face_width
from spear.scores.compare import UNITS, ClipScores, Seen, step_distance, total
from spear.scores.image import PSNR_CAP, Picture
from spear.scores.landmark import landmark_distance


class SplitClipScores(ClipScores):
    """Scores of one clip with the baseline's beside them: a mouth that does not move scores well in LD alone."""

    def __init__(self, clip: str) -> None:
        super().__init__(clip)
        self._baseline_before: Seen | None = None

    def add_baseline(self, baseline: Array, truth: Array | None) -> None:
        """Add one frame: baseline (57, 2), truth (131, 2), same px; None where no face was found."""
        now = None if truth is None else (baseline, truth[LOWER], float(face_width(truth)))
        ld = math.nan if now is None else landmark_distance(now[0][None], now[1][None], now[2])
        self.add({"ld_baseline": ld, "lvd_baseline": step_distance(self._baseline_before, now, squared=False)})
        self._baseline_before = now

    def add_hull(self, pred: Picture, truth: Picture | None, mask: Array) -> None:
        """Add one frame's PSNR where mask (256, 256) is not 0; None where no face was found."""
        self.add({"psnr_hull": math.nan if truth is None else hull_psnr(pred, truth, mask)})

    def values(self) -> dict[str, float | None]:
        """As for a pair of videos, and ld_baseline_*, lvd_baseline_*, ld_skill, lvd_over_baseline."""
        values = super().values()
        if "ld_baseline" not in self.series:
            return values
        for name in ("ld_baseline", "lvd_baseline"):
            known = self._known(name)
            for unit, scale in UNITS.items():
                values[f"{name}_{unit}"] = float(known.mean()) * scale if len(known) else None
        return values | against_baseline(values)


def against_baseline(values: dict[str, float | None]) -> dict[str, float | None]:
    """ld_skill, 1 - LD / LD of the baseline: 1 is perfect, 0 as good as the baseline, below 0 worse; and
    lvd_over_baseline, LVD / LVD of the baseline: 1 for a mouth that does not move. None where undefined."""
    ld, lvd = (_over(values.get(f"{name}_percent"), values.get(f"{name}_baseline_percent")) for name in ("ld", "lvd"))
    return {"ld_skill": None if ld is None else 1 - ld, "lvd_over_baseline": lvd}


def _over(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or not baseline else value / baseline


def split_total(clips: list[SplitClipScores]) -> dict[str, float | None]:
    """Totals weighted with frames, and mean and lowest r of the clips, each counted once.

    What is measured against the baseline comes from the totals, since a mean of ratios favours still clips.
    """
    values = total(clips)
    if "ld_skill" not in values:
        return values
    each = [r for clip in clips if (r := clip.values()["lip_opening_r"]) is not None]
    over_clips = {
        "lip_opening_r_mean": sum(each) / len(each) if each else None,
        "lip_opening_r_min": min(each, default=None),
    }
    return values | against_baseline(values) | over_clips


def resampled_against_baseline(means: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """`resampled_means` with what is measured against the baseline made anew from the means of each round."""
    ratios = {}
    for result, name in (("ld_skill", "ld"), ("lvd_over_baseline", "lvd")):
        if f"{name}_baseline_percent" in means:
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = means[f"{name}_percent"] / means[f"{name}_baseline_percent"]
            ratios[result] = 1 - ratio if name == "ld" else ratio
    return {name: value for name, value in means.items() if name not in ("ld_skill", "lvd_over_baseline")} | ratios


def hull_psnr(pred: Picture, truth: Picture, mask: Array) -> float:
    """PSNR, dB, with the squared error weighted by mask (H, W) in 0..1; pictures (H, W, 3) uint8.

    10 log10(255^2 / MSE), MSE = sum(mask * error^2) / (3 * sum(mask)); at most PSNR_CAP. NaN where the mask is empty.
    """
    weight = 3 * float(mask.sum(dtype=np.float64))
    if weight == 0:
        return math.nan
    squared = np.square(pred.astype(np.float64) - truth)
    mse = float((mask[..., None] * squared).sum()) / weight
    return PSNR_CAP if mse == 0 else min(PSNR_CAP, 10 * math.log10(255**2 / mse))
