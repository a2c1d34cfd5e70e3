"""`spear landmarks`: the 131 face points of every frame of every clip."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import Clip, find_clips
from spear.clip_work import KEPT, shard_note, work_through
from spear.errors import SpearError, UnusableClip
from spear.face import DETECTOR, FaceTracker, fill_missing
from spear.left_out import LIST, LeftOut
from spear.points import Array
from spear.progress import Progress, Report, no_progress
from spear.video import Footage
from spear.workers import HERE, Workers

DETECTORS = ("mediapipe", "face-alignment")


def landmarks(
    clips: Path, detector: str = "mediapipe", workers: Workers = HERE, progress: Progress = no_progress
) -> Report:
    """Write clips/<id>/landmarks.safetensors: points (F, 131, 2) in crop px and confidence (F,).

    detector: `mediapipe` (face mesh in tracking mode), or `face-alignment` (68 points, resampled along their curves).
    Clips that have them already are left alone; those left out stand in clips/skipped.jsonl. Raises SpearError where
    there is no clip or no clip has a face.
    """
    if detector not in DETECTORS:
        raise SpearError(f"--detector {detector} is not one of {', '.join(DETECTORS)}")
    found = find_clips(clips)
    settings = {
        "detector": DETECTOR if detector == "mediapipe" else "face-alignment 68 points, resampled to 131 (approximate)"
    }
    mine = [clip for clip in found if clip.id in workers.shard]
    report = Report(notes=shard_note(workers.shard, len(mine), len(found)))
    left_out, work = LeftOut("landmarks", clips / LIST), list[tuple[int, str]]()
    for clip in mine:
        if clip.fits(clip.landmarks_path, settings):
            report.kept += 1
            left_out.forget(clip.id)
        else:
            work.append((-clip.brief().frames, clip.id))
    work.sort()  # the longest first, so that none is left alone at the end
    done = work_through(
        partial(_detect_clip, clips=clips, detector=detector, settings=settings), [identity for _, identity in work],
        workers, report, left_out, progress, name=str, where=clips.joinpath,
    )  # fmt: skip
    deque(done, maxlen=0)
    left_out.publish()
    if mine and report.done + report.kept == 0:
        raise SpearError(f"no clip in {clips} shows a face to {detector}: {report.skipped[0][1]}")
    return report


def _detect_clip(identity: str, clips: Path, detector: str, settings: dict[str, Any]) -> str | None:
    clip = Clip(clips / identity)
    if clip.fits(clip.landmarks_path, settings):
        return KEPT
    found = _mediapipe(clip) if detector == "mediapipe" else _face_alignment(clip)
    if not any(p is not None for p in found):
        raise UnusableClip(
            f"no face was found in {clip.face_path}; look at it, and preprocess it anew with --face INDEX"
        )
    confidence = np.array([p is not None for p in found], np.float32)
    confidence[clip.info.missing] = 0
    clip.write_landmarks(fill_missing(found), confidence, settings)
    return None


def _mediapipe(clip: Clip) -> list[Array | None]:
    with FaceTracker() as tracker:
        return [tracker(frame) for frame in Footage(clip.face_path).frames()]


def _face_alignment(clip: Clip) -> list[Array | None]:
    from spear.pretrained.face_alignment_68 import detect_68, to_131

    faces: list[NDArray[np.float32] | None] = detect_68(Footage(clip.face_path).frames())
    return [None if face is None else to_131(face) for face in faces]
