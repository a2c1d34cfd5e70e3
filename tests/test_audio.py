"""Promises of spear.audio: the right samples at the right time, from any format."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spear.audio import fit_to_frames, frames_of, load_audio, load_for_frames, write_wav
from spear.errors import UnusableClip
from spear.video import Footage

Samples = NDArray[np.float32]


def encode(
    path: Path,
    samples: Samples,
    *,
    codec: str = "pcm_s16le",
    rate: int = 16000,
    layout: str = "mono",
    at: float = 0.0,
    skip: tuple[float, float] = (0.0, 0.0),
    flash: float | None = None,
    film: float = 0.0,
) -> Path:
    """Write samples (N,), the same in all channels, with the first one at `at` s on the container's clock.

    skip: from this second on, time stamps are later by so many s. flash: with a black film, white in the frame at this
    second, that starts at `film` s.
    """
    with av.open(str(path), "w") as file:
        sound: Any = file.add_stream(codec, rate=rate, layout=layout)
        if flash is not None:
            video: Any = file.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for k in range(50):
                image = np.full((64, 64, 3), 255 if k == round(flash * 25) else 0, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = k + round(film * 25), Fraction(1, 25)
                file.mux(video.encode(frame))
            file.mux(video.encode())
        for i in range(0, len(samples), 960):
            planes = np.repeat(samples[None, i : i + 960], len(av.AudioLayout(layout).channels), axis=0)
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout=layout)
            late = skip[1] if i >= skip[0] * rate else 0.0
            piece.sample_rate, piece.pts, piece.time_base = rate, i + round((at + late) * rate), Fraction(1, rate)
            file.mux(sound.encode(piece))
        file.mux(sound.encode())
    return path


def tone(seconds: float, rate: int, amplitude: float = 0.5) -> Samples:
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def click(seconds: float, at: float, rate: int) -> Samples:
    samples = np.zeros(round(seconds * rate), np.float32)
    width = rate // 250
    samples[round(at * rate) :][:width] = 0.8 * np.hanning(width)
    return samples


def click_time(samples: Samples) -> float:
    """Where the energy is, s, less half the 4 ms that a click lasts."""
    energy = samples.astype(float) ** 2
    return float((energy * np.arange(len(energy))).sum() / energy.sum()) / 16000 - 0.002


FORMATS = [
    ("a.wav", "pcm_s16le", 44100, "stereo"),
    ("low.wav", "pcm_u8", 8000, "mono"),
    ("high.wav", "pcm_s24le", 96000, "stereo"),
    ("a.flac", "flac", 22050, "mono"),
    ("a.ogg", "libopus", 48000, "stereo"),
    ("a.mp3", "libmp3lame", 44100, "stereo"),
    ("a.m4a", "aac", 48000, "mono"),
    ("a.ac3", "ac3", 48000, "mono"),
]


@pytest.mark.parametrize(("name", "codec", "rate", "layout"), FORMATS, ids=[row[0] for row in FORMATS])
def test_every_format_gives_the_same_sound_at_the_same_time_and_loudness(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    loud = load_audio(encode(tmp_path / name, tone(1.0, rate), codec=codec, rate=rate, layout=layout))
    assert loud.dtype == np.float32
    assert abs(loud.size - 16000) <= 800  # AAC and AC-3 come in blocks
    assert loud[4000:12000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.06)
    clicked = load_audio(encode(tmp_path / name, click(1.0, 0.4, rate), codec=codec, rate=rate, layout=layout))
    assert click_time(clicked) == pytest.approx(0.4, abs=0.006)  # AC-3 alone does not tell its delay of 5.3 ms


def test_surround_sound_is_mixed_without_running_over(tmp_path: Path) -> None:
    samples = load_audio(encode(tmp_path / "a.m4a", tone(0.5, 48000), codec="aac", rate=48000, layout="5.1"))
    assert 0.3 < np.abs(samples).max() <= 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.mov"])
@pytest.mark.parametrize(("film", "sound"), [(0.0, 0.0), (0.0, 0.5), (0.4, 0.0), (0.4, 0.8)])
def test_a_click_is_heard_in_the_frame_that_flashes(tmp_path: Path, name: str, film: float, sound: float) -> None:
    codec = "aac" if name != "a.mov" else "pcm_s16le"
    samples = click(3.0 - sound, film + 1.2 - sound, 48000)
    path = encode(tmp_path / name, samples, codec=codec, rate=48000, at=sound, flash=1.2, film=film)
    footage = Footage(path)
    brightness = [frame.mean() for frame in footage.frames()]
    assert int(np.argmax(brightness)) == 30
    assert click_time(load_audio(path, footage.start)) == pytest.approx(1.2, abs=0.002)


def test_sound_alone_starts_where_its_file_starts(tmp_path: Path) -> None:
    late = encode(tmp_path / "a.mkv", click(1.0, 0.3, 16000), at=5.0)
    assert click_time(load_audio(late)) == pytest.approx(0.3, abs=0.001)
    assert click_time(load_audio(late, 0.0)) == pytest.approx(5.3, abs=0.001)


def test_a_gap_in_the_time_stamps_is_silence_and_a_new_clock_is_none(tmp_path: Path) -> None:
    ones = np.full(32000, 0.5, np.float32)
    gap = load_audio(encode(tmp_path / "gap.mkv", ones, skip=(0.96, 0.25)))
    quiet = np.flatnonzero(np.abs(gap) < 0.1)
    assert gap.size == 32000 + 4000
    assert (quiet[0], quiet[-1]) == (15360, 15360 + 3999)
    assert load_audio(encode(tmp_path / "clock.mkv", ones, skip=(0.96, 3600.0))).size == 32000


def test_bad_sound_gets_one_line(tmp_path: Path) -> None:
    write_wav(tmp_path / "zero.wav", np.zeros(0, np.float32))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "face.png")
    (tmp_path / "text.wav").write_bytes(b"this is not sound\n" * 100)
    (tmp_path / "empty.mp3").write_bytes(b"")
    flac = encode(tmp_path / "whole.flac", tone(2.0, 16000), codec="flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    unreadable = "cannot be read as video, picture or sound (invalid data found when processing input)"
    wanted = "give a file with speech"
    complaints = {
        "zero.wav": f"holds no sound at all (0 samples); {wanted}",
        "face.png": f"has no audio track; {wanted}",
        "text.wav": f"{unreadable}; {wanted}",
        "empty.mp3": f"{unreadable}; {wanted}",
        "absent.wav": f"does not exist; {wanted}",
    }
    for name, complaint in complaints.items():
        with pytest.raises(UnusableClip) as caught:
            load_audio(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} {complaint}"
    with pytest.raises(UnusableClip, match=r"cut\.flac is damaged after \d+ frames \(.*\); cut or replace it$"):
        load_audio(tmp_path / "cut.flac")
    with pytest.raises(UnusableClip, match=r"is a folder; give a file with speech$"):
        load_audio(tmp_path)


def test_an_mp3_with_junk_around_it_is_read(tmp_path: Path) -> None:
    song = encode(tmp_path / "a.mp3", tone(1.0, 44100), codec="libmp3lame", rate=44100).read_bytes()
    (tmp_path / "b.mp3").write_bytes(bytes(300) + song + b"TAG" + b"x" * 400)
    assert load_audio(tmp_path / "b.mp3").size == pytest.approx(16000, abs=900)


@pytest.mark.parametrize("frames", [10, 25, 40])
def test_sound_read_for_so_many_frames_is_what_fitting_makes_of_it(tmp_path: Path, frames: int) -> None:
    write_wav(tmp_path / "a.wav", tone(1.0, 16000))
    fitted = fit_to_frames(load_audio(tmp_path / "a.wav"), frames)
    samples, heard = load_for_frames(tmp_path / "a.wav", frames)
    assert np.array_equal(samples, fitted)
    assert (samples.shape, heard) == ((frames * 640,), 16000)


def test_a_video_frame_is_640_samples() -> None:
    ones = np.ones(1000, np.float32)
    assert fit_to_frames(ones, 1).tolist() == [1.0] * 640
    assert fit_to_frames(ones, 2).tolist() == [1.0] * 1000 + [0.0] * 280
    assert [frames_of(np.zeros(n, np.float32)) for n in (1, 640, 959, 961, 16000)] == [1, 1, 1, 2, 25]


def test_wav_holds_16_bits_and_clips(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([0.0, 0.5, -0.25, 3.0, -3.0], np.float32))
    back = load_audio(tmp_path / "a.wav")
    assert back == pytest.approx([0.0, 0.5, -0.25, 1.0, -1.0], abs=1 / 16384)
    assert (tmp_path / "a.wav").stat().st_size == 44 + 2 * 5
