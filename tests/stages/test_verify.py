"""Promises of `spear verify`: marked, unmarked or tampered, from whatever a video still has."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import portrait

from spear import c2pa_sign, watermark
from spear.c2pa_sign import INSTALL, is_installed, signed
from spear.errors import SpearError
from spear.provenance import COMMENT, Record, Source, sidecar_path, source, write_sidecar
from spear.signing_key import load_identity
from spear.stages.verify import verify
from spear.video import Footage, VideoWriter

with_c2pa = pytest.mark.skipif(not is_installed(), reason=f"c2pa-python is not installed: {INSTALL}")


@pytest.fixture(autouse=True)
def _own_config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


def write_video(path: Path, comment: str = COMMENT, marked: bool = False, crf: int = 18) -> Path:
    frame = portrait()
    with VideoWriter(path, 320, 320, comment=comment, crf=crf) as writer:
        for _ in range(5):
            writer.write(watermark.embed(frame) if marked else frame)
    return path


def record_of(video: Path) -> Record:
    other = Source("other", "0" * 64)
    return Record(source(video), other, other, (other,), "spear render")


def sign(path: Path) -> Path:
    with signed(path, load_identity(), path.name) as copy:
        os.replace(copy, path)
    return path


def test_a_video_with_nothing_is_unmarked(tmp_path: Path) -> None:
    found = verify(write_video(tmp_path / "a.mp4", comment=""))
    assert (found.status, found.comment, found.sidecar, found.record) == ("unmarked", None, "absent", None)
    assert found.manifest.state == "absent"
    assert found.watermark is not None
    assert not found.watermark.found
    assert found.notes == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_the_comment_alone_marks(name: str, tmp_path: Path) -> None:
    found = verify(write_video(tmp_path / name))
    assert (found.status, found.comment) == ("marked", COMMENT)


def test_a_comment_of_somebody_else_does_not(tmp_path: Path) -> None:
    found = verify(write_video(tmp_path / "a.mp4", comment="my holiday"))
    assert (found.status, found.comment) == ("unmarked", None)


def test_the_sidecar_of_these_bytes_is_right_and_of_others_tells_of_tampering(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    write_sidecar(video, record_of(video))
    found = verify(video)
    assert (found.status, found.sidecar, found.record) == ("marked", "right", record_of(video))
    expected = record_of(video).video.sha256
    write_video(video, crf=30)
    found = verify(video)
    assert (found.status, found.sidecar) == ("tampered", "wrong")
    assert found.notes == [f"a.mp4.json is of a video with sha256 {expected[:12]}..., this is another"]


def test_no_provenance_is_said_but_marks_nothing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", comment="")
    write_sidecar(video, replace(record_of(video), provenance=False))
    found = verify(video)
    assert (found.status, found.sidecar) == ("unmarked", "right")
    assert found.notes == ["the sidecar says that it was rendered with --no-provenance"]


def test_a_sidecar_that_promises_more_than_the_video_has_tells_of_tampering(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", comment="")
    write_sidecar(video, replace(record_of(video), signed=True, watermark="0101001110001101"))
    found = verify(video)
    assert found.status == "tampered"
    assert found.notes == [
        "the sidecar says that the video has a comment, but it has none",
        "the sidecar says that the video is signed, but it is not",
        "the sidecar says that there is an invisible mark, but it was not found",
    ]


def test_a_damaged_sidecar_is_told_and_says_nothing_about_the_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    sidecar_path(video).write_text("{")
    found = verify(video)
    assert (found.status, found.sidecar, found.record) == ("marked", "unread", None)
    assert found.notes[0].startswith(f"cannot read {sidecar_path(video)}: ")


def test_the_invisible_mark_is_there_when_the_metadata_are_gone(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", marked=True)
    frames = list(Footage(video).frames())
    with VideoWriter(tmp_path / "again.mp4", 320, 320, crf=28) as writer:
        for frame in frames:
            writer.write(frame)
    told: list[tuple[int, int, str]] = []
    found = verify(tmp_path / "again.mp4", lambda *step: told.append(step))
    assert (found.status, found.comment) == ("marked", None)
    assert found.watermark is not None
    assert (found.watermark.bits, found.watermark.frames) == (watermark.payload(), 5)
    assert told[-1] == (5, 5, "looking for the mark")


def test_a_long_video_is_looked_at_in_a_limited_number_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.stages.verify._FRAMES", 3)
    found = verify(write_video(tmp_path / "a.mp4", comment="", marked=True))
    assert found.watermark is not None
    assert (found.watermark.frames, found.status) == (3, "marked")


@with_c2pa
def test_a_signed_video_is_marked_and_a_changed_one_tampered(tmp_path: Path) -> None:
    video = sign(write_video(tmp_path / "a.mp4", comment=""))
    found = verify(video)
    assert (found.status, found.manifest.state) == ("marked", "valid")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("nobody known vouches for the signer of the C2PA manifest (SPEAR key ")
    data = bytearray(video.read_bytes())
    data[-10] ^= 1
    video.write_bytes(data)
    found = verify(video)
    assert (found.status, found.manifest.state) == ("tampered", "tampered")
    assert found.notes[0] == "the C2PA manifest does not fit the video: assertion.bmffHash.mismatch"


@with_c2pa
def test_a_manifest_of_a_camera_does_not_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    monkeypatch.setattr(c2pa_sign, "SOURCE_TYPE", camera)
    monkeypatch.setattr(c2pa_sign, "SYNTHETIC", {"digitalCapture"})
    video = sign(write_video(tmp_path / "a.mp4", comment=""))
    monkeypatch.undo()
    found = verify(video)
    assert (found.status, found.manifest.state) == ("unmarked", "valid")
    assert found.notes[-1] == "the C2PA manifest does not say that the video is synthetic"


@with_c2pa
def test_a_signed_video_that_lost_its_end_is_tampered(tmp_path: Path) -> None:
    video = sign(write_video(tmp_path / "a.mp4"))
    video.write_bytes(video.read_bytes()[:4000])
    found = verify(video)
    assert found.status == "tampered"


def test_without_the_extra_a_manifest_is_told_but_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "c2pa" else find(name))
    video = write_video(tmp_path / "a.mp4")
    video.write_bytes(video.read_bytes() + b"\0\0\0\x20uuid" + c2pa_sign._BOX + bytes(8))
    found = verify(video)
    assert (found.status, found.manifest.state) == ("marked", "unread")
    assert found.notes == [f"a C2PA manifest is there, but not read: c2pa-python is not installed; {INSTALL}"]


def test_a_video_that_no_longer_opens_is_tampered_where_its_sidecar_is_there(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    write_sidecar(video, record_of(video))
    video.write_bytes(video.read_bytes()[:500])
    found = verify(video)
    assert (found.status, found.watermark) == ("tampered", None)
    assert found.notes[-1].startswith("the pictures cannot be read: ")


def test_what_is_no_video_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    cases = {
        tmp_path / "gone.mp4": "does not exist; give a video",
        tmp_path: "is a folder; give a video",
        tmp_path / "a.mp4": "cannot be read as video",
    }
    for path, complaint in cases.items():
        with pytest.raises(SpearError) as caught:
            verify(path)
        assert str(caught.value).startswith(f"{path} {complaint}")


def test_verifying_changes_nothing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    before = video.read_bytes()
    verify(video)
    assert video.read_bytes() == before
    assert np.all([path == video for path in tmp_path.iterdir()])
