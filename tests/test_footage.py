"""The chain on three clips of real footage, two of one man and one of another: seven commands, seconds of training."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import done, forked_spear
from safetensors import safe_open

from spear.audio import load_audio
from spear.video import Footage

CLIPS = {
    "s1_a": "train/grid_s1/s1_bbaf2n.mpg",
    "s1_b": "train/grid_s1/s1_bbal6n.mpg",
    "s22": "dev/grid_s22_bbad1n.mpg",
}
FRAMES = 75


@pytest.fixture(scope="module")
def real(footage_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the chain was run on real footage."""
    folder = tmp_path_factory.mktemp("footage")
    (folder / "videos").mkdir()
    for name, path in CLIPS.items():
        shutil.copy(footage_dir / path, folder / "videos" / f"{name}.mpg")
    speech = next(footage_dir.joinpath("speech").glob("*jfk.flac"))
    for command in (
        "preprocess videos",
        "extract-audio-features --encoder mfcc",
        "landmarks",
        "train-a2lm --epochs 2",
        "train-lm2face --epochs 1 --frames-per-clip 4",
        f"render --audio {speech} --ref videos/s22.mpg -o foreign.mp4",
        "render --audio videos/s22.mpg --ref videos/s22.mpg -o out.mp4",
    ):
        done(forked_spear(*command.split(), cwd=folder))
    return folder


@pytest.mark.footage
def test_the_face_is_found_in_every_frame(real: Path) -> None:
    for name in CLIPS:
        info = json.loads((real / "clips" / name / "clip.json").read_text())
        assert (info["frames"], info["missing"]) == (FRAMES, [])
        with safe_open(real / "clips" / name / "landmarks.safetensors", framework="np") as file:
            points, confidence = file.get_tensor("points"), file.get_tensor("confidence")
        assert points.shape == (FRAMES, 131, 2)
        assert np.isfinite(points).all()
        assert (confidence == 1).all()
        # cheek to cheek is two thirds of the crop, the definition of its size; turned heads are narrower
        width = np.linalg.norm(points[:, 0] - points[:, 4], axis=1)
        assert ((width > 130) & (width < 200)).all()


@pytest.mark.footage
def test_late_sound_is_found(footage_dir: Path, tmp_path: Path) -> None:
    """This address is about five frames late, as its place in the manifest says."""
    done(forked_spear("preprocess", str(footage_dir / "train/wild/obama_weekly_address_lia.mov"), cwd=tmp_path))
    info = json.loads((tmp_path / "clips" / "obama_weekly_address_lia" / "clip.json").read_text())
    assert info["av_offset"] in (4, 5, 6)
    assert info["av_offset_r"] > 0.4


@pytest.mark.footage
def test_three_seconds_in_time_are_left_alone(real: Path) -> None:
    for name in CLIPS:
        assert json.loads((real / "clips" / name / "clip.json").read_text())["av_offset"] == 0


@pytest.mark.footage
def test_the_rendered_video_plays(real: Path) -> None:
    for name, seconds in (("foreign.mp4", 11.0), ("out.mp4", 2.978)):  # its audio is shorter than its pictures
        video = Footage(real / name)
        shapes = [frame.shape for frame in video.frames()]
        assert shapes == [(288, 360, 3)] * round(seconds * 25)
        assert load_audio(real / name).size == pytest.approx(seconds * 16000, abs=640)


@pytest.mark.footage
def test_only_the_lower_face_is_another_one(real: Path) -> None:
    """The eyes and the corners of the picture are the ref's, but for what the video codec does to them."""
    made, ref = (next(Footage(real / name).frames(40, 41)).astype(float) for name in ("out.mp4", "videos/s22.mpg"))
    assert np.abs(made[:100] - ref[:100]).mean() < 2
    assert np.abs(made[-40:, :60] - ref[-40:, :60]).mean() < 2


@pytest.mark.footage
def test_the_scores_are_finite(real: Path) -> None:
    split = json.loads(done(forked_spear("metrics", "--json", cwd=real)))["values"]
    pair = json.loads(done(forked_spear("metrics", "out.mp4", "videos/s22.mpg", "--json", cwd=real)))["values"]
    for scores in (split, pair):
        assert all(math.isfinite(value) for value in scores.values() if value is not None)
        assert 0 < scores["ld_percent"] < 30
    assert pair["psnr_full"] > 25
