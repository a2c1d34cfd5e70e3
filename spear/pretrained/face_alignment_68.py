"""face-alignment's 68 points (2D-FAN, iBUG order) as a second landmark source, resampled to our 131: approximate.

iBUG order: jaw 0-16, brows 17-21 and 22-26, nose bridge 27-30, nose base 31-35, eyes 36-41 and 42-47, outer lips 48-59,
inner lips 60-67; "right" is the person's right, in the left of the picture.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from spear.errors import SpearError

if TYPE_CHECKING:
    from face_alignment import FaceAlignment

Array = NDArray[np.float32]

# Where our points stand on the curves, in steps from one of the 68 points to the next. Found by comparing the mean of
# MediaPipe's points on 620 frontal faces with a published mean shape of the 68: by height on the jaw and the nose, by
# length along the lips and the lids. One half is given where the other mirrors it.
_OVAL_PLACES = (-0.9, -0.1, 0.65, 1.4, 2.25, 3.15, 4.0, 4.65, 5.35, 5.95, 6.6, 7.25, 8.0)
"""Temple to chin, 13 of 25: four of the cheek, nine of the jaw. The 68 begin below the temple."""
_LID_PLACES = (0.0, 0.22, 0.46, 0.81, 1.34, 1.86, 2.4, 2.79, 3.0)
"""From the outer corner of an eye to the inner one."""
_OUTER_LIP_PLACES = (0.0, 0.3, 0.66, 1.18, 1.9, 3.0)
"""From a corner of the mouth to the middle."""
_INNER_LIP_PLACES = (0.0, 0.23, 0.44, 0.71, 1.08, 2.0)
_BRIDGE_PLACES = (0.0, 0.71, 1.37, 1.99, 2.66)
_TIP_PLACE = 3.46
"""The tip of the mesh lies below the 68's lowest point of the bridge."""
_WING_WIDTH = 1.35
"""Width between the mesh's outermost points of the nose over that between 31 and 35."""
_WING_ROUTE = np.array([[0.19, 0.49], [0.43, 0.80], [0.70, 0.97]])
"""The three points from a wing to the tip: shares of the way across and of the way up."""
_BROW_HALF_HEIGHTS = np.array([0.015, 0.025, 0.028, 0.03, 0.048])
"""Half the distance between the two rows of a brow, from its outer end inwards, over that of the outer eye corners."""


def detect_68(frames: Iterator[NDArray[np.uint8]]) -> list[Array | None]:
    """The 68 points of the largest face of each frame (H, W, 3) uint8 RGB: (68, 2) float32 px, or None without a face.

    Never goes to the network. Raises SpearError where face-alignment's weights are absent or damaged, naming the files
    and their folder.
    """
    net, points = _load(weights_files()), []
    for frame in frames:
        boxes = net.face_detector.detect_from_image(frame)
        largest = max(boxes, key=lambda box: float((box[2] - box[0]) * (box[3] - box[1])), default=None)
        found = None if largest is None else net.get_landmarks_from_image(frame, detected_faces=[largest])
        points.append(None if not found else np.asarray(found[0], np.float32))
    return points


def weights_files() -> tuple[Path, ...]:
    """The files that face-alignment wants, in torch hub's cache. Raises SpearError naming those that are absent."""
    from face_alignment.api import models_urls
    from face_alignment.detection.sfd.sfd_detector import models_urls as detector_urls

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    places = {url: folder / url.rsplit("/", 1)[1] for url in (detector_urls["s3fd"], models_urls["2DFAN-4"])}
    absent = [url for url, path in places.items() if not path.is_file()]
    if absent:
        # asked to load, the package would begin a download, which hangs where there is no network
        raise SpearError(
            f"face-alignment has no weights; download {' and '.join(absent)} to {folder}, or use --detector mediapipe"
        )
    return tuple(places.values())


@lru_cache(maxsize=1)
def _load(files: tuple[Path, ...]) -> FaceAlignment:
    """The detector and the network, on Accelerate's device, not compiled: that takes minutes. Raises SpearError."""
    from face_alignment import FaceAlignment, LandmarksType

    try:
        return FaceAlignment(
            LandmarksType.TWO_D, device=str(PartialState().device), compile=False,
            face_detector_kwargs={"path_to_detector": str(files[0])},  # read without running pickled code
        )  # fmt: skip
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        names = " or ".join(path.name for path in files)
        raise SpearError(
            f"{names} in {files[0].parent} is damaged ({reason}); delete both and download them again"
        ) from error


def to_131(points68: Array) -> Array:
    """Resample the 68 points (68, 2) px along their curves to our 131 points (131, 2) float32 px (spear/points.py).

    Approximate: the 68 say little of cheeks, brow height and nose wings; those have the proportions of the mean face.
    Exact: what both have (corners of eyes and mouth, middles of the lips, chin), and inner lips that touch where the
    68's do. Raises ValueError for another shape or non-finite points.
    """
    p = np.asarray(points68, np.float64)
    if p.shape != (68, 2) or not np.isfinite(p).all():
        raise ValueError(f"points68 must be (68, 2) and finite, not {p.shape}")
    oval = _along(p[:17], [*_OVAL_PLACES, *(16 - place for place in _OVAL_PLACES[-2::-1])])
    parts = [oval[:4], oval[-4:], *_brows(p), _along(p[27:31], _BRIDGE_PLACES), _wings(p)]
    parts += [_ring(p[36:42], 3, _LID_PLACES), _ring(p[42:48], 3, [3 - place for place in _LID_PLACES[::-1]])]
    parts.append(oval[4:-4])
    for ring, half, places in ((p[48:60], 6, _OUTER_LIP_PLACES), (p[60:68], 4, _INNER_LIP_PLACES)):
        parts.append(_ring(ring, half, [*places, *(half - place for place in places[-2::-1])]))
    return np.concatenate(parts).astype(np.float32)


def _along(curve: NDArray[np.float64], places: Sequence[float]) -> NDArray[np.float64]:
    """Points of the smooth curve through (N, 2) at places 0..N-1, (len(places), 2); straight on beyond its ends.

    A shape-preserving cubic: it never leaves the range of its neighbours, so lips that touch do not cross.
    """
    last = len(curve) - 1
    t = np.asarray(places, np.float64)
    inside = PchipInterpolator(np.arange(last + 1), curve)(np.clip(t, 0, last))
    before, after = np.minimum(t, 0)[:, None], np.maximum(t - last, 0)[:, None]
    return inside + before * (curve[1] - curve[0]) + after * (curve[-1] - curve[-2])


def _ring(ring: NDArray[np.float64], half: int, places: Sequence[float]) -> NDArray[np.float64]:
    """A closed ring (N, 2) from corner to corner and back, `half` steps each way, at the same places on both ways."""
    over = _along(ring[: half + 1], places)
    under = _along(np.concatenate([ring[half:], ring[:1]])[::-1], places)
    return np.concatenate([over, under[-2:0:-1]])


def _brows(p: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Four rows of five: each brow's upper row, then its lower row backwards."""
    eyes = p[45] - p[36]
    up = np.array([eyes[1], -eyes[0]])  # as long as the distance of the outer eye corners; y points down
    right, left = (heights[:, None] * up for heights in (_BROW_HALF_HEIGHTS, _BROW_HALF_HEIGHTS[::-1]))
    return [p[17:22] + right, (p[17:22] - right)[::-1], p[22:27] + left, (p[22:27] - left)[::-1]]


def _wings(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nine points from the right wing of the nose over its tip to the left wing."""
    middle, tip = (p[31] + p[35]) / 2, _along(p[27:31], [_TIP_PLACE])[0]
    sides = []
    for base in (p[31], p[35]):
        wing, foot = middle + _WING_WIDTH * (base - middle), tip - middle
        across, up = -_WING_WIDTH * (base - middle), foot
        sides.append(np.concatenate([wing[None], wing + _WING_ROUTE @ np.stack([across, up])]))
    return np.concatenate([sides[0], tip[None], sides[1][::-1]])
