"""Reading what users bring as frames at a constant 25 a second."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from spear.audio import declared, decode, open_media, timed
from spear.clip import FPS
from spear.errors import UnusableClip
from spear.picture import Frame as Frame
from spear.picture import Picture, shared_with
from spear.video_writer import Patch as Patch
from spear.video_writer import VideoWriter as VideoWriter

_AHEAD = (0.0, 1.0, None)
"""How long before a key frame to seek, s, one after the other: MPEG-TS and PS land behind what was asked for."""
_WANTED = "a video or a picture with a face"
_ROUNDING = 0.001
"""Containers round times to 1 ms and more; without this, 50 fps footage would flicker between odd and even frames."""


class Footage:
    """A video or still image as upright frames at constant 25 fps; memory flat with length.

    Output frame i is the source frame on screen at (i + 0.5) / 25 s after the first one. The first whole pass over
    `pictures()` notes which source frame each one is; after it `pictures(start, stop)` jumps.
    """

    def __init__(self, path: Path) -> None:
        """Raises UnusableClip where the file is absent, no picture or video, or has no frame."""
        self.path = Path(path)
        self.shown: list[int] = []
        """Per output frame the number (in order of showing) of its source frame; filled by a whole pass."""
        self.doubts: list[str] = []
        """What a whole pass found that contradicts what the file announces; decoders keep silent about it."""
        self._pts: list[int | None] = []
        self._keys: list[int] = []
        with open_media(self.path, _WANTED) as container:
            stream = self._track(container)
            self.has_audio = bool(container.streams.audio)
            seconds, self._declared = declared(container, stream)
            self.expected = max(1, round(seconds * FPS))
            """How many frames there will be, for a progress bar; exact only after a whole pass."""
            for frame in decode(container, stream, self.path):
                self.start = float((frame.pts or 0) * (frame.time_base or 0))
                """When the first frame is shown, s on the container's clock."""
                aspect = stream.sample_aspect_ratio or Fraction(1)
                self.pixel_aspect = 1 / aspect if frame.rotation % 180 else aspect
                """Width over height of one pixel; not 1 in some camera and DVD footage, which players stretch."""
                self._shared = shared_with(frame)
                first = Picture(frame, self._shared)
                self.height, self.width, _ = first.shape
                self.colours = first.colours
                """Of its pictures, as far as they can be copied; see `Picture`."""
                self._many_packets = frame.interlaced_frame or stream.codec_context.name == "vp8"
                """A packet may be one of a picture's two fields, or a picture that is never shown."""
                return
        raise UnusableClip(f"{self.path} has no frame that can be decoded; give it as mp4, png or jpg")

    def _track(self, container: Any) -> Any:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        what = "only a cover picture" if container.streams.video else "no video track"
        raise UnusableClip(f"{self.path} has {what}; give {_WANTED}")

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop at 25 fps as RGB (H, W, 3) uint8. Raises UnusableClip as `pictures`."""
        last = None
        for picture in self.pictures(start, stop):
            if picture is not last:
                rgb, last = picture.rgb(), picture
            yield rgb

    def pictures(self, start: int = 0, stop: int | None = None) -> Iterator[Picture]:
        """Frames start..stop at 25 fps, one object for all that show the same. Raises UnusableClip where the file is
        damaged or ends early."""
        if start > 0 and not self.shown:
            deque(self._sampled(), maxlen=0)  # notes what is shown when
        if start > 0 or (stop is not None and self.shown):
            source = self._known(self.shown[start:stop])
        else:
            source = islice(self._sampled(), stop)
        last = -1
        for number, frame in source:
            if number != last:
                picture, last = Picture(frame, self._shared), number
            yield picture

    def chosen(self, wanted: set[int]) -> Iterator[tuple[int, Picture]]:
        """Number and picture of some frames, in one pass to the last of them. Raises UnusableClip as `pictures`."""
        for i, (_, frame) in enumerate(islice(self._sampled(), max(wanted) + 1)):
            if i in wanted:
                yield i, Picture(frame, self._shared)

    def _sampled(self) -> Iterator[tuple[int, Any]]:
        """Number and source frame of each output frame; at the end of the pass `shown` and the key frames are known."""
        shown: list[int] = []
        pts: list[int | None] = []
        keys: list[int] = []
        packets: list[int] = []
        previous, end = None, 0.0
        decoded = self._decoded(tell=lambda packet: packets.append(packet.size))
        for number, (frame, begin, end) in enumerate(timed(decoded)):  # noqa: B007
            while number and begin > (len(shown) + 0.5) / FPS + _ROUNDING:
                shown.append(number - 1)
                yield number - 1, previous
            previous = frame
            pts.append(frame.pts)
            if frame.key_frame:
                keys.append(number)
        while previous is not None and len(shown) < max(1, round(end * FPS)):
            shown.append(len(pts) - 1)
            yield len(pts) - 1, previous
        if self._declared and len(shown) < 0.98 * self.expected - 5:
            what = f"ends after {len(shown)} of {self.expected} frames"
            raise UnusableClip(f"{self.path} {what}; it is truncated: replace it")
        self.doubts = self._doubts(len(packets), len(pts), len(shown))
        rising = all(a is not None and b is not None and a < b for a, b in pairwise(pts))
        self.shown, self._pts, self._keys = shown, pts, keys if rising else []

    def _doubts(self, packets: int, decoded: int, shown: int) -> list[str]:
        doubts = []
        if decoded < packets and not self._many_packets:
            doubts.append(
                f"{packets - decoded} of {packets} pictures cannot be decoded; the one before stands for each"
            )
        if self._declared and abs(shown - self.expected) > 1:
            doubts.append(f"it announces {self.expected} frames of 1/{FPS} s and has {shown}")
        return doubts

    def _decoded(
        self, seek_to: int | None = None, ahead: float = 0.0, tell: Callable[[Any], None] = lambda _: None
    ) -> Iterator[Any]:
        """Source frames in order of showing; the container is asked to begin `ahead` s before time stamp `seek_to`.

        tell: as for `decode`."""
        with open_media(self.path, _WANTED) as container:
            stream = self._track(container)
            stream.thread_type = "AUTO"
            if seek_to is not None:
                with suppress(av.error.FFmpegError):  # a container that cannot seek stays at its start
                    container.seek(seek_to - round(ahead / stream.time_base), stream=stream)
            yield from decode(container, stream, self.path, tell)

    def _known(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Number and source frame for each of these numbers, which rise and may repeat."""
        position = 0
        for ahead in _AHEAD:
            if position == len(wanted):
                return
            for number, frame in self._from(wanted[position], ahead):
                while number == wanted[position]:
                    yield number, frame
                    position += 1
                    if position == len(wanted):
                        return
        raise UnusableClip(f"{self.path} is not what it was a moment ago; leave it alone and run again")

    def _from(self, first: int, ahead: float | None) -> Iterator[tuple[int, Any]]:
        """Number and source frame, from the key frame at or before number `first` on.

        The container is asked to seek to `ahead` s before that key frame (None: to the start); where it lands after it
        or time stamps differ from those of the whole pass, this ends early.
        """
        key = self._keys[bisect_right(self._keys, first) - 1] if self._keys else 0
        if key <= 0 or ahead is None:
            yield from enumerate(self._decoded())
            return
        number = key
        with suppress(UnusableClip):  # no damage, but a landing in mid-air
            for frame in self._decoded(self._pts[key], ahead):
                if frame.pts == self._pts[number] and (number > key or frame.key_frame):
                    yield number, frame
                    number += 1
                elif number > key or frame.pts is None or frame.pts > self._pts[key]:
                    return

    def ping_pong(self, count: int) -> Iterator[Picture]:
        """`count` frames, forward, then backward, and so on; backward in pieces, so that memory stays flat."""
        piece = max(8, 100_000_000 // (self.height * self.width * 3))
        left = count
        while left > 0:
            for picture in self.pictures(0, min(left, len(self.shown)) if self.shown else left):
                yield picture
                left -= 1
            if len(self.shown) == 1:
                yield from repeat(picture, left)
                return
            stop = len(self.shown) - 1  # the turning frames are shown once
            while left > 0 and stop > 1:
                start = max(1, stop - piece)
                pictures = list(self.pictures(start, stop))
                while pictures and left > 0:
                    yield pictures.pop()  # which may grow while it is used
                    left -= 1
                stop = start


def ping_pong_index(count: int, total: int) -> NDArray[np.int64]:
    """Which of `total` frames is shown at each of `count` times when the ref runs forward and backward: (count,)."""
    if total == 1:
        return np.zeros(count, np.int64)
    cycle = np.arange(count) % (2 * total - 2)
    return np.where(cycle < total, cycle, 2 * total - 2 - cycle)
