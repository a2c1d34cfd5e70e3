"""Promises of spear.watermark: the mark is not seen, is still there after H.264, and is never found where none is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import portrait
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from spear import watermark
from spear.video import Footage, VideoWriter
from spear.watermark import LEAST_CONFIDENCE, Detector, Mark, as_text, bits_of, embed, payload

Frame = NDArray[np.uint8]


def found(frames: Iterable[Frame]) -> Mark:
    detector = Detector()
    for frame in frames:
        detector.add(frame)
    return detector.result()


def swaying(count: int = 12) -> list[Frame]:
    """The portrait, moved by a few pixels and with the noise of a camera."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(count):
        shift = np.array([[1, 0, 4 * np.sin(i / 3)], [0, 1, 2 * np.cos(i / 3)]], np.float32)
        moved = cv2.warpAffine(portrait(), shift, (320, 320), borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.clip(moved + rng.normal(0, 2, moved.shape), 0, 255).astype(np.uint8))
    return frames


def through_h264(frames: list[Frame], path: Path, crf: int) -> list[Frame]:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, crf=crf) as writer:
        for frame in frames:
            writer.write(frame)
    return [frame.copy() for frame in Footage(path).frames()]


def test_the_payload_is_the_product_and_its_checksum() -> None:
    assert payload() == 0x538D  # "S", and the first byte of its SHA-256
    assert as_text(payload()) == "0101001110001101"
    assert "".join(map(str, bits_of(payload()))) == as_text(payload())


def test_a_marked_picture_looks_the_same_and_is_found() -> None:
    frame = portrait()
    marked = embed(frame)
    assert peak_signal_noise_ratio(frame, marked) > 45
    assert (
        np.abs(marked.astype(int) - frame).max() <= 7
    )  # .6 of half a step of 48, half of it per pixel, in a block with one bright pixel
    mark = found([marked])
    assert mark.found
    assert mark.bits == payload()
    assert not found([frame]).found


def test_the_colour_stays() -> None:
    frame = np.clip(portrait(), 10, 245)  # away from black and white, where a channel stops earlier than the others
    change = embed(frame).astype(int) - frame
    np.testing.assert_array_equal(change[..., 0], change[..., 1])
    np.testing.assert_array_equal(change[..., 0], change[..., 2])


def test_the_same_frame_gives_the_same_copy_and_is_itself_left_alone() -> None:
    frame = portrait()
    before = frame.copy()
    np.testing.assert_array_equal(embed(frame), embed(frame))
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("crf", [18, 28])
def test_the_mark_is_still_there_after_h264(crf: int, tmp_path: Path) -> None:
    frames = through_h264([embed(frame) for frame in swaying()], tmp_path / "a.mp4", crf)
    mark = found(frames)
    assert mark.bits == payload()
    assert mark.confidence > 2 * LEAST_CONFIDENCE
    assert mark.frames == 12


def test_the_mark_is_still_there_after_two_encodings(tmp_path: Path) -> None:
    frames = through_h264([embed(frame) for frame in swaying()], tmp_path / "a.mp4", 18)
    assert found(through_h264(frames, tmp_path / "b.mp4", 28)).bits == payload()


def test_an_odd_size_that_grows_by_a_pixel_keeps_its_mark(tmp_path: Path) -> None:
    frames = through_h264([embed(frame[:287, :303]) for frame in swaying(6)], tmp_path / "a.mp4", 23)
    assert frames[0].shape == (288, 304, 3)  # a row and a column of blocks more, without a mark
    assert found(frames).bits == payload()


def test_frames_together_say_more_than_one() -> None:
    rng = np.random.default_rng(1)
    noisy = [np.clip(embed(portrait()) + rng.normal(0, 12, (320, 320, 3)), 0, 255).astype(np.uint8) for _ in range(20)]
    alone = [found([frame]).confidence for frame in noisy]
    assert found(noisy).confidence > 1.3 * max(alone)


def test_chance_is_a_standard_normal_number() -> None:
    """Pictures without a mark, among them such as stand still or are all of one grey."""
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(60):
        small = rng.integers(30, 226, (*rng.integers(3, 20, 2), 3)).astype(np.uint8)
        scores.append(found([cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)] * 2).confidence)
    assert abs(np.mean(scores)) < 0.5
    assert 0.7 < np.std(scores) < 1.4
    flat = [found([np.full((480, 640, 3), grey, np.uint8)]).confidence for grey in range(0, 256, 15)]
    assert np.abs([*scores, *flat]).max() < LEAST_CONFIDENCE - 1


def test_the_dark_is_left_alone() -> None:
    frame = portrait()
    frame[:64] = 3  # as above a film that is wider than the screen
    np.testing.assert_array_equal(embed(frame)[:64], frame[:64])
    assert found([np.zeros((64, 64, 3), np.uint8)]) == Mark(0, 0.0, 1)


def test_without_frames_or_room_nothing_is_found() -> None:
    assert found([]) == Mark(0, 0.0, 0)
    tiny = np.full((7, 20, 3), 128, np.uint8)
    np.testing.assert_array_equal(embed(tiny), tiny)
    assert not found([tiny]).found


def test_frames_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks after frames with"):
        found([portrait(), portrait()[:100]])


def test_the_pattern_never_changes() -> None:
    """Or older videos would lose their mark: these are its first blocks, by SHAKE-256."""
    bit, shift = watermark._pattern(2, 3)
    assert bit.tolist() == [[0, 13, 13], [1, 8, 10]]
    assert (256 * shift).tolist() == [[76, 231, 98], [126, 229, 250]]
    np.testing.assert_array_equal(watermark._pattern(4, 9)[1][:2, :3], shift)  # the size of the frame has no say


@pytest.mark.footage
def test_real_footage_keeps_its_mark_at_crf_28_and_has_none_before(footage_dir: Path, tmp_path: Path) -> None:
    for name in ("grid_sbwe5n.mpg", "retalking_face5.mp4", "vidtimit_fadg0_sa1.mp4"):
        frames = [frame.copy() for frame in Footage(footage_dir / "dev" / name).frames(0, 8)]
        assert not found(frames).found
        mark = found(through_h264([embed(frame) for frame in frames], tmp_path / "a.mp4", 28))
        assert mark.bits == payload()
        assert mark.confidence > 2 * LEAST_CONFIDENCE
