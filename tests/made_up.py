"""Faces and clips that are drawn, not filmed: what a test can compute by hand and have in milliseconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from spear.audio import write_wav
from spear.clip import CROP, SAMPLES_PER_FRAME, Clip, ClipInfo
from spear.points import JAW, OUTER_LIPS, Array
from spear.pretrained.mfcc import Mfcc
from spear.video import VideoWriter

BACKGROUND, SKIN, LIPS = (60, 80, 100), (120, 110, 100), (210, 30, 40)


def face(opening: float = 0.0, at: tuple[float, float] = (128.0, 120.0), size: float = 170.0) -> Array:
    """A frontal face: (131, 2) px, its nose tip at `at`, `size` px wide, the inner lips 4 px + `opening` px apart."""
    half = np.linspace(0, np.pi, 17)
    ring16, ring20 = (np.pi - 2 * np.pi * np.arange(n) / n for n in (16, 20))
    brow = np.linspace(-66, -16, 5)
    parts = [
        np.stack([[-80, -84, -85, -84, 84, 85, 84, 80], [-60, -40, -20, 0, 0, -20, -40, -60]], 1),  # cheeks
        np.stack([brow, np.full(5, -56)], 1), np.stack([brow[::-1], np.full(5, -50)], 1),
        np.stack([-brow[::-1], np.full(5, -56)], 1), np.stack([-brow, np.full(5, -50)], 1),
        np.stack([np.zeros(5), np.linspace(-35, -8, 5)], 1),  # nose bridge
        np.stack([np.linspace(-24, 24, 9), [10, 8, 6, 2, 0, 2, 6, 8, 10]], 1),  # wings and, in the middle, the tip
        np.stack([-38 + 18 * np.cos(ring16), -32 - 8 * np.sin(ring16)], 1),
        np.stack([38 + 18 * np.cos(ring16), -32 - 8 * np.sin(ring16)], 1),
        np.stack([-84 * np.cos(half), 15 + 90 * np.sin(half)], 1),  # jaw
        np.stack([32 * np.cos(ring20), 45 - (14 + opening / 2) * np.sin(ring20)], 1),
        np.stack([24 * np.cos(ring20), 45 - (2 + opening / 2) * np.sin(ring20)], 1),
    ]  # fmt: skip
    return (np.concatenate(parts) * size / 170 + at).astype(np.float32)


def track(frames: int, seed: int = 0, at: tuple[float, float] = (128.0, 120.0)) -> Array:
    """A head that sways by a few px and opens its mouth: (F, 131, 2)."""
    rng = np.random.default_rng(seed)
    openings = 10 + 10 * np.sin(np.arange(frames) * 0.9 + rng.uniform(0, 6))
    sway = 3 * np.sin(np.arange(frames) * 0.15 + rng.uniform(0, 6))
    return np.stack([face(o, (at[0] + s, at[1])) for o, s in zip(openings, sway, strict=True)])


def picture(points: Array, size: int = CROP) -> NDArray[np.uint8]:
    """The face as a skin-coloured shape with red lips on a plain ground: (size, size, 3) uint8 RGB."""
    canvas = np.full((size, size, 3), BACKGROUND, np.uint8)
    for shape, colour in ((points[[*range(74), *JAW]], SKIN), (points[OUTER_LIPS], LIPS)):
        cv2.fillConvexPoly(canvas, cv2.convexHull(np.round(shape).astype(np.int32)), colour, cv2.LINE_AA)
    return canvas


def lips_in(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where the red lips are in a picture (H, W, 3): the mean place, x and y px."""
    red = image[..., 0] - image[..., 1:].max(-1)
    weight = np.maximum(red - 0.5 * red.max(), 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def make_clip(folder: Path, frames: int = 20, seed: int = 0, split: str = "train", points: Array | None = None) -> Clip:
    """A whole clip with landmarks and mfcc features, without any detector."""
    points = track(frames, seed) if points is None else points
    clip = Clip(folder)
    folder.mkdir(parents=True)
    with VideoWriter(clip.face_path, CROP, CROP, crf=12, random_access=True) as writer:
        for p in points:
            writer.write(picture(p))
    noise = np.random.default_rng(seed).normal(0, 0.1, len(points) * SAMPLES_PER_FRAME).astype(np.float32)
    write_wav(clip.audio_path, noise)
    info = ClipInfo(
        source=f"{folder.name}.mp4", source_sha256=f"{seed:064x}", source_size=1, source_mtime_ns=1, width=CROP,
        height=CROP, frames=len(points), crop=[[1.0, 0.0, 0.0, 0.0]] * len(points), missing=[], has_audio=True,
        speaker=f"s{seed}", view=None, emotion=None, level=None, split=split, split_rule="by hand",
    )  # fmt: skip
    clip.write_info(info)
    clip.write_landmarks(points, np.ones(len(points), np.float32), {"detector": "made up"})
    mfcc = Mfcc()
    clip.write_features("mfcc", mfcc(torch.from_numpy(noise)), mfcc.settings)
    return clip
