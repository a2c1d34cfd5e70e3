"""Stage 1's training samples: pure functions of (seed, epoch, index), inside their clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, make_clip
from torch import Tensor

from spear.clip import Clip
from spear.dataset import SpeechWindows, Turns, _Recent, cached_points, data_digest, spread_at_random, usable_clips
from spear.errors import SpearError
from spear.nets.a2lm import A2LMConfig
from spear.points import LOWER, head_motion, lip_opening, pose_input
from spear.progress import Report


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Three clips: 30, 9 and 24 frames."""
    root = tmp_path_factory.mktemp("clips")
    return [
        make_clip(root / name, frames, seed) for seed, (name, frames) in enumerate((("a", 30), ("b", 9), ("c", 24)))
    ]


def _windows(clips: list[Clip], window: int = 10, seed: int = 0) -> SpeechWindows:
    """As the paper's net gets them: nothing is changed."""
    config = A2LMConfig.paper(encoder="mfcc", encoder_settings={}, feature_shape=(4, 39))
    return SpeechWindows(clips, replace(config, window=window, references=4), seed)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_speech_windows_are_a_function_of_seed_epoch_and_index(clips: list[Clip]) -> None:
    data = _windows(clips)
    assert len(data) == 3 + 1 + 2  # 30 // 10, at least one, 24 // 10
    first = [data[0, i] for i in range(len(data))]
    again = _windows(clips)
    assert all(_same(again[0, i], first[i]) for i in reversed(range(len(data))))  # in any order
    assert not _same(data[1, 0], first[0])
    assert not _same(_windows(clips, seed=1)[0, 0], first[0])


def test_shapes_of_a_speech_window(clips: list[Clip]) -> None:
    sample = _windows(clips)[0, 0]
    assert {name: tuple(value.shape) for name, value in sample.items()} == {
        "features": (10, 4, 39), "heard": (10, 4, 39), "pose": (10, 74, 2), "head": (10, 74, 2),
        "references": (4, 131, 2), "truth": (10, 57, 2), "real": (10,),
    }  # fmt: skip
    assert sample["heard"].dtype == sample["real"].dtype == torch.bool
    assert all(sample[name].dtype == torch.float32 for name in sample.keys() - {"heard", "real"})


def test_speech_windows_stay_inside_the_clip_and_belong_together(clips: list[Clip]) -> None:
    clip, data = clips[0], _windows(clips[:1])
    points, features = cached_points(clip), clip.features("mfcc")
    pose, starts = pose_input(points, "rigid"), set()
    for epoch in range(100):
        for index in range(len(data)):
            sample = data[epoch, index]
            start = int(np.flatnonzero((points[:, LOWER] == sample["truth"][0].numpy()).all((1, 2)))[0])
            part = slice(start, start + 10)
            assert start + 10 <= 30
            assert np.array_equal(sample["truth"], points[part, LOWER])
            assert np.array_equal(sample["pose"], pose[part])
            assert np.array_equal(sample["head"], head_motion(points)[part])
            assert torch.equal(sample["features"], features[part])
            assert sample["real"].all()
            assert sample["heard"].all()
            references = sample["references"].numpy()
            assert all((points == reference).all((1, 2)).any() for reference in references)
            starts.add(start)
    assert starts == set(range(21))  # every window that there is comes up


def test_a_clip_shorter_than_the_window_is_held_and_marked(clips: list[Clip]) -> None:
    sample, points = _windows(clips[1:2], window=12)[0, 0], cached_points(clips[1])
    assert sample["real"].tolist() == [True] * 9 + [False] * 3
    for name, whole in (("truth", points[:, LOWER]), ("features", clips[1].features("mfcc").numpy())):
        assert np.array_equal(sample[name][:9], whole)
        assert all(np.array_equal(sample[name][i], whole[8]) for i in range(9, 12))


def test_references_at_random_come_from_equal_parts_of_the_order_of_opening() -> None:
    points = np.stack([face(opening) for opening in range(40)])  # frame i opens by i px
    rng = np.random.default_rng(0)
    picks = np.array([spread_at_random(points, 4, rng) for _ in range(200)])
    assert (picks // 10 == [0, 1, 2, 3]).all()
    assert all(len(set(picks[:, i])) == 10 for i in range(4))


@pytest.mark.parametrize(
    ("skew", "edges"),
    # 40 * (0, 1/4, 2/4, 3/4, 1) ** skew
    [(2.0, [0, 2.5, 10, 22.5, 40]), (0.5, [0, 20, 28.28, 34.64, 40])],
    ids=["mostly closed", "mostly open"],
)
def test_skewed_references_come_from_unequal_parts(skew: float, edges: list[float]) -> None:
    points = np.stack([face(opening) for opening in range(40)])  # frame i opens by i px
    rng = np.random.default_rng(0)
    picks = np.array([spread_at_random(points, 4, rng, skew) for _ in range(400)])
    for i in range(4):
        assert set(picks[:, i]) == set(range(int(edges[i]), int(np.ceil(edges[i + 1]))))


def test_the_digest_of_the_data_tells_other_footage_and_other_corrections(tmp_path: Path) -> None:
    clip, other = make_clip(tmp_path / "a", 3), make_clip(tmp_path / "b", 4, seed=1)
    before = data_digest([clip])
    assert data_digest([Clip(clip.folder)]) == before != data_digest([clip, other])
    clip.write_info(replace(clip.info, av_offset=2, av_offset_r=0.5))
    late = data_digest([clip])
    clip.write_info(replace(clip.info, av_offset=0, source_sha256="1"))
    assert len({before, late, data_digest([clip])}) == 3


def test_clips_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    good, bare, deaf = (make_clip(tmp_path / name, 3) for name in ("a", "b", "c"))
    bare.landmarks_path.unlink()
    deaf.features_path("mfcc").unlink()
    report = Report()
    assert usable_clips([bare, good, deaf], report, "mfcc") == [good]
    assert report.skipped == [
        ("b", f"no landmarks.safetensors in {bare.folder}; run `spear landmarks` first"),
        ("c", f"no mfcc.safetensors in {deaf.folder}; run `spear extract-audio-features --encoder mfcc` first"),
    ]
    with pytest.raises(SpearError, match="run `spear landmarks` first"):
        usable_clips([bare], Report())


def test_turns_are_counted_one_after_the_other() -> None:
    turns = Turns([2, 1, 3])
    assert len(turns) == 6
    assert [turns[i] for i in range(6)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert len(Turns([])) == 0


def test_what_was_computed_last_is_kept_up_to_so_many_bytes() -> None:
    """Three arrays of 4 bytes, room for two."""
    made: list[str] = []
    recent = _Recent(8)

    def get(key: str) -> None:
        recent(key, lambda: (made.append(key), (np.zeros(1, np.float32),))[1])

    for key in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b, which was used before a
        get(key)
    assert made == ["a", "b", "c", "b"]


def test_openings_of_the_made_up_face() -> None:
    """What the tests above take for granted: frames are ordered by their opening."""
    assert (np.diff(lip_opening(np.stack([face(o) for o in range(5)]))) > 0).all()
