"""Stage 1 at work, with the model that ships: lips close in silence, nothing drifts, no seam where windows meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, track
from torch import Tensor

from spear.augment import near_silence
from spear.checkpoint import load_checkpoint, save_checkpoint
from spear.clip import FPS, SAMPLE_RATE
from spear.crop import crop_transform, to_crop
from spear.errors import SpearError
from spear.face import FaceTracker, fill_missing
from spear.nets.a2lm import A2LM
from spear.points import LOWER, UPPER, Array, lip_opening, spread_over_opening
from spear.pretrained.audio_encoders import load_encoder
from spear.stages.render import PACKAGED
from spear.talker import load_a2lm, speak
from spear.video import Footage

SHIPPED = PACKAGED / "a2lm.safetensors"


@pytest.fixture(scope="module")
def net() -> A2LM:
    return load_a2lm(SHIPPED)


def crop_points(video: Path) -> Array:
    """The points of a video's face in crop px, (F, 131, 2)."""
    with FaceTracker() as tracker:
        points = fill_missing([tracker(frame) for frame in Footage(video).frames()])
    return to_crop(points, crop_transform(points))


def opening(points: Array, lower: Tensor) -> Array:
    return lip_opening(np.concatenate([points[:, UPPER], lower.numpy()], axis=1))


@pytest.mark.footage
@pytest.mark.parametrize("name", ["grid_lbbc2a.mpg", "mead_W023_level_2_surprised_010.mp4", "vidtimit_fadg0_sa1.mp4"])
def test_lips_are_closed_in_silence(net: A2LM, footage_dir: Path, name: str) -> None:
    """People that no training saw, two of whom hardly ever close their mouth in their clip; the opening stays within a
    tenth of the way from their most closed to their most open reference."""
    points = crop_points(footage_dir / "dev" / name)
    references, points = points[spread_over_opening(points, net.config.references)], points[: 2 * FPS]
    closed, most = lip_opening(references).min(), lip_opening(references).max()
    room = np.random.default_rng(0).normal(0, 1e-3, 2 * SAMPLE_RATE)  # -60 dB
    for samples in (np.zeros(2 * SAMPLE_RATE), room):
        features = load_encoder(net.config.encoder)(torch.from_numpy(samples.astype(np.float32)))
        found = opening(points, speak(net, features, points, references))
        assert found.max() < closed + 0.1 * (most - closed)


def spoken(net: A2LM, seconds: int, speech: Tensor) -> tuple[Tensor, Array, Array]:
    """Features of two seconds of speech over and over, a head that does the same, and references."""
    points = np.concatenate([track(2 * FPS, seed=1)] * (seconds // 2))
    features = load_encoder(net.config.encoder)(speech)[: 2 * FPS].repeat(seconds // 2, 1, 1)
    return features, points, points[spread_over_opening(points[: 2 * FPS], net.config.references)]


def test_ten_minutes_end_as_they_began(net: A2LM, speech_wav: Path) -> None:
    from spear.audio import load_audio

    features, points, references = spoken(net, 600, torch.from_numpy(load_audio(speech_wav)))
    lower = speak(net, features, points, references)
    assert lower.shape == (15_000, 57, 2)
    minute = 60 * FPS
    first, last = lower[minute : 2 * minute], lower[-2 * minute : -minute]
    assert opening(points[:minute], first).std() > 0.002  # a mouth that moves
    torch.testing.assert_close(first, last, atol=0.05, rtol=0)


def test_no_seam_where_windows_meet(net: A2LM, speech_wav: Path) -> None:
    """The same speech begun half a window's step later has its seams elsewhere, and the mouth does nearly the same; nor
    is it quicker where two windows are blended than where one speaks alone."""
    from spear.audio import load_audio

    features, points, references = spoken(net, 60, torch.from_numpy(load_audio(speech_wav)))
    whole = speak(net, features, points, references)
    later = speak(net, features[FPS:], points[FPS:], references)
    off = (whole[FPS:] - later)[100:-100].norm(dim=-1)
    assert off.mean() < 0.15 * (whole - whole.mean(0)).norm(dim=-1).mean()
    speed = whole.diff(dim=0).norm(dim=-1).mean(1)[50:-50]
    blended = torch.arange(50, 50 + len(speed)) % 50 < 25  # windows of 75 frames, 50 apart
    assert 0.8 < speed[blended].mean() / speed[~blended].mean() < 1.25


def test_lips_that_pass_through_each_other_touch(net: A2LM) -> None:
    """Whatever the features say, no point of the upper lip's inner edge is below its partner."""
    points = np.stack([face(0)] * 30)
    features = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (30, 3, 384))).float()
    lower = speak(net, features, points, points[:15]).numpy()
    inner = lower[:, 37:]  # after 17 points of the jaw and 20 of the outer lips
    assert (inner[:, 11:20][:, ::-1, 1] - inner[:, 1:10, 1]).min() > -1e-3
    assert lower.shape == points[:, LOWER].shape


def test_a_checkpoint_of_another_version_is_told(tmp_path: Path) -> None:
    weights, about = load_checkpoint(SHIPPED, "a2lm")
    path = tmp_path / "a2lm.safetensors"
    for config, kept in (
        (about["config"] | {"dropout": 0.1}, weights),
        (about["config"], {name: value for name, value in weights.items() if not name.startswith("mixer")}),
    ):
        save_checkpoint(path, "a2lm", config, kept)
        with pytest.raises(SpearError) as error:
            load_a2lm(path)
        assert str(error.value) == (
            f"{path} is of another version of spear, its net is built in another way; run `spear train-a2lm --restart`"
        )


def test_near_silence_is_quiet() -> None:
    levels = [np.sqrt(np.mean(near_silence(16_000, np.random.default_rng(seed)) ** 2)) for seed in range(60)]
    assert min(levels) == 0
    assert 10 ** (-60 / 20) < max(levels) < 10 ** (-39 / 20)
