"""What the scores are called where people read them: the same words in a terminal and on a page. Imports nothing."""

from __future__ import annotations

UNITS = {"ratio": "ratio", "percent": "% of face width", "px256": "px at 256"}
"""The endings of a distance's names, and what they are called."""
DISTANCES = {
    "ld": "LD",
    "ld_lips": "LD, lips alone",
    "ld_baseline": "LD of the baseline",
    "lvd": "LVD",
    "lvd_lips": "LVD, lips alone",
    "lvd_baseline": "LVD of the baseline",
    "lvd_squared": "LVD squared (units too)",
}
OTHERS = {
    "ld_skill": ("skill: 1 - LD / baseline", ""),
    "lvd_over_baseline": ("LVD / baseline's", ""),
    "lip_opening_r": ("lip opening: r", ""),
    "lip_opening_r_mean": ("lip opening: mean r over clips", ""),
    "lip_opening_r_min": ("lip opening: lowest r of a clip", ""),
    "lip_opening_amplitude": ("lip opening: amplitude / true", ""),
    "lip_opening_best_r": ("lip opening: best r over lags", ""),
    "lip_opening_best_lag_frames": ("lip opening: lag of the best r", "frames"),
    "swap_r_audio": ("swap: r with the audio's owner", ""),
    "swap_r_pose": ("swap: r with the pose's owner (the old mouth)", ""),
    "swap_r_truths": ("swap: r of the two true mouths", ""),
    "wrong_audio_effect": ("wrong audio: skill lost", ""),
    "psnr_full": ("PSNR, full frame", "dB"),
    "psnr_crop": ("PSNR, face crop", "dB"),
    "psnr_hull": ("PSNR, blended hull", "dB"),
    "ssim_full": ("SSIM, full frame", ""),
    "ssim_crop": ("SSIM, face crop", ""),
    "lpips": ("LPIPS, face crop", ""),
    "fid": ("FID", ""),
    "csim": ("CSIM: identity, dlib's embedding", ""),
    "lmd_chen": ("LMD, Chen et al.", "px at 256"),
    "m_lmd": ("M-LMD", "px at 256"),
    "f_lmd": ("F-LMD", "px at 256"),
    "sync_r": ("sync: lips with speech, r at its best lag", ""),
    "sync_lag_ms": ("sync: lag, + = the sound is late", "ms"),
    "sync_r_as_is": ("sync: r without a lag", ""),
    "sync_certain": ("sync: share of clips whose lag is certain", ""),
    "sync_truth_r": ("sync of the truth: r at its best lag", ""),
    "sync_truth_lag_ms": ("sync of the truth: lag", "ms"),
    "sync_truth_r_as_is": ("sync of the truth: r without a lag", ""),
    "sync_truth_certain": ("sync of the truth: share that is certain", ""),
    "lse_d": ("LSE-D, SyncNet", ""),
    "lse_c": ("LSE-C, SyncNet", ""),
}
"""Every other score: what it is called, and its unit."""


def label_of(name: str) -> tuple[str, str]:
    """What a score is called, and its unit; a score that is not known here is called by its name."""
    for distance, label in DISTANCES.items():
        for ending, unit in UNITS.items():
            if name == f"{distance}_{ending}":
                return label, unit
    return OTHERS.get(name, (name.replace("_", " "), ""))


def number(value: float | None) -> str:
    """Four figures, for people; `-` for what is not defined."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    if value and abs(value) < 0.001:
        return f"{value:.2e}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
