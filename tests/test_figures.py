"""Promises of spear.figures: green is where the truth is, red where the prediction is; figures are whole or absent."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up import BACKGROUND, face, track

import spear.figures
from spear.audio import load_audio
from spear.clip import CROP, SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.errors import SpearError, UnusableClip
from spear.figures import ClipFigures, Frame, file_name, opening_plot, opening_title, overlay
from spear.points import JAW, LOWER, Array
from spear.video import Footage

GREY = np.full((CROP, CROP, 3), 90, np.uint8)
TOP = 28
"""Height of the legend above the cells, px."""
LEGEND = 40
"""Below this row the plot has no colours but those of its lines."""


def is_green(pixels: Frame) -> np.ndarray:
    r, g, b = np.moveaxis(pixels.astype(int), -1, 0)
    return (g > r + 60) & (g > b + 60)


def is_red(pixels: Frame) -> np.ndarray:
    r, g, b = np.moveaxis(pixels.astype(int), -1, 0)
    return (r > g + 60) & (r > b + 60)


def at(picture: Frame, points: Array) -> Frame:
    """The pixels under points (P, 2): (P, 3)."""
    x, y = np.round(points).astype(int).T
    return picture[y, x]


def draw(folder: Path, frames: int, name: str = "a", size: tuple[int, int] = (CROP, CROP)) -> None:
    points = track(frames)
    with ClipFigures(folder, name, frames) as figures:
        for truth in points:
            figures.add(np.full((*size, 3), 90, np.uint8), truth, truth[LOWER])


def read(path: Path) -> Frame:
    return cv2.imread(str(path))[..., ::-1]


def cell(row: Frame, number: int) -> Frame:
    return row[TOP : TOP + CROP, number * CROP : (number + 1) * CROP]


def test_green_is_where_the_truth_is_and_red_where_the_prediction_is() -> None:
    truth, pred = face(opening=4), face(opening=24, at=(128, 126))
    picture = overlay(GREY, truth, pred)
    assert is_red(at(picture, pred[LOWER])).all()
    assert is_green(at(overlay(GREY, truth, None), truth[LOWER])).all()
    assert is_red(at(overlay(GREY, None, pred[LOWER]), pred[LOWER])).all()  # its lower half alone draws the same
    assert np.array_equal(picture, overlay(GREY, truth, pred[LOWER]))
    assert (picture[:100] == 90).all()  # eyes and nose are not drawn
    assert (GREY == 90).all()


def test_the_thick_green_line_is_seen_on_both_sides_of_a_red_one_at_the_same_place() -> None:
    truth = face(opening=20)
    for scale, wider in ((1, 1), (2, 2)):
        both, x = overlay(GREY, truth, truth, scale), round(float((truth[JAW[5], 0] + truth[JAW[6], 0]) / 2))
        column = both[round(float(truth[JAW[5], 1])) - 8 :, x]
        reds = np.flatnonzero(is_red(column))
        assert is_green(column[: reds[0]]).sum() >= wider / 2
        assert is_green(column[reds[-1] + 1 :]).sum() >= wider / 2


def test_the_row_shows_eight_evenly_spaced_moments(tmp_path: Path) -> None:
    with ClipFigures(tmp_path, "a", 80) as figures:
        for number in range(80):
            figures.add(np.full((CROP, CROP, 3), number, np.uint8), None, None)
    row = read(tmp_path / "a.png")
    assert row.shape == (CROP + 2 * TOP, 8 * CROP, 3)
    shades = [np.unique(cell(row, k)).tolist() for k in range(8)]
    assert shades == [[5], [15], [25], [35], [45], [55], [65], [75]]  # the middles of eight parts of ten frames


@pytest.mark.parametrize(("frames", "cells"), [(1, 1), (5, 5), (8, 8), (11, 8)])
def test_short_clips_have_fewer_moments(tmp_path: Path, frames: int, cells: int) -> None:
    draw(tmp_path, frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.opening.png", "a.png"]
    assert read(tmp_path / "a.png").shape[1] == cells * CROP
    assert len(list(Footage(tmp_path / "a.mp4").frames())) == frames
    assert read(tmp_path / "a.opening.png").std() > 0


def test_crops_are_shown_as_they_are(tmp_path: Path) -> None:
    truth, pred = face(opening=4), face(opening=24, at=(128, 126))
    with ClipFigures(tmp_path, "a", 1) as figures:
        figures.add(GREY, truth, pred)
    assert np.array_equal(cell(read(tmp_path / "a.png"), 0), overlay(GREY, truth, pred))


def test_of_a_large_frame_the_row_shows_the_face_through_one_window_until_it_leaves(tmp_path: Path) -> None:
    places = [(300.0, 200.0), (306.0, 200.0), (500.0, 200.0)]  # 85 px wide: the window is twice as fine as the frame
    with ClipFigures(tmp_path, "a", 4) as figures:
        figures.add(np.full((480, 640, 3), BACKGROUND, np.uint8), None, None)
        for place in places:
            figures.add(np.full((480, 640, 3), BACKGROUND, np.uint8), face(20, place, 85), None)
    row = read(tmp_path / "a.png")
    assert (cell(row, 0) == BACKGROUND).all()
    jaws = [float(np.nonzero(is_green(cell(row, k)))[1].mean()) for k in (1, 2, 3)]
    scale = float(np.ptp(np.nonzero(is_green(cell(row, 1)))[1])) / float(np.ptp(face(20, size=85)[JAW, 0]))
    assert scale == pytest.approx(2, abs=0.2)
    assert jaws[0] == pytest.approx(CROP / 2, abs=2)
    assert jaws[1] - jaws[0] == pytest.approx(6 * scale, abs=1)  # it is the face that moved
    assert jaws[2] == pytest.approx(CROP / 2, abs=2)


@pytest.mark.parametrize(("size", "times"), [(CROP, 2), (600, 1)])
def test_the_video_has_every_frame_the_lines_and_the_sound(
    tmp_path: Path, speech_wav: Path, size: int, times: int
) -> None:
    truth, pred = face(opening=4), face(opening=30, at=(128, 136))
    with ClipFigures(tmp_path, "a", 20, speech_wav) as figures:
        for number in range(20):
            figures.add(np.full((size, size, 3), 90, np.uint8), truth if number < 10 else None, pred[LOWER])
    footage = Footage(tmp_path / "a.mp4")
    frames = list(footage.frames())
    assert (len(frames), frames[0].shape) == (20, (size * times, size * times, 3))
    reds = is_red(at(frames[15], pred[LOWER] * times))
    assert reds.mean() > 0.8  # colours of thin lines are not exact in H.264
    assert is_green(frames[5]).sum() > 400 > 10 > is_green(frames[15]).sum()
    sound = load_audio(tmp_path / "a.mp4")
    assert abs(len(sound) - 20 * SAMPLES_PER_FRAME) <= SAMPLE_RATE // 10
    assert np.abs(sound).max() > 0.05


def test_without_sound_the_video_is_silent_and_a_silent_file_is_no_sound(tmp_path: Path) -> None:
    draw(tmp_path / "out", 3)
    assert not Footage(tmp_path / "out" / "a.mp4").has_audio
    with pytest.raises(UnusableClip), ClipFigures(tmp_path / "new", "a", 1, tmp_path / "out" / "a.mp4") as figures:
        figures.add(GREY, None, None)
    assert list((tmp_path / "new").iterdir()) == []


def test_after_an_exception_there_is_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_halfway(name: str) -> None:
        with ClipFigures(tmp_path, name, 10) as figures:
            figures.add(GREY, face(), face())
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail_halfway("a")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(spear.figures, "opening_plot", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    draw(tmp_path, 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="mine"):
        fail_halfway("a")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_clip_without_frames_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught, ClipFigures(tmp_path, "a", 10):
        pass
    assert str(caught.value) == f"no frame was given for {tmp_path / 'a.mp4'}; give a longer video"
    assert list(tmp_path.iterdir()) == []


def test_points_of_another_shape_or_without_a_place_are_refused(tmp_path: Path) -> None:
    nowhere = face()
    nowhere[3] = np.nan
    for truth, pred, complaint in (
        (face()[LOWER], None, r"truth must be finite points of shape \(131, 2\)"),
        (None, face()[:74], r"pred must be finite points of shape \(131 or 57, 2\)"),
        (nowhere, None, "truth must be finite"),
    ):
        with pytest.raises(ValueError, match=complaint), ClipFigures(tmp_path, "a", 1) as figures:
            figures.add(GREY, truth, pred)


def longest_gap(columns: np.ndarray) -> float:
    """The longest run of columns without colour, as a share of the way from the first to the last one with it."""
    return float(np.diff(np.flatnonzero(columns)).max() / np.ptp(np.flatnonzero(columns)))


def test_frames_without_a_face_are_gaps_in_the_plot() -> None:
    truth, pred = np.full(101, 0.10), np.full(101, 0.05)
    truth[40:60] = np.nan
    pred[20:60] = np.nan
    plot = opening_plot(truth, pred)[LEGEND:]
    assert longest_gap(is_green(plot).any(0)) == pytest.approx(0.21, abs=0.01)  # from 39 to 60 of 100
    assert longest_gap(is_red(plot).any(0)) == pytest.approx(0.41, abs=0.01)
    rows = [np.flatnonzero(mask.any(1)).mean() for mask in (is_green(plot), is_red(plot))]
    assert rows[0] < rows[1]  # the truth is wider open


def test_a_frame_between_two_without_a_face_is_a_dot() -> None:
    truth = np.full(9, np.nan)
    empty = opening_plot(truth, truth)[LEGEND:]
    assert not is_green(empty).any()
    truth[4] = 0.1
    rows, columns = np.nonzero(is_green(opening_plot(truth, truth * np.nan)[LEGEND:]))
    assert 3 <= np.ptp(rows) <= 12
    assert 3 <= np.ptp(columns) <= 12


def test_the_plotted_openings_are_those_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(spear.figures, "opening_plot", lambda *series: seen.append(series) or GREY)
    with ClipFigures(tmp_path, "a", 4) as figures:
        for truth, pred in ((face(13), face(30)), (face(13), face(30)[LOWER]), (None, face(30)), (face(13), None)):
            figures.add(GREY, truth, pred)
    # the inner lips are 4 px + the opening apart, the face is 170 px wide
    truths, preds = [17 / 170, 17 / 170, np.nan, 17 / 170], [34 / 170, 34 / 170, np.nan, np.nan]
    assert seen[0][0] == pytest.approx(truths, nan_ok=True)
    assert seen[0][1] == pytest.approx(preds, nan_ok=True)


def test_the_title_has_r_and_amplitude_of_frames_with_both_faces() -> None:
    truth, pred = np.array([0.0, 0.2, np.nan, 0.0, 0.2, 0.2]), np.array([0.1, 0.2, 0.9, 0.1, 0.2, np.nan])
    assert opening_title(truth, pred) == "r 1.00, amplitude 0.50"
    assert opening_title(np.full(6, 0.1), pred) == "r 0.00, amplitude not defined (the true mouth is still)"
    few = "no r and amplitude: both faces in fewer than two frames"
    assert opening_title(truth[:1], pred[:1]) == opening_title(truth[2:], truth[2:] * np.nan) == few


def test_no_name_leaves_the_folder_and_different_names_stay_different(tmp_path: Path) -> None:
    assert file_name("s1_bbaf2n") == "s1_bbaf2n"
    assert file_name("../a/b") == "..%2Fa%2Fb"
    names = ["../a", "a/b", "a%2Fb", "a\\b", "..", "a", "a.opening", "grüße 語 $x$", "a\nb", "\udcff"]
    for name in names:
        draw(tmp_path / "out", 1, name)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out").iterdir())) == 3 * len(names)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    points = face()
    with ClipFigures(tmp_path, "a", 20) as figures:
        tracemalloc.start()
        held = []
        for number in range(100):
            figures.add(np.full((CROP, CROP, 3), number, np.uint8), points, points)
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert held[30] > 8 * GREY.nbytes  # the moments
    assert held[-1] - held[30] < GREY.nbytes / 2


def test_matplotlib_comes_with_the_first_plot_and_pyplot_never() -> None:
    code = """
import sys, numpy, spear.figures
assert "matplotlib" not in sys.modules
spear.figures.opening_plot(numpy.ones(3), numpy.ones(3))
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
