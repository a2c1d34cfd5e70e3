"""A decoded frame: upright RGB, all of it or a part, and the YUV that it was decoded to."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Area = tuple[slice, slice]
"""Rows and columns of a frame."""

HD_HEIGHT = 720
"""From this height on, video without a colour tag is BT.709 by custom, below it BT.601."""
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
"""Without these flags swscale truncates on the way to RGB: every picture comes out one grey level too dark."""
_UNTAGGED = 2
"""In FFmpeg and in H.264, of matrix, primaries and transfer alike."""
_AROUND = 8
"""Px around a part that its colours are interpolated from; even."""


class Colours(NamedTuple):
    """What YUV stands for, in the numbers of H.264; siting: where the colour of four pixels lies, `siting_of`."""

    matrix: int
    primaries: int
    transfer: int
    siting: int

    @property
    def space(self) -> Colorspace:
        """The matrix as swscale calls it."""
        return Colorspace.ITU709 if self.matrix == 1 else Colorspace.ITU601


MADE = Colours(1, 1, 1, siting=1)
"""BT.709, as swscale makes it of RGB: it puts colour in the middle of four pixels."""
_MATRICES = (1, 5, 6)
"""BT.709, and two numbers for that of BT.601."""


class Converter(threading.local):
    """What the pictures of a video share: its size before it is turned, its siting, and swscale's settings, of which
    each thread has its own, since they are for one at a time."""

    def __init__(self, size: tuple[int, int], siting: int) -> None:
        """size: width and height."""
        self.size, self.siting = size, siting
        self.whole, self.part = VideoReformatter(), VideoReformatter()  # one for both would be set up anew each time


class Picture:
    """A decoded frame, shown upright. RGB is made where it is asked for, which takes longer than decoding."""

    def __init__(self, frame: Any, converter: Converter) -> None:
        """frame: PyAV's; where it has another size than the video, as in recordings of calls, it is scaled."""
        self._frame, self._converter = frame, converter
        self._kept: Frame | None = None
        self._lock = threading.Lock()
        self._turned = round(frame.rotation / 90)
        custom = 1 if frame.height >= HD_HEIGHT else 6
        tags = (frame.colorspace, frame.color_primaries, frame.color_trc)  # here, since swscale changes them meanwhile
        matrix, primaries, transfer = (custom if tag == _UNTAGGED else tag for tag in tags)
        colours = Colours(matrix, primaries, transfer, converter.siting)
        self._space = colours.space if matrix in _MATRICES else None  # which swscale may know
        usual = (
            frame.format.name == "yuv420p" and frame.color_range != ColorRange.JPEG and not frame.interlaced_frame
            and self._turned == 0 and (frame.width, frame.height) == converter.size
            and frame.width % 2 == frame.height % 2 == 0 and matrix in _MATRICES
        )  # fmt: skip
        self.colours = colours if usual else None
        """Of pictures whose `planes` can be had, as most videos hold them: 8 bits, 4:2:0, limited range, progressive,
        upright, of even size. None for others."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole as RGB: (H, W, 3)."""
        width, height = self._converter.size[:: -1 if self._turned % 2 else 1]
        return height, width, 3

    def planes(self) -> list[NDArray[np.uint8]]:
        """Y (H, W), U and V (H / 2, W / 2); only of pictures that have `colours`. Not to be written to."""
        return planes_of(self._frame)

    def rgb(self) -> Frame:
        """(H, W, 3) uint8."""
        if self.colours is not None:
            return self._made()
        with self._lock:  # kept, since of a still picture it is wanted for every frame, by several threads
            self._kept = self._made() if self._kept is None else self._kept
            return self._kept

    def part(self, area: Area) -> Frame:
        """Rows and columns of the same, which cost no more than themselves if it has `colours`. Then colours are taken
        to lie in the middle of four pixels, as by `VideoWriter` on the way back: where they lay, there they stay."""
        if self.colours is None:
            return self.rgb()[area]
        cut = [slice(max(s.start - _AROUND, 0) // 2 * 2, -(-s.stop // 2) * 2 + _AROUND) for s in area]
        planes = [
            plane[tuple(slice(s.start // cell, s.stop // cell) for s in cut)]
            for plane, cell in zip(self.planes(), (1, 2, 2), strict=True)
        ]
        height, width = planes[0].shape
        frame = av.VideoFrame(width, height, "yuv420p")
        for to, plane in zip(planes_of(frame), planes, strict=True):
            to[:] = plane
        rgb = _merged(self._converter.part, frame, (width, height), self._space)
        return rgb[tuple(slice(s.start - c.start, s.stop - c.start) for s, c in zip(area, cut, strict=True))]

    def _made(self) -> Frame:
        rgb = _merged(self._converter.whole, self._frame, self._converter.size, self._space)
        return np.ascontiguousarray(np.rot90(rgb, self._turned))


def siting_of(frame: Any) -> int:
    """Where the colour of four pixels lies in a decoded frame of YUV 4:2:0, as H.264 counts: 0 left, 1 middle, 2 top
    left, 3 top."""
    # PyAV does not say, but swscale knows: does it shift an edge of colour against that of a frame without any tag?
    tagged = VideoReformatter().reformat(frame, 32, 32, "yuv420p", interpolation=Interpolation.POINT, threads=1)
    untagged = av.VideoFrame(32, 32, "yuv420p")
    shifted = []
    for turns in (1, 0):
        seen = []
        for one in (tagged, untagged):
            y, u, v = planes_of(one)
            y[:], u[:], v[:] = 128, 128, 128
            np.rot90(u, turns)[:8] = 90
            seen.append(_merged(VideoReformatter(), one, (32, 32), Colorspace.ITU709))
        shifted.append(bool((seen[0] != seen[1]).any()))
    across, down = shifted
    return {(True, False): 0, (False, False): 1, (True, True): 2, (False, True): 3}[across, down]


def planes_of(frame: Any) -> list[NDArray[np.uint8]]:
    """The planes of PyAV's frame of 8-bit planes, as they lie in its memory: (h, w) each."""
    rows = ((p, np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)) for p in frame.planes)
    return [plane[: p.height, : p.width] for p, plane in rows]


def _merged(reformatter: VideoReformatter, frame: Any, size: tuple[int, int], space: Colorspace | None) -> Frame:
    # planes and a merge take half the time of packed rgb24 from swscale, for the same values
    picture = reformatter.reformat(frame, *size, "gbrp", src_colorspace=space, interpolation=EXACT, threads=1)
    green, blue, red = planes_of(picture)
    return cv2.merge([red, green, blue])
