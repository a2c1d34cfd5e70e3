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
    nearest_mouths,
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


def lowered(*steps: float, upper: float = 0) -> NDArray[np.float32]:
    """Faces whose lower 57 points lie so many px lower, and whose 74 upper ones `upper` px lower."""
    points = faces([0.0] * len(steps))
    points[:, LOWER, 1] += np.array(steps, np.float32)[:, None]
    points[:, UPPER, 1] += upper
    return points


def test_nearness_of_mouths_by_hand() -> None:
    # distances 4, 1, 3 and 2 px: the two nearest are numbers 1 and 3, the next one, number 2, is 3 px off
    numbers, nearness = nearest_mouths(lowered(4, 1, 3, 2), lowered(0), 2)
    assert numbers.tolist() == [[1, 3]]
    assert nearness.dtype == np.float32
    assert nearness[0].tolist() == pytest.approx([1 - (1 / 3) ** 2, 1 - (2 / 3) ** 2])
    # three of them: the next is 4 px off; for a second face 1 px lower they are 0, 1 and 2 px off, the next one 3
    numbers, nearness = nearest_mouths(lowered(4, 1, 3, 2), lowered(0, 1), 3)
    assert numbers.tolist() == [[1, 3, 2], [1, 3, 2]]
    assert nearness[0].tolist() == pytest.approx([15 / 16, 12 / 16, 7 / 16])
    assert nearness[1].tolist() == pytest.approx([1, 8 / 9, 5 / 9])


def test_distance_of_mouths_is_the_mean_of_that_of_their_points() -> None:
    # one of the 57 points lies (3, 4) px aside, all others where they are: 5 / 57; the next face 1 px lower
    bank = lowered(0, 1)
    bank[0, LOWER.start] += (3, 4)
    numbers, nearness = nearest_mouths(bank, lowered(0), 1)
    assert numbers.tolist() == [[0]]
    assert nearness[0, 0] == pytest.approx(1 - (5 / 57) ** 2)


def test_mouths_are_compared_where_the_heads_lie_on_each_other() -> None:
    # a head that is 7 px lower with all that belongs to it is as near as before, wherever the target's is
    expected = nearest_mouths(lowered(4, 1, 3, 2), lowered(0), 2)
    moved = lowered(4, 1, 3, 2) + np.float32(7) * np.array([[[1]], [[0]], [[-2]], [[3]]], np.float32)
    for bank, target in ((moved, lowered(0)), (lowered(4, 1, 3, 2), lowered(0) + np.float32(9))):
        numbers, nearness = nearest_mouths(bank, target, 2)
        assert np.array_equal(numbers, expected[0])
        assert nearness[0].tolist() == pytest.approx(expected[1][0].tolist(), abs=1e-5)
    # not so a mouth that is lower on its head
    assert nearest_mouths(lowered(0, 2), lowered(0, upper=-2), 1)[0].tolist() == [[1]]


def test_where_there_is_no_choice_all_serve() -> None:
    for count in (2, 3):
        numbers, nearness = nearest_mouths(lowered(5, 1), lowered(0, 9, 1), count)
        assert numbers.tolist() == [[0, 1]] * 3
        assert nearness.tolist() == [[1.0, 1.0]] * 3


def test_faces_that_are_all_the_same_have_a_nearness() -> None:
    numbers, nearness = nearest_mouths(lowered(1, 1, 1), lowered(1, 3), 2)
    assert numbers.tolist() == [[0, 1], [0, 1]]  # the first ones
    assert nearness.tolist() == [[1, 1], [0, 0]]


def test_no_reference_jumps_into_the_picture() -> None:
    """While a mouth goes down through the bank, each one's share grows and fades; the one that is replaced has 0."""
    bank, steps = lowered(0, 4, 5, 9, 13, 14), np.linspace(0, 14, 1401)
    numbers, nearness = nearest_mouths(bank, lowered(*steps), 3)
    shares = np.zeros((len(steps), len(bank)))
    np.put_along_axis(shares, numbers, nearness.astype(float), axis=1)
    assert np.abs(np.diff(shares, axis=0)).max() < 0.02  # for a step of 0.01 px
    assert (shares.max(0) > 0.99).all()
    assert len({tuple(sorted(row)) for row in numbers.tolist()}) == 4  # all neighbours came up


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
