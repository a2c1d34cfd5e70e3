"""68 points -> 131 on a made-up symmetric face; face-alignment itself with random weights in a torch hub of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.points import (
    EDGES,
    INNER_LIPS,
    JAW,
    NOSE_TIP,
    OUTER_LIPS,
    OVAL,
    draw_sketch,
    face_width,
    lip_opening,
    positions,
)
from spear.pretrained import face_alignment_68
from spear.pretrained.face_alignment_68 import detect_68, to_131, weights_files

MIDDLE = 128.0
RIGHT_JAW = [(45, 95), (46, 118), (49, 141), (54, 163), (63, 183), (76, 199), (93, 211), (111, 219)]
RIGHT_BROW = [(60, 72), (71, 62), (86, 58), (101, 59), (115, 65)]
RIGHT_EYE = [(78, 86), (87, 80), (98, 80), (107, 87), (97, 89), (87, 89)]
RIGHT_OUTER = [(95, 164), (107, 157), (119, 153)]
RIGHT_UNDER = [(108, 174), (119, 178)]


def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(2 * MIDDLE - x, y) for x, y in points]


def made_up_face(opening: float = 0.0) -> NDArray[np.float32]:
    """A symmetric face in a 256 crop, (68, 2); the inner lips are `opening` px apart in the middle."""
    inner_up, inner_down = (114, 164), (114, 164 + opening * 0.8)
    left_eye = mirrored(RIGHT_EYE)
    points = [
        *RIGHT_JAW, (MIDDLE, 221), *mirrored(RIGHT_JAW)[::-1], *RIGHT_BROW, *mirrored(RIGHT_BROW)[::-1],
        *[(MIDDLE, y) for y in (81, 95, 108, 122)],
        (109, 134), (118, 137), (MIDDLE, 139), *mirrored([(109, 134), (118, 137)])[::-1],
        *RIGHT_EYE, *(left_eye[i] for i in (3, 2, 1, 0, 5, 4)),
        *RIGHT_OUTER, (MIDDLE, 155), *mirrored(RIGHT_OUTER)[::-1],
        *[(x, y + opening) for x, y in [*mirrored(RIGHT_UNDER), (MIDDLE, 179), *RIGHT_UNDER[::-1]]],
        (100, 164), inner_up, (MIDDLE, 164), *mirrored([(100, 164), inner_up])[::-1],
        *mirrored([inner_down]), (MIDDLE, 164 + opening), inner_down,
    ]  # fmt: skip
    return np.array(points, np.float32)


def twins() -> list[int]:
    """For each of the 131 points the one on the other side of the face."""
    pairs = [
        (*cheek,)
        for cheek in ((162, 389), (127, 356), (234, 454), (93, 323), (48, 278), (115, 344), (220, 440), (45, 275))
    ]
    pairs += list(
        zip((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276), strict=True)
    )
    pairs += list(
        zip((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362), strict=True)
    )
    pairs += list(zip((7, 163, 144, 145, 153, 154, 155), (249, 390, 373, 374, 380, 381, 382), strict=True))
    other = {a: b for right, left in pairs for a, b in ((right, left), (left, right))}
    order = list(range(131))
    for a, b in other.items():
        order[positions([a])[0]] = positions([b])[0]
    for ring in (JAW, OUTER_LIPS[:11], INNER_LIPS[:11], OUTER_LIPS[11:], INNER_LIPS[11:]):
        for a, b in zip(ring, ring[::-1], strict=True):
            order[a] = b
    return order


def test_the_made_up_face_keeps_its_symmetry() -> None:
    points = to_131(made_up_face(10))
    assert points.shape == (131, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[twins()], points * [-1, 1] + [2 * MIDDLE, 0], atol=1e-3)


def test_what_both_have_is_exact() -> None:
    face = made_up_face(10)
    points = to_131(face)
    for mesh, ibug in {152: 8, 172: 4, 397: 12, 33: 36, 133: 39, 362: 42, 263: 45, 61: 48, 291: 54, 0: 51, 17: 57,
                       78: 60, 308: 64, 13: 62, 14: 66, 168: 27}.items():  # fmt: skip
        np.testing.assert_allclose(points[positions([mesh])[0]], face[ibug], atol=1e-4)


def test_closed_lips_stay_closed_and_open_ones_open() -> None:
    closed = to_131(made_up_face(0))
    upper, lower = closed[INNER_LIPS[1:10]], closed[INNER_LIPS[:10:-1]]
    np.testing.assert_allclose(upper, lower, atol=1e-4)
    assert lip_opening(closed) == pytest.approx(0, abs=1e-6)
    opened = to_131(made_up_face(12))
    # 12 px between the middles, over the distance of the face's sides (about 2 * 83 px)
    assert lip_opening(opened) == pytest.approx(12 / float(face_width(opened)), rel=1e-5)
    assert float(face_width(opened)) == pytest.approx(166, abs=3)
    assert (opened[INNER_LIPS[:10:-1], 1] > opened[INNER_LIPS[1:10], 1]).all()


def test_the_order_of_jaw_brows_and_nose() -> None:
    points = to_131(made_up_face())
    assert (np.diff(points[JAW, 0]) > 0).all()
    assert (np.diff(points[JAW[:9], 1]) > 0).all()
    assert (np.diff(points[OVAL[:13], 1]) > 0).all()
    upper, lower = points[positions([70, 63, 105, 66, 107])], points[positions([46, 53, 52, 65, 55])]
    assert (upper[:, 1] < lower[:, 1]).all()
    assert (np.diff(upper[:, 0]) > 0).all()
    nose = points[positions([168, 6, 197, 195, 5, 4])]
    assert (np.diff(nose[:, 1]) > 0).all()
    assert points[NOSE_TIP, 0] == pytest.approx(MIDDLE, abs=1e-4)
    assert (np.diff(points[positions([48, 115, 220, 45, 4, 275, 440, 344, 278])][:, 0]) > 0).all()


def test_the_sketch_is_a_face() -> None:
    points = to_131(made_up_face(8))
    lengths = [float(np.linalg.norm(points[a] - points[b])) for a, b in EDGES]
    assert max(lengths) < 0.2 * float(face_width(points))  # no line runs across the face
    sketch = draw_sketch(points, 256)
    rows, columns = np.nonzero(sketch)
    assert (rows.min(), rows.max()) == (pytest.approx(56, abs=4), pytest.approx(221, abs=3))
    assert columns.min() + columns.max() == pytest.approx(2 * MIDDLE, abs=1)


def test_a_turned_face_is_the_turned_points() -> None:
    face, angle = made_up_face(6), np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    turned = to_131((face - MIDDLE) @ turn.T + MIDDLE)
    # the curves are shaped along x and y, so between the 68 points a turn is matched within a pixel or so
    assert np.abs(turned - ((to_131(face) - MIDDLE) @ turn.T + MIDDLE)).max() < 2


@pytest.mark.parametrize("points", [np.zeros((67, 2)), np.full((68, 2), np.nan)])
def test_other_points_are_refused(points: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r"\(68, 2\) and finite"):
        to_131(points)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """An empty torch hub; gives its checkpoints folder."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    face_alignment_68._load.cache_clear()
    yield tmp_path / "checkpoints"
    face_alignment_68._load.cache_clear()
    torch.hub.set_dir(before)


def test_without_weights_it_says_which_and_where(hub: Path) -> None:
    with pytest.raises(SpearError) as error:
        detect_68(iter([np.zeros((64, 64, 3), np.uint8)]))
    site = "https://www.adrianbulat.com/downloads/python-fan"
    assert str(error.value) == (
        f"face-alignment has no weights; download {site}/s3fd-619a316812.pth and {site}/2DFAN4-11f355bf06.pth.tar "
        f"to {hub}, or use --detector mediapipe"
    )


def test_damaged_weights(hub: Path) -> None:
    hub.mkdir()
    for name in ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar"):
        (hub / name).write_bytes(b"not weights")
    with pytest.raises(SpearError, match=r"in .*checkpoints is damaged .*; delete both and download them again"):
        detect_68(iter([]))


def test_the_largest_face_of_a_frame(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.detection.sfd.sfd_detector import SFDDetector
    from face_alignment.models import FAN

    hub.mkdir()
    torch.manual_seed(0)
    torch.save(s3fd().state_dict(), hub / "s3fd-619a316812.pth")
    torch.save(FAN(4).state_dict(), hub / "2DFAN4-11f355bf06.pth.tar")
    answers = iter([[(10, 10, 40, 40, 0.9), (60, 20, 160, 120, 0.6)], []])
    monkeypatch.setattr(SFDDetector, "detect_from_image", lambda self, frame: next(answers))
    rng = np.random.default_rng(0)
    face, nothing = detect_68(rng.integers(0, 256, (2, 200, 200, 3)).astype(np.uint8))
    assert nothing is None
    assert face is not None
    assert (face.shape, face.dtype) == ((68, 2), np.float32)
    # random weights put the points anywhere in the network's window, about twice the box and around its middle
    assert np.abs(face - (110, 70)).max() < 120
    assert [path.parent for path in weights_files()] == [hub, hub]
