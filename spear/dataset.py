"""Training samples from clip folders: each a pure function of (seed, epoch, index), read in windows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spear.clip import Clip
from spear.errors import SpearError
from spear.points import LOWER, Array, lip_opening, pose_input
from spear.progress import Report


def usable_clips(clips: list[Clip], report: Report, encoder: str | None = None) -> list[Clip]:
    """Clips that have landmarks, and features of `encoder` where one is named; the others are listed in the report.

    Raises SpearError, naming the stage to run, where none is left.
    """
    kept, first_error = [], None
    for clip in clips:
        try:
            clip.require_landmarks()
            if encoder is not None:
                if not clip.info.has_audio:
                    raise SpearError(f"{clip.folder} has no sound; preprocess videos with a voice")
                clip.require_features(encoder)
            kept.append(clip)
        except SpearError as error:
            first_error = first_error or error
            report.skipped.append((clip.id, str(error)))
    if not kept:
        raise first_error or SpearError("there is no clip to use; run `spear preprocess` first")
    return kept


@lru_cache(maxsize=1024)
def cached_points(clip: Clip) -> Array:
    """The clip's points (F, 131, 2), kept for the clips used last."""
    return clip.landmarks()[0]


def spread_at_random(points: Array, count: int, random: np.random.Generator) -> list[int]:
    """One random frame from each of `count` equal parts of the order of lip opening: references for training."""
    order = np.argsort(lip_opening(points), kind="stable")
    edges = np.linspace(0, len(order), count + 1)
    picks = (edges[:-1] + random.random(count) * np.diff(edges)).astype(int)
    return [int(order[min(p, len(order) - 1)]) for p in picks]


class SpeechWindows(Dataset[dict[str, Tensor]]):
    """Windows of speech features with pose, references and the lower face to predict (section 3.1)."""

    def __init__(self, clips: list[Clip], encoder: str, window: int, references: int, pose: str, seed: int) -> None:
        self.encoder, self.window, self.references, self.pose, self.seed = encoder, window, references, pose, seed
        self.items = [
            (clip, part) for clip in clips for part in range(max(1, clip.info.frames // window))
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> dict[str, Tensor]:
        """(epoch, index) -> features (T, L, W), pose (T, 74, 2), references (R, 131, 2), truth (T, 57, 2), real (T,): which
        frames exist; a clip shorter than the window is held at its last frame."""
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        clip, part = self.items[index]
        points, total = cached_points(clip), clip.info.frames
        room = max(0, total - self.window)
        start = min(room, int((part + random.random()) * self.window)) if part else int(random.integers(0, min(room, self.window) + 1))
        frames = np.minimum(np.arange(start, start + self.window), total - 1)
        features = clip.features(self.encoder, start, min(start + self.window, total))
        pose = pose_input(points, self.pose)
        return {
            "features": features[frames - start],
            "pose": torch.from_numpy(pose[frames]),
            "references": torch.from_numpy(points[spread_at_random(points, self.references, random)]),
            "truth": torch.from_numpy(points[frames][:, LOWER]),
            "real": torch.from_numpy(np.arange(start, start + self.window) < total),
        }
