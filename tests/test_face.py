"""Finding a face and following it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import portrait
from made_up import BACKGROUND
from numpy.typing import NDArray

from spear.errors import SpearError, UnusableClip
from spear.face import FaceTracker, fill_missing, follow_face, silent_stderr
from spear.points import NOSE_TIP
from spear.video import Footage, VideoWriter

Frame = NDArray[np.uint8]
NOSE_IN_HEAD = np.array([0.509, 0.599])
"""Where the tip of the nose is in what `_place` places, in sides of it."""
BLANK = np.full((320, 480, 3), BACKGROUND, np.uint8)


def _place(frame: Frame, size: int, left: int, top: int) -> Frame:
    """The head of the portrait, `size` px a side, into a copy of the frame."""
    result = frame.copy()
    head = portrait()[30:190, 80:240]
    result[top : top + size, left : left + size] = cv2.resize(head, (size, size), interpolation=cv2.INTER_AREA)
    return result


def _write(path: Path, frames: list[Frame]) -> Footage:
    with VideoWriter(path, frames[0].shape[1], frames[0].shape[0]) as writer:
        for frame in frames:
            writer.write(frame)
    return Footage(path)


def test_no_other_program_is_run_to_find_a_face() -> None:
    """MediaPipe would ask a C compiler for a sound card's library, and make a cache of all fonts."""
    code = """
import sys
from spear.face import FaceTracker
sys.addaudithook(lambda event, args: event == "subprocess.Popen" and print(args))
with FaceTracker():
    print(*sorted({"matplotlib.pyplot", "sounddevice"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert run.stdout == "\n"


def test_largest_and_numbered_faces_are_kept_over_frames() -> None:
    """The smaller one is on the left and sinks, the larger one on the right rises."""
    frames = [_place(_place(BLANK, 120, 10, 60 + 10 * i), 200, 240, 110 - 10 * i) for i in range(8)]
    for choice, size, left, top, step in (
        ("largest", 200, 240, 110, -10), ("0", 120, 10, 60, 10), ("1", 200, 240, 110, -10)
    ):  # fmt: skip
        with FaceTracker(choice) as tracker:
            points = [tracker(frame) for frame in frames]
        assert tracker.faces_seen == 2
        for i, p in enumerate(points):
            assert p is not None
            nose = (p[NOSE_TIP] - [left, top + step * i]) / size
            assert np.linalg.norm(nose - NOSE_IN_HEAD) < 0.04, (choice, i)


def test_a_face_that_leaves_is_not_replaced_by_another() -> None:
    alone = _place(BLANK, 120, 10, 100)
    both = _place(alone, 200, 240, 40)
    with FaceTracker() as tracker:
        found = [tracker(frame) is not None for frame in [both, both, *[alone] * 40, both]]
    assert found == [True, True, *[False] * 40, True]


def test_a_face_that_was_alone_is_found_again_elsewhere() -> None:
    """330 px away, some 4 face widths: not at once, but after two seconds without it."""
    here, there = _place(BLANK, 140, 5, 100), _place(BLANK, 140, 335, 100)
    with FaceTracker() as tracker:
        found = [tracker(frame) is not None for frame in [here, here, there, *[BLANK] * 50, there, there]]
    assert found == [True, True, *[False] * 51, True, True]


def test_no_face_yet() -> None:
    with FaceTracker() as tracker:
        assert [tracker(f) is not None for f in (BLANK, BLANK, portrait())] == [False, False, True]


@pytest.mark.parametrize("choice", ["smallest", "-1", "1.5", "", "²"])
def test_a_choice_that_is_none(choice: str) -> None:
    with pytest.raises(SpearError) as caught:
        FaceTracker(choice)
    assert str(caught.value) == f"--face {choice} is neither `largest` nor a number from 0 on (0 is the leftmost face)"


def test_a_number_beyond_the_faces(tmp_path: Path) -> None:
    footage = _write(tmp_path / "one.mp4", [portrait()] * 3)
    with pytest.raises(UnusableClip) as caught:
        follow_face(footage, "7", "hold")
    assert str(caught.value) == (
        f"{tmp_path / 'one.mp4'} has no face number 7; it shows 1: give --face largest, or a number below 1"
    )


def test_frames_without_a_face_are_held_or_refused(tmp_path: Path) -> None:
    blank = np.full_like(portrait(), 90)
    shifted = np.roll(portrait(), 10, axis=1)
    footage = _write(tmp_path / "gap.mp4", [*[portrait()] * 4, *[blank] * 3, *[shifted] * 4])
    seen: list[int] = []
    points, missing = follow_face(footage, "largest", "hold", seen=seen.append)
    assert missing == [4, 5, 6]
    assert seen == list(range(1, 12))
    assert points.shape == (11, 131, 2)
    nose = points[:, NOSE_TIP, 0]
    np.testing.assert_allclose(nose[4:7], nose[3] + (nose[7] - nose[3]) * np.array([1, 2, 3]) / 4, atol=1e-3)
    for choice in ("skip", "fail"):
        with pytest.raises(UnusableClip) as caught:
            follow_face(footage, "largest", choice)
        assert str(caught.value) == (
            f"{footage.path} shows no face in 3 of 11 frames, first in frame 4; "
            "use --on-missing-face hold to interpolate"
        )


def test_more_guess_than_footage(tmp_path: Path) -> None:
    footage = _write(tmp_path / "gap.mp4", [portrait()] * 2 + [np.full_like(portrait(), 90)] * 3)
    with pytest.raises(UnusableClip) as caught:
        follow_face(footage, "largest", "hold")
    assert str(caught.value) == f"{footage.path} shows a face in only 2 of 5 frames; cut the rest away"


def test_no_face_at_all(tmp_path: Path) -> None:
    footage = _write(tmp_path / "blank.mp4", [np.full_like(portrait(), 90)] * 2)
    with pytest.raises(UnusableClip) as caught:
        follow_face(footage, "largest", "hold")
    assert str(caught.value) == f"{footage.path} shows no face in any of 2 frames; give footage with a visible face"


def test_only_the_frames_up_to_stop_are_looked_at(tmp_path: Path) -> None:
    points, missing = follow_face(_write(tmp_path / "v.mp4", [portrait()] * 6), "largest", "hold", stop=2)
    assert points.shape == (2, 131, 2)
    assert missing == []


def test_fill_missing_by_hand() -> None:
    # known at frames 1 and 4: 0 and 3, so 1 and 2 between them, and the ends are held
    known = {1: 0.0, 4: 3.0}
    points = [np.full((131, 2), known[i], np.float32) if i in known else None for i in range(6)]
    filled = fill_missing(points)
    assert filled.dtype == np.float32
    assert filled[:, 0, 0].tolist() == [0, 0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="no frame has a face"):
        fill_missing([None, None])


def test_the_detector_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with FaceTracker() as tracker:
        tracker(portrait())
    assert capfd.readouterr() == ("", "")


def test_stderr_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with silent_stderr():
            os.write(2, b"lost")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
