"""Speech as other voices, rooms and microphones would give it: changed copies that stage 1's small preset trains on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from spear.clip import SAMPLE_RATE

Samples = NDArray[np.float64]

_SPEEDS = (84, 88, 92, 96, 104, 108, 113, 119)
"""Percent. Tempo, pitch and formants change together, so the mouth's track is resampled alike and stays true."""
_BUMPS = (200, 600, 1500, 4000)
"""Hz around which a voice gets more or less."""


def change_speech(samples: NDArray[np.float32], random: np.random.Generator) -> tuple[NDArray[np.float32], float]:
    """A copy of speech (N,) at 16 kHz, changed in speed, colour, band, echo, noise, level; how many times faster it is.

    Frame f of the copy sounds like frame (f + 1/2) * speed - 1/2 of the original. Digital silence stays quiet noise.
    """
    speed = int(random.choice(_SPEEDS))
    copy = signal.resample_poly(samples.astype(np.float64), 100, speed)
    copy = _coloured(copy, random)
    if random.random() < 0.3:
        copy = _echoing(copy, random)
    copy /= copy.std() + 1e-4
    copy += _noise(copy, random) * 10 ** (-random.uniform(5, 45) / 20)
    copy *= 10 ** (random.uniform(-40, -15) / 20)
    return np.clip(copy, -1, 1).astype(np.float32), speed / 100


def near_silence(count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """What is heard when nobody speaks, (count,) samples: digital silence, or a room's noise of -75 to -40 dB."""
    if random.random() < 1 / 3:
        return np.zeros(count, np.float32)
    noise = signal.lfilter([1], [1, -random.uniform(0, 0.98)], random.normal(size=count))
    return np.asarray(noise / noise.std() * 10 ** (random.uniform(-75, -40) / 20), np.float32)


def _coloured(samples: Samples, random: np.random.Generator) -> Samples:
    """Another tilt, bumps and edges of the spectrum, 3.4 kHz of a telephone among them."""
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(hertz, 50))
    gain = random.normal(0, 4) * np.log2(np.maximum(hertz, 100) / 1000)
    for middle in _BUMPS:
        gain += random.normal(0, 3) * np.exp(-0.5 * ((octaves - np.log2(middle)) / 0.7) ** 2)
    low, high = random.choice([50, 150, 300]), random.choice([3400, 6000, 8000], p=[0.2, 0.3, 0.5])
    gain -= np.clip(24 * np.log2(low / np.maximum(hertz, 10)), 0, 40) + 40 * (hertz > high)
    return np.asarray(np.fft.irfft(np.fft.rfft(samples) * 10 ** (gain / 20), len(samples)))


def _echoing(samples: Samples, random: np.random.Generator) -> Samples:
    """The same in a room: a direct sound and a quarter of a second of decaying noise."""
    time = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    room = random.normal(size=len(time)) * np.exp(-time / random.uniform(0.03, 0.1)) / random.uniform(3, 10)
    room[0] = 1
    return np.asarray(signal.fftconvolve(samples, room)[: len(samples)])


def _noise(samples: Samples, random: np.random.Generator) -> Samples:
    """White, low (pink squared), or of the speech's own long-term spectrum: (N,), standard deviation 1."""
    kind, white = random.integers(3), random.normal(size=len(samples))
    if kind == 1:
        white = signal.lfilter([1], [1, -0.97], white)
    elif kind == 2:
        size = np.abs(np.fft.rfft(samples))
        width = min(len(size), 1 + len(samples) // 100)  # smoothed over 160 Hz, so that no word is left in it
        size = np.sqrt(signal.fftconvolve(size**2, np.ones(width) / width, mode="same").clip(0))
        white = np.fft.irfft(np.fft.rfft(white) * size, len(samples))
    return np.asarray(white / (white.std() + 1e-9))
