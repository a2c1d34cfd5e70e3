"""What every score does when the truth is changed in one known way: the table that a reader may check by hand.

                LD           LVD    LMD (Chen)   lips: r, lag   PSNR, SSIM      sync lag
nothing         0            0      0            1, 0           100 dB, 1       as the truth's
one frame late  up           up     up           less, +1       down            one frame earlier
one pixel right 1 px         ~0     ~0 (centred) ~1, 0          down            as the truth's
brighter by 10  ~0           ~0     ~0           ~1, 0          28.1 dB, down   as the truth's
closed mouth    up           up     up           ~0             down            not told
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import talker

from spear.face import FaceTracker
from spear.points import face_width
from spear.scores.compare import Scores
from spear.stages.metrics_videos import compare_videos
from spear.video import Footage, Frame, VideoWriter
from spear.workers import Workers

WHICH = frozenset({"ld", "lvd", "lmd", "psnr", "ssim", "sync"})
SECONDS = 4.0
KINDS = ("nothing", "one frame late", "one pixel right", "brighter by 10", "closed mouth")


def changed(frames: list[Frame], kind: str) -> list[Frame]:
    if kind == "one frame late":
        return [frames[0], *frames[:-1]]
    if kind == "one pixel right":
        right = np.array([[1.0, 0, 1], [0, 1, 0]])
        return [cv2.warpAffine(f, right, f.shape[1::-1], borderMode=cv2.BORDER_REPLICATE) for f in frames]
    if kind == "brighter by 10":
        return [cv2.add(frame, np.full_like(frame, 10)) for frame in frames]
    return [frames[0]] * len(frames) if kind == "closed mouth" else frames


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talker(tmp_path_factory.mktemp("truth") / "talker.mp4", seed=3, seconds=SECONDS)


@pytest.fixture(scope="module")
def found(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scores]:
    folder = tmp_path_factory.mktemp("changed")
    frames = list(Footage(truth).frames())
    for kind in KINDS:
        path = folder / f"{kind}.mp4"
        if kind == "nothing":
            shutil.copy(truth, path)
            continue
        with VideoWriter(path, frames[0].shape[1], frames[0].shape[0], truth, crf=8) as writer:
            for frame in changed(frames, kind):
                writer.write(frame)
    return {kind: compare_videos(folder / f"{kind}.mp4", truth, WHICH, workers=Workers(2)) for kind in KINDS}


def of(found: dict[str, Scores], kind: str) -> dict[str, Any]:
    return found[kind].values


def test_nothing_changed_is_perfect(found: dict[str, Scores]) -> None:
    values = of(found, "nothing")
    for name in ("ld_percent", "ld_lips_percent", "lvd_percent", "lvd_lips_percent", "lvd_squared_percent", "lmd_chen"):
        assert values[name] == 0
    for name in ("lip_opening_r", "lip_opening_best_r", "lip_opening_amplitude", "ssim_full", "ssim_crop"):
        assert values[name] == pytest.approx(1, abs=1e-9)
    assert (values["psnr_full"], values["psnr_crop"]) == (100, 100)
    assert values["sync_lag_ms"] == values["sync_truth_lag_ms"]
    assert values["sync_r"] == values["sync_truth_r"] > 0.5
    rest = [note for note in found["nothing"].notes if not note.startswith("left out: ")]
    assert [note.split(": ")[1][:11] for note in rest] == ["sync_lag_ms"]  # four seconds are too few to be certain


def test_one_frame_late(found: dict[str, Scores]) -> None:
    values = of(found, "one frame late")
    for name in ("ld_percent", "ld_lips_percent", "lvd_percent", "lmd_chen"):
        assert values[name] > 2 * of(found, "brighter by 10")[name]
    assert values["ld_lips_percent"] > values["ld_percent"]  # the lips move most
    assert values["lip_opening_r"] < 0.95 < values["lip_opening_best_r"]
    assert values["lip_opening_best_lag_frames"] == 1
    assert values["psnr_crop"] < 40
    assert values["ssim_crop"] < 0.999
    # the pictures are late, so the same sound is early, by the 40 ms of a frame
    assert values["sync_lag_ms"] == values["sync_truth_lag_ms"] - 40


def test_one_pixel_to_the_right(found: dict[str, Scores], truth: Path) -> None:
    values = of(found, "one pixel right")
    with FaceTracker() as tracker:
        points = tracker(next(Footage(truth).frames()))
    assert points is not None
    assert values["ld_ratio"] == pytest.approx(1 / float(face_width(points)), rel=0.1)
    assert values["lmd_chen"] < 0.3 * values["ld_px256"]  # about its own mean a mouth has not moved
    assert values["lip_opening_r"] > 0.98
    assert values["lip_opening_best_lag_frames"] == 0
    assert values["psnr_full"] < 35
    assert values["ssim_full"] < 0.99
    assert values["sync_lag_ms"] == values["sync_truth_lag_ms"]


def test_brighter(found: dict[str, Scores]) -> None:
    values = of(found, "brighter by 10")
    # 10 log10(255^2 / 10^2) = 28.13 dB, a little more where white is full
    assert values["psnr_full"] == pytest.approx(28.13, abs=0.6)
    assert 0.9 < values["ssim_full"] < 0.999
    assert values["ld_percent"] < of(found, "one pixel right")["ld_percent"] / 2
    assert values["lip_opening_r"] > 0.98
    assert values["sync_lag_ms"] == values["sync_truth_lag_ms"]


def test_a_mouth_that_does_not_move(found: dict[str, Scores]) -> None:
    values, late = of(found, "closed mouth"), of(found, "one frame late")
    assert values["ld_percent"] > late["ld_percent"]
    assert abs(values["lip_opening_r"]) < 0.5
    assert values["lip_opening_amplitude"] < 0.2
    assert values["lmd_chen"] > of(found, "one pixel right")["lmd_chen"]


def test_shards_are_the_whole(truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals are the means of all frames to 1e-9, on one process or two."""
    for folder in ("true", "pred"):
        (tmp_path / folder).mkdir()
    frames = list(Footage(truth).frames(0, 60))
    for name, kind, count in (("a", "one pixel right", 60), ("b", "brighter by 10", 30)):
        shutil.copy(truth, tmp_path / "true" / f"{name}.mp4")
        with VideoWriter(tmp_path / "pred" / f"{name}.mp4", 320, 320, crf=8) as writer:
            for frame in changed(frames[:count], kind):
                writer.write(frame)
    which = WHICH - {"sync"}
    one = compare_videos(tmp_path / "pred", tmp_path / "true", which)
    rows = {row["clip"]: row for row in one.per_clip}
    assert list(rows) == ["a", "b"]
    for name in ("psnr_full", "ssim_crop", "ld_percent", "lmd_chen"):
        assert one.values[name] == pytest.approx((60 * rows["a"][name] + 30 * rows["b"][name]) / 90, abs=1e-9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    two = compare_videos(tmp_path / "pred", tmp_path / "true", which, workers=Workers(2))
    assert (two.values, two.per_clip, two.intervals) == (one.values, one.per_clip, one.intervals)
    calls: list[tuple[int, int, str]] = []
    again = compare_videos(tmp_path / "pred", tmp_path / "true", which, progress=lambda *call: calls.append(call))
    assert again.to_json() == two.to_json()
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]


def test_threads_change_no_byte(truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker sees its frames in order on any number of threads, a face that comes late included."""
    frames = [np.full((320, 320, 3), 90, np.uint8)] * 11 + list(Footage(truth).frames(0, 45))
    with VideoWriter(tmp_path / "late.mp4", 320, 320, crf=8) as writer:
        for frame in frames:
            writer.write(frame)
    found = []
    for jobs in (1, 4):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(jobs)))
        which = frozenset({"ld", "psnr"})
        found.append(compare_videos(tmp_path / "late.mp4", truth, which, workers=Workers(jobs)).to_json())
    assert found[0] == found[1]


def test_what_is_finished_is_not_done_again(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare_videos(truth, truth, frozenset({"psnr"}))
    monkeypatch.setattr("spear.stages.metrics_videos.score_videos", None)  # would fail if it were called
    assert compare_videos(truth, truth, frozenset({"psnr"})).to_json() == first.to_json()
    with pytest.raises(TypeError):
        compare_videos(truth, truth, frozenset({"ssim"}))
