"""Which prediction belongs to which truth, and two videos in lockstep: sizes, rates, lengths."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from spear.errors import SpearError
from spear.video_pairs import Lockstep, VideoPair, match_videos


def video(path: Path, count: int = 5, size: tuple[int, int] = (64, 48), rate: int = 25, grey: int = 100) -> Path:
    """Flat lossless frames whose grey rises by one with each: (height, width) = size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "rgb24"
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(np.full((*size, 3), grey + number, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def named(pairs: list[VideoPair], top: Path) -> list[tuple[str, str, str]]:
    return [(pair.name, str(pair.pred.relative_to(top)), str(pair.truth.relative_to(top))) for pair in pairs]


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    touched(tmp_path, "a.mp4", "b.mpg")
    pairs, notes = match_videos(tmp_path / "a.mp4", tmp_path / "b.mpg")
    assert (named(pairs, tmp_path), notes) == ([("a.mp4", "a.mp4", "b.mpg")], [])


def test_folders_are_matched_by_what_lies_below_them(tmp_path: Path) -> None:
    touched(tmp_path / "pred", "s1/a.mp4", "s2/a.mp4", "s2/only.mp4", "notes.txt", ".hidden.mp4")
    touched(tmp_path / "true", "s1/a.mpg", "s2/a.mpg", "s3/a.mpg")
    pairs, notes = match_videos(tmp_path / "pred", tmp_path / "true")
    assert named(pairs, tmp_path) == [
        ("s1/a", "pred/s1/a.mp4", "true/s1/a.mpg"),
        ("s2/a", "pred/s2/a.mp4", "true/s2/a.mpg"),
    ]
    assert notes == [
        f"left out: {tmp_path}/pred/s2/only.mp4: nothing of that name in {tmp_path}/true",
        f"left out: {tmp_path}/true/s3/a.mpg: nothing of that name in {tmp_path}/pred",
    ]


def test_where_the_folders_differ_the_name_alone_counts(tmp_path: Path) -> None:
    touched(tmp_path / "pred", "a.mp4", "b.mp4")
    touched(tmp_path / "true", "s1/a.mpg", "s2/b.mpg")
    assert [name for name, _, _ in named(match_videos(tmp_path / "pred", tmp_path / "true")[0], tmp_path)] == ["a", "b"]


def test_a_glob_and_a_folder(tmp_path: Path) -> None:
    touched(tmp_path / "pred", "one/a.mp4", "one/b.mp4", "two/a.mp4")
    touched(tmp_path / "true", "one/a.mpg", "one/b.mpg", "two/a.mpg")
    pairs, notes = match_videos(f"{tmp_path}/pred/*/a.mp4", tmp_path / "true")
    assert [pair.name for pair in pairs] == ["one/a", "two/a"]
    assert notes == [f"left out: {tmp_path}/true/one/b.mpg: nothing of that name in {tmp_path}/pred/*/a.mp4"]
    pairs, _ = match_videos(f"{tmp_path}/pred/**/*.mp4", f"{tmp_path}/true/**/*.mpg")
    assert [pair.name for pair in pairs] == ["one/a", "one/b", "two/a"]


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    touched(tmp_path, "a.mp4")
    touched(tmp_path / "true", "a.mpg", "b.mpg")
    assert named(match_videos(tmp_path / "a.mp4", tmp_path / "true")[0], tmp_path) == [("a", "a.mp4", "true/a.mpg")]


@pytest.mark.parametrize(
    ("pred", "truth", "said"),
    [
        ("none", "true", "{0}/none does not exist; give a video, a folder of videos or a glob in quotes"),
        ("empty", "true", "no video in {0}/empty; give a video, a folder of videos or a glob in quotes"),
        ("true/*.mp4", "true", "no video in {0}/true/*.mp4; give a video, a folder of videos or a glob in quotes"),
        (
            "other", "true",
            "no video in {0}/other has the name of one in {0}/true: x.mp4 stands against a.mpg; "
            "give a prediction the name of its truth (the suffix may differ)",
        ),
        ("twice", "true", "{0}/twice/a.mkv and {0}/twice/a.mp4 have one name, a; leave one of them out"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_gets_one_line(pred: str, truth: str, said: str, tmp_path: Path) -> None:
    touched(tmp_path, "true/a.mpg", "true/b.mpg", "other/x.mp4", "twice/a.mp4", "twice/a.mkv", "empty/readme.txt")
    with pytest.raises(SpearError) as caught:
        match_videos(tmp_path / pred, tmp_path / truth)
    assert str(caught.value) == said.format(tmp_path)


def test_a_smaller_prediction_is_resized(tmp_path: Path) -> None:
    pair = VideoPair("a", video(tmp_path / "a.mkv", size=(32, 24)), video(tmp_path / "b.mkv", size=(64, 48)))
    lockstep = Lockstep(pair)
    frames = list(lockstep.frames())
    assert [pred.shape for pred, _ in frames] == [(64, 48, 3)] * 5
    assert all(np.array_equal(pred, truth) for pred, truth in frames)  # flat pictures stay what they are
    assert lockstep.remarks == ["the prediction is 24x32, the truth 48x64; the prediction was resized"]
    assert [pred.shape for pred in lockstep.preds()] == [(64, 48, 3)] * 5  # alone, too: windows are in the truth's px


def test_another_shape_is_refused(tmp_path: Path) -> None:
    pair = VideoPair("a", video(tmp_path / "a.mkv", size=(32, 32)), video(tmp_path / "b.mkv", size=(64, 48)))
    with pytest.raises(SpearError) as caught:
        Lockstep(pair)
    assert str(caught.value) == (
        f"{pair.pred} is 32x32, {pair.truth} is 48x64: not the same picture; crop or pad one of them to the other first"
    )


def test_other_rates_are_read_at_25(tmp_path: Path) -> None:
    # 50 frames/s: at the middle of output frame i, (i + .5) / 25 s, source frame 2 i + 1 begins
    lockstep = Lockstep(VideoPair("a", video(tmp_path / "a.mkv", 20, rate=50), video(tmp_path / "b.mkv", 10)))
    frames = list(lockstep.frames())
    assert [int(pred[0, 0, 0]) for pred, _ in frames] == [100 + 2 * i + 1 for i in range(10)]
    assert lockstep.rates == (50, 25)
    assert lockstep.lengths == (10, 10)
    assert lockstep.remarks == [
        "the prediction has 50, the truth 25 frames/s; both were read at 25, the frame that is on screen in the middle "
        "of each 40 ms"
    ]


def test_the_longer_one_is_cut_and_counted(tmp_path: Path) -> None:
    lockstep = Lockstep(VideoPair("a", video(tmp_path / "a.mkv", 7), video(tmp_path / "b.mkv", 4)))
    assert len(list(lockstep.frames())) == 4
    assert lockstep.lengths == (7, 4)
    assert lockstep.remarks == ["the lengths differ: prediction 7, truth 4 frames at 25 fps; the first 4 were compared"]


def test_a_copy_needs_no_remark(tmp_path: Path) -> None:
    truth = video(tmp_path / "b.mkv", size=(63, 47))
    lockstep = Lockstep(VideoPair("a", Path(shutil.copy(truth, tmp_path / "a.mkv")), truth))
    assert all(np.array_equal(pred, true) for pred, true in lockstep.frames())
    assert lockstep.remarks == []
