"""Reading what users bring as RGB frames at a constant 25 a second, and writing H.264 with sound."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from spear.audio import pcm_frames
from spear.clip import FPS, SAMPLE_RATE
from spear.errors import UnusableClip

Frame = NDArray[np.uint8]
HD_HEIGHT = 720
"""From this height on, video without a colour tag is BT.709 by custom, below it BT.601."""


class Footage:
    """A video or still image as RGB frames (H, W, 3) uint8, upright, at constant 25 fps; memory flat with length.

    Output frame i is the source frame on screen at (i + 0.5) / 25 s after the first one. The first whole pass over
    `frames()` notes which source frame each one is; after it `frames(start, stop)` jumps.
    """

    def __init__(self, path: Path) -> None:
        """Raises UnusableClip where the file is absent, no picture or video, or has no frame."""
        self.path = Path(path)
        self.shown: list[int] = []
        """Per output frame the number (in pts order) of its source frame; filled by a whole pass."""
        self._pts: list[int | None] = []
        with self._open() as container:
            if not container.streams.video:
                raise UnusableClip(f"{self.path} has no video track; give a video or a picture with a face")
            stream = container.streams.video[0]
            self.start = float((stream.start_time or 0) * (stream.time_base or 0))
            """When the first frame is shown, s on the container's clock."""
            self.has_audio = bool(container.streams.audio)
            self.expected = self._declared_frames(container, stream)
        self.height, self.width = self._first_frame().shape[:2]

    @staticmethod
    def _declared_frames(container: Any, stream: Any) -> int:
        duration = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 10**6)
        return max(1, round(float(duration) * FPS))

    def _first_frame(self) -> Frame:
        for _, frame in self._timed(0):
            return _rgb(frame)
        raise UnusableClip(f"{self.path} has no frame that can be decoded; give another file")

    def _open(self) -> Any:
        if not self.path.is_file():
            raise UnusableClip(f"{self.path} is not a file; give a video or a picture with a face")
        try:
            # a file name may look like a URL or playlist to the demuxer; `file:` makes it a plain path
            return av.open(f"file:{self.path}", options={"protocol_whitelist": "file"})
        except (av.error.FFmpegError, ValueError) as error:
            raise UnusableClip(f"{self.path} is not a video or picture that can be read ({_brief(error)}); give another file") from error

    def _timed(self, first: int) -> Iterator[tuple[int, Any]]:
        """Decoded frames with their number, from number `first` on."""
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            number = 0
            target = self._pts[first] if 0 < first < len(self._pts) else None
            if target is not None:
                container.seek(target, stream=stream)
            try:
                for frame in container.decode(stream):
                    if target is not None:
                        if frame.pts is None or frame.pts > target:
                            break  # the container seeks badly: count from the start instead
                        if frame.pts < target:
                            continue
                        number, target = first, None
                    if number >= first:
                        yield number, frame
                    number += 1
                if target is None:
                    return
            except av.error.FFmpegError as error:
                raise UnusableClip(f"{self.path} is damaged after frame {number} ({_brief(error)}); cut or replace it") from error
        known, self._pts = self._pts, []
        for number, frame in self._timed(0):
            if number >= first:
                yield number, frame
        self._pts = known

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop at 25 fps. `start` above 0 needs a whole pass before. Raises UnusableClip where damaged."""
        if start > 0 or (stop is not None and self.shown):
            yield from self._known_frames(start, len(self.shown) if stop is None else stop)
            return
        self.shown, self._pts, count = [], [], 0
        for number, frame in self._sampled():
            if stop is not None and count >= stop:
                return
            if not self.shown or self.shown[-1] != number:
                picture = _rgb(frame)
            self.shown.append(number)
            count += 1
            yield picture
        if count < 0.9 * self.expected - FPS:
            raise UnusableClip(f"{self.path} ends after {count} of {self.expected} frames; it is truncated: replace it")

    def _sampled(self) -> Iterator[tuple[int, Any]]:
        previous: tuple[int, Any] | None = None
        index, origin, now, step = 0, None, 0.0, 1 / FPS
        for number, frame in self._timed(0):
            self._pts.append(frame.pts)
            base = float(frame.time_base or 0)
            if frame.pts is None:
                now = now + step if previous else 0.0
            else:
                origin = frame.pts if origin is None else origin
                now = (frame.pts - origin) * base
            while previous is not None and now > (index + 0.5) / FPS:
                yield previous
                index += 1
            if frame.duration:
                step = frame.duration * base
            previous = (number, frame)
        if previous is None:
            raise UnusableClip(f"{self.path} has no frame that can be decoded; give another file")
        while index < max(1, round((now + step) * FPS)):
            yield previous
            index += 1

    def _known_frames(self, start: int, stop: int) -> Iterator[Frame]:
        wanted = self.shown[start:stop]
        if not wanted:
            return
        position = 0
        for number, frame in self._timed(wanted[0]):
            if number != wanted[position]:
                continue
            picture = _rgb(frame)
            while position < len(wanted) and wanted[position] == number:
                yield picture
                position += 1
            if position == len(wanted):
                return

    def ping_pong(self, count: int) -> Iterator[Frame]:
        """`count` frames, forward, then backward, and so on; needs a whole pass before. Backward in pieces of memory."""
        total = len(self.shown)
        piece = max(8, 200_000_000 // (self.height * self.width * 3))
        if total == 1:
            picture = next(self.frames(0, 1))
            yield from (picture for _ in range(count))
            return
        left = count
        while left > 0:
            for picture in self.frames(0, min(total, left)):
                yield picture
                left -= 1
            stop = total - 1  # the turning frames are shown once
            while left > 0 and stop > 1:
                start = max(1, stop - piece)
                for picture in reversed(list(self.frames(start, stop))):
                    if left == 0:
                        return
                    yield picture
                    left -= 1
                stop = start


def ping_pong_index(count: int, total: int) -> NDArray[np.int64]:
    """Which of `total` frames is shown at each of `count` times when the ref runs forward and backward: (count,)."""
    if total == 1:
        return np.zeros(count, np.int64)
    cycle = np.arange(count) % (2 * total - 2)
    return np.where(cycle < total, cycle, 2 * total - 2 - cycle)


def _rgb(frame: Any) -> Frame:
    source = Colorspace.ITU709 if frame.colorspace == 2 and frame.height >= HD_HEIGHT else None
    picture = frame.to_ndarray(format="rgb24", src_colorspace=source)
    return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90 % 4))


def _brief(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().lower()


class VideoWriter:
    """Writes RGB frames as H.264 at 25 fps, with sound if given; a context manager. Odd sizes are padded by one pixel."""

    def __init__(
        self, path: Path, width: int, height: int, sound: Path | None = None, *, crf: int = 18, random_access: bool = False
    ) -> None:
        """sound: a file whose audio track is resampled to AAC; random_access: many key frames and fixed bytes, for face.mp4."""
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        self._video: Any = self._container.add_stream("libx264", rate=FPS)
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1  # bt709, limited
        options = {"crf": str(crf), "preset": "veryfast" if random_access else "medium"}
        if random_access:
            options |= {"g": "10", "bf": "0", "threads": "1"}
        self._video.options = options
        self._count = 0
        self._sound = iter(()) if sound is None else pcm_frames(sound, layout="stereo", rate=48_000, form="fltp")
        self._audio: Any = None if sound is None else self._container.add_stream("aac", rate=48_000, layout="stereo")
        if self._audio is not None:
            self._audio.bit_rate = 128_000
        self._sound_until = 0.0

    def write(self, frame: Frame) -> None:
        """Add one frame (H, W, 3) uint8, and the sound up to its end."""
        odd_rows, odd_columns = frame.shape[0] % 2, frame.shape[1] % 2
        if odd_rows or odd_columns:
            frame = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = self._count, Fraction(1, FPS)
        self._container.mux(self._video.encode(picture))
        self._count += 1
        self._write_sound(self._count / FPS)

    def _write_sound(self, until: float) -> None:
        while self._audio is not None and self._sound_until < until:
            frame = next(self._sound, None)
            if frame is None:
                return
            self._sound_until = float((frame.pts + frame.samples) * frame.time_base)
            self._container.mux(self._audio.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._container.mux(self._video.encode())
                if self._audio is not None:
                    self._container.mux(self._audio.encode())
        finally:
            self._container.close()
