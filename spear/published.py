"""The paper's Tables 1 to 3, to stand beside what is measured here."""

from __future__ import annotations

from typing import Any

from spear.errors import SpearError

PAPER = "Cao and Tran, SPEAR: SPADE-Net and HuBERT for Enhanced Audio-to-Facial Reconstruction; MEAD, its own protocol"
"""Where the numbers are from. The paper does not say in which unit LD and LVD are, nor which pictures were scored."""

_TABLES: dict[int, tuple[tuple[str, ...], dict[str, tuple[float, ...]]]] = {
    1: (("ld", "lvd"), {
        "Chen et al. 2018": (3.27, 2.09), "MEAD": (2.52, 2.28), "EVP": (2.45, 1.78), "Song et al. 2022": (2.54, 1.99),
        "EAPC": (2.01, 1.25), "Trans APL": (3.58, 1.03), "SpeechSyncNet": (1.92, 0.97), "SPEAR": (1.84, 1.28),
    }),
    2: (("psnr", "ssim", "fid"), {
        "MEAD": (28.61, 0.68, 25.52), "EVP": (29.53, 0.71, 7.99), "Sinha et al.": (30.06, 0.77, 35.41),
        "IP_LAP": (32.91, 0.93, 27.87), "SPEAR": (30.12, 0.90, 31.36),
    }),
    3: (("ld", "lvd"), {
        "HuBERT": (1.8394, 1.2813), "MFCC": (1.9684, 1.5855), "Wav2Vec Conformer": (2.1627, 1.5911),
        "UniSpeech": (2.3756, 1.8629),
    }),
}  # fmt: skip


def beside(source: str, values: dict[str, float | None]) -> list[dict[str, Any]]:
    """What is published in `source` (`paper`) beside the values that were measured.

    A row for each line of Tables 1 to 3: table, model, its numbers, measured False; and after each table what was
    measured here, in the units that it may mean. Raises SpearError for another source."""
    check_source(source)
    rows: list[dict[str, Any]] = []
    for table, (columns, lines) in _TABLES.items():
        rows += [{"table": table, "model": model, "measured": False, **dict(zip(columns, numbers, strict=True))}
                 for model, numbers in lines.items()]  # fmt: skip
        for words, names in _MEASURED.items():
            found = {column: values.get(names[column]) for column in columns if column in names}
            if any(value is not None for value in found.values()):
                rows.append({"table": table, "model": words, "measured": True, **found})
    return rows


def check_source(source: str) -> None:
    """Raises SpearError for a source that is not known."""
    if source != "paper":
        raise SpearError(f"--against {source} is not known; give --against paper")


_MEASURED = {
    "here, % of face width": {"ld": "ld_percent", "lvd": "lvd_percent"},
    "here, px at 256": {"ld": "ld_px256", "lvd": "lvd_px256"},
    "here, face crop": {"psnr": "psnr_crop", "ssim": "ssim_crop", "fid": "fid"},
    "here, full frame": {"psnr": "psnr_full", "ssim": "ssim_full"},
}
