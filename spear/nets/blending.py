"""Where the painted lower face replaces the true one."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from spear.clip import CROP
from spear.crop import MASK_ROW
from spear.nets.lm2face import BORDER, CELL, FIRST_ROW, SIDE
from spear.points import OVAL, Array

_HULL_SCALE = np.array([0.94, 1.03], np.float32)
"""The blend stays inside the cheeks, where hair and background begin, and reaches a little below the chin."""
_FEATHER = 15
"""Px to both sides of the hull's edge over which the blend fades: a Gaussian of sigma 5, three times."""


def blend_mask(faces: list[Array]) -> Array:
    """Where the generated picture replaces the true one: a feathered hull of the lower faces, (256, 256) in 0..1.

    faces: (131, 2) crop px each; the predicted face and the one in the frame, since the old jaw must be covered too.
    The hull reaches from the nose's base to a little below the jaw; its edge fades over 10 px, so no rectangle shows.
    """
    canvas = np.zeros((CROP, CROP), np.uint8)
    for points in faces:
        outline = points[OVAL[3:-3]]
        middle = np.array([outline[:, 0].mean(), MASK_ROW], np.float32)
        hull = (outline - middle) * _HULL_SCALE + middle
        cv2.fillConvexPoly(canvas, cv2.convexHull(np.round(hull).astype(np.int32)), 255)
    canvas[: MASK_ROW - 2] = 0
    canvas[-12:] = canvas[:, :12] = canvas[:, -12:] = 0  # a jaw at the crop's edge must fade inside it, too
    top = MASK_ROW - 2 - _FEATHER  # nothing is above
    soft = np.zeros((CROP, CROP), np.float32)
    soft[top:] = cv2.GaussianBlur(canvas[top:], (2 * _FEATHER + 1,) * 2, _FEATHER / 3).astype(np.float32) / 255
    soft[: (FIRST_ROW + BORDER) * CELL] = 0
    return soft


def blend_columns(faces: Array) -> slice:
    """The columns of cells that `blend_mask` can touch, of all faces (F, 131, 2) crop px together."""
    across = faces[:, OVAL[3:-3], 0]
    middle = across.mean(1, keepdims=True)
    hull = (across - middle) * _HULL_SCALE[0] + middle
    first, last = (int(edge) // CELL for edge in (hull.min() - _FEATHER - 1, hull.max() + _FEATHER + 1))
    return slice(min(max(first, 0), SIDE - 1), min(max(last + 1, 1), SIDE))


def composite(generated: Tensor, target: Tensor, mask: Tensor, shown_row: int) -> Tensor:
    """Blend in the crop: generated (B, 3, h, 256) from `shown_row` down, target and mask (B, ., 256, 256)."""
    lower, weight = target[..., shown_row:, :], mask[..., shown_row:, :]
    return lower + weight * (generated - lower)
