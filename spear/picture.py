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
    """What YUV stands for, in the numbers of H.264. siting: where the colour of four pixels lies, 0 left, 1 middle."""

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
    """swscale's settings, of which each thread has its own, since they are for one at a time."""

    def __init__(self) -> None:
        self.whole, self.part = VideoReformatter(), VideoReformatter()  # one for both would be set up anew each time


class Shared(NamedTuple):
    """What the pictures of a video share: width and height before they are turned, and `colours_of` the first."""

    size: tuple[int, int]
    colours: Colours | None
    converter: Converter


def shared_with(frame: Any) -> Shared:
    """By a video whose first frame is this one of PyAV's."""
    return Shared((frame.width, frame.height), colours_of(frame, siting_of(frame)), Converter())


class Picture:
    """A decoded frame, shown upright. RGB is made where it is asked for, which takes longer than decoding."""

    def __init__(self, frame: Any, shared: Shared) -> None:
        """frame: PyAV's; where it has another size than the video, as in recordings of calls, it is scaled."""
        self._frame, self._shared, self._turned = frame, shared, round(frame.rotation / 90)
        self._kept: Frame | None = None
        self._lock = threading.Lock()
        self._space = Colorspace.ITU709 if _matrix_of(frame) == 1 else None  # else swscale knows
        same = shared.colours is not None and colours_of(frame, shared.colours.siting) == shared.colours
        self.colours = shared.colours if same and (frame.width, frame.height) == shared.size else None
        """Of pictures whose `planes` can be had, None of others; the same for all of a video that have any."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole as RGB: (H, W, 3)."""
        width, height = self._shared.size[:: -1 if self._turned % 2 else 1]
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
        rgb = _merged(self._shared.converter.part, frame, (width, height), self.colours.space)
        return rgb[tuple(slice(s.start - c.start, s.stop - c.start) for s, c in zip(area, cut, strict=True))]

    def _made(self) -> Frame:
        rgb = _merged(self._shared.converter.whole, self._frame, self._shared.size, self._space)
        return np.ascontiguousarray(np.rot90(rgb, self._turned))


def _matrix_of(frame: Any) -> int:
    custom = 1 if frame.height >= HD_HEIGHT else 6
    return custom if frame.colorspace == _UNTAGGED else int(frame.colorspace)


def colours_of(frame: Any, siting: int | None) -> Colours | None:
    """Of a decoded frame as most videos hold them: 8 bits, 4:2:0, limited range, progressive, upright, of even size; of
    others, and without a siting, None. What has no tag is taken to be as the matrix."""
    usual = (
        frame.format.name == "yuv420p" and frame.color_range != ColorRange.JPEG and not frame.interlaced_frame
        and frame.rotation == 0 and frame.width % 2 == frame.height % 2 == 0
    )  # fmt: skip
    matrix = _matrix_of(frame)
    if not usual or siting is None or matrix not in _MATRICES:
        return None
    custom = 1 if matrix == 1 else 6
    primaries, transfer = (custom if t == _UNTAGGED else int(t) for t in (frame.color_primaries, frame.color_trc))
    return Colours(matrix, primaries, transfer, siting)


def siting_of(frame: Any) -> int | None:
    """Where the colour of four pixels lies in a decoded frame of YUV 4:2:0, see `Colours`; None: elsewhere."""
    # PyAV does not say, but swscale knows: does it shift an edge of colour against that of a frame without any tag?
    side = 64 if frame.width == 32 else 32  # of the frame's own size it would be the frame itself
    tagged = VideoReformatter().reformat(frame, side, side, "yuv420p", interpolation=Interpolation.POINT, threads=1)
    untagged = av.VideoFrame(side, side, "yuv420p")
    shifted = []
    for turns in (1, 0):
        seen = []
        for one in (tagged, untagged):
            y, u, v = planes_of(one)
            y[:], u[:], v[:] = 128, 128, 128
            np.rot90(u, turns)[:8] = 90
            seen.append(_merged(VideoReformatter(), one, (side, side), Colorspace.ITU709))
        shifted.append(bool((seen[0] != seen[1]).any()))
    across, down = shifted
    return None if down else int(not across)


def planes_of(frame: Any) -> list[NDArray[np.uint8]]:
    """The planes of PyAV's frame of 8-bit planes, as they lie in its memory: (h, w) each."""
    rows = ((p, np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)) for p in frame.planes)
    return [plane[: p.height, : p.width] for p, plane in rows]


def _merged(reformatter: VideoReformatter, frame: Any, size: tuple[int, int], space: Colorspace | None) -> Frame:
    # planes and a merge take half the time of packed rgb24 from swscale, for the same values
    picture = reformatter.reformat(frame, *size, "gbrp", src_colorspace=space, interpolation=EXACT, threads=1)
    green, blue, red = planes_of(picture)
    return cv2.merge([red, green, blue])
