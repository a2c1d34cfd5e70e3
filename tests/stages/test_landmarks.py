"""`landmarks`: the points of every frame, in crop px, made again only where they no longer fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import portrait

from spear.clip import Clip, ClipInfo, find_clips
from spear.crop import NOSE_ROW, crop_transform, warp_crop
from spear.errors import SpearError
from spear.face import follow_face
from spear.points import NOSE_TIP, lip_opening
from spear.stages import landmarks as stage
from spear.stages.landmarks import landmarks
from spear.stages.preprocess import preprocess
from spear.video import Footage, VideoWriter


@pytest.fixture(scope="module")
def made(talking_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with landmarks; tests that change them work on a copy."""
    clips = tmp_path_factory.mktemp("made") / "clips"
    preprocess([talking_videos / f"talker_{i}.mp4" for i in range(2)], clips)
    assert landmarks(clips).done == 2
    return clips


@pytest.fixture
def clips(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "clips"))


def _blind(clip: Clip) -> None:
    """Put a film without a face in place of the face."""
    with VideoWriter(clip.face_path, 256, 256, random_access=True) as writer:
        for _ in range(clip.info.frames):
            writer.write(np.full((256, 256, 3), 90, np.uint8))


def test_points_of_every_frame_in_crop_px(made: Path) -> None:
    for clip in find_clips(made):
        points, confidence = clip.landmarks()
        assert points.shape == (50, 131, 2)
        assert confidence.tolist() == [1.0] * 50
        assert abs(points[:, NOSE_TIP, 1].mean() - NOSE_ROW) < 4
        assert 0 < points.min() < points.max() < 256


def test_they_are_those_of_the_source_moved_to_the_crop(made: Path, talking_videos: Path) -> None:
    source, _ = follow_face(Footage(talking_videos / "talker_0.mp4"), "largest", "hold")
    clip = Clip(made / "talker_0")
    a, b, x, y = np.array(clip.info.crop).T[..., None]
    u, v = source[..., 0], source[..., 1]
    expected = np.stack([a * u - b * v + x, b * u + a * v + y], -1)
    assert np.linalg.norm(clip.landmarks()[0] - expected, axis=-1).mean() < 2  # px of the crop; found anew in it


def test_the_lips_follow_the_voice(made: Path) -> None:
    from conftest import voice

    points, _ = Clip(made / "talker_1").landmarks()
    assert np.corrcoef(lip_opening(points), voice(1)[1])[0, 1] > 0.7


def test_a_second_run_does_nothing(clips: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in clips.rglob("*")}
    report = landmarks(clips)
    assert (report.done, report.kept) == (0, 2)
    assert {p: p.stat().st_mtime_ns for p in clips.rglob("*")} == before


def test_a_clip_that_was_made_anew_gets_new_landmarks(clips: Path, talking_videos: Path) -> None:
    preprocess([talking_videos / "talker_0.mp4"], clips, face="0")
    with pytest.raises(SpearError, match="was made before the clip was preprocessed anew; run `spear landmarks` again"):
        Clip(clips / "talker_0").landmarks()
    report = landmarks(clips)
    assert (report.done, report.kept) == (1, 1)
    assert Clip(clips / "talker_0").landmarks()[0].shape == (50, 131, 2)


def test_damaged_landmarks_are_made_again(clips: Path) -> None:
    path = Clip(clips / "talker_1").landmarks_path
    path.write_bytes(path.read_bytes()[:100])
    assert landmarks(clips).done == 1


def test_another_detector_makes_them_again(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Clip(clips / "talker_0").landmarks()[0]
    monkeypatch.setattr(stage, "_face_alignment", lambda clip: list(points))
    assert landmarks(clips, "face-alignment").done == 2
    assert landmarks(clips, "face-alignment").kept == 2
    with pytest.raises(SpearError, match=r"^--detector dlib is not one of mediapipe, face-alignment$"):
        landmarks(clips, "dlib")


def test_frames_where_preprocess_had_no_face_have_no_confidence(tmp_path: Path) -> None:
    frame = portrait()
    with VideoWriter(tmp_path / "v.mp4", 320, 320) as writer:
        for i in range(6):
            writer.write(np.full_like(frame, 90) if i == 2 else frame)
    preprocess([tmp_path / "v.mp4"], tmp_path / "clips")
    landmarks(tmp_path / "clips")
    points, confidence = Clip(tmp_path / "clips" / "v").landmarks()
    assert confidence.tolist() == [1, 1, 0, 1, 1, 1]
    np.testing.assert_allclose(points[2], (points[1] + points[3]) / 2, atol=1e-3)


def test_a_clip_without_a_face_is_reported_and_the_others_are_done(clips: Path) -> None:
    clip = Clip(clips / "talker_0")
    clip.landmarks_path.unlink()
    Clip(clips / "talker_1").landmarks_path.unlink()
    _blind(clip)
    report = landmarks(clips)
    reason = f"no face was found in {clip.face_path}; look at it, and preprocess it anew with --face INDEX"
    assert (report.done, report.skipped) == (1, [("talker_0", reason)])
    Clip(clips / "talker_1").landmarks_path.unlink()
    _blind(Clip(clips / "talker_1"))
    with pytest.raises(SpearError) as caught:
        landmarks(clips)
    assert str(caught.value) == f"no clip in {clips} shows a face to mediapipe: {reason}"


def test_a_clip_that_breaks_the_detector_is_reported(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clip in find_clips(clips):
        clip.landmarks_path.unlink()
    found = stage._mediapipe

    def fragile(clip: Clip) -> object:
        if clip.id == "talker_0":
            raise RuntimeError("out of order")
        return found(clip)

    monkeypatch.setattr(stage, "_mediapipe", fragile)
    report = landmarks(clips)
    assert (report.done, report.skipped) == (1, [("talker_0", "RuntimeError: out of order")])


def test_no_clips(tmp_path: Path) -> None:
    with pytest.raises(SpearError, match="is not a folder; run `spear preprocess VIDEOS` first"):
        landmarks(tmp_path / "clips")


def test_the_crop_that_is_looked_at_is_that_of_clip_json(made: Path) -> None:
    """What ties the stages together: clip.json's transforms are those of its own frames."""
    info: ClipInfo = Clip(made / "talker_0").info
    frame = next(Footage(Path(info.source)).frames(10, 11))
    crop = warp_crop(frame, np.array(info.crop[10]))
    face = next(Footage(Clip(made / "talker_0").face_path).frames(10, 11))
    assert np.abs(crop.astype(int) - face).mean() < 1.5
    assert crop_transform(Clip(made / "talker_0").landmarks()[0]).shape == (50, 4)
