"""Promises of spear.remarks: what is wrong with footage is said with the numbers of the frames."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import face

from spear.face import Found
from spear.remarks import frame_ranges, on_faces, on_sound


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], ""),
        ([7], "7"),
        ([3, 4, 5, 9], "3-5, 9"),
        ([0, 2, 4, 6, 8, 10, 12, 13, 14, 20], "0, 2, 4, 6, 8, 10 and 4 more"),
    ],
)
def test_frames_in_words(frames: list[int], words: str) -> None:
    assert frame_ranges(frames) == words


def test_faces() -> None:
    """A face of 170 px, then of 34; two faces where it was found, in frame 1; frame 0 is interpolated."""
    points = np.stack([face(), face(), face(size=34.0)])
    found = Found([None, points[1], points[2]], 2)
    assert on_faces(found, points, [0]) == [
        "no face in 1 of 3 frames (0); its place is interpolated there",
        "2 faces in frame 1, one is followed (--face says which)",
        "the face is only 34 px wide, less than 48 in frames 2",
    ]
    assert on_faces(Found(list(points[:2]), 1), points[:2], []) == []


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (16_000, []),
        (16_000 + 3_200, []),  # .2 s
        (16_000 + 4_000, ["the sound goes on for 0.2 s after the last frame; that part is left out"]),
        (8_000, ["the sound ends 0.5 s before the pictures; it is silent from frame 12 on (25 a second)"]),
    ],
)
def test_sound_beside_25_frames(samples: int, said: list[str]) -> None:
    assert on_sound(samples, 25) == said
