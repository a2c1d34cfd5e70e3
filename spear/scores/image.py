"""Scores between two pictures: equal to scikit-image's to 1e-9 and several times as fast, for videos are long."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

PSNR_CAP = 100.0
"""dB. Identical pictures have an infinite PSNR, which no mean and no JSON can hold."""
_PEAK = 255
_SIGMA, _RADIUS = 1.5, 5
_WINDOW = 2 * _RADIUS + 1
"""Side of the SSIM window, px: sigma 1.5 cut at 3.5 sigma."""
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_ROWS = 128
"""Rows that are worked on at a time: what is filtered stays in the processor's cache."""


def psnr(pred: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio, dB, of two pictures (H, W, 3) uint8: 10 log10(255^2 / MSE over all samples).

    At most PSNR_CAP (100 dB), which identical pictures get. Raises ValueError for other shapes or types.
    """
    _check(pred, truth, 1)
    squared = cv2.norm(np.ascontiguousarray(pred), np.ascontiguousarray(truth), cv2.NORM_L2SQR)
    return PSNR_CAP if squared == 0 else min(PSNR_CAP, 10 * math.log10(_PEAK**2 * pred.size / squared))


def ssim(pred: Picture, truth: Picture) -> float:
    """Structural similarity of two pictures (H, W, 3) uint8, mean of the three channels; 1 for identical ones.

    The setting of the original paper (Wang et al. 2004): Gaussian window with sigma 1.5, 11 x 11 px, population
    covariance, K1 = 0.01, K2 = 0.03, data range 255; on RGB, where that paper has grey pictures. The mean leaves out
    the 5 px at the edge, as scikit-image's structural_similarity does.
    Raises ValueError for other shapes or types, or a side below 11 px.
    """
    _check(pred, truth, _WINDOW)
    height, width = pred.shape[0] - 2 * _RADIUS, pred.shape[1] - 2 * _RADIUS
    total = 0.0
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height) + 2 * _RADIUS)
        total += sum(_ssim_sum(pred[rows, :, channel], truth[rows, :, channel]) for channel in range(3))
    return total / (3 * height * width)


def _ssim_sum(pred: Picture, truth: Picture) -> float:
    """The sum of one channel's similarities, (H, W) -> a number, without the edge. In place: memory is what takes time.

    (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)), m the local means, s the covariances.
    """
    x, y = pred.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y, cross = _local_mean(x), _local_mean(y), _local_mean(x * y)
    x *= x
    y *= y
    x += y
    variances = _local_mean(x)
    product = mean_x * mean_y
    cross -= product
    cross *= 2
    cross += _C2
    product *= 2
    product += _C1
    mean_x *= mean_x
    mean_y *= mean_y
    mean_x += mean_y
    variances -= mean_x
    variances += _C2
    mean_x += _C1
    product *= cross
    product /= mean_x
    product /= variances
    return float(product[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS].sum())


def _local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    window = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window /= window.sum()
    return np.asarray(cv2.sepFilter2D(values, -1, window, window, borderType=cv2.BORDER_REFLECT))


def _check(pred: Picture, truth: Picture, least: int) -> None:
    if pred.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, not {pred.dtype} and {truth.dtype}")
    if pred.ndim != 3 or pred.shape[-1] != 3 or pred.shape != truth.shape or min(pred.shape[:2]) < least:
        raise ValueError(
            f"pictures must be (H, W, 3) and equal with sides of {least} px or more, not {pred.shape} and {truth.shape}"
        )
