"""Issue 8, 13 to 16: cut and changed files, odd but valid ones, faces that are absent, many or tiny."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import portrait
from numpy.typing import NDArray
from test_audio import click, click_time, encode, tone
from test_video import make

from reliability.conftest import Tally
from reliability.outcome import Outcome, run_cli
from spear.audio import load_audio, write_wav
from spear.checkpoint import read_tensors, save_tensors
from spear.clip import Clip
from spear.video import Footage, VideoWriter

FRAMES = 16
"""Of the tiny talker."""
MUTANTS, BATCH = 300, 10
HANG = 20.0
"""Seconds for one mutant."""


def cuts(size: int, count: int, seed: int) -> list[int]:
    """Where to cut a file: half of the places in its first kilobytes, where headers are, and at both ends."""
    chance = random.Random(seed)
    ends = [chance.randrange(min(size, 4000)) if k % 2 else chance.randrange(size) for k in range(count - 2)]
    return [0, size - 1, *ends]


def judge_batch(tally: Tally, run: Outcome, clips: Path, names: list[str]) -> dict[str, str]:
    """Every file of a batch became a clip or is listed with a reason: name -> reason, for those."""
    listed = clips / "skipped.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    reasons = {Path(row["source"]).stem: row["reason"] for row in rows}
    made = {name for name in names if (clips / name / "clip.json").exists()}
    broken = [reason for reason in reasons.values() if "Error" in reason or "worker" in reason or "\n" in reason]
    tally.add(
        tried=len(names), clear=len(reasons) - len(broken), coped=len(made),
        tracebacks=len(broken) + run.traceback, hangs=run.hung, partial=len(run.partial) + len(run.left),
    )  # fmt: skip
    assert not run.hung, run
    assert not run.traceback, run
    assert run.err == "" or run.clear, run
    assert (run.partial, run.left, broken) == ([], [], []), run
    assert made | reasons.keys() == set(names)
    assert not made & reasons.keys()
    return reasons


def test_what_cuts_are(tmp_path: Path) -> None:
    assert cuts(10, 4, 0)[:2] == [0, 9]
    assert len(set(cuts(100_000, 40, 0))) > 35


@pytest.mark.reliability
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", ["mp4", "wav", "flac"])
def test_cut_media(kind: str, part: int, tmp_path: Path, tiny_talker: Path, tally: Tally) -> None:
    """Ten each: a clip of all frames, or a reason. Cut sound beside a whole film is a reason or a remark."""
    whole = tiny_talker.read_bytes()
    if kind != "mp4":
        sound = tmp_path / f"whole.{kind}"
        encode(sound, np.tile(click(1.0, 0.5, 16000), 1), codec={"wav": "pcm_s16le", "flac": "flac"}[kind])
        whole = sound.read_bytes()
        sound.unlink()
    folder = tmp_path / "videos"
    folder.mkdir()
    names = []
    for number, end in enumerate(cuts(len(whole), 10, part)):
        names.append(f"cut{number}")
        (folder / f"cut{number}.{kind}").write_bytes(whole[:end])
        if kind != "mp4":
            _mute(tiny_talker, folder / f"cut{number}.mkv")
    run = run_cli("preprocess", "videos", cwd=tmp_path, timeout=10 * HANG)
    reasons = judge_batch(tally, run, tmp_path / "clips", names)
    for name in set(names) - reasons.keys():
        info = Clip(tmp_path / "clips" / name).info
        assert info.frames == FRAMES or any("announces 16 frames" in remark for remark in info.remarks)
        assert info.has_audio
        samples = load_audio(folder / f"{name}.{kind}")
        short = samples.size < FRAMES * 640 - 0.2 * 16000
        assert short == any("the sound ends" in remark for remark in info.remarks)


def _mute(video: Path, out: Path) -> None:
    """The pictures alone, as they are."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        track = source.streams.video[0]
        stream = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["landmarks.safetensors", "mfcc.safetensors", "clip.json", "a2lm.safetensors"])
def test_cut_data(name: str, tmp_path: Path, made_clips: Path, tally: Tally) -> None:
    """Twelve cuts each: what reads the file says so in one line, and what makes it makes it again."""
    clips = shutil.copytree(made_clips, tmp_path / "clips")
    path = clips / "c0" / name if name != "a2lm.safetensors" else tmp_path / "models" / name
    if name == "a2lm.safetensors":
        path.parent.mkdir()
        shutil.copy(Path(__file__).parents[2] / "spear/weights/a2lm.safetensors", path)
        shutil.copy(path, path.with_name("lm2face.safetensors"))
    whole = path.read_bytes()
    for end in cuts(len(whole), 12, 0):
        path.write_bytes(whole[:end])
        words = "metrics --ld" if name == "a2lm.safetensors" else "train-a2lm --epochs 1"
        run = tally.judge(run_cli(*words.split(), cwd=tmp_path, timeout=100))
        if (name, end) == ("clip.json", len(whole) - 1):
            continue  # its last byte ends the line
        assert run.clear, run
        assert str(path.relative_to(tmp_path)) in run.line or path.parent.name in run.line, run.line
        assert run.sound, run
        run = run_cli("check", path.parent, cwd=tmp_path)
        assert run.code == 1
        assert str(path) in run.out


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["landmarks", "mfcc", "model"])
def test_numbers_that_are_not_finite(name: str, tmp_path: Path, made_clips: Path, tally: Tally) -> None:
    """One NaN in a file that is whole: the metrics of a split name the file, no score is made of it."""
    clips, models = shutil.copytree(made_clips, tmp_path / "clips"), tmp_path / "models"
    models.mkdir()
    trained = run_cli("train-a2lm", "--clips", "clips", "--epochs", "1", cwd=tmp_path, timeout=100)
    assert trained.done, trained
    path = models / "a2lm.safetensors" if name == "model" else clips / "c2" / f"{name}.safetensors"
    tensors, about = read_tensors(path)
    next(value for value in tensors.values() if value.is_floating_point()).view(-1)[5] = float("nan")
    save_tensors(path, tensors, {key: value for key, value in about.items() if key not in ("format", "sha256")})
    run = tally.judge(run_cli("metrics", "--ld", "--split", "test", cwd=tmp_path, timeout=100))
    assert run.clear, run
    assert path.name in run.line, run.line
    assert "finite" in run.line or "NaN" in run.line, run.line


def mutated(data: bytes, seed: int) -> bytes:
    """A file with flipped bits, other bytes, zeros, or bytes gone, new or elsewhere; every seventh: in its head."""
    chance, changed = random.Random(seed), bytearray(data)
    where, size = partial(chance.randrange, len(data)), chance.choice([16, 512, 4096])
    kind = seed % 7
    if kind in (0, 1):
        for _ in range(chance.choice([1, 4, 16, 100])):
            changed[where() if kind else chance.randrange(min(3000, len(data)))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        for _ in range(chance.choice([1, 20, 200])):
            changed[where()] = chance.randrange(256)
    elif kind == 3:
        at = where()
        changed[at : at + size] = bytes(len(changed[at : at + size]))
    elif kind == 4:
        at = where()
        del changed[at : at + size]
    elif kind == 5:
        at = where()
        changed[at:at] = chance.randbytes(size)
    else:
        one, other = sorted((where(), where()))
        changed[one : one + 512], changed[other : other + 512] = changed[other : other + 512], changed[one : one + 512]
    return bytes(changed)


@pytest.mark.parametrize(
    "batch", [0, *(pytest.param(k, marks=pytest.mark.reliability) for k in range(1, MUTANTS // BATCH))]
)
def test_mutants_of_a_video(batch: int, tmp_path: Path, tiny_talker: Path, tally: Tally) -> None:
    """No signal, no hang, no traceback, and a clip with another number of frames says that something is wrong."""
    suffix = ("mp4", "mkv", "ts", "mov")[batch % 4]
    whole = tmp_path / f"whole.{suffix}"
    _mute(tiny_talker, whole) if suffix != "mp4" else shutil.copy(tiny_talker, whole)
    frames = len(list(Footage(whole).frames()))
    data = whole.read_bytes()
    whole.unlink()
    (tmp_path / "videos").mkdir()
    names = [f"m{seed}" for seed in range(batch * BATCH, (batch + 1) * BATCH)]
    for name in names:
        (tmp_path / "videos" / f"{name}.{suffix}").write_bytes(mutated(data, int(name[1:])))
    run = run_cli("preprocess", "videos", cwd=tmp_path, timeout=HANG * BATCH)
    reasons = judge_batch(tally, run, tmp_path / "clips", names)
    silent = []
    for name in set(names) - reasons.keys():
        info = Clip(tmp_path / "clips" / name).info
        if info.frames != frames and not info.remarks:
            silent.append((name, info.frames))
    assert silent == []


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(12))
def test_mutants_as_ref_speech_and_prediction(seed: int, tmp_path: Path, tiny_talker: Path, tally: Tally) -> None:
    shutil.copy(tiny_talker, tmp_path / "whole.mp4")
    (tmp_path / "mutant.mp4").write_bytes(mutated(tiny_talker.read_bytes(), 1000 + seed))
    for words in (
        "render --audio whole.mp4 --ref mutant.mp4 -o a.mp4",
        "render --audio mutant.mp4 --ref whole.mp4 -o b.mp4",
        "metrics mutant.mp4 whole.mp4 --ld --psnr",
        "verify mutant.mp4",
    ):
        run = tally.judge(run_cli(*words.split(), cwd=tmp_path, timeout=60))
        assert run.sound or run.code == 4, run  # 4: not marked


def draw(frames: list[NDArray[np.uint8]], path: Path, seconds: float | None = None) -> None:
    """Frames at 25 a second, with a sound of so many seconds."""
    sound = None
    if seconds is not None:
        sound = path.with_suffix(".tmp.wav")
        write_wav(sound, tone(seconds, 16000))
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height) as writer:
        for frame in frames:
            writer.write(frame)
    if sound is not None:
        _with_sound(path, sound)
        sound.unlink()


def _with_sound(video: Path, sound: Path, rate: int = 16000, layout: str = "mono") -> None:
    """Put a whole sound beside the pictures, whatever its length: a file that no writer of ours makes."""
    out = video.with_suffix(".both.mkv")
    with av.open(str(video)) as source, av.open(str(sound)) as heard, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        voice: Any = target.add_stream("flac", rate=rate, layout=layout)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
        resampler = av.AudioResampler(format="s16", layout=layout, rate=rate)
        for frame in heard.decode(audio=0):
            for piece in resampler.resample(frame):
                target.mux(voice.encode(piece))
        target.mux(voice.encode())
    video.unlink()
    out.rename(video.with_suffix(".mkv"))


def stills(count: int, *, shift: float = 0.0) -> list[NDArray[np.uint8]]:
    return [np.roll(portrait(), round(shift * k), axis=1) for k in range(count)]


def face_maker(count: int = 10, **how: Any) -> Callable[[Path], Path]:
    frames = stills(count)
    return lambda path: make(path, count, draw=lambda k: frames[k], **how)


@pytest.mark.reliability
def test_odd_but_valid_media(tmp_path: Path, tally: Tally) -> None:
    """Each in one run of preprocess: the frames, the sound and the remark that a person would expect."""
    folder = tmp_path / "videos"
    folder.mkdir()
    wide = cv2.resize(portrait(), (321, 323), interpolation=cv2.INTER_AREA)
    times = [Fraction(t, 1000) for t in (0, 40, 200, 230, 255, 700, 760)]
    films: dict[str, tuple[Callable[[Path], Any], int]] = {
        "no-audio.mp4": (face_maker(), 10),
        "one-frame.mp4": (face_maker(1), 1),
        "vfr.mkv": (face_maker(7, times=times), 20),
        "ten-bit.mp4": (face_maker(form="yuv420p10le"), 10),
        "odd-size.mkv": (lambda p: make(p, 10, draw=lambda k: wide, codec="ffv1", form="bgr0"), 10),
        "alpha.mkv": (lambda p: make(p, 10, draw=lambda k: portrait(), codec="ffv1", form="bgra"), 10),
        "interlaced.mp4": (face_maker(options={"x264-params": "interlaced=1"}), 10),
        "fast.mp4": (face_maker(60, fps=60), 25),
        "slow.mp4": (face_maker(6, fps=12), 12),
        "film.gif": (face_maker(codec="gif", form="rgb8", fps=20), 12),
        "sound-longer.mp4": (lambda p: draw(stills(10), p, 10.4), 10),
        "sound-shorter.mp4": (lambda p: draw(stills(25), p, 0.5), 25),
        "silence.mp4": (lambda p: draw(stills(10), p, 0.4), 10),
        "mono-8k.mkv": (lambda p: _spoken(p, 8000, "mono"), 10),
        "six-96k.mkv": (lambda p: _spoken(p, 96000, "5.1"), 10),
    }
    for name, (write, _) in films.items():
        write(folder / name)
    with av.open(str(folder / "no-frame.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        file.start_encoding()
    encode(folder / "cover.mp4", tone(0.4, 16000), codec="aac")
    names = sorted({path.stem for path in folder.iterdir()})
    assert len(names) == 17
    run = run_cli("preprocess", "videos", cwd=tmp_path, timeout=200)
    reasons = judge_batch(tally, run, tmp_path / "clips", names)
    assert reasons.keys() == {"no-frame", "cover"}
    assert all("has no video track" in reason for reason in reasons.values())
    infos = {name: Clip(tmp_path / "clips" / name).info for name in set(names) - reasons.keys()}
    assert {name: info.frames for name, info in infos.items()} == {
        Path(name).stem: frames for name, (_, frames) in films.items()
    }
    said = {name: info.remarks for name, info in infos.items() if info.remarks}
    assert said == {
        "sound-longer": ["the sound goes on for 10.0 s after the last frame; that part is left out"],
        "sound-shorter": ["the sound ends 0.5 s before the pictures; it is silent from frame 12 on (25 a second)"],
    }
    assert [name for name, info in infos.items() if info.has_audio] == [
        name for name in infos if name.startswith(("sound", "silence", "mono", "six"))
    ]
    for info in infos.values():
        assert np.isfinite(info.crop).all()


def _spoken(path: Path, rate: int, layout: str) -> None:
    plain = path.with_suffix(".mp4")
    draw(stills(10), plain)
    sound = path.with_suffix(".flac")
    encode(sound, tone(0.4, rate), codec="flac", rate=rate, layout=layout)
    _with_sound(plain, sound, rate, layout)
    sound.unlink()


@pytest.mark.reliability
@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 50])
def test_after_a_minute_sound_and_picture_are_within_a_frame(fps: Fraction | int, tmp_path: Path) -> None:
    """A click and a flash of 40 ms, 59 s after the start, at 11,025 Hz and different frame rates."""
    count = round(60 * fps)
    flash = round(59 * fps)
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    path = make(
        tmp_path / "a.mp4", count, fps=fps, draw=lambda k: white if 0 <= k - flash < fps / 25 else black, codec="mpeg4"
    )
    sound = tmp_path / "click.wav"
    encode(sound, click(60.0, float(flash / fps), 11025), rate=11025)
    _with_sound(path, sound, 22050)
    footage = Footage(tmp_path / "a.mkv")
    seen = [k for k, frame in enumerate(footage.frames()) if frame.mean() > 127]
    heard = click_time(load_audio(tmp_path / "a.mkv", footage.start))
    assert len(footage.shown) == 1500
    assert abs(seen[0] / 25 - heard) <= 1 / 25
    assert footage.doubts == []


def on_wall(face: NDArray[np.uint8] | None, x: int = 0) -> NDArray[np.uint8]:
    """A grey wall, (360, 800, 3), with a face in front of it."""
    wall = np.full((360, 800, 3), 128, np.uint8)
    if face is not None:
        wall[: face.shape[0], x : x + face.shape[1]] = face
    return wall


def cartoon() -> NDArray[np.uint8]:
    """A smiley."""
    canvas = np.full((320, 320, 3), 255, np.uint8)
    cv2.circle(canvas, (160, 160), 120, (255, 220, 0), -1)
    for x in (115, 205):
        cv2.circle(canvas, (x, 130), 14, (0, 0, 0), -1)
    cv2.ellipse(canvas, (160, 190), (60, 40), 0, 10, 170, (0, 0, 0), 8)
    return canvas


def test_faces_that_are_absent_many_or_tiny_are_told_with_frame_numbers(tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    face = portrait()
    small = cv2.resize(face, (120, 120), interpolation=cv2.INTER_AREA)
    films = {
        "none": [on_wall(None)] * 6,
        "two": [np.hstack([face, face[:, ::-1]])] * 6,
        "leaves": [on_wall(face if not 4 <= k < 8 else None) for k in range(14)],
        "tiny": [on_wall(small, 300)] * 6,
        "cartoon": [cartoon()] * 6,
    }
    for name, frames in films.items():
        draw(frames, folder / f"{name}.mp4")
    run = run_cli("preprocess", "videos", cwd=tmp_path, timeout=100)
    reasons = judge_batch(tally, run, tmp_path / "clips", list(films))
    assert "shows no face in any of 6 frames" in reasons["none"]
    infos = {name: Clip(tmp_path / "clips" / name).info for name in films.keys() - reasons.keys()}
    assert infos["two"].remarks == ["2 faces in frame 0, one is followed (--face says which)"]
    assert infos["leaves"].missing == [4, 5, 6, 7]
    assert infos["leaves"].remarks == ["no face in 4 of 14 frames (4-7); its place is interpolated there"]
    if "tiny" in infos:
        assert "px wide, less than 48 in frames 0-5" in infos["tiny"].remarks[0]
    assert "note: leaves: no face in 4 of 14 frames (4-7)" in run.out
    for info in infos.values():
        assert np.isfinite(info.crop).all()
    write_wav(tmp_path / "speech.wav", tone(0.2, 16000))
    shown = run_cli("render", "--audio", "speech.wav", "--ref", "videos/leaves.mp4", "-o", "out.mp4", cwd=tmp_path)
    assert shown.done, shown
    assert "note: the ref: no face in 4 of 14 frames (4-7); its place is interpolated there" in shown.out
    run_cli("landmarks", cwd=tmp_path, timeout=100)
    for name in infos:
        points, confidence = Clip(tmp_path / "clips" / name).landmarks()
        assert np.isfinite(points).all()
        assert np.isfinite(confidence).all()
    assert Clip(tmp_path / "clips" / "leaves").landmarks()[1][[3, 4, 7, 8]].tolist() == [1, 0, 0, 1]
