"""The face of a ref is found once: what was kept is used, and nothing else than what was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import talker

from spear import ref_face
from spear.checkpoint import read_tensors, save_tensors
from spear.crop import crop_transform, to_crop, warp_crop
from spear.errors import UnusableClip
from spear.face import follow_face
from spear.files import user_cache
from spear.ref_face import RefFace
from spear.video import Footage, VideoWriter


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames of the astronaut."""
    return talker(tmp_path_factory.mktemp("ref") / "ref.mp4", seed=3, seconds=0.8)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by a search for a face."""
    done: list[Any] = []
    find = ref_face.find_face
    monkeypatch.setattr(ref_face, "find_face", lambda *args: (done.append(args[2]), find(*args))[1])
    return done


def _kept() -> list[Path]:
    return sorted((user_cache() / "refs").iterdir())


def _equal(one: RefFace, other: RefFace) -> bool:
    return (
        np.array_equal(one.points, other.points)
        and np.array_equal(one.transforms, other.transforms)
        and one.missing == other.missing
    )


def test_it_is_what_follow_face_and_warp_crop_give(video: Path, searches: list[Any]) -> None:
    points, missing = follow_face(Footage(video), "largest", "hold")
    transforms = crop_transform(points)
    crops = [warp_crop(frame, t) for frame, t in zip(Footage(video).frames(), transforms, strict=True)]
    for _ in range(2):  # found, then from the cache
        ref = RefFace(Footage(video), "largest", 250)
        assert np.array_equal(ref.points, to_crop(points, transforms))
        assert np.array_equal(ref.transforms, transforms)
        assert ref.missing == missing == []
        for read in (ref.crops, ref.references):
            assert np.array_equal(read([17, 2, 5, 2]), np.stack([crops[i] for i in (17, 2, 5, 2)]))
    assert searches == [250]


def test_references_are_kept_and_need_no_decoding(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RefFace(Footage(video), "largest", 250).references([1, 4, 9])
    ref = RefFace(Footage(video), "largest", 250)
    monkeypatch.setattr(Footage, "_decoded", None)  # nobody may call it
    assert np.array_equal(ref.references([9, 1]), first[[2, 0]])
    with pytest.raises(TypeError):
        ref.references([1, 5])  # one more is read anew


def test_references_belong_to_what_was_looked_at(video: Path) -> None:
    """The place of the crop is smoothed over time, so that it differs where less of the ref is looked at."""
    whole = RefFace(Footage(video), "largest", 250)
    whole.references([1, 9])
    short = RefFace(Footage(video), "largest", 10)
    assert len(short.points) == 10
    assert not np.array_equal(whole.transforms[9], short.transforms[9])
    assert np.array_equal(short.references([1, 9]), short.crops([1, 9]))


def test_fewer_frames_come_from_the_cache_more_do_not(video: Path, searches: list[Any]) -> None:
    alone = RefFace(Footage(video), "largest", 6)
    assert searches == [6]
    RefFace(Footage(video), "largest", 12)
    assert searches == [6, 12]
    assert _equal(RefFace(Footage(video), "largest", 6), alone)  # tracking looks back only
    RefFace(Footage(video), "largest", 20)
    RefFace(Footage(video), "largest", 21)  # finds that there are no more
    assert searches == [6, 12, 20, 21]
    RefFace(Footage(video), "largest", 900)
    assert searches == [6, 12, 20, 21]
    assert len(_kept()) == 1


def test_another_ref_or_face_is_noticed(video: Path, tmp_path: Path, searches: list[Any]) -> None:
    RefFace(Footage(video), "largest", 8)
    path = tmp_path / "ref.mp4"
    path.write_bytes(video.read_bytes())
    RefFace(Footage(path), "largest", 8)  # the same bytes under another name
    assert searches == [8]
    RefFace(Footage(path), "0", 8)
    assert searches == [8] * 2
    talker(path, seed=5, seconds=0.4)
    RefFace(Footage(path), "largest", 8)
    assert searches == [8] * 3
    assert len(_kept()) == 3


def _rewritten(**changes: Any) -> None:
    """A kept file that is whole, with a right checksum, and says something else."""
    (path,) = _kept()
    tensors, about = read_tensors(path)
    tensors |= {k: v for k, v in changes.items() if isinstance(v, torch.Tensor)}
    about |= {k: v for k, v in changes.items() if not isinstance(v, torch.Tensor)}
    save_tensors(path, tensors, {k: v for k, v in about.items() if k not in ("format", "sha256")})


def test_a_damaged_file_is_made_again(video: Path, searches: list[Any]) -> None:
    good = RefFace(Footage(video), "largest", 8)
    (path,) = _kept()
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for n, damaged in enumerate((b"", whole[: len(whole) // 2], bytes(flipped), b"no tensors at all" * 9), start=1):
        path.write_bytes(damaged)
        assert _equal(RefFace(Footage(video), "largest", 8), good)
        assert len(searches) == 1 + n
        assert path.read_bytes() == whole
    assert "__metadata__" in header


@pytest.mark.parametrize(
    "change",
    [{"points": torch.zeros(8, 3)}, {"crops": torch.zeros(1, 256, 256, 3, dtype=torch.uint8)}, {"faces": "many"},
     {"crops": [1]}, {"looked_at": None}],
    ids=["points", "crops", "faces", "numbers", "looked at"],
)  # fmt: skip
def test_a_file_that_holds_something_else_is_made_again(change: Any, video: Path, searches: list[Any]) -> None:
    good = RefFace(Footage(video), "largest", 8)
    _rewritten(**change)
    assert _equal(RefFace(Footage(video), "largest", 8), good)
    assert len(searches) == 2


def test_a_cache_that_cannot_be_written_is_no_failure(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: list[Any]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert len(RefFace(Footage(video), "largest", 8).references([1])) == 1
    assert len(searches) == 2


def test_frames_without_the_face_are_kept_too(tmp_path: Path, video: Path, searches: list[Any]) -> None:
    frames = list(Footage(video).frames())
    with VideoWriter(tmp_path / "gap.mp4", 320, 320) as writer:
        for i, frame in enumerate(frames[:12]):
            writer.write(np.full_like(frame, 90) if 4 <= i < 6 else frame)
    refs = [RefFace(Footage(tmp_path / "gap.mp4"), "largest", 250) for _ in range(2)]
    assert refs[0].missing == [4, 5]
    assert _equal(*refs)
    assert len(searches) == 1


def test_the_error_is_the_same_the_second_time(tmp_path: Path, video: Path, searches: list[Any]) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(UnusableClip) as caught:
            RefFace(Footage(video), "4", 8)
        messages.append(str(caught.value))
    text = f"{video} has no face number 4; it shows 1: give --face largest, or a number below 1"
    assert messages == [text] * 2
    assert len(searches) == 1
