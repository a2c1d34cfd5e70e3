"""`spear metrics`: a split of clips/ through the trained models, or two videos compared frame by frame.

The protocol is stated beside the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP, FPS
from spear.errors import SpearError
from spear.face import CROP_WIDTHS, DETECTOR, FaceTracker, crop_transform, warp_crop
from spear.files import sha256_of
from spear.points import Array
from spear.pretrained.inception import WEIGHTS_SHA256_PREFIX, find_inception_weights, load_inception
from spear.progress import Progress, Report, no_progress
from spear.scores.compare import METRICS, ClipScores, FrechetScore, Scores, total
from spear.scores.image import PSNR_CAP
from spear.scores.landmark import REACH
from spear.stages.metrics_split import (
    LANDMARK_SCORES,
    clips_to_score,
    load_nets,
    score_clip,
    split_protocol,
    split_total,
)
from spear.video import Footage

Frame = NDArray[np.uint8]
_LEAST_SIDE = 11
"""The SSIM window, px."""


def metrics(
    clips: Path,
    models: Path,
    which: frozenset[str],
    split: str = "test",
    inception_weights: Path | None = None,
    vae: str | None = None,
    progress: Progress = no_progress,
) -> Scores:
    """Score the trained models on a split of clips/: stage 1 against the detected points, stage 2 against the frames.

    which, inception_weights: as in `compare_videos`; vae: as in `render`. Every clip speaks its own audio; LD stands
    beside that of a face that does not speak. Clips that cannot be used are in the notes. Raises SpearError for an
    unknown score or split, where models, clips, landmarks or features are absent, or where no clip could be scored.
    """
    check_metrics(which)
    frechet, weights = frechet_score(inception_weights) if "fid" in which else (None, None)
    nets, report = load_nets(models, which, vae), Report()
    chosen = clips_to_score(clips, split, nets.a2lm, report)
    scored, used, before = [], [], 0
    frames = sum(clip.info.frames for clip in chosen)
    for clip in chosen:
        tick = partial(_tick, progress, before, frames, clip.id)
        try:
            scored.append(score_clip(clip, nets, which, frechet, tick))
            used.append(clip)
        except SpearError as error:
            report.skipped.append((clip.id, str(error)))
        before += clip.info.frames
    if not scored:
        raise SpearError(report.skipped[-1][1])
    values, notes = split_total(scored), [f"left out: {name}: {reason}" for name, reason in report.skipped]
    notes += [note for scores in scored for note in scores.notes()]
    if split != "test":
        notes.append(f"the models were made with the {split} split; only the test split tells how they do on new clips")
    if frechet is not None:
        values["fid"] = frechet.value()
        notes += [*frechet.notes(), *weights_notes(weights)]
    of_split = split_protocol(nets, which, split, used, sum(scores.frames for scores in scored))
    # twice: for its place in front, and because its sentences stand over those for two videos
    protocol = of_split | _protocol(which, weights, "the true crop and the blended one") | of_split
    return Scores(protocol, values, [scores.row() for scores in scored], notes)


def _tick(progress: Progress, before: int, frames: int, clip: str, done: int) -> None:
    progress(before + done, frames, clip)


def compare_videos(
    pred: Path,
    truth: Path,
    which: frozenset[str],
    inception_weights: Path | None = None,
    progress: Progress = no_progress,
) -> Scores:
    """Score a video against the true one, frame by frame at 25 fps; memory flat with length.

    which: some of ld, lvd, psnr, ssim, fid; either of ld and lvd brings both and the lip opening scores, for LD alone
    rewards a mouth that does not move. inception_weights: for fid, else torch hub's cache.
    Raises SpearError for an unknown score, videos of different sizes, a file that cannot be read, or absent weights.
    """
    check_metrics(which)
    frechet, weights = frechet_score(inception_weights) if "fid" in which else (None, None)
    pair = _Pair(Footage(pred), Footage(truth))
    scores = ClipScores(Path(pred).name)
    expected = min(pair.pred.expected, pair.truth.expected)
    with _Faces(which) as faces:
        for pred_frame, truth_frame in pair.frames():
            _add_frame(scores, frechet, which, faces, pred_frame, truth_frame)
            progress(scores.frames, max(expected, scores.frames), "frames compared")
    values, notes = total([scores]), [*pair.notes, *scores.notes()]
    row = scores.row() | {"frames_pred": pair.lengths[0], "frames_truth": pair.lengths[1]}
    if frechet is not None:
        values["fid"] = frechet.value()
        notes += [*frechet.notes(), *weights_notes(weights)]
    crop = (
        f"{CROP}x{CROP} face crop ({CROP_WIDTHS} face widths) by the true frame's own transform, not smoothed over time"
    )
    protocol = _protocol(which, weights, crop) | {"pred": str(pred), "truth": str(truth)}
    protocol["lengths"] = "the first min(prediction, truth) frames are compared"
    protocol |= {"width": pair.truth.width, "height": pair.truth.height, "frames": scores.frames}
    return Scores(protocol, values, [row], notes)


def check_metrics(which: frozenset[str]) -> None:
    """Raises SpearError for no score or an unknown one."""
    unknown = sorted(which - set(METRICS))
    if unknown or not which:
        problem = f"unknown score {', '.join(unknown)}" if unknown else "no score was chosen"
        raise SpearError(f"{problem}; give some of {', '.join('--' + name for name in METRICS)}")


def frechet_score(path: Path | None) -> tuple[FrechetScore, str]:
    """An empty FID over face crops, and the SHA-256 of its weights. Raises SpearError where they are absent."""
    net = load_inception(path)
    return FrechetScore(net.embed), sha256_of(find_inception_weights(path))


def weights_notes(sha256: str | None) -> list[str]:
    """A warning where the Inception weights are not the file that everybody's FID is computed with."""
    if sha256 is None or sha256.startswith(WEIGHTS_SHA256_PREFIX):
        return []
    return [f"fid is not comparable: the Inception weights have SHA-256 {sha256[:8]}, not {WEIGHTS_SHA256_PREFIX}"]


class _Pair:
    """Two videos in lockstep; the shorter one says where it ends."""

    def __init__(self, pred: Footage, truth: Footage) -> None:
        """Raises SpearError where their sizes differ by more than the pixel that makes an odd size even."""
        self.pred, self.truth = pred, truth
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
        self.landmarks = bool(which & LANDMARK_SCORES)
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
        return (self._pred(pred) if self.landmarks else None), self._truth(truth)


def _add_frame(
    scores: ClipScores, frechet: FrechetScore | None, which: frozenset[str], faces: _Faces, pred: Frame, truth: Frame
) -> None:
    scores.frames += 1
    pred_points, truth_points = faces.find(pred, truth)
    if faces.landmarks:
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


def _protocol(which: frozenset[str], weights: str | None, crop: str) -> dict[str, Any]:
    """How the numbers were measured, in words that stand in every output; crop: what the face crops are."""
    protocol: dict[str, Any] = {
        "scores": sorted(which),
        "fps": FPS,
        "detector": DETECTOR,
        "mean": "over frames; over several clips weighted by frames",
    }
    if which & LANDMARK_SCORES:
        protocol |= {
            "ld": "eq. 9, lower 57 points, full-frame px of each video over the truth's face width of that frame; "
            "no alignment; frames where both faces were found",
            "lvd": "eq. 6 (lvd_squared) and without the square (lvd), as ld; steps between neighbouring such frames",
            "units": f"ratio of the face width, percent of it, px256 = ratio * {CROP} / {CROP_WIDTHS}; "
            "each factor squared for lvd_squared",
            "lips": "distance of the inner lips' middles over the truth's face width: Pearson r (0 for a still mouth), "
            f"standard deviation over the truth's, best r within {REACH} frames (lag above 0: the prediction is late)",
        }
    if which & {"psnr", "ssim"}:
        protocol["pictures"] = f"RGB, full frame and {crop}; mean of the frames' scores"
        protocol["psnr"] = f"dB, at most {PSNR_CAP:g}, which identical frames get"
        protocol["ssim"] = "Gaussian window, sigma 1.5, population covariance, mean of three channels"
    if "fid" in which:
        protocol["fid"] = f"pytorch-fid's InceptionV3, 2048 features, bilinear to 299x299; {crop}"
        protocol["inception_sha256"] = weights
    return protocol
