"""The 131 face points: which they are, how they are joined, drawn and measured. Letters: F frames, P points."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float32]
POSES = ("rigid", "raw")

_CHEEKS = [162, 127, 234, 93, 323, 454, 356, 389]
_RIGHT_BROW_UPPER, _RIGHT_BROW_LOWER = [70, 63, 105, 66, 107], [55, 65, 52, 53, 46]
_LEFT_BROW_UPPER, _LEFT_BROW_LOWER = [336, 296, 334, 293, 300], [276, 283, 282, 295, 285]
_NOSE_BRIDGE, _NOSE_WINGS = [168, 6, 197, 195, 5], [48, 115, 220, 45, 4, 275, 440, 344, 278]
_RIGHT_EYE = [33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]
_LEFT_EYE = [362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382]
_JAW = [132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361]
_OUTER_LIPS = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
_INNER_LIPS = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]

POSE = [*_CHEEKS, *_RIGHT_BROW_UPPER, *_RIGHT_BROW_LOWER, *_LEFT_BROW_UPPER, *_LEFT_BROW_LOWER,
        *_NOSE_BRIDGE, *_NOSE_WINGS, *_RIGHT_EYE, *_LEFT_EYE]  # fmt: skip
CONTENT = [*_JAW, *_OUTER_LIPS, *_INNER_LIPS]
MESH_INDICES = [*POSE, *CONTENT]
"""MediaPipe FaceMesh index of each of the 131 points, in our order."""

UPPER = slice(0, len(POSE))
LOWER = slice(len(POSE), len(MESH_INDICES))
N_UPPER, N_LOWER, N_POINTS = len(POSE), len(CONTENT), len(MESH_INDICES)


def positions(mesh_indices: list[int]) -> list[int]:
    """Where FaceMesh points stand among our 131. Raises ValueError for a point that is not one of them."""
    return [MESH_INDICES.index(i) for i in mesh_indices]


JAW, OUTER_LIPS, INNER_LIPS = positions(_JAW), positions(_OUTER_LIPS), positions(_INNER_LIPS)
DEPTH: Array = np.array([
    322, 393, 425, 426, 458, 458, 427, 355, 44, -15, -60, -101, -120, -103, -92, -69, -37, 6, -114, -90, -44, 6, 68,
    28, -17, -54, -81, -97, -111, -143, -179, -220, -262, -156, -199, -240, -276, -280, -274, -235, -192, -148, 39,
    20, 6, -9, -18, -19, -10, 0, 7, 6, -4, -11, -10, 0, 14, 26, 15, 9, 0, -7, -4, 8, 23, 39, 58, 44, 31, 16, 4, 1,
    6, 15, 405, 360, 288, 211, 150, 102, 53, 21, 11, 26, 63, 117, 168, 234, 314, 390, 436, -13, -52, -90, -125,
    -151, -155, -148, -119, -82, -41, -2, -27, -58, -81, -101, -106, -104, -87, -66, -37, -26, -46, -72, -94, -110,
    -114, -107, -89, -65, -37, -16, -31, -54, -75, -93, -100, -96, -81, -62, -40,
], np.float32) / 1000  # fmt: skip
"""How far behind the middle of the face each point lies, in face widths: mean of eleven people, from the mesh."""
OVAL = positions([*_CHEEKS[:4], *_JAW, *_CHEEKS[4:]])
"""Cheek and jaw from temple to temple in anatomical order, 25 points, open at the forehead."""
NOSE_TIP = positions([4])[0]
STEADY = positions([*_CHEEKS, *_NOSE_BRIDGE, *_NOSE_WINGS, 33, 133, 362, 263])
"""Upper points that move with the head alone: cheeks, nose, corners of the eyes."""
FACE_SIDES = positions([234, 454])
_INNER_LIP_MIDDLES = positions([13, 14])


def _chain(mesh_indices: list[int], closed: bool = False) -> list[tuple[int, int]]:
    p = positions(mesh_indices)
    return list(zip(p, [*p[1:], p[0]] if closed else p[1:], strict=False))


EDGES: list[tuple[int, int]] = [
    *_chain(_OUTER_LIPS, closed=True), *_chain(_INNER_LIPS, closed=True),
    *_chain(_RIGHT_EYE, closed=True), *_chain(_LEFT_EYE, closed=True),
    *_chain(_RIGHT_BROW_UPPER), *_chain(_RIGHT_BROW_LOWER), *_chain(_LEFT_BROW_UPPER), *_chain(_LEFT_BROW_LOWER),
    *pairwise(OVAL), *_chain([*_NOSE_BRIDGE, 4]), *_chain(_NOSE_WINGS),
]  # fmt: skip
"""The 125 lines of a sketch, as pairs of positions among the 131 points."""


def face_width(points: Array) -> Array:
    """Distance between the sides of the face (FaceMesh 234 and 454), px: (..., 131, 2) -> (...)."""
    right, left = points[..., FACE_SIDES[0], :], points[..., FACE_SIDES[1], :]
    return np.linalg.norm(left - right, axis=-1)


def lip_opening(points: Array) -> Array:
    """Distance between the middles of the inner lips (13 and 14) over the face width: (..., 131, 2) -> (...)."""
    upper, lower = points[..., _INNER_LIP_MIDDLES[0], :], points[..., _INNER_LIP_MIDDLES[1], :]
    return np.linalg.norm(lower - upper, axis=-1) / np.maximum(face_width(points), 1e-6)


def part_lips(lower: Array) -> Array:
    """Move lips that have passed through each other apart until they touch: (F, 57, 2) -> (F, 57, 2), crop px.

    Each of nine columns of inner and outer lip is moved by half the overlap, up above and down below.
    """
    rings = [np.array(ring) - N_UPPER for ring in (INNER_LIPS, OUTER_LIPS)]  # corner, 9 above, corner, 9 below
    above, below = rings[0][1:10], rings[0][:10:-1]
    overlap = np.maximum(lower[:, above, 1] - lower[:, below, 1], 0) / 2
    parted = lower.copy()
    for ring in rings:
        parted[:, ring[1:10], 1] -= overlap
        parted[:, ring[:10:-1], 1] += overlap
    return parted


def spread_over_opening(points: Array, count: int) -> list[int]:
    """Choose frames spread evenly over the order of lip opening, most closed and most open included.

    points: (F, 131, 2). Returns `count` frame numbers, sorted; frames repeat only where F < count.
    """
    order = np.argsort(lip_opening(points), kind="stable")
    picks = np.round(np.linspace(0, len(order) - 1, count)).astype(int)
    return sorted(int(order[p]) for p in picks)


def nearest_mouths(bank: Array, faces: Array, count: int) -> tuple[NDArray[np.int64], Array]:
    """For each of the faces (F, 131, 2) the `count` of the bank (N, 131, 2) whose lower face is most alike.

    Returns their numbers (F, R), nearest first, and a nearness (F, R): 1 - (d / d')^2, d the mean distance of the 57
    points once the means of the 74 upper ones lie on each other, d' that of the next one that is not chosen. One that
    is about to be replaced has 0, so that the change cannot be seen. Where N <= count there is no choice: all, each 1.
    """
    if len(bank) <= count:
        numbers = np.tile(np.arange(len(bank)), (len(faces), 1))
        return numbers, np.ones(numbers.shape, np.float32)
    shapes, wanted = (points[:, LOWER] - points[:, UPPER].mean(1, keepdims=True) for points in (bank, faces))
    distance = np.stack([np.linalg.norm(shapes - face, axis=-1).mean(-1) for face in wanted])
    order = np.argsort(distance, axis=1, kind="stable")[:, : count + 1]
    sorted_distance = np.take_along_axis(distance, order, 1)
    nearness = 1 - (sorted_distance[:, :-1] / np.maximum(sorted_distance[:, -1:], 1e-6)) ** 2
    return order[:, :-1], nearness.astype(np.float32)


def head_motion(points: Array) -> Array:
    """Where the head is, from (F, 131, 2): the 74 upper points without the detector's tremble (Gaussian, sigma 1)."""
    return gaussian_filter1d(points[:, UPPER], 1.0, axis=0, mode="nearest").astype(np.float32)


def draw_sketch(points: Array, size: int, thickness: int = 2) -> NDArray[np.uint8]:
    """Draw the 125 edges, white on black, antialiased: (131, 2) px -> (size, size) uint8."""
    canvas = np.zeros((size, size), np.uint8)
    fixed = np.round(np.clip(points, -size, 2 * size) * 16).astype(np.int32)  # cv2 draws at 1/16 px
    lines = [np.array([fixed[a], fixed[b]]) for a, b in EDGES]
    cv2.polylines(canvas, lines, False, 255, thickness, cv2.LINE_AA, shift=4)
    return canvas


def pose_input(points: Array, kind: str) -> Array:
    """The pose that drives stage 1, from (F, 131, 2): (F, 74, 2).

    kind `raw` is the paper's: the 74 points as detected, which give the mouth away (lip opening can be told from them);
    `rigid` keeps the head's motion only, by a low-pass over time (Gaussian, sigma 6 frames).
    """
    if kind not in POSES:
        raise ValueError(f"pose {kind!r} is not one of {POSES}")
    upper = points[:, UPPER]
    return upper if kind == "raw" else gaussian_filter1d(upper, 6.0, axis=0, mode="nearest").astype(np.float32)
