"""Which prediction belongs to which truth: two videos, two folders or two globs, matched by name; read in lockstep."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spear.audio import open_media
from spear.clip import FPS
from spear.errors import SpearError
from spear.sources import find_videos, is_video_name
from spear.video import Footage, Frame

_LEAST_SIDE = 11
"""The SSIM window, px."""
_SAME_SHAPE = 0.01
"""Videos whose aspect ratios differ by no more show the same picture at two sizes."""


@dataclass(frozen=True)
class VideoPair:
    """A prediction, its truth, and the name under which they are scored."""

    name: str
    pred: Path
    truth: Path


def match_videos(pred: str | Path, truth: str | Path) -> tuple[list[VideoPair], list[str]]:
    """Pair the videos of two sides, each a file, a folder or a glob, and say which were left without a partner.

    Two files are a pair whatever their names. Else names must be equal: the path below the folder (or below the part
    of the glob without wildcards) without its suffix; where that pairs nothing, the file's name alone.
    Raises SpearError where a side has no video, a name is there twice, or nothing can be paired.
    """
    sides = [_Side(str(pred)), _Side(str(truth))]
    if all(side.single for side in sides):
        only_pred, only_truth = sides[0].files[0], sides[1].files[0]
        return [VideoPair(only_pred.name, only_pred, only_truth)], []
    for by_name in (_Side.inner_names, _Side.short_names):
        preds, truths = by_name(sides[0]), by_name(sides[1])
        pairs = [VideoPair(name, path, truths[name]) for name, path in sorted(preds.items()) if name in truths]
        if pairs:
            paired = {path for pair in pairs for path in (pair.pred, pair.truth)}
            alone = [(path, other) for side, other in ((sides[0], sides[1]), (sides[1], sides[0]))
                     for path in side.files if path not in paired]  # fmt: skip
            return pairs, [f"left out: {path}: nothing of that name in {other.given}" for path, other in alone]
    raise SpearError(
        f"no video in {pred} has the name of one in {truth}: {sides[0].files[0].name} stands against "
        f"{sides[1].files[0].name}; give a prediction the name of its truth (the suffix may differ)"
    )


class _Side:
    """The videos that one argument stands for."""

    def __init__(self, given: str) -> None:
        self.given, path = given, Path(given)
        if not given:
            raise SpearError("an empty name; give a video, a folder of videos or a glob in quotes")
        self.single = path.is_file()
        self._top = path if path.is_dir() else path.parent
        if self.single:
            self.files = [path]
        elif path.is_dir():
            self.files = find_videos(path)
        elif glob.has_magic(given):
            self.files = _videos_of(given)
            while glob.has_magic(str(self._top)):
                self._top = self._top.parent
        else:
            raise SpearError(f"{given} does not exist; give a video, a folder of videos or a glob in quotes")
        if not self.files:
            raise SpearError(f"no video in {given}; give a video, a folder of videos or a glob in quotes")

    def inner_names(self) -> dict[str, Path]:
        """Path below the folder, without suffix -> file."""
        return self._named([str(path.relative_to(self._top).with_suffix("")) for path in self.files])

    def short_names(self) -> dict[str, Path]:
        """File name without suffix -> file."""
        return self._named([path.stem for path in self.files])

    def _named(self, names: list[str]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for name, path in zip(names, self.files, strict=True):
            if name in found:
                raise SpearError(f"{found[name]} and {path} have one name, {name}; leave one of them out")
            found[name] = path
        return found


class Lockstep:
    """Two videos frame by frame at 25 fps, both in the size of the truth; the shorter one says where it ends."""

    def __init__(self, pair: VideoPair) -> None:
        """Raises UnusableClip for a file that cannot be read, SpearError for pictures of different shapes."""
        self.pred, self.truth = Footage(pair.pred), Footage(pair.truth)
        self.expected = min(self.pred.expected, self.truth.expected)
        self.lengths = (0, 0)
        self.rates = (_rate(pair.pred), _rate(pair.truth))
        self.remarks: list[str] = []
        self._check_sizes()
        if self.pred.pixel_aspect != self.truth.pixel_aspect:
            self.remarks.append(
                f"pixels of the prediction are {self.pred.pixel_aspect} as wide as high, of the truth "
                f"{self.truth.pixel_aspect}; they were compared as they are stored"
            )
        if self.rates[0] != self.rates[1]:
            self.remarks.append(
                f"the prediction has {self.rates[0]:g}, the truth {self.rates[1]:g} frames/s; both were read at {FPS}, "
                "the frame that is on screen in the middle of each 40 ms"
            )

    def _check_sizes(self) -> None:
        pred, truth = self.pred, self.truth
        size, wanted = (pred.width, pred.height), (truth.width, truth.height)
        if min(wanted) < _LEAST_SIDE:
            raise SpearError(
                f"{truth.path} is {wanted[0]}x{wanted[1]}; give a video of at least {_LEAST_SIDE} px a side"
            )
        self._cut = size in (wanted, (wanted[0] + wanted[0] % 2, wanted[1] + wanted[1] % 2))
        if size == wanted:
            return
        if self._cut:
            self.remarks.append("the prediction was padded to an even size; the padding was cut off before comparing")
            return
        if abs(size[0] * wanted[1] / (size[1] * wanted[0]) - 1) > _SAME_SHAPE:
            raise SpearError(
                f"{pred.path} is {size[0]}x{size[1]}, {truth.path} is {wanted[0]}x{wanted[1]}: not the same picture; "
                "crop or pad one of them to the other first"
            )
        self.remarks.append(
            f"the prediction is {size[0]}x{size[1]}, the truth {wanted[0]}x{wanted[1]}; the prediction was resized"
        )

    def frames(self) -> Iterator[tuple[Frame, Frame]]:
        """Frames of both; afterwards `lengths` holds how many each one has."""
        preds, truths = self.pred.frames(), self.truth.frames()
        count = 0
        while True:
            # next() on both, not zip: zip would swallow a frame of the longer one and its count would be wrong
            pred, truth = next(preds, None), next(truths, None)
            if pred is None or truth is None:
                break
            count += 1
            yield self._fitted(pred), truth
        self.lengths = (count + _rest(pred, preds), count + _rest(truth, truths))
        if self.lengths[0] != self.lengths[1]:
            self.remarks.append(
                f"the lengths differ: prediction {self.lengths[0]}, truth {self.lengths[1]} frames at {FPS} fps; "
                f"the first {count} were compared"
            )

    def preds(self) -> Iterator[Frame]:
        """The prediction's frames alone, in the size of the truth."""
        return map(self._fitted, self.pred.frames())

    def note_faces(self, pred: int, truth: int) -> None:
        """Remark that a side shows more than one face."""
        for side, count in (("prediction", pred), ("truth", truth)):
            if count > 1:
                self.remarks.append(f"the {side} shows {count} faces; the largest is followed")

    def _fitted(self, pred: Frame) -> Frame:
        height, width = self.truth.height, self.truth.width
        if self._cut:
            return pred[:height, :width]
        smaller = width < self.pred.width
        shrink = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(pred, (width, height), interpolation=shrink), np.uint8)


def _videos_of(pattern: str) -> list[Path]:
    """The files that a glob matches, each once though links lead to it twice; only videos where there are some."""
    found: dict[Path, Path] = {}
    for name in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isfile(name):
            found.setdefault(Path(name).resolve(), Path(name))
    return [path for path in found.values() if is_video_name(path)] or list(found.values())


def _rest(frame: Frame | None, frames: Iterator[Frame]) -> int:
    return 0 if frame is None else 1 + sum(1 for _ in frames)


def _rate(path: Path) -> float:
    """Frames a second as the container tells, to a hundredth; 0 for a picture."""
    with open_media(path, "a video") as container:
        return round(float(container.streams.video[0].average_rate or 0), 2) if container.streams.video else 0.0
