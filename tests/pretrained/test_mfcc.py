"""MFCC, the encoder without weights (paper, Table 3), against numpy and scipy."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import scipy.fft
import torch

from spear.pretrained.mfcc import Mfcc


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(seed))


def reference_mfcc(samples: np.ndarray) -> np.ndarray:
    """The textbook, hop by hop, unscaled: (4 F, 13)."""
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    bins = np.arange(257) * 16_000 / 512
    bank = np.array([np.interp(bins, corners[b : b + 3], [0, 1, 0], left=0, right=0) for b in range(40)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(samples.astype(np.float64), 400)
    rows = []
    for hop in range(len(samples) // 160):
        middle = 400 + hop * 160 + 80
        power = np.abs(np.fft.rfft(padded[middle - 200 : middle + 200] * window, 512)) ** 2
        rows.append(scipy.fft.dct(np.log(bank @ power + 1e-6), norm="ortho")[:13])
    return np.array(rows)


def test_mfcc_agrees_with_numpy_and_scipy() -> None:
    samples = noise(1) * torch.linspace(0, 1, 16_000) + 0.3 * torch.sin(
        torch.arange(16_000) * 2 * math.pi * 440 / 16_000
    )
    features = Mfcc()(samples).reshape(100, 3, 13).numpy()
    expected = reference_mfcc(samples.numpy())
    mean, deviation = np.array(Mfcc._MEAN), np.array(Mfcc._DEVIATION)
    np.testing.assert_allclose(features[:, 0] * deviation + mean, expected, atol=1e-3)
    for hop in (2, 50, 97):  # slope of the least-squares line through five hops
        line = np.polyfit(range(-2, 3), (expected[hop - 2 : hop + 3] - mean) / deviation, 1)[0]
        np.testing.assert_allclose(features[hop, 1] * 0.2, line, atol=1e-3)
        bend = np.polyfit(range(-2, 3), features[hop - 2 : hop + 3, 1] * 0.2, 1)[0]
        np.testing.assert_allclose(features[hop, 2] * 0.08, bend, atol=1e-3)


def test_mfcc_hops_lie_in_the_middle_of_their_10_ms() -> None:
    for hop in range(4):
        samples = torch.zeros(16_000)
        samples[10 * 640 + hop * 160 + 80] = 1
        assert Mfcc()(samples)[..., 0].flatten().argmax() == 10 * 4 + hop


def test_mfcc_of_a_piece_equals_the_same_piece_of_the_whole_across_the_minute_block() -> None:
    samples = noise(62)
    piece = Mfcc()(samples[59 * 16_000 : 61 * 16_000])
    torch.testing.assert_close(Mfcc()(samples)[59 * 25 + 2 : 61 * 25 - 2], piece[2:-2], atol=1e-3, rtol=0)


def test_mfcc_does_not_import_transformers() -> None:
    code = "import sys; from spear.pretrained.audio_encoders import load_encoder; load_encoder('mfcc')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'transformers' not in sys.modules"], check=True)
