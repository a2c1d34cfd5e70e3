"""Scores of clips, gathered frame by frame: only a few numbers per frame are kept, so memory is flat with length."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP
from spear.face import CROP_WIDTHS
from spear.points import LOWER, UPPER, Array, face_width, lip_opening
from spear.scores.frechet import FeatureStatistics, frechet_distance
from spear.scores.image import Picture, psnr, ssim
from spear.scores.landmark import (
    best_lag,
    landmark_distance,
    landmark_velocity_distance,
    opening_amplitude,
    opening_correlation,
)

METRICS = ("ld", "lvd", "psnr", "ssim", "fid")
UNITS = {"ratio": 1.0, "percent": 100.0, "px256": CROP / CROP_WIDTHS}
"""What a distance in face widths is multiplied by; the crop of 256 px is 1.5 face widths wide."""
FEW_PICTURES = 2048
"""Below as many pictures as features the covariance is singular and FID is biased upwards."""
_FAR = 0.5

Embed = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Pictures (N, H, W, 3) uint8 -> features (N, D)."""
Seen = tuple[Array, Array, float]
"""One frame: predicted and true points (P, 2) in the same px, and the true face width in those px."""


def step_distance(before: Seen | None, now: Seen | None, *, squared: bool) -> float:
    """LVD, eq. 6, of the one step between two frames, as `landmark_velocity_distance`; NaN where one has no face."""
    if before is None or now is None:
        return math.nan
    pred, truth = np.stack([before[0], now[0]]), np.stack([before[1], now[1]])
    return landmark_velocity_distance(pred, truth, [before[2], now[2]], squared=squared)


class ClipScores:
    """The scores of one clip: add its frames in order, then read `values()`. NaN in a series: not measured there."""

    def __init__(self, clip: str) -> None:
        self.clip = clip
        self.frames = 0
        """How many frames were compared; the caller counts."""
        self.pred_missing = 0
        self.truth_missing = 0
        self.series: dict[str, list[float]] = {}
        self._before: Seen | None = None

    def add_landmarks(self, pred: Array | None, truth: Array | None) -> None:
        """Add one frame: pred (131, 2) or its lower half (57, 2), truth (131, 2), same px; None where no face is found.

        Only the lower 57 points of the prediction count; both lip openings are divided by the truth's face width.
        Raises ValueError for other shapes or non-finite points.
        """
        self.pred_missing += pred is None
        self.truth_missing += truth is None
        if pred is None or truth is None:
            self._before = None
            for name in ("ld", "lvd", "lvd_squared", "opening_pred", "opening_truth"):
                self._append(name, math.nan)
            return
        lower = pred[LOWER] if len(pred) == len(truth) else pred
        now = (lower, truth[LOWER], float(face_width(truth)))
        self._append("ld", landmark_distance(now[0][None], now[1][None], now[2]))
        self._append("lvd", step_distance(self._before, now, squared=False))
        self._append("lvd_squared", step_distance(self._before, now, squared=True))
        self._append("opening_pred", float(lip_opening(np.concatenate([truth[UPPER], lower]))))
        self._append("opening_truth", float(lip_opening(truth)))
        self._before = now

    def add_pictures(self, where: str, which: frozenset[str], pred: Picture | None, truth: Picture | None) -> None:
        """Add one frame's psnr and ssim, those in `which`; where: `full` or `crop`; None where there is no crop."""
        for name, score in (("psnr", psnr), ("ssim", ssim)):
            if name in which:
                self._append(f"{name}_{where}", math.nan if pred is None or truth is None else score(pred, truth))

    def _append(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append(value)

    def _known(self, name: str) -> NDArray[np.float64]:
        values = np.array(self.series.get(name, []), np.float64)
        return values[np.isfinite(values)]

    def values(self) -> dict[str, float | None]:
        """Name -> score; None where it is not defined (no face, a still mouth's amplitude); `notes` says why."""
        values: dict[str, float | None] = {}
        for name in ("ld", "lvd", "lvd_squared"):
            mean = _mean(self._known(name))
            for unit, scale in UNITS.items() if name in self.series else ():
                factor = scale**2 if name == "lvd_squared" else scale
                values[f"{name}_{unit}"] = None if mean is None else mean * factor
        if "ld" in self.series:
            values |= self._lips()
        for name in self.series:
            if name.startswith(("psnr", "ssim")):
                values[name] = _mean(self._known(name))
        return values

    def _lips(self) -> dict[str, float | None]:
        names = ("lip_opening_r", "lip_opening_amplitude", "lip_opening_best_r", "lip_opening_best_lag_frames")
        pred, truth = self._known("opening_pred"), self._known("opening_truth")
        if len(pred) < 2:
            return dict.fromkeys(names)
        amplitude = opening_amplitude(pred, truth)
        every_pred, every_truth = np.array(self.series["opening_pred"]), np.array(self.series["opening_truth"])
        r, lag = best_lag(every_pred, every_truth, np.isfinite(every_pred))
        found = (opening_correlation(pred, truth), amplitude if math.isfinite(amplitude) else None, r, float(lag))
        return dict(zip(names, found, strict=True))

    def weight(self, name: str) -> int:
        """How many frames (LVD: steps) stand behind one of `values`."""
        series = "ld" if name.startswith("lip_") else name
        for unit in UNITS:
            series = series.removesuffix(f"_{unit}")
        return len(self._known(series))

    def row(self) -> dict[str, Any]:
        """One line of a per-clip table: the clip, the counts, the values."""
        counts: dict[str, Any] = {"clip": self.clip, "frames": self.frames}
        if "ld" in self.series:
            counts["frames_both_faces"] = len(self._known("ld"))
            counts["frames_without_face_pred"] = self.pred_missing
            counts["frames_without_face_truth"] = self.truth_missing
        return counts | self.values()

    def notes(self) -> list[str]:
        """Sentences on what was left out of this clip's scores, and why."""
        notes = []
        for side, missing in (("prediction", self.pred_missing), ("truth", self.truth_missing)):
            if missing:
                notes.append(
                    f"{self.clip}: no face in {missing} of {self.frames} frames of the {side}; not in LD and LVD"
                )
        crops = [name for name in self.series if name.endswith("_crop")]
        lost, seen = max(((len(s := self.series[n]) - len(self._known(n)), len(s)) for n in crops), default=(0, 0))
        if lost:
            notes.append(f"{self.clip}: no face crop in {lost} of {seen} frames; not in {', '.join(crops)}")
        far = int((self._known("ld") > _FAR).sum())
        if far:
            notes.append(
                f"{self.clip}: LD above {_FAR} face widths in {far} frames; do both videos show the same face?"
            )
        undefined = [name for name, value in self.values().items() if value is None]
        if undefined:
            reason = "too few frames with a face, or the true mouth is still"
            notes.append(f"{self.clip}: not defined: {', '.join(undefined)} ({reason})")
        return notes


def total(clips: Sequence[ClipScores]) -> dict[str, float | None]:
    """The mean over clips of every value, each weighted with the frames behind it; None where no clip has it."""
    rows = [(clip, clip.values()) for clip in clips]
    result: dict[str, float | None] = {}
    for name in dict.fromkeys(name for _, values in rows for name in values):
        pairs = [(value, clip.weight(name)) for clip, values in rows if (value := values.get(name)) is not None]
        weight = sum(count for _, count in pairs)
        result[name] = sum(value * count for value, count in pairs) / weight if weight else None
    return result


class FrechetScore:
    """FID over any number of clips: pictures in, one distance out; the network is passed in."""

    def __init__(self, embed: Embed, width: int = 2048, batch: int = 16) -> None:
        self.pred, self.truth = FeatureStatistics(width), FeatureStatistics(width)
        self._embed, self._batch = embed, batch
        self._waiting: list[tuple[Picture, Picture]] = []

    def add(self, pred: Picture, truth: Picture) -> None:
        """Add one picture of each side, (H, W, 3) uint8, all of one size."""
        self._waiting.append((pred, truth))
        if len(self._waiting) >= self._batch:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
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


@dataclass
class Scores:
    """What `spear metrics` found: how it was measured, the totals, a row per clip, and what was left out."""

    protocol: dict[str, Any]
    values: dict[str, float | None]
    per_clip: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """The totals of each group of clips, with `clips` and `frames`; empty where none were asked for."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """A row for each pair of clips of the controls."""

    def to_json(self) -> str:
        """Sorted JSON; None where a number is not finite."""
        return json.dumps(_finite(asdict(self)), sort_keys=True, allow_nan=False, indent=1)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
