"""What VideoWriter adds to whole frames and whole files: patches, and streams that play while they are made.

Colours, sizes, sound and refusals are in test_video.py.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.video import Footage
from spear.video_writer import Patch, VideoWriter

AREA = (slice(16, 48), slice(64, 128))


def _noise(seed: int, height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """Smooth enough to survive the encoder."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(40, 216, (height // 16, width // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def _read(path: Path) -> NDArray[np.uint8]:
    return np.stack(list(Footage(path).frames()))


@pytest.mark.parametrize(("height", "width"), [(96, 160), (95, 159)], ids=["even", "odd"])
def test_a_patch_is_shown_and_the_frame_is_left_alone(tmp_path: Path, height: int, width: int) -> None:
    frames = [np.ascontiguousarray(_noise(n)[:height, :width]) for n in range(3)]
    before = [frame.copy() for frame in frames]
    patch = Patch(AREA, np.full((32, 64, 3), (200, 60, 90), np.uint8))
    with VideoWriter(tmp_path / "a.mp4", width, height, crf=1) as writer:
        writer.write(frames[0], patch)
        writer.write(frames[1])
        writer.write(frames[2], Patch((slice(0, 0), slice(0, 0)), patch.pixels[:0, :0]))
    assert all(np.array_equal(a, b) for a, b in zip(frames, before, strict=True))
    before[0][AREA] = patch.pixels
    whole = tmp_path / "whole.mp4"
    with VideoWriter(whole, width, height, crf=1) as writer:
        for frame in before:
            writer.write(frame)
    assert _read(whole).shape == (3, 96, 160, 3)
    assert np.abs(_read(tmp_path / "a.mp4").astype(int) - _read(whole)).max() <= 2  # x264 is not exact to the bit
    shown = _read(tmp_path / "a.mp4")[0][20:44, 68:124].reshape(-1, 3).astype(int)
    assert np.abs(shown - [200, 60, 90]).max() < 12


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """x264's look-ahead for AVX-512 does not: there five of twelve such videos differed."""
    soft = cv2.GaussianBlur(_noise(0, 320, 320), (0, 0), 4)
    videos = set()
    for n in range(12):
        with VideoWriter(path := tmp_path / f"{n}.mp4", 320, 320) as writer:
            for shift in range(0, 120, 3):
                writer.write(np.roll(soft, shift, axis=1))
        videos.add(path.read_bytes())
    assert len(videos) == 1


def test_a_frame_may_be_changed_once_it_was_written(tmp_path: Path) -> None:
    """The encoder holds dozens of frames back; it has its own memory for them."""
    frame, values = np.zeros((64, 64, 3), np.uint8), [20, 200, 90, 160, 50]
    with VideoWriter(tmp_path / "a.mp4", 64, 64, crf=1) as writer:
        for value in values:
            frame[:] = value
            writer.write(frame)
    assert [round(float(f.mean())) for f in _read(tmp_path / "a.mp4")] == pytest.approx(values, abs=2)


def test_a_stream_starts_with_what_a_player_needs(tmp_path: Path) -> None:
    stream, sizes = io.BytesIO(), []
    with VideoWriter(Path("stdout"), 160, 96, stream=stream, comment="made") as writer:
        for n in range(30):
            writer.write(_noise(n))
            sizes.append(len(stream.getvalue()))
    data = stream.getvalue()
    assert 0 < sizes[1] < sizes[2] < sizes[10] < sizes[29] < len(data)  # a frame later, it is there
    assert data[4:8] == b"ftyp"
    assert data.index(b"moov") < data.index(b"moof")
    assert data.count(b"moof") == 30
    with av.open(io.BytesIO(data[: sizes[20]])) as container:  # what has arrived by then can be played
        assert container.metadata["comment"] == "made"
        assert sum(1 for _ in container.decode(video=0)) >= 19
    (tmp_path / "a.mp4").write_bytes(data)
    assert np.abs(_read(tmp_path / "a.mp4").astype(int) - np.stack([_noise(n) for n in range(30)])).mean() < 6


class _Full(io.RawIOBase):
    """Takes so many bytes, then none."""

    def __init__(self, room: int) -> None:
        self._room = room

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self._room -= len(data)  # type: ignore[arg-type]
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return len(data)  # type: ignore[arg-type]


def test_a_stream_that_takes_no_more_is_an_error() -> None:
    def write_all() -> None:
        with VideoWriter(Path("stdout"), 160, 96, stream=_Full(4000)) as writer:
            for n in range(200):
                writer.write(_noise(n))

    with pytest.raises((SpearError, OSError), match=r"[Nn]o space left"):
        write_all()
