"""Windows of the small preset: copies, late sound and silence meet the right pictures, and no mouth leaks in."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from made_up import face, make_clip, track
from torch import Tensor

from spear import dataset
from spear.clip import Clip
from spear.dataset import SpeechWindows
from spear.nets.a2lm import A2LMConfig
from spear.points import LOWER, Array, lip_opening

SMALL = A2LMConfig("mfcc", {}, (1, 2), pose="raw", window=10, references=4)
PAPER = replace(A2LMConfig.paper(encoder="mfcc", encoder_settings={}, feature_shape=(1, 2)), window=10, references=4)
SPEEDS = (0.84, 1.19)
PLAIN, SILENT = -1, -2
"""What the features say beside their number: that they are of the speech itself, or of silence; else of which copy."""
START = float(face()[74, 0])
"""Where the jaw's first point is in frame 0."""


def _rows(count: int, of: int) -> Tensor:
    return torch.stack([torch.arange(float(count)), torch.full((count,), float(of))], -1)[:, None]


def _clip(folder: Path, points: Array | int = 60, late: int = 0, copies: bool = True) -> Clip:
    """A clip that tells where a sample is from: all points of frame f lie f px to the right, row j of the features says
    j and of which copy. points: others, or how many frames."""
    if isinstance(points, int):
        points = np.stack([face(10, (128.0 + f, 120.0)) for f in range(points)])
    clip, frames = make_clip(folder, points=points), len(points)
    changed = [(_rows(round(frames / speed), of), speed) for of, speed in enumerate(SPEEDS)]
    clip.write_features("mfcc", _rows(frames, PLAIN), {}, changed if copies else (), _rows(75, SILENT))
    clip.write_info(replace(clip.info, av_offset=late, av_offset_r=0.5))
    return clip


class Window(NamedTuple):
    of: int
    rows: list[int]
    frames: list[float]
    """Of the truth."""
    head: list[float]
    real: list[bool]


def _windows(clip: Clip, config: A2LMConfig = SMALL, epochs: int = 40) -> list[Window]:
    data = SpeechWindows([clip], config, seed=0)
    samples = [data[epoch, index] for epoch in range(epochs) for index in range(len(data))]
    return [
        Window(
            int(sample["features"][0, 0, 1]),
            [int(row) for row in sample["features"][:, 0, 0]],
            (sample["truth"][:, 0, 0] - START).tolist(),
            (sample["head"][:, 0, 0] - float(face()[0, 0])).tolist(),
            sample["real"].tolist(),
        )
        for sample in samples
    ]


def test_copies_are_counted(tmp_path: Path) -> None:
    clips = [_clip(tmp_path / "a", 5), _clip(tmp_path / "b", 5), _clip(tmp_path / "c", 5, copies=False)]
    assert SpeechWindows(clips, SMALL, seed=0).copies == 4
    assert SpeechWindows(clips, PAPER, seed=0).copies == 0  # the paper knows none


def test_windows_are_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    clip = _clip(tmp_path / "a")
    data, again, other = (SpeechWindows([Clip(clip.folder)], SMALL, seed) for seed in (0, 0, 1))
    assert len(data) == 6
    first = {(epoch, i): data[epoch, i] for epoch in range(4) for i in range(6)}
    for place in reversed(first):
        sample = again[place]
        assert all(torch.equal(value, sample[name]) for name, value in first[place].items())
        assert not torch.equal(other[place]["pose"], sample["pose"])
    poses = [sample["pose"] for sample in first.values()]
    assert not any(torch.equal(one, two) for one, two in pairwise(poses))


def test_half_of_the_windows_are_of_changed_copies_and_a_tenth_are_silent(tmp_path: Path) -> None:
    count = [window.of for window in _windows(_clip(tmp_path / "a"), epochs=100)]  # 600 windows
    assert 0.05 < count.count(SILENT) / 600 < 0.15
    assert 0.35 < count.count(PLAIN) / 600 < 0.55
    assert all(0.15 < count.count(of) / 600 < 0.3 for of in (0, 1))


def test_without_copies_all_is_the_speech_itself(tmp_path: Path) -> None:
    assert {window.of for window in _windows(_clip(tmp_path / "a", copies=False))} == {PLAIN}
    assert {window.of for window in _windows(_clip(tmp_path / "b"), PAPER)} == {PLAIN}


@pytest.mark.parametrize("late", [0, 3, -4])
def test_each_row_meets_the_moment_of_the_video_in_which_it_is_heard(tmp_path: Path, late: int) -> None:
    """Row j of a copy of speed s, sound late by d: frame (j + 1/2) s - 1/2 - d, in between by linear interpolation."""
    speeds = {PLAIN: 1.0, 0: 0.84, 1: 1.19}
    met: dict[int, dict[int, float]] = {of: {} for of in speeds}
    for window in _windows(_clip(tmp_path / "a", late=late), epochs=400):
        if window.of == SILENT:
            continue
        expected = [(row + 0.5) * speeds[window.of] - 0.5 - late for row in window.rows]
        assert window.frames == pytest.approx(expected, abs=1e-3)
        assert all(window.real)
        assert all(after == before + 1 for before, after in pairwise(window.rows))
        assert min(expected) >= 0
        assert max(expected) <= 59
        inner = [(h, e) for h, e in zip(window.head, expected, strict=True) if 4 <= e <= 55]
        assert all(h == pytest.approx(e, abs=1e-2) for h, e in inner)  # beyond it a smoothed line bends
        met[window.of] |= dict(zip(window.rows, expected, strict=True))
    # every row of which there is a picture comes up
    for of, speed in speeds.items():
        count = 60 if of == PLAIN else int(60 / speed)
        assert set(met[of]) == {j for j in range(count) if 0 <= (j + 0.5) * speed - 0.5 - late <= 59}
    # by hand: (10 + 1/2) * 0.84 - 1/2 = 8.32 and (10 + 1/2) * 1.19 - 1/2 = 11.995, less what the sound is late
    for of, frame in ((PLAIN, 10.0), (0, 8.32), (1, 11.995)):
        assert met[of][10] == pytest.approx(frame - late)


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["small", "paper"])
def test_late_sound_is_corrected_unless_that_is_not_wanted(config: A2LMConfig, tmp_path: Path) -> None:
    clip = _clip(tmp_path / "a", late=3, copies=False)
    for window in _windows(clip, config):
        assert [row - frame for row, frame in zip(window.rows, window.frames, strict=True)] == pytest.approx([3] * 10)
    for window in _windows(clip, replace(config, av_align=False)):
        assert window.rows == pytest.approx(window.frames)


def test_a_short_clip_is_held_at_its_last_row(tmp_path: Path) -> None:
    # 9 frames. At speed 0.84 row 0 would be at frame -0.08; rows 1 to 9 are at 0.76 to 7.48. At speed 1.19 there are 7
    # whole rows, the last at 7.235
    found = {window.of: window for window in _windows(_clip(tmp_path / "a", 9), replace(SMALL, window=12))}
    for of, rows, last in ((PLAIN, range(9), 8.0), (0, range(1, 10), 7.48), (1, range(7), 7.235)):
        window, held = found[of], 12 - len(rows)
        assert window.rows == [*rows, *[rows[-1]] * held]
        assert window.frames[len(rows) - 1 :] == pytest.approx([last] * (held + 1), abs=1e-3)
        assert window.real == [True] * len(rows) + [False] * held


@pytest.mark.parametrize("late", [8, 9, 30, -8, -9, -30])
def test_sound_that_is_as_late_as_the_clip_is_long_is_held_too(late: int, tmp_path: Path) -> None:
    """As in `Clip.speech`: the last row meets the first frame, or the first row the last frame."""
    window = _windows(_clip(tmp_path / "a", 9, late, copies=False), epochs=1)[0]
    row, frame = (8, 0) if late > 0 else (0, 8)
    assert window.rows == [row] * 10
    assert window.frames == pytest.approx([frame] * 10)
    assert window.real == [True] + [False] * 9


def test_pose_and_references_tremble_and_the_answer_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point by about half a pixel; the pose by the same in all frames of a window, as a steady head does."""
    data = SpeechWindows([_clip(tmp_path / "a", track(40))], SMALL, seed=0)
    samples = [data[epoch, index] for epoch in range(3) for index in range(4)]
    monkeypatch.setattr(dataset, "_TREMBLE", 0.0)
    plain = [data[epoch, index] for epoch in range(3) for index in range(4)]
    off: dict[str, list[Tensor]] = {"pose": [], "references": []}
    for sample, expected in zip(samples, plain, strict=True):
        for name in ("features", "heard", "truth", "head", "real"):
            assert torch.equal(sample[name], expected[name])
        pose = sample["pose"] - expected["pose"]
        torch.testing.assert_close(pose, pose[:1].expand_as(pose), atol=1e-4, rtol=0)
        off["pose"].append(pose[0])
        off["references"].append(sample["references"] - expected["references"])
    for parts in off.values():
        assert 0.4 < torch.stack(parts).std() < 0.6


def test_some_windows_know_a_person_by_open_mouths_only_and_some_by_closed_ones(tmp_path: Path) -> None:
    """Lips 0, 1, ... 39 px open. For the paper the four references always hold one of the ten most closed and one of
    the ten most open; for the small preset they are less than 8 px open in the mean in one window, above 30 in another.
    """
    clip = _clip(tmp_path / "a", np.stack([face(opening) for opening in range(40)]), copies=False)

    def openings(config: A2LMConfig) -> Array:
        data = SpeechWindows([clip], config, seed=0)
        # 170 px wide, the inner lips 4 px and the opening apart
        return np.stack([lip_opening(data[epoch, 0]["references"].numpy()) * 170 - 4 for epoch in range(200)])

    plain, skewed = openings(PAPER), openings(SMALL)
    assert (plain.min(1) < 9.5).all()
    assert (plain.max(1) > 29.5).all()
    assert (np.abs(plain.mean(1) - 19.5) < 5).all()  # four draws of ten each
    assert skewed.mean(1).min() < 8
    assert skewed.mean(1).max() > 30
    assert skewed.mean() == pytest.approx(19.5, abs=2)  # neither is the rule


def test_some_features_and_a_gap_of_some_frames_are_not_heard(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a", 40)
    data = SpeechWindows([clip], A2LMConfig("mfcc", {}, (4, 39), window=20), seed=0)
    shares, gaps = [], []
    for epoch in range(60):
        heard = data[epoch, 0]["heard"]
        deaf = ~heard.any(0)  # features that no frame hears
        gap = (~heard.flatten(1).any(1)).nonzero()[:, 0].tolist()
        assert gap == list(range(gap[0], gap[-1] + 1))
        assert torch.equal(heard, ~deaf & (~torch.isin(torch.arange(20), torch.tensor(gap)))[:, None, None])
        shares.append(float(deaf.float().mean()))
        gaps.append(len(gap))
    assert 0.13 < np.mean(shares) < 0.17
    assert (min(gaps), max(gaps)) == (1, 7)


def test_in_silence_the_lips_are_closed_as_in_the_most_closed_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A still head whose lips are 0, 1, ... 39 px open: in every frame the mouth is that of the least of them."""
    monkeypatch.setattr(dataset, "_TREMBLE", 0.0)
    clip = _clip(tmp_path / "a", np.stack([face(opening) for opening in range(40)]))
    data, silent = SpeechWindows([clip], SMALL, seed=0), 0
    for epoch in range(60):
        sample = data[epoch, 0]
        if int(sample["features"][0, 0, 1]) != SILENT:
            continue
        assert sample["features"][:, 0, 0].tolist() == list(range(10))
        references = sample["references"]
        closed = references[lip_opening(references.numpy()).argmin(), LOWER]
        torch.testing.assert_close(sample["truth"], closed.expand(10, -1, -1), atol=1e-2, rtol=0)
        silent += 1
    assert silent > 2


@pytest.mark.parametrize("pose", ["rigid", "raw"])
def test_the_mouth_of_the_target_is_not_among_the_inputs(pose: str, tmp_path: Path) -> None:
    """Other lower faces change the answer and the references, which are other frames, and nothing else."""
    points = track(40, seed=3)
    other = points.copy()
    other[:, LOWER] += np.random.default_rng(0).normal(0, 30, other[:, LOWER].shape).astype(np.float32)
    config = replace(SMALL, pose=pose)
    one, two = (SpeechWindows([_clip(tmp_path / name, p)], config, 0) for name, p in (("a", points), ("b", other)))
    for epoch in range(20):
        for index in range(len(one)):
            first, second = one[epoch, index], two[epoch, index]
            for name in ("features", "heard", "pose", "head", "real"):
                assert torch.equal(first[name], second[name])
            assert not torch.equal(first["truth"], second["truth"])
