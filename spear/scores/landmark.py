"""Scores over face points: LD (eq. 9), LVD (eq. 6) and how well the lips open. Letters: F frames, P points.

LD alone rewards a mouth that never moves (the mean face is close to every face), so the opening scores stand beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Series = NDArray[np.float64]

REACH = 6
"""How far `best_lag` looks, frames to either side: 240 ms at 25 fps."""
STILL = 1e-6
"""An opening series whose standard deviation is below this (a millionth of a face width) belongs to a still mouth."""


def landmark_distance(pred: ArrayLike, truth: ArrayLike, width: ArrayLike) -> float:
    """LD, eq. 9: mean over frames and points of |pred - truth| / width.

    pred, truth: (F, P, 2) in the same px; width: (F,) or one number, face width in those px. Returns a ratio of the
    face width; with width = 1 the mean distance in px. Raises ValueError for other shapes, NaN, or a width <= 0.
    """
    pred, truth, width = _checked(pred, truth, width, least=1)
    return float(np.mean(np.linalg.norm(pred - truth, axis=-1) / width[:, None]))


def landmark_velocity_distance(
    pred: ArrayLike, truth: ArrayLike, width: ArrayLike, *, squared: bool, found: ArrayLike | None = None
) -> float:
    """LVD, eq. 6: mean over steps f -> f+1 and points of |(pred step) - (truth step)|^2.

    pred, truth: (F, P, 2) in the same px, F >= 2; width: (F,) or one number, px; a step is divided by the mean of the
    widths of its two frames. squared=True is eq. 6 as printed, in face widths squared (width = 1: px squared);
    squared=False leaves out the square, in face widths. found: (F,) bool, steps that touch a frame without a face are
    left out (its points and width may be NaN).
    Raises ValueError for other shapes, NaN in a found frame, a width <= 0, or where no step is left.
    """
    known = _found(found, len(np.asarray(truth)))
    pred, truth, width = _checked(pred, truth, width, least=2, known=known)
    steps = known[1:] & known[:-1]
    if not steps.any():
        raise ValueError("no two neighbouring frames with a face: the landmark velocity is not defined")
    off = np.diff(pred - truth, axis=0)[steps]
    lengths = np.linalg.norm(off, axis=-1) / ((width[1:] + width[:-1]) / 2)[steps, None]
    return float(np.mean(lengths**2 if squared else lengths))


def opening_correlation(pred: ArrayLike, truth: ArrayLike) -> float:
    """Pearson r of two lip opening series, (F,) each, in face widths; -1..1.

    0.0 where one of the mouths is still (standard deviation < STILL): a mouth that does not move follows nothing.
    Raises ValueError where they are not (F,) with one F >= 2, or not finite.
    """
    a, b = _series(pred, truth)
    if _still(a) or _still(b):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def opening_amplitude(pred: ArrayLike, truth: ArrayLike) -> float:
    """Standard deviation of the predicted lip opening over that of the truth, (F,) each: 1 is as lively as the truth.

    1.0 where both mouths are still, inf where only the truth is. Raises ValueError as `opening_correlation`.
    """
    a, b = _series(pred, truth)
    if _still(b):
        return 1.0 if _still(a) else float("inf")
    return float(a.std() / b.std())


def best_lag(
    pred: ArrayLike, truth: ArrayLike, found: ArrayLike | None = None, reach: int = REACH
) -> tuple[float, int]:
    """The largest correlation of the openings over lags of -reach..reach frames, and that lag.

    pred, truth: (F,) lip openings; found: (F,) bool, frames with both faces (others may be NaN). A lag above 0 says
    that the prediction is late: pred[f + lag] goes with truth[f]. Of equal correlations the lag nearest to 0 wins.
    A lag counts only where at least half of the found frames, and three, overlap: few frames correlate by chance.
    Returns (0.0, 0) where no lag counts or a mouth is still. Raises ValueError as `opening_correlation`.
    """
    known = _found(found, len(np.asarray(truth)))
    a, b = _series(pred, truth, known)
    frames, best, least = len(a), (0.0, 0), max(3, (int(known.sum()) + 1) // 2)
    chosen = False
    for lag in sorted(range(-reach, reach + 1), key=abs):
        late = slice(max(lag, 0), max(frames + min(lag, 0), 0))
        early = slice(max(-lag, 0), max(frames - max(lag, 0), 0))
        both = known[late] & known[early]
        if both.sum() < least:
            continue
        x, y = a[late][both], b[early][both]
        if _still(x) or _still(y):
            continue
        r = opening_correlation(x, y)
        if not chosen or r > best[0] + 1e-12:
            best, chosen = (r, lag), True
    return best


def _still(series: Series) -> bool:
    return bool(series.std() < STILL)


def _found(found: ArrayLike | None, frames: int) -> NDArray[np.bool_]:
    known = np.ones(frames, bool) if found is None else np.asarray(found)
    if known.shape != (frames,) or known.dtype != bool:
        raise ValueError(f"found must be bool of shape ({frames},), not {known.dtype} of {known.shape}")
    return known


def _series(pred: ArrayLike, truth: ArrayLike, known: NDArray[np.bool_] | None = None) -> tuple[Series, Series]:
    a, b = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 1 or a.shape != b.shape or (known is None and len(a) < 2):
        raise ValueError(f"lip openings must be (F,) and equal with F >= 2, not {a.shape} and {b.shape}")
    used = slice(None) if known is None else known
    if not (np.isfinite(a[used]).all() and np.isfinite(b[used]).all()):
        raise ValueError("lip openings must be finite; leave out frames without a face")
    return a, b


def _checked(
    pred: ArrayLike, truth: ArrayLike, width: ArrayLike, least: int, known: NDArray[np.bool_] | None = None
) -> tuple[Series, Series, Series]:
    """The three as float64, width as (F,); what is checked is the same for eq. 6 and eq. 9."""
    a, b, w = (np.asarray(x, np.float64) for x in (pred, truth, width))
    if a.ndim != 3 or a.shape[-1] != 2 or a.shape != b.shape or a.shape[0] < least or a.shape[1] < 1:
        raise ValueError(f"points must be (F, P, 2) and equal with F >= {least}, not {a.shape} and {b.shape}")
    if w.shape not in ((), (len(a),)):
        raise ValueError(f"width must be one number or ({len(a)},), not {w.shape}")
    w = np.broadcast_to(w, (len(a),))
    used = slice(None) if known is None else known
    if not all(np.isfinite(x[used]).all() for x in (a, b, w)):
        raise ValueError("points and width must be finite; leave out frames without a face")
    if (w[used] <= 0).any():
        raise ValueError("the face width must be above 0")
    return a, b, w
