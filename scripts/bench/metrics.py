"""How fast `spear metrics` is and what memory it takes, and what it says of known changes: tables, or with --json JSON.

    python scripts/bench/metrics.py face.mp4 --seconds 60 600

The footage runs forward and backward for as long as is needed; the prediction is the same at CRF 30.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from spear.clip import FPS
from spear.scores.image import ssim
from spear.stages.metrics_videos import compare_videos
from spear.video import Footage, Frame, VideoWriter
from spear.workers import Workers

CHOSEN = ("--ld", "--lvd", "--psnr", "--ssim")
CHANGES: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "nothing": lambda frames: frames,
    "one frame late": lambda frames: [frames[0], *frames[:-1]],
    "one pixel right": lambda frames: [np.roll(frame, 1, axis=1) for frame in frames],
    "brighter by 10": lambda frames: [cv2.add(frame, np.full_like(frame, 10)) for frame in frames],
    "blurred, 2 px": lambda frames: [cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames],
    "first frame held": lambda frames: [frames[0]] * len(frames),
}
SHOWN = ("ld_percent", "ld_lips_percent", "lvd_percent", "lmd_chen", "lip_opening_r", "lip_opening_best_lag_frames",
         "psnr_full", "psnr_crop", "ssim_full", "ssim_crop", "sync_r", "sync_lag_ms")  # fmt: skip


def write(path: Path, frames: Any, size: tuple[int, int], crf: int, sound: Path | None = None) -> Path:
    """Write frames, (H, W, 3) each, size (width, height)."""
    with VideoWriter(path, *size, sound, crf=crf) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def timed(pred: Path, truth: Path, jobs: int, cache: Path) -> dict[str, float]:
    """Seconds and peak memory, GB, of the command itself, with an empty cache."""
    words = [
        sys.executable,
        "-m",
        "spear_cli",
        "metrics",
        str(pred),
        str(truth),
        *CHOSEN,
        "--jobs",
        str(jobs),
        "--json",
    ]
    # started by a small process: what a large one starts is said to have its memory
    starter = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    starter += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", starter, *words], check=True, capture_output=True, env=environment)
    return {"seconds": time.monotonic() - started, "gigabytes": int(done.stdout) / 1e6}


def speed(footage: Footage, lengths: list[float], folder: Path) -> list[dict[str, float]]:
    """A row for each length, s, with one job and with two; the first is one second, whose time is the start-up."""
    size, rows, startup = (footage.width, footage.height), [], {}
    for seconds in [1.0, *lengths]:
        frames = round(seconds * FPS)
        truth = write(folder / f"truth_{seconds:g}.mp4", footage.ping_pong(frames), size, 18)
        pred = write(folder / f"pred_{seconds:g}.mp4", footage.ping_pong(frames), size, 30)
        for jobs in (1, 2):
            found = timed(pred, truth, jobs, folder / f"cache_{seconds:g}_{jobs}")
            startup.setdefault(jobs, found["seconds"])
            after = found["seconds"] - startup[jobs]
            row = {"video_s": seconds, "jobs": jobs, "wall_s": found["seconds"], "gigabytes": found["gigabytes"]}
            rows.append(
                row | ({"times_real_time": seconds / after, "frames_per_s": frames / after} if after > 0.5 else {})
            )
        truth.unlink()
        pred.unlink()
    return rows


def directions(footage: Footage, seconds: float, folder: Path) -> dict[str, dict[str, float | None]]:
    """What the scores say of each of CHANGES, made of the footage's first seconds."""
    frames, size = list(footage.frames(0, round(seconds * FPS))), (footage.width, footage.height)
    sound = footage.path if footage.has_audio else None
    truth = write(folder / "truth.mp4", frames, size, 8, sound)
    found = {}
    for name, change in CHANGES.items():
        pred = truth if name == "nothing" else write(folder / f"{name}.mp4", change(frames), size, 8, sound)
        which = frozenset({"ld", "lvd", "lmd", "psnr", "ssim", "sync"})
        found[name] = {
            key: value
            for key, value in compare_videos(pred, truth, which, workers=Workers(2)).values.items()
            if key in SHOWN
        }
    return found


def ssim_ratio(frame: Frame) -> dict[str, float]:
    """How many times as fast as scikit-image's is our SSIM of two such frames, and how far from it."""
    noisy = cv2.add(frame, np.random.default_rng(0).integers(0, 20, frame.shape, dtype=np.uint8))

    def reference() -> float:
        return float(structural_similarity(
            frame, noisy, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        ))  # fmt: skip

    both = [(reference, []), (lambda: ssim(noisy, frame), [])]
    for _ in range(5):
        for function, times in both:
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
    theirs, ours = (min(times) for _, times in both)
    return {"times_as_fast": theirs / ours, "ms": 1000 * ours, "difference": abs(reference() - ssim(noisy, frame))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", type=Path)
    parser.add_argument("--seconds", type=float, nargs="*", default=[60.0], help="lengths to measure, 60 and 600 say")
    parser.add_argument("--json", type=Path, help="also a file with everything")
    options = parser.parse_args()
    footage = Footage(options.footage)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        found = {
            "footage": f"{options.footage.name}, {footage.width}x{footage.height}",
            "ssim": ssim_ratio(next(footage.frames())),
            "directions": directions(footage, 4.0, folder),
            "speed": speed(footage, options.seconds, folder),
        }
    print(
        found["footage"], "| SSIM against scikit-image:", {key: float(f"{v:.3g}") for key, v in found["ssim"].items()}
    )
    print(f"{'':18}" + "".join(f"{name[:13]:>14}" for name in SHOWN))
    for name, values in found["directions"].items():
        cells = (values.get(key) for key in SHOWN)
        print(f"{name:18}" + "".join(f"{'-' if cell is None else f'{cell:.4g}':>14}" for cell in cells))
    for row in found["speed"]:
        print("  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
