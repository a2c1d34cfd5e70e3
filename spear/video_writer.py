"""Writing H.264 with sound: to a file, or to whoever watches while it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from spear.audio import brief, in_blocks, pcm
from spear.clip import FPS
from spear.errors import SpearError
from spear.picture import EXACT, MADE, Area, Colours, Frame, Picture, planes_of

SOUND_RATE = 48_000
_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv")
_LARGE = 1_500_000
"""Pixels; above, H.264 would take as long as all the rest of a render."""
_FRAGMENTS = {"movflags": "+delay_moov+default_base_moof", "frag_duration": "40000", "flush_packets": "1"}
"""A file that can be played from its beginning while its end is not there yet."""


MARGIN = 4
"""Px that the colours of a pixel are made from on its way to YUV."""


class Patch(NamedTuple):
    """A part of a frame: its rows and columns, its pixels (h, w, 3) uint8. The edges are even or those of the frame;
    `MARGIN` pixels from edges inside the frame are as they were, which the colours next to them are made from."""

    area: Area
    pixels: Frame


@lru_cache
def _x264_params(siting: int) -> str:
    """What libx264 has no option of FFmpeg's for."""
    chroma = f"chromaloc={siting}"  # not told, H.264 readers take it for 0
    # with AVX-512 its look-ahead computes something else each time and equal renders would differ; AVX2 is no slower
    with suppress(OSError):
        if "avx512" in Path("/proc/cpuinfo").read_text(errors="replace"):
            return f"{chroma}:asm=avx2"
    return chroma


def _x264_options(large: bool, random_access: bool, streamed: bool) -> dict[str, str]:
    options = {"preset": "veryfast", "trellis": "1"} if large else {"preset": "faster"}
    if random_access:
        options |= {"preset": "veryfast", "g": "10", "bf": "0", "threads": "1"}
    elif streamed:
        options |= {"tune": "zerolatency", "g": str(2 * FPS)}
    return options


class VideoWriter:
    """Writes frames as H.264 at 25 fps, with sound if given; a context manager. Odd sizes grow by one pixel.

    x264's settings, at crf 18, against its `medium` on rendered videos, as luma PSNR, SSIM, size and processor time:
    `faster` up to 1.5 megapixels: -.1 to -.7 dB (of 46 to 53), -.0001 to -.0006, 96 to 106 %, .5 to .75 of the time;
    `veryfast` with trellis above: -.8 to -1.5 dB (of 50 to 55), -.0003 to -.0010, 95 to 105 %, .35 to .42 of the time.
    A stream has no B-frames and no look-ahead, so that each frame is sent with its sound: twice the size, .5 dB better.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        sound: Path | None = None,
        *,
        crf: int = 18,
        random_access: bool = False,
        pixel_aspect: Fraction | int = 1,
        comment: str = "",
        stream: BinaryIO | None = None,
        colours: Colours | None = None,
    ) -> None:
        """sound: a file whose audio track becomes AAC; random_access: many key frames and fixed bytes, for face.mp4.

        pixel_aspect: width over height of one pixel, that of the footage where frames are written as they were read.
        comment: goes into the file's metadata. stream: where the bytes go as they are made, as fragmented MP4; `path`
        is then only what errors call it. colours: those of footage whose pictures are given; those that have them are
        copied, others converted.
        Raises UnusableClip where `sound` has none, SpearError where `path` cannot be written.
        """
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if stream is None and suffix not in _SUFFIXES:
            raise SpearError(f"{path} cannot be written as video; choose a name that ends in {', '.join(_SUFFIXES)}")
        self._sound = iter(()) if sound is None else in_blocks(pcm(sound, 2, SOUND_RATE), SOUND_RATE // FPS)
        self._block = next(self._sound, None)  # a bad sound file is told before there is an output file
        with self._told():
            if stream is not None:
                self._container = av.open(stream, "w", format="mp4", options=_FRAGMENTS)
            else:
                options = {} if suffix == ".mkv" else {"movflags": "+faststart"}
                self._container = av.open(f"file:{path}", "w", options=options)
        self._container.metadata["comment"] = comment
        self._video: Any = self._container.add_stream("libx264", rate=FPS)
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        self._copied, self._colours = colours, colours or MADE
        context.colorspace, context.color_primaries, context.color_trc = self._colours[:3]
        context.color_range = 1  # limited
        context.sample_aspect_ratio = Fraction(pixel_aspect)
        large = width * height > _LARGE
        self._video.options = {"crf": str(crf), "x264-params": _x264_params(self._colours.siting)}
        self._video.options |= _x264_options(large, random_access, stream is not None)
        self._audio: Any = None if sound is None else self._container.add_stream("aac", SOUND_RATE, layout="stereo")
        if self._audio is not None:
            # `fast` takes less than half the time of what FFmpeg takes by itself, and speech comes out nearer to itself
            self._audio.bit_rate, self._audio.options = 128_000, {"aac_coder": "fast"}
        self._reformatter = VideoReformatter()
        self._size, self._count = (height, width, 3), 0
        self._source = av.VideoFrame(self._video.width, self._video.height, "rgb24")
        plane, wide = self._source.planes[0], self._video.width
        memory = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        self._canvas = memory[:, : 3 * wide].reshape(-1, wide, 3)
        """(H, W, 3), what is encoded next: its memory is not asked for again with every frame."""
        self._planes = av.VideoFrame(self._video.width, self._video.height, "yuv420p")
        """The same for frames that are copied; x264 keeps a copy of its own."""

    def write(self, frame: Frame | Picture, patch: Patch | None = None) -> None:
        """Add one frame, RGB (H, W, 3) uint8 or of footage, and the sound up to its end. Raises ValueError for another
        size.

        patch: what is shown in place of a part of the frame, which itself is left alone.
        """
        if frame.shape != self._size:
            raise ValueError(f"a frame of shape {frame.shape} for a video of {self._size}")
        if isinstance(frame, Picture) and self._copied is not None and frame.colours == self._copied:
            picture = self._copy(frame, patch)
        else:
            picture = self._made(frame.rgb() if isinstance(frame, Picture) else frame, patch)
        picture.pts, picture.time_base = self._count, Fraction(1, FPS)
        with self._told():
            self._container.mux(self._video.encode(picture))
            self._write_sound()
        self._count += 1

    def _copy(self, frame: Picture, patch: Patch | None) -> av.VideoFrame:
        """What the patch does not change stays as it was decoded; through RGB its colours would blur."""
        planes = planes_of(self._planes)
        for to, plane in zip(planes, frame.planes(), strict=True):
            to[:] = plane
        if patch is not None and patch.pixels.size:
            made = self._reformatted(av.VideoFrame.from_ndarray(patch.pixels, "rgb24"))
            for to, plane, cell in zip(planes, planes_of(made), (1, 2, 2), strict=True):
                inside = [_inside(part, size, cell) for part, size in zip(patch.area, self._size[:2], strict=True)]
                (rows, own_rows), (columns, own_columns) = inside
                to[rows, columns] = plane[own_rows, own_columns]
        return self._planes

    def _made(self, frame: Frame, patch: Patch | None) -> av.VideoFrame:
        height, width = self._size[:2]
        self._canvas[:height, :width] = frame
        if patch is not None:
            self._canvas[:height, :width][patch.area] = patch.pixels
        self._canvas[height:] = self._canvas[height - 1 : height]  # an odd size grows by a pixel
        self._canvas[:, width:] = self._canvas[:, width - 1 : width]
        return self._reformatted(self._source)

    def _reformatted(self, rgb: av.VideoFrame) -> av.VideoFrame:
        return self._reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=self._colours.space, interpolation=EXACT, threads=1
        )

    def _write_sound(self) -> None:
        """One block of sound per frame, so that it is never longer than the picture."""
        if self._block is None:
            return
        sound = av.AudioFrame.from_ndarray(self._block, format="fltp", layout="stereo")
        sound.sample_rate, sound.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        sound.pts = self._count * (SOUND_RATE // FPS)
        self._container.mux(self._audio.encode(sound))
        self._block = next(self._sound, None)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except av.error.FFmpegError as error:
            raise SpearError(
                f"cannot write {self.path}: {brief(error)}; free disk space or choose another folder"
            ) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(av.error.FFmpegError, OSError):  # an error about what is left would hide the one that matters
                self._container.close()
            return
        with self._told(), self._container:
            if self._count == 0:
                raise SpearError(f"no frame was given for {self.path}; give sound or footage that is longer")
            self._container.mux(self._video.encode())
            if self._audio is not None:
                self._container.mux(self._audio.encode())


def _inside(part: slice, size: int, cell: int) -> tuple[slice, slice]:
    """Rows or columns of a patch without its margins, in a plane with a value for each `cell` pixels: counted in the
    plane of the frame, which is `size` pixels long, and in that of the patch."""
    length = part.stop - part.start
    first = 0 if part.start == 0 else MARGIN
    last = max(length if part.stop == size else length - MARGIN, first)
    return slice((part.start + first) // cell, (part.start + last) // cell), slice(first // cell, last // cell)
