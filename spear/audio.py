"""Opening what users bring, and its speech: any format and length, 16 kHz mono for the nets, 640 samples per frame."""

from __future__ import annotations

import math
import wave
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from spear.clip import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.errors import UnusableClip

Samples = NDArray[np.float32]

_TEXT = {"tty", "concat", "hls"}
"""What FFmpeg makes of text: a film of the letters, or the files that are named in it."""
_JITTER = 0.05
"""Time stamps may stray from the sample count by so much, s: containers round them to 1 ms and more."""
_CLOCK_RESET = 10.0
"""A step of the sound's time stamps beyond this, s, is a new clock, not silence or sound to drop."""
_LONGEST_HOLD = 600.0
"""A step of the pictures' time stamps beyond this, s, or back by more than one, is a new clock, not a held picture.
Sound that begins so late begins at once."""
_MOST_HOURS = 4
"""Of sound that is held in memory, 0.9 GB: a file of some bytes may announce years."""
_TOO_LONG = f"{{}} has more than {_MOST_HOURS} hours of sound; cut it into parts"
_RATES = (2_000, 800_000)
"""Sample rates of sound, Hz: what is beyond was not recorded, and resampling makes thousands of samples of one."""
_MOST_PIXELS = 8_192 * 4_352
"""The largest picture of H.264: a few bytes may announce a picture that fills the memory."""


def load_audio(path: Path, start: float | None = None) -> Samples:
    """Samples at 16 kHz mono in -1..1, (N,), from `start` s on the container's clock (None: its own start).

    Silence stands where the track starts later or has a gap. Raises UnusableClip where the file has no sound, more than
    four hours of it, or cannot be read.
    """
    samples = array("f")  # grows in place, where a list of pieces would be held twice
    for piece in pcm(path, 1, SAMPLE_RATE, start):
        samples.frombytes(piece.tobytes())
        if len(samples) > _MOST_HOURS * 3600 * SAMPLE_RATE:
            raise UnusableClip(_TOO_LONG.format(path))
    return np.frombuffer(samples, np.float32)


def load_for_frames(path: Path, frames: int, start: float | None = None) -> tuple[Samples, int]:
    """The same as `fit_to_frames` makes it, (frames * 640,), without a second copy, and how many samples there were."""
    fitted, count = np.zeros(frames * SAMPLES_PER_FRAME, np.float32), 0
    for piece in pcm(path, 1, SAMPLE_RATE, start):
        part = piece[0, : max(0, len(fitted) - count)]
        fitted[count : count + len(part)] = part
        count += piece.shape[1]
    return fitted, count


def pcm(path: Path, channels: int, rate: int, start: float | None = None) -> Iterator[Samples]:
    """Decode the first audio track, resampled, as pieces (channels, n) float32 that follow each other without a gap.

    channels: 1 or 2. The first sample is at `start` s, as in `load_audio`. Raises UnusableClip.
    """
    with open_media(path, "a file with speech") as container:
        if not container.streams.audio:
            raise UnusableClip(f"{path} has no audio track; give a file with speech")
        if _hours(container, path) > _MOST_HOURS:
            raise UnusableClip(_TOO_LONG.format(path))
        begin = (container.start_time or 0) / av.time_base if start is None else start
        given, position, shift = 0, None, 0  # samples yielded; where the next piece is due; what its clock is off by
        for frame in _resampled(container, path, rate):
            piece = _mixed(frame.to_ndarray(), channels)
            at = None if frame.pts is None else round((float(frame.pts * frame.time_base) - begin) * rate)
            if position is None:
                position = 0 if at is None or at > _LONGEST_HOLD * rate else at
            elif at is not None and abs(at + shift - position) > _CLOCK_RESET * rate:
                shift = position - at
            elif at is not None and abs(at + shift - position) > _JITTER * rate:
                position = at + shift
            while position > given:
                silence = min(position - given, rate)
                yield np.zeros((channels, silence), np.float32)
                given += silence
            fresh = piece[:, given - position :]
            position += piece.shape[1]
            if fresh.size:
                yield fresh
                given = position
        if given == 0:
            raise UnusableClip(f"{path} holds no sound at all (0 samples); give a file with speech")


def _hours(container: Any, path: Path) -> float:
    """What the file announces, but no more than its bytes allow: what is written as a stream announces the largest."""
    seconds: float = (container.duration or 0) / av.time_base
    if rate := container.streams.audio[0].codec_context.bit_rate:
        seconds = min(seconds, path.stat().st_size * 8 / rate)
    return seconds / 3600


def _mixed(piece: Samples, channels: int) -> Samples:
    """Mono or stereo (c, n) to (channels, n), at equal loudness: FFmpeg's own mix is 3 dB off, up or down."""
    if channels == 1:
        piece = piece.mean(axis=0, keepdims=True)
    elif piece.shape[0] == 1:
        piece = np.repeat(piece, channels, axis=0)
    return np.clip(piece, -1, 1)


def in_blocks(pieces: Iterator[Samples], size: int) -> Iterator[Samples]:
    """Cut stereo pieces (2, any) into blocks (2, size); the last one may be shorter."""
    held = np.zeros((2, 0), np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece], axis=1)
        while held.shape[1] >= size:
            yield held[:, :size]
            held = held[:, size:]
    if held.shape[1]:
        yield held


def _resampled(container: Any, path: Path, rate: int) -> Iterator[Any]:
    resampler: Any = None
    form = None
    for frame in decode(container, container.streams.audio[0], path):
        if form != (frame.format.name, frame.layout.name, frame.sample_rate):  # may change in mid-stream
            if resampler is not None:
                yield from resampler.resample(None)
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def fit_to_frames(samples: Samples, frames: int) -> Samples:
    """Pad with silence or cut to exactly `frames` video frames: (frames * 640,)."""
    wanted = frames * SAMPLES_PER_FRAME
    return np.pad(samples[:wanted], (0, max(0, wanted - samples.size)))


def frames_of(samples: Samples) -> int:
    """How many video frames the audio lasts, round(seconds * 25), at least 1."""
    return max(1, round(samples.size / SAMPLES_PER_FRAME))


def write_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit mono PCM at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for i in range(0, len(samples), SAMPLE_RATE):  # each step of this makes a copy
            piece = np.clip(samples[i : i + SAMPLE_RATE], -1, 1) * 32767
            file.writeframesraw(piece.round().astype("<i2").tobytes())


def open_media(path: Path, wanted: str) -> Any:
    """Open a media file for reading, as a PyAV container. wanted: what to give instead, for the error.

    Raises UnusableClip where there is no such file or it is no media file.
    """
    path = Path(path)
    if path.is_dir():
        raise UnusableClip(f"{path} is a folder; give {wanted}")
    if not path.is_file():
        raise UnusableClip(f"{path} does not exist; give {wanted}")
    try:
        # a name may look like a URL, a playlist or (`%03d.png`, `*.png`) a row of pictures; it is one plain file
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file", "pattern_type": "none"})
    except (av.error.FFmpegError, ValueError) as error:
        what = f"{path} cannot be read as video, picture or sound ({brief(error)})"
        raise UnusableClip(f"{what}; give {wanted}") from error
    if container.format.name in _TEXT:
        container.close()
        raise UnusableClip(f"{path} is a text file; give {wanted}")
    if unfit := _unfit(container):
        container.close()
        raise UnusableClip(f"{path} {unfit}")
    return container


def _unfit(container: Any) -> str | None:
    """What of the announced picture or sound no program should believe."""
    for stream in container.streams.video + container.streams.audio:
        if stream.codec_context is None:
            return f"has a {stream.type} track of a kind that is not known here; convert it to H.264 and AAC"
    for stream in container.streams.video:
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > _MOST_PIXELS:
            return f"announces pictures of {width}x{height}; H.264 knows up to 8192x4352: make it smaller"
    for stream in container.streams.audio:
        rate = stream.codec_context.sample_rate
        if not _RATES[0] <= rate <= _RATES[1]:
            return f"announces {rate} samples of sound a second; give speech at 8,000 or more"
    return None


def decode(container: Any, stream: Any, path: Path, tell: Callable[[Any], None] = lambda _: None) -> Iterator[Any]:
    """Frames of one track. tell: given each packet that should give one. Raises UnusableClip where the file is damaged.

    Packets before the first frame may fail: recordings of broadcasts begin between key frames.
    """
    count = 0
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                tell(packet)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if count:
                    raise
                continue
            count += len(frames)
            yield from frames
    except av.error.FFmpegError as error:
        raise UnusableClip(f"{path} is damaged after {count} frames ({brief(error)}); cut or replace it") from error


def timed(frames: Iterator[Any]) -> Iterator[tuple[Any, float, float]]:
    """Each frame with the times at which it comes and goes, s after the first one; they never fall.

    The time is the pts, or the dts once the pts have stepped back more often (AVI keeps no order of B-frames).
    """
    now, step = -1 / FPS, 1 / FPS
    last, faults = [-math.inf, -math.inf], [0, 0]
    origin: list[float | None] = [None, None]
    for frame in frames:
        base = float(frame.time_base or 0)
        times = [None if stamp is None else stamp * base for stamp in (frame.pts, frame.dts)]
        for k, time in enumerate(times):
            if time is None:
                continue
            faults[k] += time <= last[k]
            last[k], begin = time, origin[k]
            if begin is None or not -1 < time - begin - now < _LONGEST_HOLD:
                origin[k] = time - (now + step)
        k = int(times[0] is None or (faults[0] > faults[1] + 2 and last[1] > -math.inf))
        time, begin = times[k], origin[k]
        now = now + step if time is None or begin is None else max(now, time - begin)
        step = frame.duration * base or step
        yield frame, now, now + step


def declared(container: Any, stream: Any) -> tuple[float, bool]:
    """Length in s that the file announces, and whether it says so of this very track."""
    name = container.format.name
    length = float(stream.duration * stream.time_base) if stream.duration else None
    if name.startswith("matroska") and "DURATION" in stream.metadata:  # hh:mm:ss.fraction, from the clock's zero
        hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
        length = hours * 3600 + minutes * 60 + seconds - float((stream.start_time or 0) * stream.time_base)
    if length is None:
        return (container.duration or 0) / av.time_base, False
    return length, name.startswith(("mov", "matroska", "avi"))


def brief(error: Exception) -> str:
    """What FFmpeg says, without the file name."""
    return str(getattr(error, "strerror", None) or error).strip().lower()
