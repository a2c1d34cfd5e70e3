"""Stage 2 at work: faces painted in batches from references that are made ready once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from accelerate import PartialState
from made_up import face, lips_in, picture, track
from numpy.typing import NDArray
from tiny_nets import tiny_lm2face
from torch import nn

from spear.errors import SpearError
from spear.nets.autoencoder import load_autoencoder
from spear.nets.blending import blend_columns, blend_mask
from spear.nets.int8 import Int8Conv, has_int8
from spear.nets.lm2face import Lm2Face, Lm2FaceConfig, References, build_lm2face
from spear.painter import BATCH, PRECISIONS, Painter, check_precision, half_precision, load_lm2face, with_lower_face
from spear.points import LOWER, OUTER_LIPS, UPPER, Array, nearest_mouths, spread_over_opening
from spear.scores.image import PSNR_CAP, psnr
from spear.stages.render import PACKAGED

SHIPPED = PACKAGED / "lm2face.safetensors"


@pytest.fixture(scope="module")
def net() -> Lm2Face:
    """Three of a bank of four serve a frame."""
    return tiny_lm2face(light=True, references=3, bank=4)


class _Film:
    """Pictures of a track, and which of them were asked for."""

    def __init__(self, points: Array) -> None:
        self.points, self.asked = points, []

    def __call__(self, frames: list[int]) -> NDArray[np.uint8]:
        self.asked.append(frames)
        return np.stack([picture(self.points[i]) for i in frames])


def test_the_bank_is_read_once_and_spread_over_the_opening(net: Lm2Face) -> None:
    points = np.stack([face(opening) for opening in (0, 9, 30, 12, 20, 21, 10)])
    film = _Film(points)
    painter = Painter(net, points, film)
    painter.paint(list(film([1])), points[[1]], points[[1]])
    # sorted 0 9 10 12 20 21 30: places 0, 2, 4 and 6, so 0, 10, 20 and 30 px
    assert film.asked == [[0, 2, 4, 6], [1]]
    assert film.asked[0] == spread_over_opening(points, 4)


def test_a_bank_has_no_more_pictures_than_there_are(net: Lm2Face) -> None:
    for frames in (1, 2, 3):
        points = track(frames)
        film = _Film(points)
        painted = Painter(net, points, film).paint(list(film([0])), points[:1], points[:1])
        assert film.asked == [[*range(frames)], [0]]
        assert np.ptp(painted[0][0]) > 0


def test_each_frame_is_served_by_the_references_with_the_nearest_mouths(
    net: Lm2Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the bank opens by 0, 10, 20 and 30 px; for 11 px the nearest are 10, 20 and 0 (1, 9 and 11 px off), the next one
    # is 19 px off; for 30 px 30, 20 and 10, the next one 30 px off
    points = np.stack([face(opening) for opening in (0, 10, 20, 30)])
    film, seen = _Film(points), []
    painter = Painter(net, points, film)
    driven = np.stack([face(11), face(30)])
    forward = Lm2Face.forward
    monkeypatch.setattr(Lm2Face, "forward", lambda self, *a, **k: (seen.append(a[1]), forward(self, *a, **k))[1])
    painter.paint(list(film([0, 0])), driven, driven)
    (references,) = seen
    assert isinstance(references, References)
    assert np.array_equal(references.points.cpu().numpy(), points[[[1, 2, 0], [3, 2, 1]]])
    nearness = [[1 - (d / 19) ** 2 for d in (1, 9, 11)], [1 - (d / 30) ** 2 for d in (0, 10, 20)]]
    np.testing.assert_allclose(references.nearness.cpu().numpy(), nearness, atol=1e-4)
    np.testing.assert_allclose(nearness, nearest_mouths(points, driven, 3)[1], atol=1e-4)


def test_an_untrained_net_shows_a_reference_with_that_mouth() -> None:
    """The ref's own frames, its mouths driven by another of its frames: lips are where they should be."""
    vae = load_autoencoder()
    net = build_lm2face(Lm2FaceConfig(vae.identity(), vae.latent_channels, width=8), vae).eval()
    points = np.stack([face(opening) for opening in (0, 30, 10, 20, 5, 25)])
    film = _Film(points)
    faces = Painter(net, points, film).paint(list(film([0, 0])), points[[1, 3]], points[[0, 0]])
    for (image, _), frame in zip(faces, (1, 3), strict=True):
        lips = lips_in(image.astype(float)) - points[frame, OUTER_LIPS].mean(0)
        assert np.abs(lips).max() < 1  # px
        off = np.abs(image[120:].astype(float) - film([frame])[0][120:]).mean()
        assert off < 0.5 * np.abs(film([0])[0][120:].astype(float) - film([frame])[0][120:]).mean()


def test_a_painted_crop_keeps_the_upper_rows_and_comes_with_its_mask(net: Lm2Face) -> None:
    points = track(6)
    film = _Film(points)
    crops, driven = list(film([0, 1])), points[[3, 4]]
    painted = Painter(net, points, film).paint(crops, driven, points[:2])
    assert len(painted) == 2
    for (image, mask), crop, new, own in zip(painted, crops, driven, points[:2], strict=True):
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8
        assert np.array_equal(image[:112], crop[:112])
        assert not np.array_equal(image[112:], crop[112:])
        assert np.array_equal(mask, blend_mask([new, own]))


def test_only_columns_that_the_blend_shows_may_be_painted(net: Lm2Face) -> None:
    """Beside them the crop stays; where the blend shows the face, it is the same within a grey level."""
    points = track(6)
    film = _Film(points)
    crops, columns = list(film([0, 1])), blend_columns(points)
    whole, part = (
        Painter(net, points, film, "fp32", **only).paint(crops, points[[3, 4]], points[:2])
        for only in ({}, {"columns": columns})
    )
    assert 0 < columns.start < columns.stop < 32
    for (image, mask), (cut, same_mask), crop in zip(whole, part, crops, strict=True):
        assert np.array_equal(mask, same_mask)
        assert np.array_equal(cut[:, : columns.start * 8], crop[:, : columns.start * 8])
        assert np.array_equal(cut[:, columns.stop * 8 :], crop[:, columns.stop * 8 :])
        assert not np.array_equal(image[112:, : columns.start * 8], crop[112:, : columns.start * 8])
        off = np.abs(image.astype(int) - cut)[..., 0] * mask
        assert off.mean() < 0.01  # grey levels
        assert off.max() <= 1


def test_precision_says_what_convolutions_compute_in(net: Lm2Face) -> None:
    points, able = track(4), has_int8(PartialState().device)
    film, painted = _Film(points), {}
    for precision in [one for one in PRECISIONS if one != "int8" or able]:
        painter = Painter(net, points, film, precision)
        types = {layer.weight.dtype for layer in painter.net.modules() if isinstance(layer, nn.Conv2d)}
        if precision != "auto":
            assert types == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}, "int8": set()}[precision]
        painted[precision] = painter.paint(list(film([0])), points[[2]], points[:1])[0][0].astype(int)
    assert {layer.weight.dtype for layer in net.modules() if isinstance(layer, nn.Conv2d)} == {torch.float32}
    assert any(np.array_equal(painted["auto"], other) for precision, other in painted.items() if precision != "auto")
    most = {"bf16": 1, "int8": 8}  # grey levels; of random weights, whose picture is noise from black to white
    for precision in most.keys() & painted.keys():
        assert 0 < np.abs(painted["fp32"] - painted[precision]).mean() < most[precision]


def test_auto_is_int8_where_the_cpu_has_it(net: Lm2Face, monkeypatch: pytest.MonkeyPatch) -> None:
    points = track(4)
    for has in (False, True) if has_int8(PartialState().device) else (False,):
        monkeypatch.setattr("spear.painter.has_int8", lambda _, has=has: has)
        layers = {type(layer) for layer in Painter(net, points, _Film(points)).net.modules()}
        assert (Int8Conv in layers, nn.Conv2d in layers) == (has, not has)


def test_a_precision_that_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpearError) as caught:
        check_precision("fp16")
    assert str(caught.value) == "--precision fp16 is not one of auto, fp32, bf16, int8"
    monkeypatch.setattr("spear.painter.has_int8", lambda _: False)
    with pytest.raises(SpearError) as caught:
        check_precision("int8")
    assert (
        str(caught.value) == "--precision int8 wants a CPU with AVX-512 VNNI, beside a GPU --device cpu; leave it out"
    )
    points = track(2)
    with pytest.raises(SpearError, match="small preset; leave --precision out"):
        Painter(tiny_lm2face(light=False), points, _Film(points), "int8")


def test_threads_may_paint_at_the_same_time(net: Lm2Face) -> None:
    points = track(8)
    film = _Film(points)
    painter, crops = Painter(net, points, film), list(film([*range(8)]))
    jobs = [(crops[i : i + 2], points[i : i + 2], points[i : i + 2]) for i in (0, 2, 4, 6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: painter.paint(*job), jobs))
    for job, faces in zip(jobs, together, strict=True):
        for (image, _), (alone, _) in zip(faces, painter.paint(*job), strict=True):
            assert np.array_equal(image, alone)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frames_do_not_influence_each_other(net: Lm2Face, precision: str) -> None:
    points = track(9)
    film = _Film(points)
    painter, crops = Painter(net, points, film, precision), list(film(list(range(9))))
    assert len(crops) == BATCH + 1
    together = painter.paint(crops, points, points)
    for i in (0, 4, 8):
        alone = painter.paint(crops[i : i + 1], points[i : i + 1], points[i : i + 1])
        assert np.abs(together[i][0].astype(int) - alone[0][0]).max() <= 2  # bf16 rounds by the size of the batch


def test_what_ships_paints_the_same_in_integers() -> None:
    """Whatever other frames share the steps of a convolution; the picture is a drawing, far from what the net knows."""
    if not has_int8(PartialState().device):
        pytest.skip("this CPU has no AVX-512 VNNI")
    points = np.stack([face(opening) for opening in (0, 30, 10, 20, 5, 25)])
    film = _Film(points)
    crops, driven, lower = film([*range(6)]), points[[3, 0, 1, 5, 4, 2]], np.s_[:, 112:]
    floats, whole = (Painter(load_lm2face(SHIPPED), points, film, precision) for precision in ("fp32", "int8"))
    wanted, made = (
        np.stack([image for image, _ in way.paint([*crops], driven, points)])[lower] for way in (floats, whole)
    )
    alone = np.stack([image for image, _ in whole.paint([*crops[2:3]], driven[2:3], points[2:3])])[lower]
    assert 45 < psnr(wanted.reshape(-1, 256, 3), made.reshape(-1, 256, 3)) < PSNR_CAP
    assert psnr(made[2], alone[0]) > 45


def test_painting_leaves_its_input_alone(net: Lm2Face) -> None:
    points = track(3)
    film = _Film(points)
    crops = list(film([0]))
    before = crops[0].copy()
    Painter(net, points, film).paint(crops, points[:1], points[:1])
    assert np.array_equal(crops[0], before)


def test_with_lower_face() -> None:
    points, lower = track(4), np.zeros((4, 57, 2), np.float32)
    result = with_lower_face(points, lower)
    assert np.array_equal(result[:, UPPER], points[:, UPPER])
    assert np.array_equal(result[:, LOWER], lower)


def test_half_precision_only_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(4, 4), torch.zeros(1, 4)
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        with half_precision(torch.device("cpu")):
            assert layer(x).dtype == dtype
