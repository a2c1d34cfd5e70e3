"""`spear render` as it streams: what arrives on stdout, in a pipe or a file while it is made, and what stderr says."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from command_line import complaint, files, forked_spear

from spear.audio import load_audio, write_wav


@pytest.fixture
def short(tmp_path: Path, speech_wav: Path, portrait_png: Path) -> Path:
    """A folder with half a second of speech and a picture."""
    write_wav(tmp_path / "speech.wav", load_audio(speech_wav)[:8000])
    (tmp_path / "face.png").write_bytes(portrait_png.read_bytes())
    return tmp_path


USUAL = ("render", "--audio", "speech.wav", "--ref", "face.png")


def _frames(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as container:
        assert len(container.streams.audio) == 1
        return sum(1 for _ in container.decode(video=0))


def _spoken(err: str, name: str) -> None:
    """All messages, the latency among them."""
    first, latency, last = err.splitlines()
    assert first.startswith("models: those that ship")
    assert re.fullmatch(r"first frame after \d+\.\d s", latency)
    assert last.startswith(f"{name}: 12 frames of 320x320, ")


def test_minus_is_stdout_and_carries_nothing_but_the_video(short: Path) -> None:
    command = [sys.executable, "-m", "spear_cli", *USUAL, "-o", "-"]
    run = subprocess.run(command, cwd=short, capture_output=True, timeout=300, check=True)
    assert run.stdout[4:8] == b"ftyp"
    assert run.stdout.count(b"moof") >= 12
    assert _frames(run.stdout) == 12
    _spoken(run.stderr.decode(), "-")
    assert sorted(path.name for path in short.iterdir()) == ["face.png", "speech.wav"]


def test_a_pipe_and_a_file_are_written_in_place(short: Path) -> None:
    os.mkfifo(short / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((short / "pipe").read_bytes()))
    reader.start()
    runs = {name: forked_spear(*USUAL, "--stream", "-o", name, cwd=short) for name in ("pipe", "file.bin")}
    reader.join(60)
    for name, run in runs.items():
        assert (run.code, run.out) == (0, "")
        _spoken(run.err, name)
    assert _frames(got[0]) == _frames((short / "file.bin").read_bytes()) == 12


def test_a_player_that_leaves_ends_the_render(short: Path) -> None:
    write_wav(short / "speech.wav", np.tile(load_audio(short / "speech.wav"), 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "spear_cli", *USUAL, "-o", "-"],
        cwd=short,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(100)[4:8] == b"ftyp"
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert said == "error: nobody reads stdout any more; rendering was stopped\n"


def test_of_a_stream_that_fails_no_file_is_left(short: Path) -> None:
    cv2.imwrite(str(short / "face.png"), np.full((80, 80, 3), 90, np.uint8))
    before = files(short)
    run = forked_spear(*USUAL, "--stream", "-o", "out.mp4", cwd=short)
    assert complaint(run) == "face.png shows no face in any of 1 frames; give footage with a visible face"
    assert files(short) == before


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ("--stream -o face.png", 1, "face.png is the audio or the ref itself; give another -o"),
        ("--stream -o no/out.mp4", 1, "No such file or directory (no/out.mp4); check the path, its permissions "
         "and the free space"),
        ("--precision fp16", 1, "--precision fp16 is not one of auto, fp32, bf16, int8"),
        ("--device tpu", 2, "invalid value: --device tpu is neither auto nor cpu; see `spear render --help`"),
    ],
)  # fmt: skip
def test_what_is_refused(args: str, code: int, message: str, short: Path) -> None:
    before = files(short)
    assert complaint(forked_spear(*USUAL, *args.split(), cwd=short), code) == message
    assert files(short) == before


def test_the_cpu_may_be_asked_for(short: Path) -> None:
    run = forked_spear(*USUAL, "--device", "cpu", "--precision", "fp32", cwd=short)
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines()[-1].startswith("out.mp4: 12 frames")
