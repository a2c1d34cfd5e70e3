"""`spear metrics` on the test split of four tiny clips, with nets that were trained for one epoch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import make_clip
from numpy.typing import NDArray
from typer.testing import CliRunner

from spear.clip import Clip, find_clips
from spear.controls import controls
from spear.crop import blend
from spear.errors import SpearError
from spear.judges import Available, Judges
from spear.nets.lm2face import Lm2Face
from spear.painter import Painter, load_lm2face
from spear.points import LOWER, Array, face_width
from spear.scores.compare import Scores
from spear.scores.frechet import FrechetScore
from spear.scores.landmark import landmark_distance
from spear.shards import Shard
from spear.stages import metrics_split
from spear.stages.extract_audio_features import extract_audio_features
from spear.stages.landmarks import landmarks
from spear.stages.metrics import metrics
from spear.stages.preprocess import preprocess
from spear.stages.train_a2lm import train_a2lm
from spear.stages.train_lm2face import train_lm2face
from spear.talker import load_a2lm, predict_clip
from spear.video import Footage, Frame
from spear.workers import Workers
from spear_cli.app import app

LANDMARKS, PICTURES = frozenset({"ld", "lvd"}), frozenset({"psnr", "ssim"})
FRAMES = 50
ALONE = "no controls (swap, wrong audio): they take two clips with different sound"
Made = tuple[Path, Path]
"""The folders clips/ and models/."""


@pytest.fixture(scope="module")
def made(talking_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    clips, models = folder / "clips", folder / "models"
    preprocess([talking_videos], clips)
    landmarks(clips)
    extract_audio_features(clips, "mfcc")
    train_a2lm(clips, models, epochs=1)
    train_lm2face(clips, models, frames_per_clip=4, epochs=1)
    return clips, models


@pytest.fixture
def own(made: Made, tmp_path: Path) -> Made:
    """A copy of the clips that a test may change."""
    shutil.copytree(made[0], tmp_path / "clips")
    return tmp_path / "clips", made[1]


@pytest.fixture(scope="module")
def scores(made: Made) -> Scores:
    return metrics(*made, LANDMARKS | PICTURES)


def the_clip(clips: Path, split: str = "test") -> Clip:
    return find_clips(clips, split)[0]


def test_ld_by_hand(made: Made, scores: Scores) -> None:
    clip, values = the_clip(made[0]), scores.values
    points, _ = clip.landmarks()
    pred, baseline = predict_clip(load_a2lm(made[1] / "a2lm.safetensors"), clip)
    ld, of_baseline = (
        100 * landmark_distance(p.numpy(), points[:, LOWER], face_width(points)) for p in (pred, baseline)
    )
    assert values["ld_percent"] == pytest.approx(ld, rel=1e-4)
    assert values["ld_baseline_percent"] == pytest.approx(of_baseline, rel=1e-4)
    assert values["ld_skill"] == pytest.approx(1 - ld / of_baseline, abs=1e-4)
    assert values["ld_baseline_px256"] == pytest.approx(of_baseline / 100 * 256 / 1.5, rel=1e-4)


def test_what_is_scored_and_said(made: Made, scores: Scores) -> None:
    assert len(scores.per_clip) == 1
    row = scores.per_clip[0]
    assert (row["clip"], row["frames"], row["frames_both_faces"]) == (the_clip(made[0]).id, FRAMES, FRAMES)
    for name in ("lvd_ratio", "lip_opening_r", "psnr_crop", "psnr_hull", "ssim_crop"):
        assert np.isfinite(row[name])
    # the rest of the crop is the truth's own, so the hull alone is always worse
    assert 10 < row["psnr_hull"] < row["psnr_crop"] < 60
    protocol = scores.protocol
    assert (protocol["split"], protocol["clips"], protocol["frames"]) == ("test", 1, FRAMES)
    for name in ("a2lm", "lm2face"):
        digest = hashlib.sha256((made[1] / f"{name}.safetensors").read_bytes()).hexdigest()[:16]
        assert protocol[name] == f"{made[1] / name}.safetensors sha256 {digest}"
    assert "mediapipe" in protocol["detector"]
    assert "mfcc" in protocol["stage_1"]
    assert scores.notes == [ALONE]
    assert json.loads(scores.to_json())["protocol"] == protocol


def test_a_perfect_stage_1(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def perfect(net: object, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
        truth = torch.from_numpy(clip.landmarks()[0][:, LOWER])
        return truth, truth + torch.tensor([3.0, 4.0])  # 5 px off

    monkeypatch.setattr(metrics_split, "predict_clip", perfect)
    values = metrics(*made, LANDMARKS).values
    assert values["ld_ratio"] == values["lvd_ratio"] == 0
    assert values["lip_opening_r"] == pytest.approx(1)
    assert values["ld_skill"] == 1
    width = face_width(the_clip(made[0]).landmarks()[0])
    assert values["ld_baseline_ratio"] == pytest.approx(float(np.mean(5 / width)), rel=1e-4)
    assert not any(name.startswith(("psnr", "ssim")) for name in values)


def test_fid_sees_the_true_and_the_blended_crops(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def embed(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(pictures.shape)
        return pictures.mean((1, 2), dtype=np.float64)

    given = Available(frozenset({"fid"}), frozenset({"fid"}), {"fid": "0" * 64}, [])
    monkeypatch.setattr("spear.stages.metrics.check_weights", lambda *_, **__: given)
    monkeypatch.setattr("spear.stages.metrics.load_judges", lambda *_: Judges(embed=embed))
    monkeypatch.setattr(metrics_split, "FrechetScore", lambda net: FrechetScore(net, width=3))
    calls: list[tuple[int, int, str]] = []
    found = metrics(*made, frozenset({"fid"}), progress=lambda *call: calls.append(call))
    assert set(found.values) == {"fid"}
    assert found.values["fid"] is not None
    assert sum(shape[0] for shape in seen) == 2 * 25  # of the clip's second half
    assert [call[0] for call in calls] == [33, 41, 49, 50, 50]
    assert found.notes[0] == "fid from 25 pictures is biased upwards: compare it only at equal counts, best above 2048"


def test_pictures_are_those_of_the_second_half(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """References are frames of the first one, so that none is compared with itself."""
    read: list[int] = []
    painted: list[Frame] = []

    class Watched(Painter):
        def __init__(self, net: Lm2Face, points: Array, of_clip: Callable[[list[int]], NDArray[np.uint8]]) -> None:
            super().__init__(net, points, lambda frames: (read.extend(frames), of_clip(frames))[1])

        def paint(self, crops: list[Frame], driven: Array, own: Array) -> list[tuple[Frame, Array]]:
            painted.extend(crops)
            return super().paint(crops, driven, own)

    monkeypatch.setattr(metrics_split, "Painter", Watched)
    found = metrics(*made, frozenset({"psnr"}))
    bank = load_lm2face(made[1] / "lm2face.safetensors").config.bank
    assert len(read) == bank == 24
    assert {*read} <= {*range(25)}
    truth = list(Footage(the_clip(made[0]).face_path).frames())
    assert np.array_equal(np.stack(painted), np.stack(truth[25:]))
    assert found.protocol["stage_2"] == (
        "each frame of the clip's second half painted from detected upper and predicted lower points and 24 references "
        "of the first half; blended into the true crop inside the lower face's hull"
    )


@pytest.mark.parametrize("frames", [1, 3])
def test_short_clips_have_pictures_too(frames: int, made: Made, tmp_path: Path) -> None:
    """One of a single frame is its own reference."""
    make_clip(tmp_path / "clips" / "short", frames, split="test")
    found = metrics(tmp_path / "clips", made[1], PICTURES)
    assert found.per_clip[0]["frames"] == frames
    assert found.values["psnr_hull"] > 10


def test_frames_without_a_face_are_left_out(own: Made) -> None:
    clip = the_clip(own[0])
    points, confidence = clip.landmarks()
    confidence[[10, 20, *range(30, 33)]] = 0
    clip.write_landmarks(points, confidence, {"detector": "made up"})
    found = metrics(*own, frozenset({"ld", "psnr"}))
    assert (found.per_clip[0]["frames"], found.per_clip[0]["frames_both_faces"]) == (FRAMES, FRAMES - 5)
    assert found.notes == [
        f"{clip.id}: no face in 5 of 50 frames of the truth; not in LD and LVD",
        f"{clip.id}: no face in 3 of 25 frames; not in psnr_crop, psnr_hull",  # of the second half
        ALONE,
    ]
    assert found.protocol["detector"] == "made up; on the 256x256 face crops"


def test_clips_that_cannot_be_scored_are_told(own: Made) -> None:
    clips = {clip.id: clip for clip in find_clips(own[0])}
    test = the_clip(own[0])
    others = [clip for name, clip in clips.items() if name != test.id]
    for clip in others:
        clip.write_info(replace(clip.info, split="test"))
    mute, odd, damaged = others
    mute.landmarks_path.unlink()
    odd.write_features("mfcc", odd.features("mfcc"), {"encoder": "mfcc", "version": -1})
    damaged.face_path.write_bytes(b"no video")
    found = metrics(*own, LANDMARKS | PICTURES)
    assert [row["clip"] for row in found.per_clip] == [test.id]
    assert found.notes[:2] == [
        f"left out: {mute.id}: no landmarks.safetensors in {mute.folder}; run `spear landmarks` first",
        f"left out: {odd.id}: {odd.features_path('mfcc')} was made with other settings than a2lm was trained on; "
        "run `spear extract-audio-features --encoder mfcc` with the weights of the training",
    ]
    assert found.notes[2].startswith(f"left out: {damaged.id}: {damaged.face_path}")
    assert found.protocol["clips"] == 1


def test_a_short_video_is_told(own: Made, tiny_video: Path) -> None:
    clip = the_clip(own[0])
    points, confidence = clip.landmarks()
    settings = clip.features("mfcc", 0, 50)
    clip.write_info(replace(clip.info, frames=60))
    longer = np.concatenate([points, points[:10]])
    clip.write_landmarks(longer, np.ones(60, np.float32), {"detector": "made up"})
    about = load_a2lm(own[1] / "a2lm.safetensors").config.encoder_settings
    clip.write_features("mfcc", torch.cat([settings, settings[:10]]), about)
    with pytest.raises(SpearError) as error:
        metrics(*own, PICTURES)
    assert str(error.value) == (
        f"{clip.face_path} has 50 frames, clip.json says 60; delete that folder and run `spear preprocess`"
    )
    assert confidence.shape == (50,)


def test_the_other_splits_carry_a_warning(made: Made) -> None:
    found = metrics(*made, LANDMARKS, split="val")
    assert found.protocol["split"] == "val"
    assert found.notes == [
        ALONE,
        "the models were made with the val split; only the test split tells how they do on new clips",
    ]


def test_all_splits_together(made: Made, own: Made) -> None:
    found = metrics(*made, LANDMARKS, split="all")
    assert [row["clip"] for row in found.per_clip] == [f"talker_{i}" for i in range(4)]
    tail = "only clips that the training did not see tell how the models do on new clips"
    assert found.notes == [f"all splits together (2 of the 4 clips are of the train split); {tail}"]
    for clip in find_clips(own[0]):
        clip.write_info(replace(clip.info, split="test"))
    assert metrics(*own, LANDMARKS, split="all").notes == [f"all splits together; {tail}"]


def test_the_controls_stand_beside_the_scores(made: Made) -> None:
    found = metrics(*made, LANDMARKS, split="all")
    expected = controls(load_a2lm(made[1] / "a2lm.safetensors"), find_clips(made[0]))
    assert len(found.pairs) == len(expected.pairs) == 4
    for name in ("swap_r_audio", "swap_r_pose", "wrong_audio_effect"):
        assert found.values[name] == pytest.approx(expected.values[name], abs=1e-6)
    assert found.protocol["controls"].startswith("4 pairs, each clip's audio with pose and references of another clip")
    assert metrics(*made, frozenset({"psnr"})).pairs == []


def test_by_emotion(own: Made) -> None:
    for clip, emotion in zip(find_clips(own[0]), ("happy", "angry", None, "happy"), strict=True):
        clip.write_info(replace(clip.info, split="test", emotion=emotion))
    found = metrics(*own, LANDMARKS, by="emotion")
    assert list(found.groups) == ["angry", "happy", "unknown"]
    assert [(group["clips"], group["frames"]) for group in found.groups.values()] == [(1, 50), (2, 100), (1, 50)]
    assert [row["emotion"] for row in found.per_clip] == ["happy", "angry", None, "happy"]
    assert [row["speaker"] for row in found.per_clip] == [clip.info.speaker for clip in find_clips(own[0])]
    happy = [found.per_clip[i]["ld_percent"] for i in (0, 3)]
    assert found.groups["happy"]["ld_percent"] == pytest.approx(sum(happy) / 2)  # of equal length
    assert found.groups["angry"]["lip_opening_r"] == pytest.approx(found.per_clip[1]["lip_opening_r"])
    assert json.loads(found.to_json())["groups"]["unknown"]["clips"] == 1
    assert found.protocol["by"] == "emotion"
    assert metrics(*own, LANDMARKS).groups == {}


def test_errors(made: Made, tmp_path: Path) -> None:
    clips, models = made
    with pytest.raises(SpearError) as error:
        metrics(clips, tmp_path, LANDMARKS)
    tail = "first, or give a folder with --models"
    assert str(error.value) == f"no a2lm.safetensors in {tmp_path}; run `spear train-a2lm` {tail}"
    shutil.copy(models / "a2lm.safetensors", tmp_path)
    with pytest.raises(SpearError) as error:
        metrics(clips, tmp_path, PICTURES)
    assert str(error.value) == f"no lm2face.safetensors in {tmp_path}; run `spear train-lm2face` {tail}"
    assert metrics(clips, tmp_path, LANDMARKS).values["ld_skill"] is not None  # the second net is not needed for LD
    with pytest.raises(SpearError) as error:
        metrics(clips, models, LANDMARKS, split="exam")
    assert str(error.value) == "--split exam is not one of train, val, test, all"
    with pytest.raises(SpearError) as error:
        metrics(clips, models, LANDMARKS, by="age")
    assert str(error.value) == "--by age is not one of emotion, speaker"
    with pytest.raises(SpearError, match="unknown score lips"):
        metrics(clips, models, frozenset({"lips"}))
    with pytest.raises(SpearError, match=r"is not a folder; run `spear preprocess VIDEOS` first"):
        metrics(tmp_path / "none", models, LANDMARKS)


def test_on_the_command_line(made: Made) -> None:
    options = ["metrics", "--clips", str(made[0]), "--models", str(made[1]), "--ld"]
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["protocol"]["split"] == "test"
    people = CliRunner().invoke(app, options)
    assert people.exit_code == 0
    assert "LD of the baseline" in people.stdout
    assert "by speaker" in CliRunner().invoke(app, [*options, "--by", "speaker"]).stdout
    pair = CliRunner().invoke(app, ["metrics", "out.mp4", "truth.mp4", "--by", "speaker"])
    assert pair.exit_code == 2
    assert pair.stderr == (
        "error: invalid value: --by is for the clips of a split; leave it out for two videos; "
        "see `spear metrics --help`\n"
    )


def test_the_first_of_several_processes_finds_all_scores_in_the_cache(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where figures bring a score that was not asked for. Here both shares are done by this process."""

    def in_shares(score: Callable[[Workers, bool], Scores], workers: Workers) -> Scores:
        with monkeypatch.context() as patch:
            for index in range(2):
                with suppress(SpearError):  # a share may have no clip
                    score(replace(workers, shard=Shard(index, 2)), False)
            patch.setattr("spear.stages.metrics.score_clip", None)
            return score(workers, True)

    monkeypatch.setattr("spear.ranks.scored_by_ranks", in_shares)
    options = ["metrics", "--clips", str(made[0]), "--models", str(made[1]), "--split", "all", "--psnr", "--json"]
    for more in ([], ["--figures", str(tmp_path / "figures")]):
        done = CliRunner().invoke(app, [*options, *more], catch_exceptions=False)
        assert json.loads(done.stdout)["protocol"]["clips"] == 4
    assert len(list((tmp_path / "figures").glob("*.mp4"))) == 4


def test_blend_by_hand() -> None:
    face, crop = np.full((1, 3, 3), 200, np.uint8), np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 0.25, 1]], np.float32)
    assert blend(crop, face, mask)[0, :, 0].tolist() == [100, 125, 200]
    assert blend(face, crop, mask)[0, :, 0].tolist() == [200, 175, 100]
