"""How the numbers were measured, in words that stand in every output: a number without its protocol says nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from spear.clip import CROP, FPS
from spear.crop import CROP_WIDTHS
from spear.face import DETECTOR
from spear.scores.bootstrap import LEAST, ROUNDS
from spear.scores.compare import LANDMARK_SCORES
from spear.scores.image import PSNR_CAP
from spear.scores.landmark import REACH
from spear.version import __version__

VIDEO_CROP = f"{CROP}x{CROP} face crop ({CROP_WIDTHS} face widths) by the true frame's own transform, not smoothed"


def protocol_of(which: Collection[str], sha256: dict[str, str], crop: str) -> dict[str, Any]:
    """The protocol of these scores; sha256: of the weights that they used, by score; crop: what the face crops are."""
    words: dict[str, Any] = {
        "scores": sorted(which),
        "spear": __version__,
        "fps": FPS,
        "detector": DETECTOR,
        "mean": "over frames; over several clips weighted by frames",
        "interval": f"95 %, percentile bootstrap, {ROUNDS} rounds, over clips (of one clip: over its seconds); "
        f"none below {LEAST}, none of FID, and of one clip only of means over frames",
    }
    chosen = set(which)
    if chosen & LANDMARK_SCORES:
        words |= _LANDMARKS
    for score, sentences in _WORDS.items():
        if score in chosen:
            words |= {name: sentence.format(crop=crop) for name, sentence in sentences.items()}
    if chosen & {"psnr", "ssim"}:
        words["pictures"] = f"RGB, full frame and {crop}; mean of the frames' scores"
    for part in _BORROWED.keys() & sha256.keys():
        words |= _BORROWED[part]
    return words | {f"weights of {part}": f"sha256 {value}" for part, value in sha256.items()}


_LANDMARKS = {
    "ld": "eq. 9, lower 57 points, px of the truth's frame over the truth's face width of that frame; "
    "no alignment; frames where both faces were found",
    "lvd": "eq. 6 (lvd_squared) and without the square (lvd), as ld; steps between neighbouring such frames",
    "lips_alone": "ld_lips, lvd_lips: of the 57 the 40 of outer and inner lips",
    "units": f"ratio of the face width, percent of it, px256 = ratio * {CROP} / {CROP_WIDTHS}; "
    "each factor squared for lvd_squared",
    "lips": "distance of the inner lips' middles over the truth's face width: Pearson r (0 for a still mouth), "
    f"standard deviation over the truth's, best r within {REACH} frames (lag above 0: the prediction is late)",
}
_WORDS = {
    "psnr": {"psnr": f"dB, at most {PSNR_CAP:g}, which identical frames get"},
    "ssim": {"ssim": "Gaussian window, sigma 1.5, population covariance, mean of three channels"},
    "fid": {"fid": "pytorch-fid's InceptionV3, 2048 features, bilinear to 299x299; {crop}"},
    "lpips": {"lpips": "version 0.1, AlexNet, as its authors' package computes it; {crop}; mean of the frames"},
    "lmd": {
        "lmd_chen": "Chen et al. 2018: 20 mouth points (of the mesh's), each mouth about its own mean, mean distance, "
        "px at 256 (px256)",
    },
    "csim": {"csim": "cosine of dlib's 128-d face embeddings, prediction and truth of the same frame; mean of the "
             "frames with both faces; not ArcFace's, whose values are others"},
    "sync": {
        "sync": "slopes of lip opening and of speech energy (1 to 3.5 kHz): the largest Pearson r within 10 frames, r "
        "as it is, and the lag, at a parabola's peak, less the -.3 frames that speech in time has, in whole frames, "
        "+ = the sound is late; certain: 5 s and more, a peak that stands out in both halves; sync_truth: of the truth",
    },
}  # fmt: skip
_BORROWED = {
    "m_lmd, f_lmd": {
        "m_lmd_f_lmd": "face-alignment's points, the mouth's 20 and all 68, each about its own mean, no scale, mean "
        "distance, px at 256",
    },
    "lse_d, lse_c": {
        "lse": "SyncNet's least mean distance (lse_d) and median less least (lse_c), offsets within 15 frames, on our "
        "own face crops by the truth's transform (without a face: the last one) at 224x224; others use S3FD's boxes",
    },
}
