"""`spear metrics PRED TRUTH` on small lossless videos of a real face: perfect, shifted, late, short, faceless."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from spear.errors import SpearError
from spear.face import FaceTracker
from spear.points import face_width
from spear.pretrained.inception import Inception
from spear.stages.metrics_videos import compare_videos

LANDMARKS = frozenset({"ld", "lvd"})
PICTURES = frozenset({"psnr", "ssim"})
EVERY = "--ld, --lvd, --psnr, --ssim, --fid, --lpips, --lmd, --csim, --sync"
FRAMES = 10


def write(path: Path, frames: Iterable[np.ndarray]) -> Path:
    """A lossless RGB video at 25 fps."""
    with av.open(str(path), "w") as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264rgb", rate=25, options={"crf": "0", "preset": "ultrafast"})
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "rgb24"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        assert stream is not None
        container.mux(stream.encode())
    return path


def talking(count: int = FRAMES, shift: int = 0) -> list[np.ndarray]:
    """A real face whose chin and mouth are stretched up and down, `shift` px to the right."""
    face = astronaut()[:300, 70:370]
    rows, columns = np.mgrid[:300, :300].astype(np.float32)
    below = np.clip((rows - 135) / 50, 0, 1)
    frames = []
    for frame in range(count):
        moved = (rows - 10 * below * abs(np.sin(frame * 1.1))).astype(np.float32)
        frames.append(cv2.remap(face, columns - shift, moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return frames


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("truth") / "truth.mkv", talking())


def test_truth_against_truth_is_perfect(truth: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    scores = compare_videos(truth, truth, LANDMARKS | PICTURES, progress=lambda *call: calls.append(call))
    values = scores.values
    for name in ("ld_ratio", "ld_percent", "ld_px256", "lvd_ratio", "lvd_squared_px256"):
        assert values[name] == 0
    assert values["lip_opening_r"] == pytest.approx(1)
    assert values["lip_opening_amplitude"] == 1
    assert values["lip_opening_best_r"] == pytest.approx(1)
    assert values["lip_opening_best_lag_frames"] == 0
    assert (values["psnr_full"], values["psnr_crop"]) == (100, 100)
    assert values["ssim_full"] == pytest.approx(1)
    assert values["ssim_crop"] == pytest.approx(1)
    assert scores.notes == []
    row = scores.per_clip[0]
    assert (row["clip"], row["frames"], row["frames_both_faces"]) == ("truth.mkv", FRAMES, FRAMES)
    assert (row["frames_pred"], row["frames_truth"]) == (FRAMES, FRAMES)
    assert calls[-1] == (FRAMES, FRAMES, "frames compared")
    assert json.loads(scores.to_json())["values"] == values
    assert scores.protocol["fps"] == 25
    assert "57 points" in scores.protocol["ld"]


def test_a_shift_of_four_pixels(truth: Path, tmp_path: Path) -> None:
    scores = compare_videos(write(tmp_path / "p.mkv", talking(shift=4)), truth, LANDMARKS | PICTURES)
    with FaceTracker() as tracker:
        points = tracker(talking()[0])
    assert points is not None
    # every point is 4 px away: LD = 4 / width, to the precision of the face detector
    assert scores.values["ld_ratio"] == pytest.approx(4 / float(face_width(points)), rel=0.15)
    assert scores.values["lip_opening_r"] is not None
    assert scores.values["lip_opening_r"] > 0.8
    for name in ("psnr_full", "psnr_crop"):
        value = scores.values[name]
        assert value is not None
        assert 10 < value < 40


def test_two_frames_late(truth: Path, tmp_path: Path) -> None:
    frames = talking()
    pred = write(tmp_path / "late.mkv", [frames[0], frames[0], *frames[:-2]])
    values = compare_videos(pred, truth, frozenset({"lvd"})).values
    assert values["lip_opening_best_lag_frames"] == 2
    best, r, velocity = values["lip_opening_best_r"], values["lip_opening_r"], values["lvd_percent"]
    assert best is not None
    assert r is not None
    assert velocity is not None
    assert best > max(r, 0.9)
    assert velocity > 0


def test_pictures_by_hand_and_length_mismatch(truth: Path, tmp_path: Path) -> None:
    brighter = [np.clip(frame.astype(int) + 5, 0, 255).astype(np.uint8) for frame in talking()[:4]]
    scores = compare_videos(write(tmp_path / "p.mkv", brighter), truth, frozenset({"psnr"}))
    # nearly every sample off by 5: 10 log10(255^2 / 25) = 34.15 dB
    assert scores.values["psnr_full"] == pytest.approx(34.15, abs=0.5)
    assert set(scores.values) == {"psnr_full", "psnr_crop"}
    assert scores.notes == [
        "p.mkv: the lengths differ: prediction 4, truth 10 frames at 25 fps; the first 4 were compared"
    ]
    assert (scores.per_clip[0]["frames_pred"], scores.per_clip[0]["frames_truth"]) == (4, 10)


def test_frames_without_a_face_are_reported(truth: Path, tmp_path: Path) -> None:
    frames = talking()
    frames[5:7] = [np.zeros_like(frames[0])] * 2
    pred = write(tmp_path / "gap.mkv", frames)
    scores = compare_videos(pred, truth, LANDMARKS)
    assert scores.per_clip[0]["frames_without_face_pred"] == 2
    assert scores.notes == ["gap.mkv: no face in 2 of 10 frames of the prediction; not in LD and LVD"]
    swapped = compare_videos(truth, pred, PICTURES)
    assert swapped.notes == ["truth.mkv: no face in 2 of 10 frames; not in psnr_crop, ssim_crop"]


def test_no_face_anywhere(tmp_path: Path) -> None:
    grey = write(tmp_path / "grey.mkv", [np.full((64, 64, 3), 90, np.uint8)] * 3)
    scores = compare_videos(grey, grey, LANDMARKS | PICTURES)
    assert scores.values["psnr_full"] == 100
    assert scores.values["ld_ratio"] is None
    assert scores.values["ssim_crop"] is None
    assert json.loads(scores.to_json())["values"]["ld_ratio"] is None
    assert any("no face in 3 of 3 frames of the truth" in note for note in scores.notes)


def test_padding_of_odd_sizes_is_cut_off(tmp_path: Path) -> None:
    frames = [frame[:299, :297] for frame in talking(2)]
    truth = write(tmp_path / "odd.mkv", frames)
    pred = write(tmp_path / "even.mkv", [np.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge") for frame in frames])
    scores = compare_videos(pred, truth, frozenset({"psnr"}))
    assert scores.values["psnr_full"] == 100
    assert scores.notes == [
        "even.mkv: the prediction was padded to an even size; the padding was cut off before comparing"
    ]


def test_other_sizes_are_refused(truth: Path, tmp_path: Path) -> None:
    pred = write(tmp_path / "small.mkv", [frame[:200] for frame in talking(1)])
    with pytest.raises(SpearError) as error:
        compare_videos(pred, truth, PICTURES)
    assert str(error.value) == (
        f"{pred} is 300x200, {truth} is 300x300: not the same picture; crop or pad one of them to the other first"
    )


@pytest.mark.parametrize(("which", "problem"), [({"ld", "lips"}, "unknown score lips"), (set(), "no score was chosen")])
def test_scores_are_checked(truth: Path, which: set[str], problem: str) -> None:
    with pytest.raises(SpearError) as error:
        compare_videos(truth, truth, frozenset(which))
    assert str(error.value) == f"{problem}; give some of {EVERY}"


def test_fid(truth: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.pth"
    torch.save(Inception().state_dict(), weights)
    scores = compare_videos(truth, write(tmp_path / "p.mkv", talking(3)), frozenset({"fid"}), inception_weights=weights)
    assert scores.values == {"fid": pytest.approx(0, abs=1e-6)}  # lossless copies of the same three frames
    assert scores.intervals == {}
    assert scores.notes[1] == "fid from 3 pictures is biased upwards: compare it only at equal counts, best above 2048"
    assert scores.notes[2].startswith("fid is not comparable: the Inception weights have SHA-256 ")
    assert len(scores.protocol["weights of fid"]) == len("sha256 ") + 64


def test_fid_without_weights_says_so_before_any_work(tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    with pytest.raises(SpearError, match="no Inception weights at"):
        compare_videos(tmp_path / "no.mp4", tmp_path / "no.mp4", frozenset({"fid"}), inception_weights=missing)
