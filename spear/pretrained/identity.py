"""CSIM: is it the same person? The cosine similarity of two face embeddings, 128 numbers of dlib's ResNet.

dlib's face recognition network (King 2017, dlib.net; weights in the public domain) comes as an optional package. Papers
mostly take ArcFace (Deng et al. 2019), where strangers are near 0. Here they are about .83 (98 % of 13,598 pairs lie in
.74 to .92) and one person in two clips is about .99 (98 % of 400 pairs in .94 to 1), so the two scores do not compare.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spear.errors import SpearError
from spear.points import N_POINTS, Array, positions

WEIGHTS_NAME = "dlib_face_recognition_resnet_model_v1.dat"
CHIP_SIDE = 150
ANCHORS = positions([33, 133, 362, 263, 48, 278])
"""Corners of the eyes, from the person's right to the left, and the wings of the nose: little moved by speech."""
ON_CHIP = np.array([(36.1, 46.2), (59.1, 47.4), (88.3, 47.4), (111.3, 46.2), (56.7, 78.4), (90.7, 78.4)])
"""Where dlib's own pipeline (its detector, five points, padding .25) puts them on its chips, px: the medians over 204
portraits and 171 frames of 21 people, made symmetric. The corners spread by 1 to 1.6 px, the wings by up to 3."""
_INSTALL = "pip install dlib-bin face_recognition_models"

Frame = NDArray[np.uint8]
Series = NDArray[np.float64]
Net = Callable[[Frame], ArrayLike]
"""A chip (150, 150, 3) uint8 RGB -> 128 numbers."""


class Identity:
    """Embeds faces, from a frame and the 131 points on it."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def embed(self, frame: Frame, points: Array) -> Series:
        """frame: (H, W, 3) uint8 RGB; points: (131, 2) px of it. Returns the embedding (128,).

        Raises ValueError for other shapes or types, or points that are not finite or all in one place.
        """
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}")
        return np.asarray(self._net(cut_chip(frame, align(points))), np.float64)


def align(points: Array) -> Series:
    """The similarity transform from frame px to chip px that brings the six anchors nearest to their places.

    So the embedding is at a cosine of .9986 to dlib's own (mean over 58 frames of six other people; least .9958).

    points: (131, 2) px. Returns the matrix (2, 3): chip = matrix @ (x, y, 1). Raises ValueError for other shapes,
    points that are not finite, or anchors all in one place.
    """
    p = np.asarray(points, np.float64)
    if p.shape != (N_POINTS, 2) or not np.isfinite(p).all():
        raise ValueError(f"points must be ({N_POINTS}, 2) and finite, not {p.shape}")
    # as complex numbers a similarity is scale * z + shift, and its least squares fit one division
    source, target = p[ANCHORS] @ (1, 1j), ON_CHIP @ (1, 1j)
    off = source - source.mean()
    size = float((np.abs(off) ** 2).sum())
    if size == 0:
        raise ValueError("the eyes and the nose are all in one place")
    scale = (off.conj() @ (target - target.mean())) / size
    shift = target.mean() - scale * source.mean()
    return np.array([[scale.real, -scale.imag, shift.real], [scale.imag, scale.real, shift.imag]])


def cut_chip(frame: Frame, matrix: Series) -> Frame:
    """Cut the chip (150, 150, 3) out of a frame (H, W, 3) uint8 by a matrix of `align`; black beyond the frame.

    A face of more than two chips is made smaller by a whole factor first, or hair and skin alias (dlib does so too).
    """
    height, width = frame.shape[:2]
    factor = int(min(1 / float(np.hypot(*matrix[:, 0])), height, width))
    if factor > 1:
        rows, columns = height // factor, width // factor
        frame = cv2.resize(frame[: rows * factor, : columns * factor], (columns, rows), interpolation=cv2.INTER_AREA)
        middle = (factor - 1) / 2  # pixel i now covers the pixels factor * i .. factor * i + factor - 1
        matrix = matrix @ np.array([[factor, 0, middle], [0, factor, middle], [0, 0, 1]])
    chip: Frame = cv2.warpAffine(frame, matrix, (CHIP_SIDE, CHIP_SIDE), flags=cv2.INTER_LINEAR)
    return chip


def similarity(a: ArrayLike, b: ArrayLike) -> float:
    """CSIM: the cosine of two embeddings (N,) each, -1..1. Raises ValueError for other shapes, zeros or NaN."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"embeddings must be (N,) and equal, not {x.shape} and {y.shape}")
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not (np.isfinite(size) and size > 0):
        raise ValueError("embeddings must be finite and not all zero")
    return float(np.clip(x @ y / size, -1.0, 1.0))


def find_identity_weights() -> Path:
    """The weight file in the installed package face_recognition_models, which is not imported.

    Its import needs pkg_resources, which new setuptools lack. Raises SpearError where it or dlib is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    places = [Path(folder) / "models" / WEIGHTS_NAME for folder in (spec and spec.submodule_search_locations) or ()]
    found = next((place for place in places if place.is_file()), None)
    if found is None or importlib.util.find_spec("dlib") is None:
        absent = "dlib's face recognition weights are" if found is None else "dlib is"
        raise SpearError(f"{absent} not installed, CSIM needs them both; install them with `{_INSTALL}`")
    return found


def load_identity() -> Identity:
    """The network with its weights. Raises SpearError where they or dlib are absent, broken or damaged."""
    place = find_identity_weights()
    try:
        dlib = importlib.import_module("dlib")
        net = dlib.face_recognition_model_v1(str(place))
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SpearError(f"dlib cannot load {place} ({reason[:120]}); install both again with `{_INSTALL}`") from error
    return Identity(net.compute_face_descriptor)
