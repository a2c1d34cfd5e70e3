"""Reading speech of any format and length; 16 kHz mono for the nets, 640 samples to a video frame."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from spear.clip import SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.errors import UnusableClip

Samples = NDArray[np.float32]


def pcm_frames(path: Path, layout: str, rate: int, form: str) -> Iterator[Any]:
    """Decode the first audio track, resampled, as PyAV frames on the container's clock. Raises UnusableClip."""
    path = Path(path)
    if not path.is_file():
        raise UnusableClip(f"{path} is not a file; give a file with speech")
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError) as error:
        raise UnusableClip(f"{path} is not audio that can be read ({_brief(error)}); give a wav, flac, mp3, m4a or video file") from error
    with container:
        if not container.streams.audio:
            raise UnusableClip(f"{path} has no audio track; give a file with speech")
        resampler = av.AudioResampler(format=form, layout=layout, rate=rate)
        try:
            for frame in container.decode(audio=0):
                yield from resampler.resample(frame)
            yield from resampler.resample(None)
        except av.error.FFmpegError as error:
            raise UnusableClip(f"{path} is damaged ({_brief(error)}); replace it") from error


def load_audio(path: Path, start: float = 0.0) -> Samples:
    """Samples at 16 kHz mono in -1..1, (N,), from `start` s on the container's clock (silence where the track is later).

    Raises UnusableClip where the file has no sound or cannot be read.
    """
    pieces: list[Samples] = []
    offset = 0
    for frame in pcm_frames(path, layout="mono", rate=SAMPLE_RATE, form="flt"):
        if not pieces and frame.pts is not None:
            offset = round((float(frame.pts * frame.time_base) - start) * SAMPLE_RATE)
        pieces.append(frame.to_ndarray().reshape(-1))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if samples.size == 0:
        raise UnusableClip(f"{path} holds no sound at all (0 samples); give a file with speech")
    return np.pad(samples, (offset, 0)) if offset > 0 else samples[-offset:]


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
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())


def _brief(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().lower()
