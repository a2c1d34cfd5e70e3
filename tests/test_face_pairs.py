"""Stage 2's training samples: pure functions of (seed, epoch, index), without the answer among the references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import face, lips_in, make_clip, track
from numpy.typing import NDArray
from torch import Tensor

from spear.clip import Clip
from spear.dataset import cached_points
from spear.errors import SpearError
from spear.face_pairs import ClipFaces, FacePairs, Faces, mouth_box, read_faces, reference_frames
from spear.nets.lm2face import Lm2FaceConfig
from spear.points import OUTER_LIPS, Array

SMALL, PAPER = Lm2FaceConfig("tiny", 6), Lm2FaceConfig.paper("tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Three clips: 30 frames, 9 frames, and 24 frames with the face 20 px aside, so that a mirror image shows."""
    root = tmp_path_factory.mktemp("clips")
    aside = track(24, seed=2, at=(148.0, 120.0))
    return [make_clip(root / "a", 30), make_clip(root / "b", 9, seed=1), make_clip(root / "c", seed=2, points=aside)]


def _pairs(
    clips: list[Clip], references: int = 3, per_clip: int = 1, augment: bool = True, kept: bool = False, seed: int = 0
) -> FacePairs:
    config = replace(SMALL, references=references)
    return FacePairs([ClipFaces(clip, kept) for clip in clips], config, per_clip, seed, augment)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


class _Bare:
    """Somebody who was filmed, of whom nothing is read here."""

    def __init__(self, speaker: str, frames: int = 75) -> None:
        self.speaker, self.frames = speaker, frames

    def points(self) -> Array:
        raise AssertionError

    def read(self, frames: list[int]) -> NDArray[np.uint8]:
        raise AssertionError

    def latents(self, frames: list[int]) -> dict[str, Tensor]:
        raise AssertionError


# Which frames are references


@pytest.mark.parametrize("config", [SMALL, PAPER.with_bank(4)], ids=["small", "paper"])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("frames", [2, 3, 4, 7, 20])
def test_the_target_is_never_its_own_reference(config: Lm2FaceConfig, count: int, frames: int) -> None:
    points, rng = track(frames), np.random.default_rng(0)
    for target in [*range(frames)] * 10:
        picks, nearness = reference_frames(points, replace(config, references=count), rng, target)
        assert len(picks) == len(nearness) == count
        assert target not in picks
        assert all(0 <= p < frames for p in picks)
        assert ((nearness >= 0) & (nearness <= 1)).all()


@pytest.mark.parametrize(("frames", "apart"), [(100, 13), (38, 13), (37, 13), (34, 12), (10, 4), (3, 1)])
def test_references_are_of_another_moment(frames: int, apart: int) -> None:
    """Twelve frames lie between, a third of the others in a short clip: of 34 frames 33 // 3 = 11, of 10 frames 3."""
    points, rng = track(frames), np.random.default_rng(0)
    off = [
        abs(frame - target)
        for target in range(frames)
        for _ in range(20)
        for frame in reference_frames(points, SMALL, rng, target)[0]
    ]
    assert min(off) == apart


def test_references_are_those_of_the_bank_whose_mouth_is_most_alike() -> None:
    # frame i opens by i px; for frame 0 those from 13 on may serve. A bank of as many has all 27: the nearest are 13
    # and 14, the next one 15
    points = np.stack([face(opening) for opening in range(40)])
    config = replace(PAPER, references=2, bank=27)
    picks, nearness = reference_frames(points, config, np.random.default_rng(0), target=0)
    assert picks == [13, 14]
    assert nearness.tolist() == pytest.approx([1 - (13 / 15) ** 2, 1 - (14 / 15) ** 2], rel=1e-4)


def test_half_of_the_banks_are_small() -> None:
    # sizes spread evenly over their logarithm, 1 to 24, whose middle is sqrt(24) = 4.9; as many references as the
    # bank may have show all of it
    points, rng = track(100), np.random.default_rng(0)
    config = replace(SMALL, references=24)
    sizes = np.array([len(set(reference_frames(points, config, rng, target=50)[0])) for _ in range(400)])
    assert sizes.min() == 1
    assert sizes.max() >= 23
    assert np.mean(sizes <= 4) == pytest.approx(np.log(4.5) / np.log(24), abs=0.06)
    assert np.mean(sizes == 1) == pytest.approx(np.log(1.5) / np.log(24), abs=0.05)


def test_the_paper_s_bank_is_whole_and_all_of_it_serves() -> None:
    points, rng = track(100), np.random.default_rng(0)
    for _ in range(20):
        picks, nearness = reference_frames(points, PAPER.with_bank(4), rng, target=50)
        assert len(set(picks)) == 4
        assert nearness.tolist() == [1, 1, 1, 1]


def test_where_there_are_too_few_frames_some_stand_twice() -> None:
    # target 0 of two frames: only frame 1; of a clip of one frame only itself
    rng = np.random.default_rng(0)
    for points, only in ((track(2), 1), (track(1), 0)):
        picks, nearness = reference_frames(points, SMALL, rng, target=0)
        assert picks == [only] * 3
        assert nearness.tolist() == [1, 1, 1]


# What makes an epoch


def _shown(data: FacePairs) -> list[Faces]:
    """Whom each sample of an epoch is of."""
    return [data.person(index) for index in range(len(data))]


def test_people_of_whom_there_is_much_give_to_those_of_whom_there_is_little() -> None:
    # 9 clips and 1, 12 frames wanted of each: 108 and 12, square roots 3 to 1, so of the 120 frames 90 and 30
    data = FacePairs([*(_Bare("much") for _ in range(9)), _Bare("little")], SMALL, per_clip=12, seed=0)
    speakers = [person.speaker for person in _shown(data)]
    assert (speakers.count("much"), speakers.count("little")) == (90, 30)
    assert [_shown(data).count(person) for person in dict.fromkeys(_shown(data))] == [10] * 9 + [30]


def test_people_of_whom_there_is_as_much_give_as_many_frames() -> None:
    data = FacePairs([_Bare(f"s{i}") for i in range(4)], SMALL, per_clip=8, seed=0)
    assert [person.speaker for person in _shown(data)] == [f"s{i}" for i in range(4) for _ in range(8)]


def test_long_clips_give_more_frames_to_an_epoch() -> None:
    # 8 of a clip of up to 75 frames, 8 * 150 // 75 of one of 150; of one person there is nothing to balance
    assert [len(FacePairs([_Bare("a", n)], SMALL, 8, seed=0)) for n in (1, 75, 150)] == [8, 8, 16]
    both = FacePairs([_Bare("a", 30), _Bare("a", 150)], SMALL, 8, seed=0)
    assert [person.frames for person in _shown(both)] == [30] * 8 + [150] * 16


def test_every_clip_has_its_turn() -> None:
    data = FacePairs([*(_Bare("much") for _ in range(99)), _Bare("little")], SMALL, per_clip=1, seed=0)
    assert len({id(person) for person in _shown(data)}) == 100


# What a sample is


def test_face_pairs_are_a_function_of_seed_epoch_and_index(clips: list[Clip]) -> None:
    data, again = (_pairs(clips, per_clip=2) for _ in range(2))
    assert len(data) == 6
    assert _same(data[4, 5], again[4, 5])
    assert not _same(data[5, 5], data[4, 5])
    assert not _same(_pairs(clips, per_clip=2, seed=1)[4, 5], data[4, 5])


def test_shapes_of_a_face_pair(clips: list[Clip]) -> None:
    sample = _pairs(clips)[0, 0]
    assert {name: tuple(value.shape) for name, value in sample.items()} == {
        "target": (3, 256, 256), "points": (131, 2), "sketch": (1, 256, 256), "mask": (1, 256, 256),
        "mouth": (1, 256, 256), "ref_images": (3, 3, 256, 256), "ref_points": (3, 131, 2),
        "ref_sketches": (3, 1, 256, 256), "ref_nearness": (3,),
    }  # fmt: skip
    assert all(value.dtype == torch.float32 for value in sample.values())
    for name, low in {"target": -1, "ref_images": -1, "sketch": 0, "mask": 0, "mouth": 0, "ref_sketches": 0}.items():
        assert low <= sample[name].min() < sample[name].max() <= 1


class _Watched(ClipFaces):
    """Notes which frames are read."""

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip)
        self.asked: list[list[int]] = []

    def read(self, frames: list[int]) -> NDArray[np.uint8]:
        self.asked.append(frames)
        return super().read(frames)


def test_only_the_frames_that_are_needed_are_read(clips: list[Clip]) -> None:
    person = _Watched(clips[0])
    data = FacePairs([person], SMALL, per_clip=1, seed=0)
    for epoch in range(20):
        data[epoch, 0]
    assert len(person.asked) == 20
    assert all(len(frames) == 4 and frames[0] not in frames[1:] for frames in person.asked)
    assert len({frames[0] for frames in person.asked}) > 8


def test_augmented_pictures_and_their_points_stay_together(clips: list[Clip]) -> None:
    """The red lips are where the points of the lips are, in targets and turned references, mirrored or not."""
    data, mirrored = _pairs(clips[2:], references=2), 0
    for epoch in range(12):
        sample = data[epoch, 0]
        pictures = torch.cat([sample["target"][None], sample["ref_images"]]).permute(0, 2, 3, 1).numpy()
        points = torch.cat([sample["points"][None], sample["ref_points"]]).numpy()
        for image, p in zip(pictures, points, strict=True):
            assert np.linalg.norm(lips_in(image) - p[OUTER_LIPS].mean(0)) < 1.5  # px
        mirrored += bool(points[0, :, 0].mean() < 128)
    assert 2 < mirrored < 10


def _frames_of(clip: Clip, sample: dict[str, Tensor]) -> list[int]:
    """Target and references, by their points."""
    shown = torch.cat([sample["points"][None], sample["ref_points"]]).numpy()
    return [int(np.flatnonzero((cached_points(clip) == p).all((1, 2)))[0]) for p in shown]


def _bytes(pictures: Tensor) -> NDArray[np.uint8]:
    return ((pictures.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)


def test_without_augmentation_nothing_is_changed(clips: list[Clip]) -> None:
    sample = _pairs(clips, augment=False)[0, 0]
    pictures = _bytes(torch.cat([sample["target"][None], sample["ref_images"]]))
    assert np.array_equal(pictures, read_faces(clips[0], _frames_of(clips[0], sample)))


def test_kept_latents_are_those_of_the_frames_of_the_sample(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a", 30)
    numbers = torch.arange(30.0).view(30, 1, 1, 1)
    clip.write_latents({"picture": numbers.expand(30, 6, 2, 2), "masked": -numbers.expand(30, 6, 1, 2)}, {})
    data = _pairs([clip], augment=False, kept=True)
    for epoch in range(10):
        sample = data[epoch, 0]
        frames = _frames_of(clip, sample)
        assert sample["latent_picture"].shape == (4, 6, 2, 2)  # target and three references
        assert sample["latent_picture"][:, 0, 0, 0].tolist() == frames
        assert sample["latent_masked"][:, 5, 0, 1].tolist() == [-frame for frame in frames]
        pictures = _bytes(torch.cat([sample["target"][None], sample["ref_images"]]))
        assert np.array_equal(pictures, read_faces(clip, frames))  # and they are not varied


def test_latents_that_would_not_follow_are_not_used(tmp_path: Path) -> None:
    """Not beside varied pictures, and not where they are not asked for, though they are in the folder."""
    clip = make_clip(tmp_path / "a", 30)
    clip.write_latents({"picture": torch.zeros(30, 6, 2, 2)}, {})
    for data in (_pairs([clip], augment=True, kept=True), _pairs([clip], augment=False, kept=False)):
        assert not [name for name in data[0, 0] if name.startswith("latent")]


# What is read and drawn for it


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
