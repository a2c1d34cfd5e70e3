"""Scoring one pair of videos: faces found in both, the scores of every frame, on threads that work ahead of each other.

PyAV, OpenCV, MediaPipe and torch leave Python's lock alone while they compute, so threads use the cores of one pair.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from spear.audio import Samples, load_for_frames
from spear.clip import CROP, FPS
from spear.crop import CROP_WIDTHS, crop_transform, warp_crop
from spear.errors import UnusableClip
from spear.face import FaceTracker
from spear.figures import FigureFolder
from spear.judges import Judges
from spear.points import Array, face_width
from spear.pretrained.identity import similarity
from spear.pretrained.syncnet import FACE_SIDE, sync_errors
from spear.scores.compare import LANDMARK_SCORES, ClipScores, picture_values
from spear.scores.frechet import FrechetScore
from spear.scores.lmd import f_lmd, m_lmd, mouth_lmd
from spear.sync import estimate_offset
from spear.video import Frame
from spear.video_pairs import Lockstep

BLOCK = 8
"""Frames that are handed on together; two blocks of both videos are in memory, 200 MB of 1080p."""
MS_PER_FRAME = 1000 / FPS

Tick = Callable[[int, int], None]
"""Told how many frames are done, of how many."""
_Points = list[Array | None]


@dataclass(frozen=True)
class Scored:
    """One frame of both videos (H, W, 3) uint8, its points (131, 2) px, its scores, and its face crops."""

    pred: Frame
    truth: Frame
    pred_points: Array | None
    truth_points: Array | None
    values: dict[str, float]
    window: NDArray[np.float64]
    """The transform (4,) of both crops, the truth's own, not smoothed over time; NaN without a face."""
    crops: tuple[Frame, Frame] | None


def score_videos(
    pair: Lockstep, name: str, which: frozenset[str], judges: Judges, threads: int = 1,
    figures: FigureFolder | None = None, tick: Tick = lambda done, total: None,
) -> ClipScores:  # fmt: skip
    """Every score in `which` of a pair of videos; memory flat with length, but for some hundred numbers a frame.

    Raises UnusableClip where a video is damaged, SpearError where figures cannot be written.
    """
    scores = ClipScores(name)
    scores.frechet = None if judges.embed is None else FrechetScore(judges.embed)
    with contextlib.ExitStack() as stack:
        drawing = None
        if figures is not None:
            sound = pair.truth.path if pair.truth.has_audio else None
            drawing = stack.enter_context(figures.clip(name.removesuffix(pair.pred.path.suffix), pair.expected, sound))
        for frame in stack.enter_context(contextlib.closing(_frames(pair, which, judges, threads))):
            scores.frames += 1
            if which & LANDMARK_SCORES:
                scores.add_landmarks(frame.pred_points, frame.truth_points)
            else:
                scores.count_faces(frame.pred_points is not None, frame.truth_points is not None)
            scores.add(frame.values)
            scores.windows.append(frame.window)
            if scores.frechet is not None and frame.crops is not None:
                scores.frechet.add(*frame.crops)
            if drawing is not None:
                drawing.add(frame.truth, frame.truth_points, frame.pred_points)
            tick(scores.frames, max(pair.expected, scores.frames))
    scores.counts = {"frames_pred": pair.lengths[0], "frames_truth": pair.lengths[1],
                     "fps_pred": pair.rates[0], "fps_truth": pair.rates[1],
                     "sound_pred": pair.pred.has_audio, "sound_truth": pair.truth.has_audio}  # fmt: skip
    scores.remarks += pair.remarks
    if "sync" in which:
        _add_sync(scores, pair, judges)
    if scores.frechet is not None:
        scores.frechet.closed()
    return scores


def _frames(pair: Lockstep, which: frozenset[str], judges: Judges, threads: int) -> Generator[Scored]:
    """Every frame, scored. While a block is scored, faces are found in the next one; each tracker sees its frames in
    order, so that the result is the same on any number of threads."""
    frames, waiting = pair.frames(), None
    with FaceTracker() as of_pred, FaceTracker() as of_truth, ThreadPoolExecutor(threads) as pool:
        wanted = of_pred if which & (LANDMARK_SCORES | {"csim"}) else None
        try:
            while block := list(itertools.islice(frames, BLOCK)):
                preds, truths = zip(*block, strict=True)
                if waiting is not None:  # a tracker must have seen the block before this one, or its points differ
                    wait(waiting[1:])
                found = (pool.submit(_track, wanted, preds), pool.submit(_track, of_truth, truths))
                if waiting is not None:
                    yield from _scored(*waiting, which, judges, pool)
                waiting = (block, *found)
            if waiting is not None:
                yield from _scored(*waiting, which, judges, pool)
            pair.note_faces(of_pred.faces_seen, of_truth.faces_seen)
        finally:
            pool.shutdown(cancel_futures=True)


def _track(tracker: FaceTracker | None, frames: Sequence[Frame]) -> _Points:
    return [None if tracker is None else tracker(frame) for frame in frames]


def _scored(
    block: list[tuple[Frame, Frame]], pred_points: Future[_Points], truth_points: Future[_Points],
    which: frozenset[str], judges: Judges, pool: ThreadPoolExecutor,
) -> Iterator[Scored]:  # fmt: skip
    found = zip(block, pred_points.result(), truth_points.result(), strict=True)
    tasks = [pool.submit(score_frame, which, judges, *pair, a, b) for pair, a, b in found]
    return (task.result() for task in tasks)


def score_frame(
    which: frozenset[str], judges: Judges, pred: Frame, truth: Frame, pred_points: Array | None,
    truth_points: Array | None,
) -> Scored:  # fmt: skip
    """The scores of one frame but for LD, LVD and FID: pictures (H, W, 3) uint8, points (131, 2) px or None.

    psnr and ssim of the full frames and, as lpips, of the face crops; NaN where a face is missing that a score needs.
    """
    window, crops = np.full(4, np.nan), None
    if truth_points is not None:
        window = crop_transform(truth_points[None], smoothing=0)[0]
        crops = (warp_crop(pred, window), warp_crop(truth, window))
    values = picture_values("full", which, pred, truth) | crop_values(which, judges, crops)
    if "lmd" in which:
        values |= lmd_values(pred_points, truth_points)
    if judges.points_68 is not None:
        values |= _lmd_68(judges.points_68, pred, truth, truth_points)
    if judges.identity is not None:
        embed = judges.identity.embed
        values["csim"] = math.nan
        if pred_points is not None and truth_points is not None:
            values["csim"] = similarity(embed(pred, pred_points), embed(truth, truth_points))
    return Scored(pred, truth, pred_points, truth_points, values, window, crops)


def crop_values(which: frozenset[str], judges: Judges, crops: tuple[Frame, Frame] | None) -> dict[str, float]:
    """psnr, ssim and lpips of a predicted and a true face crop (256, 256, 3) uint8, those that are wanted; NaN where
    there is none."""
    values = picture_values("crop", which, *(crops or (None, None)))
    if judges.lpips is not None:
        values["lpips"] = math.nan
        if crops is not None:
            values["lpips"] = float(judges.lpips.distance(crops[0][None], crops[1][None])[0])
    return values


def lmd_values(pred: Array | None, truth: Array | None) -> dict[str, float]:
    """LMD of Chen et al. of one frame, points (131, 2) px, in px at 256; NaN where there are none."""
    if pred is None or truth is None:
        return {"lmd_chen": math.nan}
    scale = _to_256(truth)
    return {"lmd_chen": mouth_lmd(pred * scale, truth * scale)}


def _to_256(truth: Array) -> float:
    """From px of the frame to px of a crop of 256 px that is 1.5 of the truth's face widths wide."""
    return CROP / (CROP_WIDTHS * float(face_width(truth)))


def _lmd_68(
    find: Callable[[Frame], Array | None], pred: Frame, truth: Frame, truth_points: Array | None
) -> dict[str, float]:
    a, b = (None, None) if truth_points is None else (find(pred), find(truth))
    if truth_points is None or a is None or b is None:
        return {"m_lmd": math.nan, "f_lmd": math.nan}
    scale = _to_256(truth_points)
    return {"m_lmd": m_lmd(a * scale, b * scale), "f_lmd": f_lmd(a * scale, b * scale)}


def _add_sync(scores: ClipScores, pair: Lockstep, judges: Judges) -> None:
    """Lip opening against speech energy, in the prediction and, to compare, in the truth; LSE-D and LSE-C."""
    heard = [footage.path if footage.has_audio else None for footage in (pair.pred, pair.truth)]
    for side, mine, others in (("prediction", *heard), ("truth", *heard[::-1])):
        if mine is None:
            scores.remarks.append(f"the {side} has no sound" + ("; for sync the other's is taken" if others else ""))
    own, true = (load_speech(path, scores) for path in (heard[0] or heard[1], heard[1] or heard[0]))
    add_sync_values(scores, "sync", own, scores.series["opening_pred"])
    add_sync_values(scores, "sync_truth", true, scores.series["opening_truth"])
    if judges.syncnet is not None and own is not None:
        errors = sync_errors(judges.syncnet, _mouths(pair, scores), own)
        found = math.isfinite(errors.distance)  # a few frames are too short for it
        scores.whole |= {"lse_d": errors.distance if found else None, "lse_c": errors.confidence if found else None}


def add_sync_values(scores: ClipScores, name: str, samples: Samples | None, opening: list[float]) -> None:
    """Add <name>_r, <name>_lag_ms, <name>_r_as_is and <name>_certain (0 or 1) of openings (F,), NaN where unknown,
    against speech (F * 640,); all None where there is nothing to compare."""
    series = np.array(opening)
    found = np.isfinite(series)
    offset = estimate_offset(series, samples, found) if samples is not None and found.any() else None
    names = [f"{name}_{what}" for what in ("r", "lag_ms", "r_as_is", "certain")]
    if offset is None:
        scores.whole |= dict.fromkeys(names)
        return
    values = (offset.r, offset.frames * MS_PER_FRAME, offset.r_as_is, float(offset.certain))
    scores.whole |= dict(zip(names, values, strict=True))


def load_speech(sound: Path | None, scores: ClipScores) -> Samples | None:
    """The sound of the compared frames; None, and a remark, where there is none or it is damaged."""
    if sound is None:
        return None
    try:
        return load_for_frames(sound, scores.frames)[0]
    except UnusableClip as error:
        scores.remarks.append(f"no sync: {error}")
        return None


def _mouths(pair: Lockstep, scores: ClipScores) -> Iterator[Frame]:
    """The face crops that SyncNet sees, (224, 224, 3), by the truth's windows; where it has none, the last one."""
    window = next((w for w in scores.windows if np.isfinite(w).all()), None)
    for frame, own in zip(pair.preds(), scores.windows, strict=False):
        window = own if np.isfinite(own).all() else window
        crop = frame if window is None else warp_crop(frame, window)
        yield np.asarray(cv2.resize(crop, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA), np.uint8)
