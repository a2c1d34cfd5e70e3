"""`spear metrics PRED TRUTH`: two videos compared frame by frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP, FPS
from spear.errors import SpearError
from spear.face import CROP_WIDTHS, FaceTracker, crop_transform, warp_crop
from spear.figures import FigureFolder
from spear.points import Array
from spear.progress import Progress, no_progress
from spear.scores.compare import ClipScores, FrechetScore, Scores, total
from spear.stages.metrics import checked_metrics, frechet_score, pair_protocol, weights_notes
from spear.stages.metrics_split import LANDMARK_SCORES
from spear.video import Footage

Frame = NDArray[np.uint8]
_Seen = tuple[Frame, Array | None]
"""A frame and the 131 points that were found on it."""
_LEAST_SIDE = 11
"""The SSIM window, px."""


def compare_videos(
    pred: Path,
    truth: Path,
    which: frozenset[str],
    inception_weights: Path | None = None,
    figures: Path | None = None,
    progress: Progress = no_progress,
) -> Scores:
    """Score a video against the true one, frame by frame at 25 fps; memory flat with length.

    which: some of ld, lvd, psnr, ssim, fid; either of ld and lvd brings both and the lip opening scores, for LD alone
    rewards a mouth that does not move. inception_weights: for fid, else torch hub's cache. figures: a folder for the
    figures of the pair, drawn over the true frames, with the true sound; they bring ld where neither was asked for.
    Raises SpearError for an unknown score, videos of different sizes, a file that cannot be read or written, or absent
    weights.
    """
    which = checked_metrics(which, figures)
    frechet, weights = frechet_score(inception_weights) if "fid" in which else (None, None)
    pair = _Pair(Footage(pred), Footage(truth))
    scores = ClipScores(Path(pred).name)
    folder = None if figures is None else FigureFolder(figures)
    _compare(pair, scores, frechet, which, folder, progress)
    values, notes = total([scores]), [*pair.notes, *scores.notes()]
    row = scores.row() | {"frames_pred": pair.lengths[0], "frames_truth": pair.lengths[1]}
    if frechet is not None:
        values["fid"] = frechet.value()
        notes += [*frechet.notes(), *weights_notes(weights)]
    if folder is not None:
        notes += folder.notes()
    crop = (
        f"{CROP}x{CROP} face crop ({CROP_WIDTHS} face widths) by the true frame's own transform, not smoothed over time"
    )
    protocol = pair_protocol(which, weights, crop) | {"pred": str(pred), "truth": str(truth)}
    protocol["lengths"] = "the first min(prediction, truth) frames are compared"
    protocol |= {"width": pair.truth.width, "height": pair.truth.height, "frames": scores.frames}
    return Scores(protocol, values, [row], notes)


class _Pair:
    """Two videos in lockstep; the shorter one says where it ends."""

    def __init__(self, pred: Footage, truth: Footage) -> None:
        """Raises SpearError where their sizes differ by more than the pixel that makes an odd size even."""
        self.pred, self.truth = pred, truth
        self.expected = min(pred.expected, truth.expected)
        self.lengths = (0, 0)
        self.notes: list[str] = []
        size, wanted = (pred.width, pred.height), (truth.width, truth.height)
        if size not in (wanted, (wanted[0] + wanted[0] % 2, wanted[1] + wanted[1] % 2)):
            raise SpearError(
                f"{pred.path} is {size[0]}x{size[1]}, {truth.path} is {wanted[0]}x{wanted[1]}; "
                "scores need equal sizes: scale or crop one of them to the other first"
            )
        if min(wanted) < _LEAST_SIDE:
            raise SpearError(
                f"{truth.path} is {wanted[0]}x{wanted[1]}; give a video of at least {_LEAST_SIDE} px a side"
            )
        if size != wanted:
            self.notes.append("the prediction was padded to an even size; the padding was cut off before comparing")

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
            yield pred[: truth.shape[0], : truth.shape[1]], truth
        self.lengths = (count + _rest(pred, preds), count + _rest(truth, truths))
        if self.lengths[0] != self.lengths[1]:
            self.notes.append(
                f"the lengths differ: prediction {self.lengths[0]}, truth {self.lengths[1]} frames at {FPS} fps; "
                f"the first {count} were compared"
            )


def _rest(frame: Frame | None, frames: Iterator[Frame]) -> int:
    return 0 if frame is None else 1 + sum(1 for _ in frames)


class _Faces:
    """One tracker for each video, as far as the scores need them."""

    def __init__(self, which: frozenset[str]) -> None:
        self._landmarks = bool(which & LANDMARK_SCORES)
        self._stack = contextlib.ExitStack()
        self._truth = FaceTracker()
        self._pred = FaceTracker()

    def __enter__(self) -> _Faces:
        self._stack.enter_context(self._truth)
        self._stack.enter_context(self._pred)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def find(self, pred: Frame, truth: Frame) -> tuple[Array | None, Array | None]:
        """Points (131, 2) of the prediction, where they are needed, and of the truth."""
        return (self._pred(pred) if self._landmarks else None), self._truth(truth)


def _compare(
    pair: _Pair, scores: ClipScores, frechet: FrechetScore | None, which: frozenset[str], figures: FigureFolder | None,
    progress: Progress,
) -> None:  # fmt: skip
    """Score every pair of frames, and draw the points of both on the true one."""
    with contextlib.ExitStack() as stack:
        faces, drawing = stack.enter_context(_Faces(which)), None
        if figures is not None:
            sound = pair.truth.path if pair.truth.has_audio else None
            drawing = stack.enter_context(figures.clip(pair.pred.path.stem, pair.expected, sound))
        for pred, truth in pair.frames():
            pred_points, truth_points = faces.find(pred, truth)
            _add_frame(scores, frechet, which, (pred, pred_points), (truth, truth_points))
            if drawing is not None:
                drawing.add(truth, truth_points, pred_points)
            done = "frames compared" if drawing is None else "frames compared and drawn"
            progress(scores.frames, max(pair.expected, scores.frames), done)


def _add_frame(
    scores: ClipScores, frechet: FrechetScore | None, which: frozenset[str], of_pred: _Seen, of_truth: _Seen
) -> None:
    scores.frames += 1
    (pred, pred_points), (truth, truth_points) = of_pred, of_truth
    if which & LANDMARK_SCORES:
        scores.add_landmarks(pred_points, truth_points)
    if not which - LANDMARK_SCORES:
        return
    scores.add_pictures("full", which, pred, truth)
    if truth_points is None:
        scores.add_pictures("crop", which, None, None)
        return
    transform = crop_transform(truth_points[None], smoothing=0)[0]
    pred_crop, truth_crop = warp_crop(pred, transform), warp_crop(truth, transform)
    scores.add_pictures("crop", which, pred_crop, truth_crop)
    if frechet is not None:
        frechet.add(pred_crop, truth_crop)
