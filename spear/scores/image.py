"""Scores between two pictures, through scikit-image with every parameter given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Picture = NDArray[np.uint8]

PSNR_CAP = 100.0
"""dB. Identical pictures have an infinite PSNR, which no mean and no JSON can hold."""
_PEAK = 255
_WINDOW = 11
"""Side of the SSIM window, px: sigma 1.5 cut at 3.5 sigma."""


def psnr(pred: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio, dB, of two pictures (H, W, 3) uint8: 10 log10(255^2 / MSE over all samples).

    At most PSNR_CAP (100 dB), which identical pictures get. Raises ValueError for other shapes or types.
    """
    _check(pred, truth, 1)
    if np.array_equal(pred, truth):
        return PSNR_CAP
    return min(PSNR_CAP, float(peak_signal_noise_ratio(truth, pred, data_range=_PEAK)))


def ssim(pred: Picture, truth: Picture) -> float:
    """Structural similarity of two pictures (H, W, 3) uint8, mean of the three channels; 1 for identical ones.

    The setting of the original paper (Wang et al. 2004): Gaussian window with sigma 1.5, 11 x 11 px, population
    covariance, K1 = 0.01, K2 = 0.03, data range 255; on RGB, where that paper has grey pictures.
    Raises ValueError for other shapes or types, or a side below 11 px.
    """
    _check(pred, truth, _WINDOW)
    value = structural_similarity(
        truth, pred, channel_axis=-1, data_range=_PEAK, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(value)


def _check(pred: Picture, truth: Picture, least: int) -> None:
    if pred.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, not {pred.dtype} and {truth.dtype}")
    if pred.ndim != 3 or pred.shape[-1] != 3 or pred.shape != truth.shape or min(pred.shape[:2]) < least:
        raise ValueError(
            f"pictures must be (H, W, 3) and equal with sides of {least} px or more, not {pred.shape} and {truth.shape}"
        )
