"""Training samples: pure functions of (seed, epoch, index), inside their clips, without the answer among the inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, lips_in, make_clip, track
from numpy.typing import NDArray
from torch import Tensor

from spear import dataset
from spear.clip import Clip
from spear.dataset import (
    FacePairs,
    SpeechWindows,
    cached_points,
    data_digest,
    mouth_box,
    read_faces,
    reference_frames,
    spread_at_random,
    usable_clips,
)
from spear.errors import SpearError
from spear.nets.a2lm import A2LMConfig
from spear.points import LOWER, OUTER_LIPS, head_motion, lip_opening, pose_input
from spear.progress import Report


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Three clips: 30 frames, 9 frames, and 24 frames with the face 20 px aside, so that a mirror image shows."""
    root = tmp_path_factory.mktemp("clips")
    aside = track(24, seed=2, at=(148.0, 120.0))
    return [make_clip(root / "a", 30), make_clip(root / "b", 9, seed=1), make_clip(root / "c", seed=2, points=aside)]


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


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("frames", [2, 3, 20])
def test_the_target_is_never_its_own_reference(count: int, frames: int) -> None:
    points, rng = track(frames), np.random.default_rng(0)
    for target in [*range(frames)] * 10:
        picks = reference_frames(points, count, rng, target)
        assert len(picks) == count
        assert target not in picks
        assert all(0 <= p < frames for p in picks)


def test_references_hold_the_most_closed_and_the_most_open_mouth() -> None:
    points = np.stack([face(opening) for opening in (5, 30, 2, 8, 9, 1, 40)])
    picks = reference_frames(points, 4, np.random.default_rng(0), target=6)  # the widest one is the target
    assert (picks[0], picks[-1]) == (5, 1)


def test_a_clip_of_one_frame_has_only_itself() -> None:
    assert reference_frames(track(1), 3, np.random.default_rng(0), target=0) == [0, 0, 0]


def test_face_pairs_are_a_function_of_seed_epoch_and_index(clips: list[Clip]) -> None:
    data, again = (FacePairs(clips, references=3, per_clip=2, seed=0) for _ in range(2))
    assert len(data) == 6
    assert _same(data[4, 5], again[4, 5])
    assert not _same(data[5, 5], data[4, 5])


def test_long_clips_give_more_frames_to_an_epoch(clips: list[Clip], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a", 150)
    assert len(FacePairs([clip], 1, per_clip=8, seed=0)) == 8 * 150 // 75
    assert len(FacePairs(clips, 1, per_clip=8, seed=0)) == 8 * 3


def test_shapes_of_a_face_pair(clips: list[Clip]) -> None:
    sample = FacePairs(clips, references=3, per_clip=1, seed=0)[0, 0]
    assert {name: tuple(value.shape) for name, value in sample.items()} == {
        "target": (3, 256, 256), "points": (131, 2), "sketch": (1, 256, 256), "mask": (1, 256, 256),
        "mouth": (1, 256, 256), "ref_images": (3, 3, 256, 256), "ref_points": (3, 131, 2),
        "ref_sketches": (3, 1, 256, 256),
    }  # fmt: skip
    for name, low in {"target": -1, "ref_images": -1, "sketch": 0, "mask": 0, "mouth": 0, "ref_sketches": 0}.items():
        assert sample[name].dtype == torch.float32
        assert low <= sample[name].min() < sample[name].max() <= 1


def test_only_the_frames_that_are_needed_are_read(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def watched(clip: Clip, frames: list[int]) -> NDArray[np.uint8]:
        asked.append(frames)
        return read_faces(clip, frames)

    monkeypatch.setattr(dataset, "read_faces", watched)
    data = FacePairs(clips[:1], references=3, per_clip=1, seed=0)
    for epoch in range(20):
        data[epoch, 0]
    assert all(len(frames) == 4 and frames[0] not in frames[1:] for frames in asked)
    assert len({frames[0] for frames in asked}) > 8


def test_augmented_pictures_and_their_points_stay_together(clips: list[Clip]) -> None:
    """The red lips are where the points of the lips are, in targets and turned references, mirrored or not."""
    data, mirrored = FacePairs(clips[2:], references=2, per_clip=1, seed=0), 0
    for epoch in range(12):
        sample = data[epoch, 0]
        pictures = torch.cat([sample["target"][None], sample["ref_images"]]).permute(0, 2, 3, 1).numpy()
        points = torch.cat([sample["points"][None], sample["ref_points"]]).numpy()
        for image, p in zip(pictures, points, strict=True):
            assert np.linalg.norm(lips_in(image) - p[OUTER_LIPS].mean(0)) < 1.5  # px
        mirrored += bool(points[0, :, 0].mean() < 128)
    assert 2 < mirrored < 10


def test_without_augmentation_nothing_is_changed(clips: list[Clip]) -> None:
    sample = FacePairs(clips[:1], references=2, per_clip=1, seed=0, augment=False)[0, 0]
    points = cached_points(clips[0])
    frame = int(np.flatnonzero((points == sample["points"].numpy()).all((1, 2)))[0])
    picture = (sample["target"].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.array_equal(picture.round().astype(np.uint8), read_faces(clips[0], [frame])[0])


def test_frames_are_read_in_the_order_that_was_asked_for(clips: list[Clip]) -> None:
    frames = [7, 2, 2, 29, 0]
    pictures, points = read_faces(clips[0], frames), cached_points(clips[0])
    assert pictures.shape == (5, 256, 256, 3)
    for image, frame in zip(pictures, frames, strict=True):
        assert np.linalg.norm(lips_in(image.astype(float)) - points[frame, OUTER_LIPS].mean(0)) < 1


def test_a_film_of_another_length_is_noticed(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a", 5)
    clip.face_path.write_bytes(make_clip(tmp_path / "b", 6).face_path.read_bytes())
    with pytest.raises(SpearError) as caught:
        read_faces(clip, [0])
    assert str(caught.value) == (
        f"{clip.face_path} has 6 frames, clip.json says 5; delete the folder and run `spear preprocess` again"
    )


def test_mouth_box_by_hand() -> None:
    # lips from x 96 to 160 and y 151 to 179: 8 px more on each side, the last row and column included
    points = face()
    lips = points[OUTER_LIPS]
    assert (lips.min(0).tolist(), lips.max(0).tolist()) == ([96, 151], [160, 179])
    expected = np.zeros((256, 256), np.float32)
    expected[143:188, 88:169] = 1
    assert np.array_equal(mouth_box(points), expected)


def test_mouth_box_at_the_edge_is_cut() -> None:
    box = mouth_box(face(at=(10.0, 220.0)))
    assert box[-1, 0] == 1
    assert box.sum() < mouth_box(face()).sum()


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


def test_openings_of_the_made_up_face() -> None:
    """What the tests above take for granted: frames are ordered by their opening."""
    assert (np.diff(lip_opening(np.stack([face(o) for o in range(5)]))) > 0).all()
