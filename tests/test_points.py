"""Promises of spear.points: the 131 points of the paper, their order, their lines and what is measured on them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spear.points import (
    CONTENT,
    EDGES,
    INNER_LIPS,
    JAW,
    LOWER,
    MESH_INDICES,
    N_POINTS,
    NOSE_TIP,
    OUTER_LIPS,
    OVAL,
    POSE,
    UPPER,
    draw_sketch,
    face_width,
    lip_opening,
    pose_input,
    positions,
    spread_over_opening,
)


def faces(openings: list[float]) -> NDArray[np.float32]:
    """(F, 131, 2): all points at (100, 100), the face 80 px wide, the lips open by so many px."""
    points = np.full((len(openings), N_POINTS, 2), 100, np.float32)
    right, left, upper, lower = positions([234, 454, 13, 14])
    points[:, right, 0], points[:, left, 0] = 60, 140
    points[:, lower, 1] = points[:, upper, 1] + np.array(openings, np.float32)
    return points


def test_there_are_74_and_57_points_and_125_lines() -> None:
    assert (len(POSE), len(CONTENT), N_POINTS, len(EDGES)) == (74, 57, 131, 125)
    assert [*range(131)][UPPER] == [*range(74)]
    assert [*range(131)][LOWER] == [*range(74, 131)]
    assert (len(JAW), len(OUTER_LIPS), len(INNER_LIPS)) == (17, 20, 20)


def test_no_point_and_no_line_stands_twice() -> None:
    assert len(set(MESH_INDICES)) == 131
    assert len({frozenset(edge) for edge in EDGES}) == 125
    assert all(a != b for a, b in EDGES)
    assert {point for edge in EDGES for point in edge} == set(range(131))


def test_the_oval_runs_from_temple_to_temple_through_the_chin() -> None:
    assert len(OVAL) == 25
    assert [MESH_INDICES[p] for p in (OVAL[0], OVAL[12], OVAL[24])] == [162, 152, 389]
    assert MESH_INDICES[NOSE_TIP] == 4


def test_lips_and_jaw_are_below_and_all_else_above() -> None:
    assert min(JAW + OUTER_LIPS + INNER_LIPS) == 74
    assert sorted(JAW + OUTER_LIPS + INNER_LIPS) == list(range(74, 131))


def test_positions_refuses_a_point_that_is_not_one_of_ours() -> None:
    assert positions([162, 95]) == [0, 130]
    with pytest.raises(ValueError, match="9999"):
        positions([9999])


def test_opening_is_measured_in_face_widths() -> None:
    points = faces([0, 8, 40])
    assert face_width(points).tolist() == [80, 80, 80]
    assert lip_opening(points).tolist() == pytest.approx([0, 0.1, 0.5])
    assert lip_opening(points[1] * 3).item() == pytest.approx(0.1)


def test_references_are_spread_from_the_most_closed_to_the_most_open() -> None:
    points = faces([5, 1, 9, 3, 7])
    assert spread_over_opening(points, 2) == [1, 2]
    assert spread_over_opening(points, 3) == [0, 1, 2]  # 1, 5 and 9 px
    assert spread_over_opening(points, 5) == [0, 1, 2, 3, 4]
    assert spread_over_opening(points[:1], 3) == [0, 0, 0]


def test_a_sketch_is_white_lines_where_the_points_are() -> None:
    points = np.full((N_POINTS, 2), 50, np.float32)
    first, last = EDGES[-1]
    points[first], points[last] = (20, 30), (80, 30)  # everything else is one dot and the lines to it
    sketch = draw_sketch(points, 128)
    assert (sketch.shape, sketch.dtype) == ((128, 128), np.uint8)
    assert sketch[30, 20:81].min() > 128
    assert sketch[50, 50] == 255
    rows, columns = np.nonzero(sketch)
    assert (rows.min() >= 27, rows.max() <= 53, columns.min() >= 17, columns.max() <= 83) == (True,) * 4


def test_points_far_outside_are_drawn_without_harm() -> None:
    points = np.full((N_POINTS, 2), 1e9, np.float32)
    points[::2] = -1e9
    assert draw_sketch(points, 64).shape == (64, 64)


def test_rigid_pose_keeps_the_head_and_loses_the_twitch() -> None:
    points = faces([0] * 61)
    points[30, UPPER, 1] += 10  # one frame only
    assert np.array_equal(pose_input(points, "raw"), points[:, UPPER])
    rigid = pose_input(points, "rigid") - points[0, UPPER]
    assert rigid.shape == (61, 74, 2)
    assert rigid[30, :, 1].max() == pytest.approx(10 / (6 * np.sqrt(2 * np.pi)), rel=0.02)  # the peak of the Gaussian
    with pytest.raises(ValueError, match="pose 'free' is not one of"):
        pose_input(points, "free")
