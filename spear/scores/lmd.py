"""LMD, M-LMD, F-LMD: the field's landmark distances, in px and about each face's own mean. Letters: P points.

They differ from LD (eq. 9) in three ways: each side is centred on its own mean, so a mouth in the wrong place costs
nothing; only the mouth, or all of the face; px of a picture, not face widths. Numbers compare only at equal sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from spear.points import N_POINTS, positions

_OUTER = [61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181]
_INNER = [78, 82, 13, 312, 308, 317, 14, 87]
MOUTH = positions([*_OUTER, *_INNER])
"""iBUG 48..67 among our 131, in iBUG's order: the points of the mesh's lip rings that lie nearest to them by the places
in spear/pretrained/face_alignment_68.py (corners and middles exactly, the others within .2 of a step on the ring)."""
MOUTH_68 = slice(48, 68)


def mouth_lmd(pred: ArrayLike, truth: ArrayLike) -> float:
    """LMD of Chen et al. 2018 (Lip Movements Generation at a Glance, ECCV) of one frame, from the mesh's mouth.

    pred, truth: our 131 points (131, 2) in the same px, by convention of the 256 crop; a clip's score is the mean of
    its frames. The 20 points of each mouth are centred on their own mean; returned is the mean of the 20 distances, px,
    as in the paper; its authors' script (ATVGnet, evaluation_matrix.py) prints their sum, which is 20 times as large.
    Published numbers are of dlib's points. Raises ValueError for other shapes or points that are not finite.
    """
    return _centred_distance(*(_checked(points, N_POINTS)[MOUTH] for points in (pred, truth)))


def m_lmd(pred68: ArrayLike, truth68: ArrayLike) -> float:
    """M-LMD of one frame: the mean distance of the 20 mouth points, each mouth centred on its own mean, px.

    pred68, truth68: face-alignment's points (68, 2) in the same px, by convention of the 256 crop. Of the papers that
    report it (EAMM, EAT and after) EAT's has a public script (yuangan/evaluation_eat, code/test_lmd.py): own mean, no
    scale, mean distance. RAD-NeRF and its kin do the same (LMDMeter in nerf/utils.py), so this commonest rule is taken.
    EAT's points are dlib's, on crops of 128 px that are aligned by nose and eyes: its px are others than ours.
    Raises ValueError for other shapes or points that are not finite.
    """
    return _centred_distance(*(_checked(points, 68)[MOUTH_68] for points in (pred68, truth68)))


def f_lmd(pred68: ArrayLike, truth68: ArrayLike) -> float:
    """F-LMD of one frame: as `m_lmd`, but of all 68 points, each face centred on the mean of its 68, px.

    A head that is turned or of another size counts in full. Raises ValueError as `m_lmd`.
    """
    return _centred_distance(_checked(pred68, 68), _checked(truth68, 68))


def _centred_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm((a - a.mean(0)) - (b - b.mean(0)), axis=-1).mean())


def _checked(points: ArrayLike, count: int) -> np.ndarray:
    p = np.asarray(points, np.float64)
    if p.shape != (count, 2) or not np.isfinite(p).all():
        raise ValueError(f"points must be ({count}, 2) and finite, not {p.shape}")
    return p
