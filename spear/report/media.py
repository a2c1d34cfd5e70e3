"""The moving and the still pictures of a report, from one pass over a clip's frames. Letters: F frames."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP, FPS
from spear.crop import CROP_WIDTHS, to_crop, warp_crop
from spear.errors import SpearError, UnusableClip
from spear.figures import overlay
from spear.points import Array
from spear.video import Frame, VideoWriter

if TYPE_CHECKING:
    from spear.report.page import Shown

PREVIEW_SECONDS = 60
PREVIEW_HEIGHT = 360
"""A page that holds two dozen videos must still be small enough to send."""
_PREVIEW_CRF = 26
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
"""With full colour: at half the resolution, thin red lines turn brown."""
_DIM = 0.55


@dataclass(frozen=True)
class Preview:
    """A small video that waits to be put into the page."""

    path: Path
    width: int
    height: int
    sound: bool


@dataclass(frozen=True)
class Faces:
    """The faces of one frame as JPEG, 256x256, with their points."""

    pred: bytes
    truth: bytes
    painted: bool


@dataclass
class Film:
    """What one clip gives to the page."""

    previews: list[Preview] = field(default_factory=list)
    """Of the prediction and of the truth; none where the clip gets no players."""
    faces: dict[int, Faces] = field(default_factory=dict)
    """By the number of their frame."""
    unpainted: int = 0
    """In how many of the previewed frames the true frame stands in for one that was not painted."""
    notes: list[str] = field(default_factory=list)


def frames_needed(clip: Shown, players: bool, moments: Collection[int]) -> int:
    """How many frames of the clip must be read."""
    previewed = min(PREVIEW_SECONDS * FPS, len(clip.windows)) if players else 0
    return max(previewed, *(frame + 1 for frame in moments), 0)


def film(clip: Shown, folder: Path, players: bool, moments: Collection[int], tick: Callable[[int], None]) -> Film:
    """Read the clip once, as far as is needed: previews into the folder if `players`, face crops of the moments.

    Memory is flat with length. A clip whose file is damaged gets neither players nor the crops behind the damage, and
    a note. Raises SpearError where the previews cannot be written or there are fewer frames than were scored.
    """
    result = Film()
    try:
        _film(clip, folder, players, moments, tick, result)
    except UnusableClip as error:
        result.previews = []
        result.notes.append(f"{clip.name}: no players in this report: {error}")
    return result


def _film(
    clip: Shown, folder: Path, players: bool, moments: Collection[int], tick: Callable[[int], None], result: Film
) -> None:
    needed, number = frames_needed(clip, players, moments), -1
    with ExitStack() as stack:
        pair = _Pair(clip, folder, stack, result)
        for number, (pred, truth) in enumerate(islice(clip.frames(), needed)):
            if players and number < PREVIEW_SECONDS * FPS:
                pair.write(number, pred, truth)
            if number in moments:
                result.faces[number] = _faces(clip, number, pred, truth)
            tick(number + 1)
        if number + 1 < needed:
            raise SpearError(
                f"{clip.name} gives {number + 1} frames, {len(clip.windows)} were scored; "
                "leave its videos alone and run again"
            )


class _Pair:
    """The previews of prediction and truth, begun with the first frame, which says how large they are."""

    def __init__(self, clip: Shown, folder: Path, stack: ExitStack, result: Film) -> None:
        self._clip, self._folder, self._stack, self._result = clip, folder, stack, result
        self._writers: list[VideoWriter] = []

    def write(self, number: int, pred: Frame | None, truth: Frame) -> None:
        """Add a frame to both; pred is None where it was not painted, and points stand in for it."""
        small = _small(truth)
        if pred is None:
            scale = small.shape[0] / truth.shape[0]
            sides = (self._clip.pred_points[number], self._clip.truth_points[number])
            points, true_points = (_scaled(p, scale) if np.isfinite(p).all() else None for p in sides)
            left = _instead(small, true_points, points)
            self._result.unpainted += 1
        else:
            left = _small(pred)
        if not self._writers:
            for side, picture, sound in (
                ("pred", left, self._clip.pred_sound), ("truth", small, self._clip.truth_sound)
            ):  # fmt: skip
                self._writers.append(self._begin(side, picture, sound))
        for writer, picture in zip(self._writers, (left, small), strict=True):
            writer.write(picture)

    def _begin(self, side: str, picture: Frame, sound: Path | None) -> VideoWriter:
        path, (height, width) = self._folder / f"{side}.mp4", picture.shape[:2]
        try:
            writer = VideoWriter(path, width, height, sound, crf=_PREVIEW_CRF)
        except UnusableClip as error:  # a player without sound is better than none
            self._result.notes.append(f"{self._clip.name}: no sound in a player of this report: {error}")
            sound, writer = None, VideoWriter(path, width, height, crf=_PREVIEW_CRF)
        self._result.previews.append(Preview(path, width + width % 2, height + height % 2, sound is not None))
        return self._stack.enter_context(writer)


def _small(frame: Frame) -> Frame:
    """At most PREVIEW_HEIGHT px high, (h, w, 3)."""
    height, width = frame.shape[:2]
    if height <= PREVIEW_HEIGHT:
        return frame
    return cv2.resize(frame, (round(width * PREVIEW_HEIGHT / height), PREVIEW_HEIGHT), interpolation=cv2.INTER_AREA)


def _scaled(points: Array, scale: float) -> Array:
    """The points (57, 2) of a frame in the px of its small picture."""
    return points * scale + (scale - 1) / 2  # the middle of the first pixel is 0 in both


def _instead(truth: Frame, true_points: Array | None, points: Array | None) -> Frame:
    """What stands for a frame that was not painted: the true one, grey and dark so that nobody takes it for painted,
    with the points of both."""
    grey = np.rint(cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY) * _DIM).astype(np.uint8)
    known = points if true_points is None else true_points
    scale = 1 if known is None else max(1, round(float(np.ptp(known[:, 0])) * CROP_WIDTHS / CROP))
    return overlay(np.repeat(grey[..., None], 3, -1), true_points, points, scale)


def _faces(clip: Shown, number: int, pred: Frame | None, truth: Frame) -> Faces:
    """The face of both: the prediction with its points in red over the true ones in green."""
    window = clip.windows[number]
    if not np.isfinite(window).all():
        window = _middle(truth)
    sides = (clip.pred_points[number], clip.truth_points[number])
    points, true_points = (to_crop(p, window) if np.isfinite(p).all() else None for p in sides)
    face = warp_crop(truth, window)
    if pred is None:
        left = _instead(face, true_points, points)
    else:
        left = overlay(warp_crop(pred, window), true_points, points)
    return Faces(_jpeg(left), _jpeg(overlay(face, true_points, None)), pred is not None)


def _middle(frame: Frame) -> NDArray[np.float64]:
    """The transform (4,) of the largest square in the middle of a frame without a face."""
    height, width = frame.shape[:2]
    scale = CROP / min(height, width)
    return np.array([scale, 0.0, (CROP - scale * width) / 2, (CROP - scale * height) / 2])


def _jpeg(picture: Frame) -> bytes:
    return cv2.imencode(".jpg", picture[..., ::-1], _JPEG)[1].tobytes()
