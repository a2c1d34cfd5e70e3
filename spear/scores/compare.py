"""Scores of clips, gathered frame by frame: some 2 KB a frame are kept, an hour is 180 MB."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP
from spear.crop import CROP_WIDTHS
from spear.points import JAW, LOWER, N_LOWER, UPPER, Array, face_width, lip_opening
from spear.scores.frechet import FrechetScore
from spear.scores.image import Picture, psnr, ssim
from spear.scores.landmark import (
    best_lag,
    landmark_distance,
    landmark_velocity_distance,
    opening_amplitude,
    opening_correlation,
)

METRICS = ("ld", "lvd", "psnr", "ssim", "fid", "lpips", "lmd", "csim", "sync")
LANDMARK_SCORES = frozenset({"ld", "lvd", "lmd", "sync"})
"""Any of them brings LD, LVD and the lips: none of them says enough alone."""
DISTANCES = ("ld", "ld_lips", "lvd", "lvd_lips", "lvd_squared")
"""Series in face widths, whose values are given in each of UNITS."""
UNITS = {"ratio": 1.0, "percent": 100.0, "px256": CROP / CROP_WIDTHS}
"""What a distance in face widths is multiplied by; the crop of 256 px is 1.5 face widths wide."""
_FAR = 0.5
_LIPS = slice(len(JAW), None)
"""Outer and inner lips among the lower 57 points."""
_NO_POINTS: Array = np.full((N_LOWER, 2), np.nan, np.float32)

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
        self.pred_points: list[Array] = []
        """The lower 57 points of every frame, px as they came, (57, 2) each, NaN without a face."""
        self.truth_points: list[Array] = []
        self.windows: list[NDArray[np.float64]] = []
        """The face crop's transform (4,) of every frame that was looked at for one, NaN without a face."""
        self.whole: dict[str, float | None] = {}
        """Scores of the clip as a whole, that are no mean over its frames."""
        self.counts: dict[str, Any] = {}
        """What else stands in the clip's row."""
        self.remarks: list[str] = []
        """Sentences about what was done with this clip."""
        self.frechet: FrechetScore | None = None
        self._before: Seen | None = None

    def add_landmarks(self, pred: Array | None, truth: Array | None) -> None:
        """Add one frame: pred (131, 2) or its lower half (57, 2), truth (131, 2), same px; None where no face is found.

        Only the lower 57 points of the prediction count; both lip openings are divided by the truth's face width.
        Raises ValueError for other shapes or non-finite points.
        """
        self.count_faces(pred is not None, truth is not None)
        lower = None if pred is None else pred[-N_LOWER:]
        # copies: a view would keep the other 74 points in memory too
        self.pred_points.append(_NO_POINTS if lower is None else lower.copy())
        self.truth_points.append(_NO_POINTS if truth is None else truth[LOWER].copy())
        if lower is None or truth is None:
            self._before = None
            self.add({name: math.nan for name in (*DISTANCES, "opening_pred", "opening_truth")})
            return
        now = (lower, truth[LOWER], float(face_width(truth)))
        lips = (now[0][_LIPS], now[1][_LIPS], now[2])
        before = self._before
        of_lips = None if before is None else (before[0][_LIPS], before[1][_LIPS], before[2])
        self.add({
            "ld": landmark_distance(now[0][None], now[1][None], now[2]),
            "ld_lips": landmark_distance(lips[0][None], lips[1][None], lips[2]),
            "lvd": step_distance(before, now, squared=False),
            "lvd_lips": step_distance(of_lips, lips, squared=False),
            "lvd_squared": step_distance(before, now, squared=True),
            "opening_pred": float(lip_opening(np.concatenate([truth[UPPER], lower]))),
            "opening_truth": float(lip_opening(truth)),
        })  # fmt: skip
        self._before = now

    def count_faces(self, pred: bool, truth: bool) -> None:
        """Count in which of two frames no face was found."""
        self.pred_missing += not pred
        self.truth_missing += not truth

    def add(self, values: dict[str, float]) -> None:
        """Add one frame's values to their series."""
        for name, value in values.items():
            self.series.setdefault(name, []).append(value)

    def part(self, frames: slice) -> ClipScores:
        """The series of some of the frames."""
        part = ClipScores(self.clip)
        part.series = {name: values[frames] for name, values in self.series.items()}
        return part

    def _known(self, name: str) -> NDArray[np.float64]:
        values = np.array(self.series.get(name, []), np.float64)
        return values[np.isfinite(values)]

    def values(self) -> dict[str, float | None]:
        """Name -> score; None where it is not defined (no face, a still mouth's amplitude); `notes` says why."""
        values: dict[str, float | None] = {}
        for name in DISTANCES:
            mean = _mean(self._known(name))
            for unit, scale in UNITS.items() if name in self.series else ():
                factor = scale**2 if name == "lvd_squared" else scale
                values[f"{name}_{unit}"] = None if mean is None else mean * factor
        if "ld" in self.series:
            values |= self._lips()
        for name in self.series:
            if name not in DISTANCES and not name.startswith("opening_") and "_baseline" not in name:
                values[name] = _mean(self._known(name))
        return values | self.whole

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
        if name in self.whole:
            return self.frames
        series = "ld" if name.startswith("lip_") else name
        for unit in UNITS:
            series = series.removesuffix(f"_{unit}")
        return len(self._known(series))

    def row(self) -> dict[str, Any]:
        """One line of a per-clip table: the clip, the counts, the values."""
        counts: dict[str, Any] = {"clip": self.clip, "frames": self.frames}
        if "ld" in self.series:
            counts["frames_both_faces"] = len(self._known("ld"))
        if "ld" in self.series or self.pred_missing or self.truth_missing:
            counts["frames_without_face_pred"] = self.pred_missing
            counts["frames_without_face_truth"] = self.truth_missing
        return counts | self.counts | self.values()

    def notes(self) -> list[str]:
        """Sentences on what was left out of this clip's scores, and why."""
        notes = [f"{self.clip}: {remark}" for remark in self.remarks]
        for side, missing in (("prediction", self.pred_missing), ("truth", self.truth_missing)):
            if missing and "ld" in self.series:
                notes.append(
                    f"{self.clip}: no face in {missing} of {self.frames} frames of the {side}; not in LD and LVD"
                )
        lost: dict[tuple[int, int], list[str]] = {}
        for name, values in self.series.items():
            missing = len(values) - len(self._known(name))
            if name not in DISTANCES and not name.startswith("opening_") and "_baseline" not in name and missing:
                lost.setdefault((missing, len(values)), []).append(name)
        looked_at = len(self.windows)
        if (without := looked_at - self.counts.get("pictures", looked_at)) > 0:
            lost.setdefault((without, looked_at), []).append("fid")
        for (missing, seen), names in lost.items():
            notes.append(f"{self.clip}: no face in {missing} of {seen} frames; not in {', '.join(names)}")
        far = int((self._known("ld") > _FAR).sum())
        if far:
            notes.append(
                f"{self.clip}: LD above {_FAR} face widths in {far} frames; do both videos show the same face?"
            )
        undefined = [name for name, value in self.values().items() if value is None]
        for whole, reason in (
            (False, "too few frames with a face, or the true mouth is still"),
            (True, "no sound, less than two seconds with a face, silence, or a still mouth"),
        ):
            if names := [name for name in undefined if (name in self.whole) == whole]:
                notes.append(f"{self.clip}: not defined: {', '.join(names)} ({reason})")
        if unsure := [name for name in self.whole if name.endswith("_certain") and self.whole[name] == 0.0]:
            lags = ", ".join(name.replace("_certain", "_lag_ms") for name in unsure)
            notes.append(f"{self.clip}: {lags} may be chance: the peak does not stand out, or the clip is short")
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


def picture_values(where: str, which: frozenset[str], pred: Picture | None, truth: Picture | None) -> dict[str, float]:
    """One frame's psnr and ssim, those in `which`, named psnr_<where>, ssim_<where>; NaN where a picture is None."""
    values = {}
    for name, score in (("psnr", psnr), ("ssim", ssim)):
        if name in which:
            values[f"{name}_{where}"] = math.nan if pred is None or truth is None else score(pred, truth)
    return values


@dataclass
class Scores:
    """What `spear metrics` found: how it was measured, the totals, a row per clip, and what was left out."""

    protocol: dict[str, Any]
    values: dict[str, float | None]
    per_clip: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """Name of a value -> lower and upper end of its 95 % bootstrap interval."""
    groups: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """The totals of each group of clips, with `clips` and `frames`; empty where none were asked for."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """A row for each pair of clips of the controls."""
    against: list[dict[str, Any]] = field(default_factory=list)
    """Rows of published tables beside what was measured here."""
    left_out: int = 0
    """Clips, or videos, that could not be scored; the notes say why."""

    def to_csv(self) -> str:
        """A line for each clip, every column that any of them has; empty where a value is not defined."""
        columns = list(dict.fromkeys(name for row in self.per_clip for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(_finite(self.per_clip))
        return text.getvalue()

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
