"""Tiny footage that every test may use: an astronaut who talks in a synthetic voice. Made once per test session."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import mind_signals
from numpy.typing import NDArray
from skimage.data import astronaut

from spear.audio import write_wav
from spear.clip import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.video import VideoWriter

SECONDS = 2.0
_MOUTH, _MOUTH_REACH = (161.5, 147.0), (32.0, 16.0)
"""Where the mouth is in the portrait, and how far around it the stretch fades, x and y, px."""


def portrait() -> NDArray[np.uint8]:
    """Head and shoulders of skimage's astronaut, (320, 320, 3) uint8; the face is 92 px wide."""
    return np.ascontiguousarray(astronaut()[0:320, 62:382])


def voice(seed: int, seconds: float = SECONDS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A buzz of harmonics in syllables: samples (N,) at 16 kHz, and the loudness 0..1 per video frame (F,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    syllables = 3.0 + rng.uniform(0, 1.5)  # a second
    strength = rng.uniform(0.4, 1.0, int(seconds * syllables) + 2)
    phase = time * syllables
    envelope = np.sin(np.pi * phase) ** 2 * strength[phase.astype(int)]
    pitch = 2 * np.pi * rng.uniform(100, 200) * (time + 0.002 * np.sin(2 * np.pi * 3 * time))
    buzz = sum(np.sin(k * pitch) / k for k in range(1, 12))
    samples = (0.3 * envelope * buzz).astype(np.float32)
    return samples, envelope.reshape(-1, SAMPLES_PER_FRAME).mean(axis=1).astype(np.float32)


def talker(path: Path, seed: int, seconds: float = SECONDS) -> Path:
    """Write a video of the portrait that sways slowly, its mouth opened by the voice that is heard."""
    samples, loudness = voice(seed, seconds)
    write_wav(path.with_suffix(".wav"), samples)
    still, speed = portrait(), 0.2 + 0.1 * (seed % 4)
    y, x = np.mgrid[0:320, 0:320].astype(np.float32)
    from_x, from_y = x - _MOUTH[0], y - _MOUTH[1]
    near = np.exp(-((from_x / _MOUTH_REACH[0]) ** 2) - (from_y / _MOUTH_REACH[1]) ** 2)
    with VideoWriter(path, 320, 320, path.with_suffix(".wav")) as writer:
        for i, opening in enumerate(loudness):
            turn = 2 * np.pi * speed * i / FPS
            stretched = _MOUTH[1] + from_y / (1 + 1.5 * opening * near)
            talking = cv2.remap(still, x, stretched.astype(np.float32), cv2.INTER_LINEAR)
            shift = np.array([[1, 0, 5 * np.sin(turn)], [0, 1, 2 * np.cos(turn)]], np.float32)
            writer.write(cv2.warpAffine(talking, shift, (320, 320), borderMode=cv2.BORDER_REPLICATE))
    path.with_suffix(".wav").unlink()
    return path


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Tests interrupt themselves; what a shell runs in the background begins with Ctrl-C ignored."""
    mind_signals()


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one, or the user, has in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def talking_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four videos of two seconds each, 320x320 at 25 fps with sound: talker_0.mp4 .. talker_3.mp4."""
    folder = tmp_path_factory.mktemp("talkers")
    for seed in range(4):
        talker(folder / f"talker_{seed}.mp4", seed)
    return folder


@pytest.fixture(scope="session")
def tiny_video(talking_videos: Path) -> Path:
    """One of the talking videos, 50 frames."""
    return talking_videos / "talker_0.mp4"


@pytest.fixture(scope="session")
def speech_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the synthetic voice, in a pitch and rhythm that none of the talking videos has."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    write_wav(path, voice(seed=99)[0])
    return path


@pytest.fixture(scope="session")
def portrait_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The still picture of the astronaut, 320x320."""
    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    cv2.imwrite(str(path), portrait()[..., ::-1])
    return path


@pytest.fixture(scope="session")
def footage_dir() -> Path:
    """Real footage beside the repository, ../shared/data; a test that asks for it is skipped where that is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no footage in {folder}")
    return folder
