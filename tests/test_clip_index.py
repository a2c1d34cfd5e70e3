"""The index of clips: what it tells is what the clips tell, and a change to any of them makes it anew."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import make_clip, track

from spear import clip_index
from spear.checkpoint import read_about
from spear.clip import Clip
from spear.clip_index import ClipRows, indexed_clips, same_detector, same_settings
from spear.errors import SpearError
from spear.progress import Report
from spear.storage import INDEX


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips; c1 has changed copies of its speech, c3 is for validation."""
    root = tmp_path_factory.mktemp("clips")
    for i, split in enumerate(["train", "train", "train", "val"]):
        clip = make_clip(root / f"c{i}", frames=4 + i, seed=i, split=split)
    features = torch.zeros(5, 4, 39)
    Clip(root / "c1").write_features("mfcc", features, clip.require_features("mfcc"), [(features, 0.84)] * 2)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "clips"))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips were looked at each time that an index was made."""
    seen: list[int] = []
    list_clips = clip_index.list_clips
    monkeypatch.setattr(
        clip_index, "list_clips", lambda clips, *rest: (seen.append(len(clips)), list_clips(clips, *rest))[1]
    )
    return seen


def _same(rows: ClipRows, root: Path) -> None:
    assert rows.ids == [path.parent.name for path in sorted(root.glob("*/clip.json"))]
    for clip in rows:
        plain = Clip(clip.folder)
        assert replace(clip.facts, speeds=None) == plain.facts
        assert clip.speeds("mfcc") == plain.speeds("mfcc")
        assert "info" not in clip.__dict__  # clip.json was not read


def test_the_index_tells_what_the_clips_tell(root: Path, walks: list[int]) -> None:
    for _ in range(3):
        _same(indexed_clips(root), root)
    assert walks == [4]
    rows = indexed_clips(root)
    assert [len(rows.of_split(split)) for split in ("train", "val")] == [3, 1]
    assert rows.encoders == ["mfcc"]
    assert same_settings("mfcc", rows) == Clip(root / "c0").require_features("mfcc")
    assert [clip.id for clip in rows[1:3]] == ["c1", "c2"]
    assert rows[-1] is rows[3]  # made once, so that what is kept of it is found again
    with pytest.raises(SpearError) as caught:
        rows.of_split("test")
    assert str(caught.value) == f"no clip of the test split in {root}; preprocess more videos, at least three"


CHANGES = {
    "landmarks": lambda clip: clip.write_landmarks(track(5), np.ones(5, np.float32), {"detector": "another"}),
    "features": lambda clip: clip.write_features("none", torch.zeros(5, 1, 1), {"encoder": "none"}),
    "clip.json": lambda clip: clip.write_info(replace(clip.info, split="test")),
    "by hand": lambda clip: clip.landmarks_path.unlink(),
    "gone": lambda clip: shutil.rmtree(clip.folder),
    "come": lambda clip: shutil.copytree(clip.folder, clip.folder.with_name("c9")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_it_anew(root: Path, walks: list[int], change: str) -> None:
    indexed_clips(root)
    CHANGES[change](Clip(root / "c1"))
    _same(indexed_clips(root), root)
    assert len(walks) == 2
    indexed_clips(root)
    assert len(walks) == 2


def test_a_change_during_the_walk_leaves_no_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the clips may have been listed as they were before it."""
    list_clips = clip_index.list_clips

    def interrupted(clips: list[Clip], *rest: object) -> ClipRows:
        rows = list_clips(clips, *rest)  # type: ignore[arg-type]
        Clip(root / "c0").write_landmarks(track(4, seed=7), np.ones(4, np.float32), {"detector": "another"})
        return rows

    monkeypatch.setattr(clip_index, "list_clips", interrupted)
    indexed_clips(root)
    assert not (root / INDEX).exists()


def test_an_index_that_is_damaged_or_of_another_version_is_made_again(root: Path, walks: list[int]) -> None:
    indexed_clips(root)
    path = root / INDEX / "clips.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    _same(indexed_clips(root), root)
    assert read_about(path)["index"] == 2
    assert len(walks) == 2


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_in(root: Path) -> None:
    root.chmod(0o500)
    try:
        _same(indexed_clips(root), root)
        assert not (root / INDEX).exists()
    finally:
        root.chmod(0o700)


def test_what_cannot_be_used_is_reported_with_its_reason(root: Path) -> None:
    Clip(root / "c0").landmarks_path.unlink()
    Clip(root / "c2").write_info(replace(Clip(root / "c2").info, source_sha256="another"))
    report = Report()
    assert [clip.id for clip in indexed_clips(root).usable(report, "mfcc")] == ["c1", "c3"]
    stale = root / "c2" / "landmarks.safetensors"
    assert report.skipped == [
        ("c0", f"no landmarks.safetensors in {root / 'c0'}; run `spear landmarks` first"),
        ("c2", f"{stale} was made before the clip was preprocessed anew; run `spear landmarks` again"),
    ]
    with pytest.raises(SpearError, match="extract-audio-features --encoder whisper` first"):
        indexed_clips(root)[1:].usable(Report(), "whisper")


def test_what_came_by_hand_unseen_is_noticed_where_it_was_missed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many clips the times of some are looked at: here of c0 alone."""
    kept = Clip(root / "c2").landmarks_path.rename(root.parent / "kept")
    monkeypatch.setattr(clip_index, "_WATCHED", 1)
    indexed_clips(root)
    kept.rename(Clip(root / "c2").landmarks_path)
    with pytest.raises(SpearError) as caught:
        indexed_clips(root).usable(Report())
    assert str(caught.value) == f"{root / 'c2'} was changed by hand; run the same command again"
    assert len(indexed_clips(root).usable(Report())) == 4


def test_features_of_other_settings(root: Path) -> None:
    Clip(root / "c3").write_features("mfcc", torch.zeros(7, 4, 39), {"version": 0})
    rows = indexed_clips(root)
    with pytest.raises(SpearError) as caught:
        same_settings("mfcc", rows.of_split("train"), rows.of_split("val"))
    assert str(caught.value) == (
        f"{Clip(root / 'c3').features_path('mfcc')} was made with other settings than the rest; "
        "run `spear extract-audio-features --encoder mfcc` again"
    )


def test_landmarks_of_two_detectors(root: Path) -> None:
    clip = Clip(root / "c3")
    assert same_detector(indexed_clips(root)) == {"detector": "made up"}
    points = clip.landmarks()[0]
    clip.write_landmarks(points, np.ones(len(points), np.float32), {"detector": "another"})
    rows = indexed_clips(root)
    with pytest.raises(SpearError) as caught:
        same_detector(rows.of_split("train"), rows.of_split("val"))
    assert str(caught.value) == (
        f"{clip.landmarks_path} was made with other settings than the rest; run `spear landmarks` again"
    )


def test_a_clip_is_checked_when_it_is_read(root: Path) -> None:
    rows = indexed_clips(root)
    clip = Clip(root / "c1")
    clip.write_info(replace(clip.info, source_sha256="another"))
    clip.write_landmarks(track(5), np.ones(5, np.float32), {"detector": "made up"})
    with pytest.raises(SpearError, match="was made before the clip was preprocessed anew"):
        rows[1].landmarks()


def test_no_clips(tmp_path: Path) -> None:
    for folder, text in (
        (tmp_path, "no clips in"),
        (tmp_path / "x", "is not a folder"),
    ):
        with pytest.raises(SpearError, match=text):
            indexed_clips(folder)
    assert not (tmp_path / INDEX).exists()
