"""The crop around a face, and pasting it back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import portrait
from made_up import face, track
from numpy.typing import NDArray

from spear.clip import CROP
from spear.crop import (
    CROP_WIDTHS,
    MASK_ROW,
    NOSE_ROW,
    crop_area,
    crop_transform,
    from_part,
    inverse,
    paste,
    to_crop,
    warp_crop,
)
from spear.face import FaceTracker
from spear.nets.blending import blend_mask
from spear.points import LOWER, NOSE_TIP, Array, face_width

Frame = NDArray[np.uint8]


@pytest.fixture(scope="module")
def found() -> Array:
    """The points of the astronaut in the portrait, (131, 2)."""
    with FaceTracker() as tracker:
        points = tracker(portrait())
    assert points is not None
    return points


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


@pytest.mark.parametrize("scale", [0.2, 0.5, 0.9, 1.8])
def test_the_part_that_is_looked_at_gives_the_crop_of_the_whole_frame(scale: float) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (2000, 2000, 3), np.uint8)  # noise shows every pixel that was not looked at
    for angle in (0, 0, 0, 0.2, -0.3):
        a, b = scale * np.cos(angle), scale * np.sin(angle)
        x, y = np.array([128, 128]) - np.array([[a, -b], [b, a]]) @ rng.uniform(990, 1010, 2)
        transform = np.array([a, b, x, y])
        area = crop_area(transform, frame.shape)
        part = frame[area]
        assert part.shape[0] < 1.5 * 256 / scale + 20
        most = 3 if scale < 0.6 else 16  # OpenCV rounds places to 1/32 px
        found = warp_crop(part, from_part(transform, area)).astype(int)
        assert np.abs(found - warp_crop(frame, transform)).max() <= most
        sigma = 0.35 / scale if scale < 0.6 else 0.0
        smooth = cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame
        how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
        expected = cv2.warpAffine(smooth, np.array([[a, -b, x], [b, a, y]]), (CROP, CROP), flags=how)
        assert np.abs(found - expected).max() <= most


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
