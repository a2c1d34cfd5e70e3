"""`spear landmarks`: the 131 face points of every frame of every clip."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import Clip, find_clips
from spear.errors import SpearError, UnusableClip
from spear.face import DETECTOR, FaceTracker, fill_missing
from spear.jobs import run_each
from spear.points import Array
from spear.progress import Progress, Report, no_progress
from spear.video import Footage

DETECTORS = ("mediapipe", "face-alignment")


def landmarks(clips: Path, detector: str = "mediapipe", jobs: int = 1, progress: Progress = no_progress) -> Report:
    """Write clips/<id>/landmarks.safetensors: points (F, 131, 2) in crop px and confidence (F,).

    detector: `mediapipe` (face mesh in tracking mode), or `face-alignment` (68 points, resampled along their curves).
    Clips that have them already are left alone. Raises SpearError where there is no clip or no clip has a face.
    """
    if detector not in DETECTORS:
        raise SpearError(f"--detector {detector} is not one of {', '.join(DETECTORS)}")
    found = find_clips(clips)
    settings = {
        "detector": DETECTOR if detector == "mediapipe" else "face-alignment 68 points, resampled to 131 (approximate)"
    }
    report = Report()
    work = [clip for clip in found if not clip.fits(clip.landmarks_path, settings)]
    report.kept = len(found) - len(work)
    for clip, result in run_each(partial(_detect_clip, detector=detector, settings=settings), work, jobs):
        if isinstance(result, SpearError) and not isinstance(result, UnusableClip):
            raise result
        if isinstance(result, Exception):
            name = "" if isinstance(result, UnusableClip) else f"{type(result).__name__}: "
            report.skipped.append((clip.id, f"{name}{result}"))
        else:
            report.done += 1
        progress(report.done + len(report.skipped), len(work), clip.id)
    if report.done + report.kept == 0:
        raise SpearError(f"no clip in {clips} shows a face to {detector}: {report.skipped[0][1]}")
    return report


def _detect_clip(clip: Clip, detector: str, settings: dict[str, Any]) -> int:
    found = _mediapipe(clip) if detector == "mediapipe" else _face_alignment(clip)
    if not any(p is not None for p in found):
        raise UnusableClip(
            f"no face was found in {clip.face_path}; look at it, and preprocess it anew with --face INDEX"
        )
    confidence = np.array([p is not None for p in found], np.float32)
    confidence[clip.info.missing] = 0
    clip.write_landmarks(fill_missing(found), confidence, settings)
    return len(found)


def _mediapipe(clip: Clip) -> list[Array | None]:
    with FaceTracker() as tracker:
        return [tracker(frame) for frame in Footage(clip.face_path).frames()]


def _face_alignment(clip: Clip) -> list[Array | None]:
    from spear.pretrained.face_alignment_68 import detect_68, to_131

    faces: list[NDArray[np.float32] | None] = detect_68(Footage(clip.face_path).frames())
    return [None if face is None else to_131(face) for face in faces]
