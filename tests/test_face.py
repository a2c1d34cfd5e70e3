"""Finding and following a face, the crop from the pose points alone, and pasting back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import portrait
from made_up import BACKGROUND, face, track
from numpy.typing import NDArray

from spear.clip import CROP
from spear.errors import SpearError, UnusableClip
from spear.face import (
    CROP_WIDTHS,
    MASK_ROW,
    NOSE_ROW,
    FaceTracker,
    crop_transform,
    fill_missing,
    follow_face,
    inverse,
    paste,
    silent_stderr,
    to_crop,
    warp_crop,
)
from spear.nets.lm2face import blend_mask
from spear.points import LOWER, NOSE_TIP, Array, face_width
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


@pytest.fixture(scope="module")
def found() -> Array:
    """The points of the astronaut in the portrait, (131, 2)."""
    with FaceTracker() as tracker:
        points = tracker(portrait())
    assert points is not None
    return points


# --- the crop ---------------------------------------------------------------------------------------------------------


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


def test_the_crop_ignores_the_mouth() -> None:
    points = track(30)
    other = points.copy()
    other[:, LOWER] += 50
    assert np.array_equal(crop_transform(points), crop_transform(other))


def test_the_crop_holds_the_face_at_its_place(found: Array) -> None:
    transform = crop_transform(found[None])[0]
    inside = to_crop(found, transform)
    assert inside[NOSE_TIP, 1] == pytest.approx(NOSE_ROW, abs=1)
    assert abs(inside[NOSE_TIP, 0] - CROP / 2) < 25
    assert face_width(inside) == pytest.approx(CROP / CROP_WIDTHS, rel=0.06)
    assert inside.min() > 10
    assert inside.max() < CROP - 10
    assert inside[91:, 1].min() > MASK_ROW - 4  # the lips are below the line above which the target is shown to the net


def test_the_crop_scales_moves_and_turns_with_the_face() -> None:
    points = face(10)[None]
    turn = np.deg2rad(20)
    matrix = 1.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = (points @ matrix.T + [40, -15]).astype(np.float32)
    first, second = (to_crop(p, crop_transform(p)) for p in (points, moved))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_the_crop_does_not_shake_with_the_detector() -> None:
    """Noise of 1 px on every point: a face that stands still moves by less than 0.2 px from frame to frame."""
    noisy = np.stack([face()] * 100) + np.random.default_rng(0).normal(0, 1, (100, 131, 2)).astype(np.float32)
    corner = np.zeros((100, 1, 2), np.float32)
    steady, shaking = (to_crop(corner, crop_transform(noisy, s)) for s in (4.0, 0.0))
    assert np.abs(np.diff(steady, axis=0)).max() < 0.2
    assert np.abs(np.diff(shaking, axis=0)).max() > 0.5


def test_a_turn_past_180_degrees_is_smooth() -> None:
    angles = np.deg2rad(np.linspace(150, 210, 30))
    points = np.stack([
        ((face() - 128) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + 200).astype(np.float32)
        for a in angles
    ])  # fmt: skip
    scale = np.hypot(*crop_transform(points)[:, :2].T)
    assert np.ptp(scale) < 0.01
    assert np.abs(np.diff(to_crop(points, crop_transform(points)), axis=0)).max() < 4


def test_one_frame_is_enough() -> None:
    assert crop_transform(face()[None]).shape == (1, 4)


def test_to_crop_by_hand() -> None:
    # a = 2, b = 1: (3, 4) -> (2 * 3 - 1 * 4 + 10, 1 * 3 + 2 * 4 + 20) = (12, 31)
    transform, points = np.array([2.0, 1.0, 10.0, 20.0]), np.array([[3.0, 4.0]], np.float32)
    assert to_crop(points, transform).tolist() == [[12, 31]]
    assert to_crop(np.stack([points] * 2), np.stack([transform] * 2)).tolist() == [[[12, 31]]] * 2


def test_inverse() -> None:
    rng = np.random.default_rng(0)
    transforms = rng.normal(size=(20, 4)) * [1, 1, 100, 100]
    np.testing.assert_allclose(inverse(inverse(transforms)), transforms, rtol=1e-9)
    points = rng.uniform(0, 500, (20, 131, 2)).astype(np.float32)
    np.testing.assert_allclose(to_crop(to_crop(points, transforms), inverse(transforms)), points, rtol=1e-3, atol=0.01)


def test_a_turned_frame_gives_the_same_crop(found: Array) -> None:
    frame = portrait()
    turn = cv2.getRotationMatrix2D((150, 110), 20, 1.0)
    turned = cv2.warpAffine(frame, turn, (320, 320), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    with FaceTracker() as tracker:  # found anew in the turned picture
        points = tracker(turned)
    assert points is not None
    crops = [warp_crop(f, crop_transform(p[None])[0]) for f, p in ((frame, found), (turned, points))]
    face_part = np.abs(crops[0].astype(int) - crops[1])[60:220, 60:196]
    assert face_part.mean() < 8  # grey levels
    exact = found @ turn[:, :2].T.astype(np.float32) + turn[:, 2].astype(np.float32)
    face_part = np.abs(crops[0].astype(int) - warp_crop(turned, crop_transform(exact[None])[0]))[60:220, 60:196]
    assert face_part.mean() < 2


def test_a_large_face_is_smoothed_before_it_is_sampled() -> None:
    """Stripes of 2 px, sampled at every fifth: grey, not stripes of another width."""
    stripes = np.zeros((1400, 1400, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    crop = warp_crop(stripes, np.array([0.2, 0.0, 0.0, 0.0]))
    assert crop.std() < 12


# --- pasting ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_crop_leaves_the_frame_as_it_was(found: Array) -> None:
    frame, transform = portrait(), crop_transform(found[None])[0]
    mask = blend_mask([to_crop(found, transform)])
    result = paste(frame, warp_crop(frame, transform), mask, transform)
    assert np.abs(result.astype(int) - frame).mean() < 0.2
    assert np.abs(result.astype(int) - frame).max() <= 12  # grey levels, at the sharpest edges


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.3])
def test_nothing_is_touched_where_the_mask_is_zero(scale: float) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (240, 320, 3), np.uint8)
    # the middle of the mask, (128, 180) in the crop, comes to the middle of the frame, (160, 120)
    transform = np.array([scale, 0.1, 128 - (160 * scale - 120 * 0.1), 180 - (160 * 0.1 + 120 * scale)])
    mask = blend_mask([face()])
    result = paste(frame, rng.integers(0, 256, (256, 256, 3), np.uint8), mask, transform)
    y, x = np.mgrid[:240, :320].astype(np.float32)
    u, v = np.moveaxis(to_crop(np.stack([x, y], -1).reshape(-1, 2), transform).reshape(240, 320, 2), -1, 0)
    # what a pixel can get of the mask: the largest of the four values around its place
    near = cv2.remap(cv2.dilate(np.pad(mask, 3), np.ones((5, 5))), u + 3, v + 3, cv2.INTER_NEAREST)
    assert 0.05 < (near == 0).mean() < 0.95
    assert np.array_equal(result[near == 0], frame[near == 0])
    assert not np.array_equal(result, frame)


def test_the_mask_is_the_weight() -> None:
    # in place, half of 200 and half of 100
    frame, crop = np.full((256, 256, 3), 100, np.uint8), np.full((256, 256, 3), 200, np.uint8)
    mask = np.zeros((256, 256), np.float32)
    mask[100:110, 100:110], mask[50, 60] = 0.5, 1
    result = paste(frame, crop, mask, np.array([1.0, 0.0, 0.0, 0.0]))
    expected = frame.copy()
    expected[100:110, 100:110], expected[50, 60] = 150, 200
    assert np.array_equal(result, expected)


def test_an_empty_mask_and_a_crop_beside_the_frame_change_nothing() -> None:
    frame, crop = portrait(), np.zeros((256, 256, 3), np.uint8)
    for mask, x in ((np.zeros((256, 256), np.float32), 0.0), (np.ones((256, 256), np.float32), 9999.0)):
        result = paste(frame, crop, mask, np.array([1.0, 0.0, x, 0.0]))
        assert np.array_equal(result, frame)
        assert result is not frame


@pytest.mark.parametrize("corner", [(0, 0), (319, 0), (0, 319), (319, 319)])
def test_a_face_at_the_edge_of_the_frame(corner: tuple[int, int]) -> None:
    frame, points = portrait(), face(10, at=corner, size=90.0)
    transform = crop_transform(points[None])[0]
    crop = warp_crop(frame, transform)
    assert crop.shape == (256, 256, 3)
    result = paste(frame, crop, blend_mask([to_crop(points, transform)]), transform)
    assert result.shape == frame.shape
    assert np.abs(result.astype(int) - frame).max() <= 12


# --- finding and following --------------------------------------------------------------------------------------------


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
