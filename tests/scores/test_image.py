"""PSNR and SSIM: by hand, against scikit-image called directly, and in the known directions."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from spear.scores.image import psnr, ssim

FACE = np.ascontiguousarray(astronaut()[:128, 160:288])


def test_psnr_by_hand() -> None:
    # every sample off by 16: MSE 256; 10 log10(255^2 / 256) = 10 log10(254.0039) = 24.0484 dB
    truth = np.full((16, 16, 3), 100, np.uint8)
    assert psnr(truth + np.uint8(16), truth) == pytest.approx(24.0484, abs=1e-4)


def test_ssim_by_hand() -> None:
    # flat pictures 100 and 120: no variance, so only luminance counts: (2*100*120 + C1) / (100^2 + 120^2 + C1)
    # with C1 = (0.01 * 255)^2 = 6.5025: 24006.5025 / 24406.5025 = 0.983611
    truth = np.full((16, 16, 3), 100, np.uint8)
    assert ssim(truth + np.uint8(20), truth) == pytest.approx(0.983611, abs=1e-6)


def test_as_scikit_image() -> None:
    noisy = np.clip(FACE + np.random.default_rng(0).normal(0, 12, FACE.shape), 0, 255).astype(np.uint8)
    assert psnr(noisy, FACE) == peak_signal_noise_ratio(FACE, noisy, data_range=255)
    channels = [
        structural_similarity(
            FACE[..., c], noisy[..., c], data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for c in range(3)
    ]
    assert ssim(noisy, FACE) == pytest.approx(np.mean(channels), abs=1e-12)


def test_truth_against_truth_is_perfect() -> None:
    assert psnr(FACE, FACE) == 100.0
    assert ssim(FACE, FACE) == pytest.approx(1, abs=1e-12)


def test_the_cap_is_the_best_score() -> None:
    # one sample of 3 million off by one: 10 log10(255^2 * 3e6) = 112.9 dB, which must not beat identity
    truth = np.zeros((1000, 1000, 3), np.uint8)
    pred = truth.copy()
    pred[0, 0, 0] = 1
    assert psnr(pred, truth) == 100.0


def test_known_directions() -> None:
    dim = np.clip(FACE.astype(int), 0, 235).astype(np.uint8)
    brighter = [psnr(dim + np.uint8(step), dim) for step in (1, 5, 20)]
    assert brighter == sorted(brighter, reverse=True)
    shifted = [np.roll(FACE, step, axis=1) for step in (1, 2, 4)]
    assert sorted((psnr(s, FACE) for s in shifted), reverse=True) == [psnr(s, FACE) for s in shifted]
    assert sorted((ssim(s, FACE) for s in shifted), reverse=True) == [ssim(s, FACE) for s in shifted]


def test_what_cannot_be_scored_is_refused() -> None:
    for pred, truth in ((FACE[:64], FACE), (FACE[..., 0], FACE[..., 0]), (FACE / 255, FACE), (FACE[:10], FACE[:10])):
        with pytest.raises(ValueError, match="pictures must be"):
            ssim(pred, truth)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pictures must be"):
        psnr(FACE[:64], FACE)
