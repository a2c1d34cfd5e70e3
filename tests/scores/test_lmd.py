"""LMD, M-LMD and F-LMD with numbers worked by hand, and which mesh points stand for iBUG's mouth."""

from __future__ import annotations

import numpy as np
import pytest

from spear.points import INNER_LIPS, MESH_INDICES, OUTER_LIPS
from spear.pretrained.face_alignment_68 import to_131
from spear.scores.lmd import MOUTH, f_lmd, m_lmd, mouth_lmd


def test_lmd_by_hand() -> None:
    truth, pred = np.zeros((131, 2)), np.zeros((131, 2))
    # one of the 20 points is off by (20, 0), so the mouth's mean by (1, 0): about the means that point is off by 19 and
    # each of the 19 others by 1: (19 + 19 * 1) / 20 = 1.9 px
    pred[MOUTH[3]] = (20, 0)
    assert mouth_lmd(pred, truth) == pytest.approx(1.9, abs=1e-12)
    # four of them off by (3, 4), a fifth of 20: means (.6, .8), off by 4/5 of 5 = 4 and by 1: (4 * 4 + 16 * 1) / 20
    pred[MOUTH[3]] = 0
    pred[MOUTH[:4]] = (3, 4)
    assert mouth_lmd(pred, truth) == pytest.approx(1.6, abs=1e-12)


def test_m_lmd_and_f_lmd_by_hand() -> None:
    truth, pred = np.zeros((68, 2)), np.zeros((68, 2))
    pred[60] = (0, 20)  # 1.9 px as above
    assert m_lmd(pred, truth) == pytest.approx(1.9, abs=1e-12)
    # of 68 points one is off by 20: mean 20/68; (20 - 20/68 + 67 * 20/68) / 68 = 20 * 134/68 / 68
    assert f_lmd(pred, truth) == pytest.approx(20 * 134 / 68 / 68, abs=1e-12)
    pred[60], pred[17] = 0, (0, 34)  # a brow: not the mouth's
    assert m_lmd(pred, truth) == 0
    assert f_lmd(pred, truth) == pytest.approx(34 * 134 / 68 / 68, abs=1e-12)


def test_where_a_face_is_costs_nothing_and_its_size_does() -> None:
    rng = np.random.default_rng(0)
    mesh, ibug = rng.uniform(0, 256, (131, 2)), rng.uniform(0, 256, (68, 2))
    for score, points in ((mouth_lmd, mesh), (m_lmd, ibug), (f_lmd, ibug)):
        assert score(points + np.array([7, -3]), points) == pytest.approx(0, abs=1e-12)
        assert score(points * 2, points) > 10
        assert score(points * 2, points * 2.2) == pytest.approx(2 * score(points, points * 1.1), abs=1e-9)  # px
        assert score(points, points * 1.1) == score(points * 1.1, points)


def test_the_mesh_points_are_ibugs_mouth() -> None:
    assert len(set(MOUTH)) == 20
    assert set(MOUTH[:12]) <= set(OUTER_LIPS)
    assert set(MOUTH[12:]) <= set(INNER_LIPS)
    # by eye on the two charts: right corner, upper middle, left corner, lower middle, and the same of the inner lips
    named = {0: 61, 3: 0, 6: 291, 9: 17, 12: 78, 14: 13, 16: 308, 18: 14}
    assert {place: MESH_INDICES[MOUTH[place]] for place in named} == named


def test_the_mapping_agrees_with_face_alignments() -> None:
    # a mouth 60 px wide and 30 high as two ellipses through iBUG's points
    outer, inner = np.radians(np.arange(12) * 30 + 180), np.radians(np.arange(8) * 45 + 180)
    ibug = np.random.default_rng(0).uniform(0, 256, (68, 2))
    ibug[48:60] = np.stack([30 * np.cos(outer), 15 * np.sin(outer)], 1) + 128
    ibug[60:68] = np.stack([24 * np.cos(inner), 5 * np.sin(inner)], 1) + 128
    mesh = to_131(ibug.astype(np.float32))
    off = np.linalg.norm(mesh[MOUTH] - ibug[48:68], axis=1)
    assert off[[0, 3, 6, 9, 12, 14, 16, 18]].max() < 1e-4  # corners and middles are the same points
    assert off.max() < 3.5  # a step on the ring is 8 to 18 px
    nearest = np.linalg.norm(mesh[OUTER_LIPS] - ibug[48:60, None], axis=-1).argmin(1)
    assert [OUTER_LIPS[i] for i in nearest] == MOUTH[:12]


@pytest.mark.parametrize("wrong", [np.zeros((68, 3)), np.zeros((1, 68, 2)), np.full((68, 2), np.nan), np.zeros((5, 2))])
def test_what_cannot_be_scored_is_refused(wrong: np.ndarray) -> None:
    for score, count in ((m_lmd, 68), (f_lmd, 68), (mouth_lmd, 131)):
        good = np.zeros((count, 2))
        for pair in ((wrong, good), (good, wrong)):
            with pytest.raises(ValueError, match=rf"\({count}, 2\) and finite"):
                score(*pair)
