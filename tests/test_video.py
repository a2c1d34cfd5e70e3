"""Promises of spear.video, tried on footage whose frames carry their number as a row of black and white bars."""

from __future__ import annotations

import math
import shutil
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from spear.audio import load_audio, write_wav
from spear.errors import SpearError, UnusableClip
from spear.video import Footage, VideoWriter, ping_pong_index

Picture = NDArray[np.uint8]
WIDTH, HEIGHT, BITS = 192, 128, 10
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Picture:
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    row = bars[np.arange(width) * BITS // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number(frame: Picture) -> int:
    bars = np.array_split(frame.mean(axis=(0, 2)), BITS)
    return sum(1 << bit for bit, bar in enumerate(bars) if np.median(bar) > 127)


def make(
    path: Path,
    count: int,
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    form: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    times: list[Fraction] | None = None,
    draw: Callable[[int], Picture] = picture,
    tags: dict[str, int] | None = None,
    matrix: Colorspace = Colorspace.ITU601,
) -> Path:
    """Encode frames 0..count with PyAV, with none of the code under test. times: when each is shown, s."""
    height, width = draw(0).shape[:2]
    with av.open(str(path), "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, form, options or {}
        base = Fraction(1, 1000) if times else 1 / Fraction(fps)
        stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        wide = ColorRange.JPEG if (tags or {}).get("color_range") == 2 or "yuvj" in form else ColorRange.MPEG
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(draw(k), format="rgb24")
            frame = frame.reformat(format=form, dst_colorspace=matrix, dst_color_range=wide, interpolation=EXACT)
            frame.colorspace = (tags or {}).get("colorspace", 2)
            frame.pts, frame.time_base = round((times[k] if times else Fraction(k) / fps) / base), base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def same(one: list[Picture], other: list[Picture]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


CONTAINERS = [
    ("a.mp4", {}),
    ("b-frames-22.13.mp4", {"fps": Fraction(2213, 100), "options": {"g": "15", "bf": "3"}}),
    ("a-29.97.mov", {"fps": Fraction(30000, 1001), "options": {"g": "15"}}),
    ("a-30.mkv", {"fps": 30, "options": {"g": "15"}}),
    ("a-60.mp4", {"fps": 60}),
    ("a-50.mkv", {"fps": 50}),
    ("a-12.mp4", {"fps": 12}),
    ("open-gop.mp4", {"options": {"g": "15", "x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
    ("fragments.mp4", {"options": {"g": "15"}, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    ("open-gop.ts", {"options": {"g": "15", "x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
    ("ten-bit.mp4", {"form": "yuv420p10le"}),
    ("interlaced.mp4", {"options": {"x264-params": "interlaced=1"}}),
    ("stream.h264", {}),
    ("hevc.mkv", {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=15"}}),
    ("mpeg1.mpg", {"codec": "mpeg1video", "options": {"bf": "2"}}),
    ("mpeg2.ts", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    ("mpeg4.avi", {"codec": "mpeg4"}),
    ("vp8.webm", {"codec": "libvpx", "options": {"g": "15", "deadline": "realtime"}}),
    ("no-cues.webm", {"codec": "libvpx", "options": {"g": "15", "deadline": "realtime"}, "container": {"live": "1"}}),
    ("vp9.webm", {"codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}}),
    ("av1.mp4", {"codec": "libsvtav1", "options": {"preset": "12", "g": "15", "crf": "10"}}),
    ("mjpeg.mov", {"codec": "mjpeg", "form": "yuvj420p"}),
    ("a-20.gif", {"codec": "gif", "form": "rgb8", "fps": 20}),
]


@pytest.mark.parametrize(("name", "how"), CONTAINERS, ids=[name for name, _ in CONTAINERS])
def test_25_fps_shows_what_is_on_screen_in_the_middle_of_each_frame_from_any_place(
    tmp_path: Path, name: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVT_LOG", "0")
    rate = Fraction(how.get("fps", 25))
    count = int(2 * rate)
    footage = Footage(make(tmp_path / name, count, **how))
    whole = list(footage.frames())
    late = Fraction(1, 1000)  # what containers round their times to
    wanted = [min(count - 1, math.floor((Fraction(2 * i + 1, 50) + late) * rate)) for i in range(len(whole))]
    off = [(i, number(frame), n) for i, (frame, n) in enumerate(zip(whole, wanted, strict=True)) if number(frame) != n]
    assert len(whole) == round(count / rate * 25)
    assert footage.doubts == []
    assert len(off) <= (1 if rate.denominator > 1 else 0), off  # there the rounding can tip one frame over
    for start, stop in ((0, 3), (17, 18), (31, 44), (len(whole) - 2, len(whole))):
        assert same(list(footage.frames(start, stop)), whole[start:stop])


def test_variable_frame_rate_keeps_every_picture_as_long_as_it_was_shown(tmp_path: Path) -> None:
    times = [Fraction(t, 1000) for t in (0, 40, 200, 230, 255, 1000, 1040)]
    shown = [0, 1, 1, 1, 1, 2] + [4] * 19 + [5, 6]  # by hand: at 20, 60, 100 ... ms
    for name in ("a.mp4", "a.mkv"):
        frames = list(Footage(make(tmp_path / name, 7, times=times)).frames())
        assert [number(frame) for frame in frames] == shown


def test_avi_without_the_order_of_b_frames_plays_at_an_even_pace(tmp_path: Path) -> None:
    footage = Footage(make(tmp_path / "a.avi", 50, options={"bf": "2"}))
    numbers = [number(frame) for frame in footage.frames()]
    assert numbers[15:] == list(range(15, 50))


def test_a_pass_that_was_not_finished_is_no_whole_pass(tmp_path: Path) -> None:
    footage = Footage(make(tmp_path / "a.mp4", 10))
    next(footage.frames())
    assert [number(frame) for frame in footage.frames(0, 4)] == [0, 1, 2, 3]
    assert footage.shown == []
    assert [number(frame) for frame in footage.frames(7)] == [7, 8, 9]
    assert footage.shown == list(range(10))


def test_ping_pong_shows_the_turning_frames_once(tmp_path: Path) -> None:
    assert ping_pong_index(9, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert ping_pong_index(3, 1).tolist() == [0, 0, 0]
    for count in (1, 2, 3, 40):
        footage = Footage(make(tmp_path / f"{count}.mp4", count, options={"g": "5"}))
        shown = [number(picture.rgb()) for picture in footage.ping_pong(100)]
        assert shown == ping_pong_index(100, count).tolist()


def test_sizes_may_be_odd(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 301, 201, crf=1) as writer:
        writer.write(picture(5, 301, 201))
    footage = Footage(tmp_path / "a.mp4")
    assert (footage.width, footage.height) == (302, 202)
    assert np.abs(next(footage.frames())[:201, :301].astype(int) - picture(5, 301, 201)).mean() < 1
    odd = make(tmp_path / "b.mp4", 3, form="yuv444p", draw=lambda k: picture(k, 301, 201))
    assert [frame.shape for frame in Footage(odd).frames()] == [(201, 301, 3)] * 3


def corners(frame: Picture) -> list[str]:
    """Colours of the corners, clockwise from the top left."""
    height, width = frame.shape[:2]
    spots = [frame[10, 10], frame[10, width - 11], frame[height - 11, width - 11], frame[height - 11, 10]]
    return ["red" if r > 200 else "blue" if b > 200 else "grey" for r, _, b in spots]


def upright() -> Picture:
    frame = np.full((80, 120, 3), 90, np.uint8)
    frame[:30, :30], frame[50:, 90:] = (255, 0, 0), (0, 0, 255)
    return frame


@pytest.mark.parametrize(("clockwise", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_a_rotation_tag_turns_the_picture_upright(tmp_path: Path, clockwise: int, matrix: tuple[int, ...]) -> None:
    lying = np.ascontiguousarray(np.rot90(upright(), clockwise // 90))  # as the sensor of a turned phone sees it
    path = make(tmp_path / "a.mp4", 2, draw=lambda _: lying)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2: a b u, c d v, x y w with x' = ax + cy, y' = bx + dy
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    footage = Footage(path)
    assert (footage.width, footage.height) == (120, 80)
    assert corners(next(footage.frames())) == ["red", "grey", "blue", "grey"]


@pytest.mark.parametrize(("tag", "counterclockwise"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif_orientation_turns_a_photograph_upright(tmp_path: Path, tag: int, counterclockwise: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.rot90(upright(), counterclockwise)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert corners(next(Footage(tmp_path / "a.jpg").frames())) == ["red", "grey", "blue", "grey"]


def test_stills_are_footage_of_one_frame(tmp_path: Path) -> None:
    colour = np.array(upright())
    alpha = np.dstack([colour, np.full((80, 120), 128, np.uint8)])
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(colour).save(tmp_path / "a.webp", lossless=True)
    cv2.imwrite(str(tmp_path / "deep.png"), colour[..., ::-1].astype(np.uint16) * 257)
    for name in ("a.png", "alpha.png", "a.webp", "deep.png"):
        footage = Footage(tmp_path / name)
        assert same(list(footage.frames()), [colour])
        assert (footage.has_audio, footage.expected, len(footage.shown)) == (False, 1, 1)
        assert same([picture.rgb() for picture in footage.ping_pong(3)], [colour] * 3)
    Image.fromarray(colour).convert("L").save(tmp_path / "grey.jpg", quality=95)
    assert next(Footage(tmp_path / "grey.jpg").frames()).shape == (80, 120, 3)


BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]


def bars(height: int = 240) -> Picture:
    return np.repeat(np.array(BARS, np.uint8)[None], 40, axis=1).repeat(height, axis=0)


@pytest.mark.parametrize(
    ("matrix", "height", "form", "tags"),
    [
        (Colorspace.ITU601, 240, "yuv420p", {}),
        (Colorspace.ITU709, 720, "yuv420p", {}),
        (Colorspace.ITU709, 240, "yuv420p", {"colorspace": 1, "color_range": 1}),
        (Colorspace.ITU601, 720, "yuv420p", {"colorspace": 6, "color_range": 1}),
        (Colorspace.ITU601, 240, "yuvj420p", {}),
        (Colorspace.ITU709, 240, "yuv420p", {"colorspace": 1, "color_range": 2}),
    ],
    ids=["SD untagged", "HD untagged", "SD tagged 709", "HD tagged 601", "full range", "full range tagged 709"],
)
def test_colours_are_read_as_they_were_meant(
    tmp_path: Path, matrix: Colorspace, height: int, form: str, tags: dict[str, int]
) -> None:
    path = make(
        tmp_path / "a.mp4", 1, draw=lambda _: bars(height), form=form, tags=tags, matrix=matrix, options={"crf": "1"}
    )
    frame = next(Footage(path).frames())
    assert np.abs(frame[height // 2, 20::40].astype(int) - BARS).max() <= 2


def test_colours_survive_writing_without_getting_darker(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    patches = colours.repeat(16, axis=0).repeat(16, axis=1)
    with VideoWriter(tmp_path / "a.mp4", 256, 192, crf=1) as writer:
        writer.write(patches)
        writer.write(bars(192)[:, :256])
    back, saturated = Footage(tmp_path / "a.mp4").frames()
    assert np.abs(saturated[90, 20:256:40].astype(int) - BARS[:6]).max() <= 2
    error = back[8::16, 8::16].astype(float) - colours
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.2  # plain swscale: one grey level darker
    assert np.abs(error).max() <= 4


def test_colours_stay_in_their_place(tmp_path: Path) -> None:
    stripe = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    stripe[:, WIDTH // 2 - 4 : WIDTH // 2 + 4] = (200, 60, 60)
    with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, crf=1) as writer:
        writer.write(stripe)
    row = next(Footage(tmp_path / "a.mp4").frames())[HEIGHT // 2].astype(int)
    assert np.abs(row - row[::-1]).max() <= 4  # half a pixel to the left: 30


def test_footage_of_two_sizes_keeps_the_first(tmp_path: Path) -> None:
    small = make(tmp_path / "a.h264", 3, draw=lambda k: picture(k, 96, 64))
    large = make(tmp_path / "b.h264", 3)
    (tmp_path / "c.h264").write_bytes(large.read_bytes() + small.read_bytes())
    frames = list(Footage(tmp_path / "c.h264").frames())
    assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    assert [number(frame) for frame in frames] == [0, 1, 2, 0, 1, 2]


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 64, pixel_aspect=Fraction(16, 15)) as writer:
        writer.write(picture(0, 64, 64))
    assert Footage(tmp_path / "a.mp4").pixel_aspect == Fraction(16, 15)


WANTED = "give a video or a picture with a face"
UNREADABLE = f"cannot be read as video, picture or sound (invalid data found when processing input); {WANTED}"


def test_bad_files_get_one_line_that_says_what_where_and_what_next(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = make(tmp_path / "whole.mp4", 60)
    streamable = make(tmp_path / "s.mp4", 60, container={"movflags": "+faststart"}, options={"crf": "1"})
    contents = {
        "text.mp4": b"this is not a video\n" * 100,
        "empty.mp4": b"",
        "no-index.mp4": whole.read_bytes()[:-300],
        "cut.mp4": streamable.read_bytes()[: streamable.stat().st_size // 2],
        "notes.txt": b"this is not a picture\n" * 100,
        "list.ffconcat": b"ffconcat version 1.0\nfile whole.mp4\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    write_wav(tmp_path / "speech.wav", np.zeros(16000, np.float32))

    def complaint(name: str) -> str:
        with pytest.raises(UnusableClip) as caught:
            list(Footage(tmp_path / name).frames())
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"{tmp_path / name} ")

    assert complaint("text.mp4") == UNREADABLE
    assert complaint("empty.mp4") == UNREADABLE
    assert complaint("no-index.mp4") == UNREADABLE
    assert complaint("absent.mp4") == f"does not exist; {WANTED}"
    assert complaint(".").endswith(f"is a folder; {WANTED}")
    assert complaint("notes.txt") == f"is a text file; {WANTED}"
    assert complaint("list.ffconcat") == f"is a text file; {WANTED}"
    assert complaint("speech.wav") == f"has no video track; {WANTED}"
    cut = complaint("cut.mp4")
    assert cut.startswith(("ends after ", "is damaged after ")), cut
    assert cut.endswith(("of 60 frames; it is truncated: replace it", "cut or replace it")), cut
    assert capfd.readouterr() == ("", "")  # FFmpeg's own log lines stay away


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = make(tmp_path / "a.mp4", 20, draw=lambda k: noise[k])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(UnusableClip, match=r"a\.mp4 is damaged after \d+ frames \(.*\); cut or replace it$"):
        list(Footage(path).frames())


def test_a_packet_that_gives_no_picture_is_counted(tmp_path: Path) -> None:
    """Three whole pictures are replaced by noise: MPEG-4 skips them without a word."""
    path = make(tmp_path / "a.mkv", 20, options={"g": "1"})
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux() if packet.size]
    data = path.read_bytes()
    for k in (0, 1, 2):
        assert data.count(packets[k]) == 1
        data = data.replace(packets[k], b"\x00" * len(packets[k]))
    path.write_bytes(data)
    footage = Footage(path)
    list(footage.frames())
    assert footage.doubts[0] == "3 of 20 pictures cannot be decoded; the one before stands for each"


@pytest.mark.parametrize(
    ("length", "doubts"), [(b"0.840", []), (b"0.920", ["it announces 23 frames of 1/25 s and has 20"])]
)
def test_a_length_that_the_file_does_not_have_is_told(tmp_path: Path, length: bytes, doubts: list[str]) -> None:
    path = make(tmp_path / "a.mkv", 20)
    whole = path.read_bytes()
    assert whole.count(b"00:00:00.800") == 1
    path.write_bytes(whole.replace(b"00:00:00.800", b"00:00:0" + length))
    footage = Footage(path)
    list(footage.frames())
    assert footage.doubts == doubts


@pytest.mark.parametrize("size", [(60_000, 60_000), (9_000, 4_000)])
def test_a_picture_that_fills_the_memory_is_not_read(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "large.png"
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(
        UnusableClip, match=r"large\.png (announces pictures of 9000x4000; H.264|cannot be read|has no frame)"
    ):
        Footage(path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp3"), "w") as file:
        sound: Any = file.add_stream("libmp3lame", rate=44100, layout="mono")
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 120, 80, "yuvj420p", 1 << 10
        frame = av.VideoFrame.from_ndarray(upright(), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        file.mux(cover.encode(frame))
        file.mux(cover.encode())
        tone = av.AudioFrame.from_ndarray(np.full((1, 1152), 0.1, np.float32), format="fltp", layout="mono")
        tone.sample_rate, tone.pts = 44100, 0
        file.mux(sound.encode(tone))
        file.mux(sound.encode())
    with pytest.raises(UnusableClip, match=f"song.mp3 has only a cover picture; {WANTED}$"):
        Footage(tmp_path / "song.mp3")


NAMES = [
    "with space",
    "quo'te\"s",
    "-dash",
    "co:lon",
    "ünï😀",
    "%03d",
    "[a]*?{b,c}",
    "concat:a|b",
    "http:x.example",
    "a#b?c=d",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_only_a_file_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # relative names, so that nothing stands before the first letter
    shutil.copy(make(tmp_path / "a.mp4", 2), f"{name}.mp4")
    Image.fromarray(upright()).save(tmp_path / "a.png")
    shutil.copy("a.png", f"{name}.png")
    assert len(list(Footage(Path(f"{name}.mp4")).frames())) == 2
    for decoy in ("000.png", "001.png"):  # what the pattern %03d.png stands for
        Image.fromarray(upright()[::-1]).save(decoy)
    assert same(list(Footage(Path(f"{name}.png")).frames()), [upright()])
    with VideoWriter(Path(f"{name} out.mp4"), WIDTH, HEIGHT) as writer:
        writer.write(picture(3))
    assert number(next(Footage(Path(f"{name} out.mp4")).frames())) == 3


def click(seconds: float, at: float) -> NDArray[np.float32]:
    """Silence with one sample-wide pulse of 4 ms at `at` s, 16 kHz."""
    samples = np.zeros(round(seconds * 16000), np.float32)
    samples[round(at * 16000) :][:64] = 0.8 * np.hanning(64)
    return samples


def click_time(samples: NDArray[np.float32]) -> float:
    energy = samples.astype(float) ** 2
    return float((energy * np.arange(len(energy))).sum() / energy.sum() - 31.5) / 16000


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("seconds", "frames"), [(2.0, 50), (3.0, 50), (1.5, 50), (1.009, 25)])
def test_sound_starts_with_the_picture_and_is_never_longer(
    tmp_path: Path, suffix: str, seconds: float, frames: int
) -> None:
    write_wav(tmp_path / "a.wav", click(seconds, 0.7))
    with VideoWriter(tmp_path / f"a{suffix}", WIDTH, HEIGHT, tmp_path / "a.wav") as writer:
        for k in range(frames):
            writer.write(picture(k))
    footage = Footage(tmp_path / f"a{suffix}")
    assert [number(frame) for frame in footage.frames()] == list(range(frames))
    assert footage.has_audio
    samples = load_audio(footage.path, footage.start)
    assert abs(click_time(samples) - 0.7) < 0.001
    assert abs(samples.size / 16000 - min(seconds, frames / 25)) < 1 / 25
    assert np.abs(samples).max() == pytest.approx(0.8, abs=0.05)


def write(path: Path, frames: list[Picture], size: int, sound: Path | None = None, fail: bool = False) -> None:
    with VideoWriter(path, size, size, sound, crf=1) as writer:
        for frame in frames:
            writer.write(frame)
        if fail:
            raise RuntimeError("mine")


@pytest.mark.parametrize("count", [0, 1, 50])
def test_an_error_while_writing_is_the_one_that_arrives(tmp_path: Path, count: int) -> None:
    write_wav(tmp_path / "a.wav", click(2, 1))
    with pytest.raises(RuntimeError, match="mine"):
        write(tmp_path / "a.mp4", [picture(k, 64, 64) for k in range(count)], 64, tmp_path / "a.wav", fail=True)


def test_what_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    no_space = "no space left on device; free disk space or choose another folder"
    complaints = {
        "a.gif": f"{tmp_path}/a.gif cannot be written as video; choose a name that ends in .mp4, .mov, .m4v, .mkv",
        "full.mp4": f"cannot write {tmp_path}/full.mp4: {no_space}",
    }
    for name, complaint in complaints.items():
        with pytest.raises(SpearError) as caught:
            write(tmp_path / name, [noise] * 60, 256)
        assert str(caught.value) == complaint
    with pytest.raises(SpearError, match=r"^no frame was given for .*; give sound or footage that is longer$"):
        write(tmp_path / "none.mp4", [], 256)
    with pytest.raises(ValueError, match="shape"):
        write(tmp_path / "two sizes.mp4", [noise, noise[:200]], 256)
    with pytest.raises(UnusableClip, match=r"absent\.wav does not exist; give a file with speech$"):
        write(tmp_path / "b.mp4", [noise], 256, sound=tmp_path / "absent.wav")
    assert not (tmp_path / "b.mp4").exists()


def test_faces_are_read_by_decord_frame_by_frame_and_are_equal_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, 256, 256, crf=12, random_access=True) as writer:
            for k in range(100):
                writer.write(picture(k, 256, 256))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    order = np.random.default_rng(0).permutation(100)[:40].tolist()
    batch = decord.VideoReader(str(tmp_path / "a.mp4"), num_threads=1).get_batch(order).asnumpy()
    ours = list(Footage(tmp_path / "a.mp4").frames())
    assert [number(frame) for frame in batch] == order
    assert np.abs(batch.astype(int) - np.stack([ours[i] for i in order])).mean() < 1


def test_the_talking_videos_are_what_conftest_says(talking_videos: Path, tiny_video: Path, portrait_png: Path) -> None:
    assert [path.name for path in sorted(talking_videos.iterdir())] == [f"talker_{k}.mp4" for k in range(4)]
    footage = Footage(tiny_video)
    assert (footage.width, footage.height, footage.expected, footage.has_audio) == (320, 320, 50, True)
    assert next(Footage(portrait_png).frames()).shape == (320, 320, 3)


@pytest.mark.footage
def test_real_footage_is_read_to_its_end_and_from_its_middle(footage_dir: Path) -> None:
    for path in sorted((footage_dir / "dev").iterdir()):
        if path.stat().st_size > 2_000_000:
            continue
        footage = Footage(path)
        middle = footage.expected // 2
        for index, frame in enumerate(footage.frames()):
            if index == middle:
                kept = frame
        assert abs(len(footage.shown) - footage.expected) <= 1
        assert same(list(footage.frames(middle, middle + 1)), [kept])


def test_chosen_frames_are_those_of_a_whole_pass(tmp_path: Path) -> None:
    footage = Footage(make(tmp_path / "a.mp4", 30, fps=30, options={"g": "10"}))
    frames = list(Footage(tmp_path / "a.mp4").frames())
    for wanted in ({3}, {0, 7, 19}, set(range(len(frames)))):
        got = dict(footage.chosen(wanted))
        assert got.keys() == wanted
        assert all(np.array_equal(got[i].rgb(), frames[i]) for i in wanted)
