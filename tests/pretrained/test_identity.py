"""CSIM: alignment and cosine by hand, what is said where the packages are absent, and dlib itself where it imports."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import portrait
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.face import FaceTracker
from spear.points import MESH_INDICES
from spear.pretrained.identity import (
    ANCHORS,
    ON_CHIP,
    WEIGHTS_NAME,
    Identity,
    align,
    cut_chip,
    find_identity_weights,
    load_identity,
    similarity,
)

INSTALL = "install them with `pip install dlib-bin face_recognition_models`"


def face(anchors: NDArray[np.float64]) -> NDArray[np.float32]:
    points = np.random.default_rng(0).uniform(0, 500, (131, 2)).astype(np.float32)  # the others have no say
    points[ANCHORS] = anchors
    return points


def test_the_anchors_are_mirror_images() -> None:
    assert [MESH_INDICES[i] for i in ANCHORS] == [33, 133, 362, 263, 48, 278]  # outer, inner, inner, outer; wings
    np.testing.assert_allclose(ON_CHIP[[0, 1, 4], 0] + ON_CHIP[[3, 2, 5], 0], 2 * 73.7)
    np.testing.assert_array_equal(ON_CHIP[[0, 1, 4], 1], ON_CHIP[[3, 2, 5], 1])


def test_align_by_hand() -> None:
    # a face twice as large as on the chip, 10 px further right and 20 down: chip = (frame - (10, 20)) / 2
    np.testing.assert_allclose(align(face(2 * ON_CHIP + np.array([10, 20]))), [[0.5, 0, -5], [0, 0.5, -10]], atol=1e-5)
    # a quarter turn: the frame has (300 - y, x) of the chip, so x = frame y, y = 300 - frame x
    turned = np.stack([300 - ON_CHIP[:, 1], ON_CHIP[:, 0]], 1)
    np.testing.assert_allclose(align(face(turned)), [[0, 1, 0], [-1, 0, 300]], atol=1e-5)


def test_align_is_the_least_squares_fit() -> None:
    anchors = 1.3 * ON_CHIP + np.random.default_rng(1).normal(0, 4, ON_CHIP.shape)
    # the same with real numbers: x' = a x - b y + c, y' = b x + a y + d
    rows = [row for x, y in anchors for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, c, d = np.linalg.lstsq(np.array(rows), ON_CHIP.ravel(), rcond=None)[0]
    np.testing.assert_allclose(align(face(anchors)), [[a, -b, c], [b, a, d]], atol=1e-4)


def test_the_chip_by_hand() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    moved = cut_chip(frame, np.array([[1.0, 0, -30], [0, 1, -20]]))
    np.testing.assert_array_equal(moved, frame[20:170, 30:180])
    beyond = cut_chip(frame, np.array([[1.0, 0, 40], [0, 1, 0]]))
    assert not beyond[:, :40].any()
    np.testing.assert_array_equal(beyond[:, 40:], frame[:150, :110])


@pytest.mark.parametrize("factor", [2, 3])
def test_a_large_face_is_averaged_in_place(factor: int) -> None:
    # a ramp of 60 / factor a pixel from pixel 60 * factor on, so of 60 a chip pixel: half of one off would be 30
    ramp = np.clip((np.arange(600) - 60 * factor) * 60 / factor, 0, 240)
    frame = np.broadcast_to(ramp[None, :, None], (600, 600, 3)).astype(np.uint8)
    chip = cut_chip(frame, np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]]))
    assert chip.shape == (150, 150, 3)
    np.testing.assert_allclose(chip[75, 61:64, 1], [60, 120, 180], atol=8)
    # stripes of one pixel are grey, not stripes that come from sampling
    stripes = np.broadcast_to(255 * (np.arange(600) % 2)[None, :, None], (600, 600, 3)).astype(np.uint8)
    grey = cut_chip(stripes, np.array([[0.25, 0, 0], [0, 0.25, 0]]))[2:-2, 2:-2]
    assert 126 <= grey.min() <= grey.max() <= 129


def test_embed_hands_over_the_chip() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    seen = []

    def net(chip: NDArray[np.uint8]) -> list[float]:
        seen.append(chip)
        return [0.5] * 128

    embedding = Identity(net).embed(frame, face(ON_CHIP + np.array([30, 20])))
    assert embedding.shape == (128,)
    assert embedding.dtype == np.float64
    assert np.abs(seen[0].astype(int) - frame[20:170, 30:180]).max() <= 1
    for wrong in (frame[..., 0], frame[..., :2], frame / 255):
        with pytest.raises(ValueError, match="a frame must be"):
            Identity(net).embed(wrong, face(ON_CHIP))
    for points in (face(ON_CHIP)[:68], face(ON_CHIP) * np.nan):
        with pytest.raises(ValueError, match=r"points must be \(131, 2\) and finite"):
            Identity(net).embed(frame, points)
    with pytest.raises(ValueError, match="all in one place"):
        align(face(np.ones((6, 2))))


def test_similarity_by_hand() -> None:
    assert similarity([3, 4], [3, 4]) == pytest.approx(1)
    assert similarity([3, 4], [-6, -8]) == pytest.approx(-1)
    assert similarity([3, 4], [4, -3]) == 0
    assert similarity([3, 4], [5, 12]) == pytest.approx((15 + 48) / (5 * 13))
    for wrong in ([3, 4, 5], [0, 0], [np.nan, 1], [[3, 4]]):
        with pytest.raises(ValueError, match="embeddings must be"):
            similarity([3, 4], wrong)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is all that Python finds packages in."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    names = ("dlib", "face_recognition_models")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def test_what_is_absent_is_said_in_one_line(packages: Path) -> None:
    with pytest.raises(SpearError) as error:
        load_identity()
    assert str(error.value) == (f"dlib's face recognition weights are not installed, CSIM needs them both; {INSTALL}")
    models = packages / "face_recognition_models"
    (models / "models").mkdir(parents=True)
    (models / "__init__.py").write_text("raise SystemExit('the package was imported')")
    (models / "models" / WEIGHTS_NAME).write_bytes(b"no weights")
    importlib.invalidate_caches()
    with pytest.raises(SpearError) as error:
        load_identity()
    assert str(error.value) == f"dlib is not installed, CSIM needs them both; {INSTALL}"
    (packages / "dlib.py").write_text("def face_recognition_model_v1(path): raise RuntimeError('not a net\\nat all')")
    importlib.invalidate_caches()
    assert find_identity_weights() == models / "models" / WEIGHTS_NAME
    with pytest.raises(SpearError) as error:
        load_identity()
    assert str(error.value) == (
        f"dlib cannot load {models / 'models' / WEIGHTS_NAME} (not a net); install both again with "
        "`pip install dlib-bin face_recognition_models`"
    )


def test_as_dlibs_own_pipeline() -> None:
    dlib = pytest.importorskip("dlib", exc_type=ImportError)
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("no face_recognition_models")
    identity, frame = load_identity(), portrait()
    with FaceTracker() as tracker:
        points = tracker(frame)
    assert points is not None
    models = find_identity_weights().parent
    box = max(dlib.get_frontal_face_detector()(frame, 1), key=lambda box: box.area())
    shape = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))(frame, box)
    net = dlib.face_recognition_model_v1(str(models / WEIGHTS_NAME))
    own = identity.embed(frame, points)
    assert similarity(own, np.array(net.compute_face_descriptor(frame, shape))) > 0.99
    # a darker picture is the same person, a stretched one less so
    assert similarity(own, identity.embed((frame * 0.8).astype(np.uint8), points)) > 0.98
    stretched = frame[:, np.arange(0, 320, 2)]
    assert similarity(own, identity.embed(stretched, points * np.float32([0.5, 1]))) < 0.95
