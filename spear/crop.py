"""The crop around a face as a similarity transform, and pasting back what was cropped."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from spear.clip import CROP
from spear.picture import Area, Frame, Picture
from spear.points import NOSE_TIP, UPPER, Array
from spear.video_writer import MARGIN, Patch

CROP_WIDTHS = 1.5
"""Side of the crop in face widths: forehead, ears and the open jaw fit."""
NOSE_ROW = 120
"""Row of the nose tip in the crop; the rows from MASK_ROW on hold mouth and chin."""
MASK_ROW = 128
_SPREAD = 0.302
"""Root mean square distance of the 74 pose points from their mean, in face widths (measured: .288 to .317).
Taken instead of the width itself, which shrinks when the head turns."""
_SMOOTHING = 4.0
"""Gaussian sigma, frames, over the crop's place, size and angle: the picture must not shake with the detector."""
_RIGHT_EYE, _LEFT_EYE = slice(42, 58), slice(58, 74)


def crop_transform(points: Array, smoothing: float = _SMOOTHING) -> NDArray[np.float64]:
    """The similarity transform from frame px to crop px, per frame, from the 74 pose points alone.

    points: (F, 131, 2) px. Returns (F, 4) rows (a, b, x, y): crop = [[a, -b], [b, a]] @ source + (x, y). The mouth has
    no say in it, so that neither the crop nor coordinates in it give the mouth away (it must be predicted from sound).
    """
    pose = points[:, UPPER].astype(np.float64)
    eyes = pose[:, _LEFT_EYE].mean(1) - pose[:, _RIGHT_EYE].mean(1)
    angle = np.unwrap(np.arctan2(eyes[:, 1], eyes[:, 0]))
    middle = pose.mean(1)
    size = np.sqrt(((pose - middle[:, None]) ** 2).sum(-1).mean(1)) / _SPREAD * CROP_WIDTHS
    down = np.stack([-np.sin(angle), np.cos(angle)], 1)
    nose = ((pose[:, NOSE_TIP] - middle) * down).sum(1, keepdims=True)
    anchor = middle + nose * down  # at the height of the nose tip, in the middle between the cheeks
    rows = np.column_stack([anchor, np.log(size), angle])
    if smoothing > 0:
        rows = gaussian_filter1d(rows, smoothing, axis=0, mode="nearest")
    scale, angle = CROP / np.exp(rows[:, 2]), rows[:, 3]
    a, b = scale * np.cos(angle), -scale * np.sin(angle)
    x = CROP / 2 - (a * rows[:, 0] - b * rows[:, 1])
    y = NOSE_ROW - (b * rows[:, 0] + a * rows[:, 1])
    return np.stack([a, b, x, y], 1)


def to_crop(points: Array, transform: NDArray[np.float64]) -> Array:
    """Map points from frame px to crop px: (F, P, 2) with (F, 4), or (P, 2) with (4,)."""
    a, b, x, y = (transform[..., i, None] for i in range(4))
    u, v = points[..., 0], points[..., 1]
    return np.stack([a * u - b * v + x, b * u + a * v + y], -1).astype(np.float32)


def inverse(transform: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transform from crop px to frame px: (..., 4) -> (..., 4)."""
    a, b, x, y = (transform[..., i] for i in range(4))
    square = a * a + b * b
    c, d = a / square, -b / square
    return np.stack([c, d, -(c * x - d * y), -(d * x + c * y)], -1)


def _matrix(transform: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, x, y = transform
    return np.array([[a, -b, x], [b, a, y]])


def crop_area(transform: NDArray[np.float64], shape: tuple[int, ...]) -> Area:
    """The part of a frame of this shape that `warp_crop` and `pasted` look at."""
    corners = np.array([(x, y) for x in (0, CROP) for y in (0, CROP)], np.float32)
    return _box(to_crop(corners, inverse(transform)), round(4 * _blur(transform)) + 2 * MARGIN, shape)


def from_part(transform: NDArray[np.float64], area: Area) -> NDArray[np.float64]:
    """The transform (4,) to crop px for a frame of which only this part is there."""
    a, b, x, y = transform
    left, top = area[1].start, area[0].start
    return np.array([a, b, a * left - b * top + x, b * left + a * top + y])


def _blur(transform: NDArray[np.float64]) -> float:
    """Sigma, px of the frame: a large face is smoothed before it is sampled sparsely, or hair and teeth alias."""
    scale = float(np.hypot(transform[0], transform[1]))
    return 0.35 / scale if scale < 0.6 else 0.0


def warp_crop(frame: Frame, transform: NDArray[np.float64]) -> Frame:
    """Cut the face: frame (H, W, 3) uint8, transform (4,) -> (256, 256, 3) uint8; the frame's edge is repeated."""
    if sigma := _blur(transform):
        area = crop_area(transform, frame.shape)
        frame, transform = cv2.GaussianBlur(frame[area], (0, 0), sigma), from_part(transform, area)
    enlarged = np.hypot(transform[0], transform[1]) > 1
    return cv2.warpAffine(
        frame, _matrix(transform), (CROP, CROP), flags=cv2.INTER_CUBIC if enlarged else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def _box(corners: Array, margin: int, shape: tuple[int, ...]) -> Area:
    """Rows and columns of a frame of this shape around corners (N, 2) px, with a margin or a pixel more: their edges
    are even or those of the frame. Of a box beside the frame the nearest edge."""
    size = np.array([shape[1], shape[0]])
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - margin, 0, size - 1) // 2 * 2
    right, bottom = np.clip((np.ceil(corners.max(0)).astype(int) + margin + 2) // 2 * 2, 2, size)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


class Cut(NamedTuple):
    """A face cut from a picture: rows and columns of the picture that are looked at, as RGB; the transform (4,) from
    there; the crop (256, 256, 3) uint8."""

    area: Area
    frame: Frame
    transform: NDArray[np.float64]
    crop: Frame

    def pasted(self, face: Frame, mask: Array) -> Patch:
        """What pasting a crop back by a mask (256, 256) in 0..1 changes of the picture."""
        (rows, columns), pixels = pasted(self.frame, face, mask, self.transform)
        top, left = self.area[0].start, self.area[1].start
        return Patch(
            (slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left)), pixels
        )


def cut(picture: Picture, transform: NDArray[np.float64]) -> Cut:
    """Cut the face, as `warp_crop` does, from a picture of which no more is made RGB than is looked at."""
    area = crop_area(transform, picture.shape)
    frame, own = picture.part(area), from_part(transform, area)
    return Cut(area, frame, own, warp_crop(frame, own))


def paste(frame: Frame, crop: Frame, mask: Array, transform: NDArray[np.float64]) -> Frame:
    """Blend a crop (256, 256, 3) into a copy of its frame by the mask (256, 256) in 0..1; the rest is untouched."""
    result, patch = frame.copy(), pasted(frame, crop, mask, transform)
    result[patch.area] = patch.pixels
    return result


def pasted(frame: Frame, crop: Frame, mask: Array, transform: NDArray[np.float64]) -> Patch:
    """What `paste` changes of a frame, as a patch: so that a large frame need not be copied."""
    rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
    if rows.size == 0:
        rows = columns = np.zeros(1, int)
    back = inverse(transform)
    corners = [(x, y) for x in (columns[0] - 1, columns[-1] + 1) for y in (rows[0] - 1, rows[-1] + 1)]
    area = _box(to_crop(np.array(corners, np.float32), back), MARGIN, frame.shape)
    below = frame[area]
    matrix, size = _matrix(back), below.shape[1::-1]
    matrix[:, 2] -= (area[1].start, area[0].start)
    face = cv2.warpAffine(crop, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR)
    return Patch(area, blend(below, face, weight))


def blend(below: Frame, above: Frame, mask: Array) -> Frame:
    """above * mask + below * (1 - mask): pictures (H, W, 3) uint8, mask (H, W) in 0..1."""
    base = below.astype(np.float32)
    mixed = above - base
    mixed *= cv2.merge([mask] * 3)  # numpy's broadcast over three colours takes three times as long
    mixed += base
    return np.rint(mixed, out=mixed).astype(np.uint8)
