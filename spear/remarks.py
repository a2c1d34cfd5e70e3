"""What a person should know of footage that was used all the same: damage, missing frames, other faces, its sound."""

from __future__ import annotations

import numpy as np

from spear.clip import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.face import Found
from spear.points import Array, face_width

_SMALL = 48.0
"""A face of fewer px is blown up more than threefold in the crop."""
_MOST_RANGES = 6
_APART = 0.2
"""Seconds by which sound and pictures may differ in length: codecs and recorders pad both."""


def frame_ranges(frames: list[int]) -> str:
    """Rising frame numbers in words: `3-5, 9`; of many ranges the first ones and how many frames follow."""
    ranges: list[list[int]] = []
    for frame in frames:
        if ranges and frame == ranges[-1][1] + 1:
            ranges[-1][1] = frame
        else:
            ranges.append([frame, frame])
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:_MOST_RANGES]]
    more = sum(b - a + 1 for a, b in ranges[_MOST_RANGES:])
    return ", ".join(words) + (f" and {more} more" if more else "")


def on_faces(found: Found, points: Array, missing: list[int]) -> list[str]:
    """Frames without a face, more faces than one, a face that is tiny. points: (F, 131, 2) px of the footage."""
    remarks = []
    if missing:
        where = frame_ranges(missing)
        remarks.append(f"no face in {len(missing)} of {len(points)} frames ({where}); its place is interpolated there")
    if found.faces_seen > 1:
        start = next(i for i, seen in enumerate(found.points) if seen is not None)
        remarks.append(f"{found.faces_seen} faces in frame {start}, one is followed (--face says which)")
    small = np.flatnonzero(face_width(points) < _SMALL).tolist()
    if small:
        least = float(face_width(points).min())
        remarks.append(f"the face is only {least:.0f} px wide, less than {_SMALL:.0f} in frames {frame_ranges(small)}")
    return remarks


def on_sound(heard: int, frames: int) -> list[str]:
    """So many samples at 16 kHz that end before or after the last of so many frames."""
    apart = (heard - frames * SAMPLES_PER_FRAME) / SAMPLE_RATE
    if abs(apart) <= _APART:
        return []
    if apart > 0:
        return [f"the sound goes on for {apart:.1f} s after the last frame; that part is left out"]
    first = heard // SAMPLES_PER_FRAME
    return [f"the sound ends {-apart:.1f} s before the pictures; it is silent from frame {first} on ({FPS} a second)"]
