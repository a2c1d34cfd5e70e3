"""Mel-frequency cepstral coefficients in plain torch: the audio encoder without weights (paper, Table 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spear.clip import SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.pipeline import one_thread


class Mfcc:
    """13 mel-frequency cepstral coefficients and their first and second slopes, 4 hops of 10 ms a frame: (F, 4, 39).

    25 ms Hann windows around the middle of each hop, 40 triangular mel bands 0..8 kHz, log, DCT-II; slopes by
    regression over +-2 hops. Scaled by constants measured on speech (about unit variance), never by the audio at hand,
    so a frame depends on the 135 ms around it alone. Digital silence gives finite numbers.
    """

    name = "mfcc"
    shape = (4, 39)

    _HOP, _WINDOW, _FFT, _BANDS, _KEPT = 160, 400, 512, 40, 13
    _FLOOR = 1e-6
    _BLOCK = 6_000
    """Hops computed at once (a minute), which keeps the memory flat."""
    _MEAN = (-21.0, 11.0, *[0.0] * 11)
    _DEVIATION = (19.0, 8.7, 5.2, 3.8, 3.3, 2.9, 2.6, 2.2, 2.1, 1.8, 1.7, 1.6, 1.6)
    _SLOPE, _CURVE = 0.2, 0.08
    """Deviations of the slopes and of their slopes, relative to those of the coefficients themselves."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"encoder": self.name, "version": 1}
        self._mel = _mel_triangles(self._BANDS, self._FFT)
        self._dct = _dct_matrix(self._BANDS, self._KEPT)

    @one_thread()
    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """See AudioEncoder."""
        samples = whole_frames(samples)
        margin = (self._WINDOW - self._HOP) // 2
        padded, hops = functional.pad(samples, (margin, margin)), len(samples) // self._HOP
        starts = range(0, hops, self._BLOCK)
        blocks = [padded[s * self._HOP : (s + self._BLOCK) * self._HOP + 2 * margin] for s in starts]
        static = torch.cat([self._coefficients(block) for block in blocks])
        slope = _regression(static)
        parts = [static, slope / self._SLOPE, _regression(slope) / self._CURVE]
        return torch.cat(parts, dim=1).reshape(-1, *self.shape)

    def _coefficients(self, samples: Tensor) -> Tensor:
        """(240 + 160 n,) -> (n, 13), scaled."""
        windows = samples.unfold(0, self._WINDOW, self._HOP) * torch.hann_window(self._WINDOW, device=samples.device)
        power = torch.fft.rfft(windows, self._FFT).abs().square()
        cepstrum = (power @ self._mel.to(power) + self._FLOOR).log() @ self._dct.to(power)
        return (cepstrum - cepstrum.new_tensor(self._MEAN)) / cepstrum.new_tensor(self._DEVIATION)


def whole_frames(samples: Tensor) -> Tensor:
    """(N,) -> (F * 640,), padded with silence or cut."""
    wanted = max(1, round(len(samples) / SAMPLES_PER_FRAME)) * SAMPLES_PER_FRAME
    return functional.pad(samples[:wanted].float(), (0, max(0, wanted - len(samples))))


def _mel_triangles(bands: int, fft: int) -> Tensor:
    """Triangles of height 1, evenly spaced in mel = 2595 log10(1 + f/700) over 0..8 kHz: (fft / 2 + 1, bands)."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    return rising.minimum(falling).clamp(min=0).float()


def _dct_matrix(bands: int, kept: int) -> Tensor:
    """Orthonormal DCT-II, the first coefficients: (bands, kept)."""
    angles = math.pi / bands * (torch.arange(bands, dtype=torch.float64)[:, None] + 0.5) * torch.arange(kept)
    matrix = angles.cos() * math.sqrt(2 / bands)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.float()


def _regression(values: Tensor) -> Tensor:
    """Slope per hop of the least-squares line over hops -2..2, ends repeated: (n, C) -> (n, C)."""
    padded = torch.cat([values[:1], values[:1], values, values[-1:], values[-1:]])
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10
