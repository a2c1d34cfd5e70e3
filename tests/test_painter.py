"""Stage 2 at work: faces painted in batches from references that are made ready once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up import face, picture, track
from numpy.typing import NDArray
from torch import nn

from spear.nets.autoencoder import Autoencoder, AutoencoderConfig
from spear.nets.lm2face import Lm2Face, Lm2FaceConfig, blend_mask, build_lm2face
from spear.painter import BATCH, Painter, half_precision, with_lower_face
from spear.points import LOWER, UPPER, Array, spread_over_opening


@pytest.fixture(scope="module")
def net() -> Lm2Face:
    torch.manual_seed(0)
    vae = Autoencoder(AutoencoderConfig(latent_channels=6, wide=8, deep=8, encoder_blocks=1, decoder_blocks=1)).eval()
    net = build_lm2face(Lm2FaceConfig("tiny", 6, width=8, blocks=2, references=3), vae)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net.eval()


class _Film:
    """Pictures of a track, and which of them were asked for."""

    def __init__(self, points: Array) -> None:
        self.points, self.asked = points, []

    def __call__(self, frames: list[int]) -> NDArray[np.uint8]:
        self.asked.append(frames)
        return np.stack([picture(self.points[i]) for i in frames])


def test_references_are_read_once_and_spread_over_the_opening(net: Lm2Face) -> None:
    points = np.stack([face(opening) for opening in (0, 9, 30, 12, 20)])
    film = _Film(points)
    painter = Painter(net, points, film)
    painter.paint(list(film([1])), points[[1]], points[[1]])
    assert film.asked == [[0, 2, 3], [1]]  # most closed, middle and most open of 0 9 12 20 30
    assert film.asked[0] == spread_over_opening(points, 3)


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


def test_frames_do_not_influence_each_other(net: Lm2Face) -> None:
    points = track(9)
    film = _Film(points)
    painter, crops = Painter(net, points, film), list(film(list(range(9))))
    assert len(crops) == BATCH + 1
    together = painter.paint(crops, points, points)
    for i in (0, 4, 8):
        alone = painter.paint(crops[i : i + 1], points[i : i + 1], points[i : i + 1])
        assert np.abs(together[i][0].astype(int) - alone[0][0]).max() <= 2  # bf16 rounds by the size of the batch


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
