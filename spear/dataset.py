"""Stage 1's training samples from clip folders: each a pure function of (seed, epoch, index), read in windows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spear.clip import Clip
from spear.clip_index import listed
from spear.errors import SpearError
from spear.nets.a2lm import A2LMConfig, carried_lower_face, mouth_shapes
from spear.points import LOWER, Array, head_motion, lip_opening, pose_input
from spear.progress import Report

_NOT_HEARD = 0.15
"""Share of the features that a training window does not hear."""
_LONGEST_GAP = 7
"""Frames in which it hears nothing."""
_SILENT = 0.1
"""Share of the training windows in which nobody speaks and the lips are closed: footage has too little of that."""
_SKEW = 0.6
"""Spread of the logarithm of `skew`: some people hardly ever open their mouth in a clip, some hardly ever close it."""
_STILL = 0.15
"""Share of the training windows that know a person by one picture, as `render` does where the ref is a still."""
_TREMBLE = 0.5
"""Standard deviation, px, by which pose and references of a training window are moved."""


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


def data_digest(clips: Sequence[Clip]) -> str:
    """Tells whether a training is resumed on the data that it began with."""
    known = listed(clips).columns
    marks = known["fingerprint"].tobytes().hex(" ", known["fingerprint"].shape[1]).split()
    lines = [" ".join(map(str, row)) for row in zip(listed(clips).ids, marks, known["av_offset"].tolist(), strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Turns:
    """Counted one after the other, item 0 so often, then item 1 ...; eight bytes an item."""

    def __init__(self, counts: Sequence[int] | NDArray[Any]) -> None:
        self._ends = np.cumsum(np.asarray(counts, np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Which item, and which of its turns."""
        item = int(np.searchsorted(self._ends, index, side="right"))
        return item, index - (int(self._ends[item - 1]) if item else 0)


class _Recent:
    """What was computed last for clips, up to so many bytes of arrays."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: dict[Any, tuple[Array, ...]] = {}

    def __call__(self, key: Any, compute: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
        value = self._kept.pop(key, None)
        if value is None:
            value = compute()
            self._bytes += sum(array.nbytes for array in value)
        self._kept[key] = value  # the last one is the newest
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= sum(array.nbytes for array in self._kept.pop(next(iter(self._kept))))
        return value


_POINTS, _TRACKS = _Recent(64 << 20), _Recent(128 << 20)
"""Of about 600 and 450 clips of four seconds."""


def cached_points(clip: Clip) -> Array:
    """The clip's points (F, 131, 2), kept for the clips used last."""
    return _POINTS(clip, lambda: (clip.landmarks()[0],))[0]


def spread_at_random(points: Array, count: int, random: np.random.Generator, skew: float = 1.0) -> list[int]:
    """One random frame from each of `count` parts of the order of lip opening: references for training.

    The parts are equal; with a skew above 1 there are more of closed mouths, below 1 of open ones.
    """
    order = np.argsort(lip_opening(points), kind="stable")
    edges = np.linspace(0, 1, count + 1) ** skew * len(order)
    picks = (edges[:-1] + random.random(count) * np.diff(edges)).astype(int)
    return [int(order[min(p, len(order) - 1)]) for p in picks]


def cached_track(clip: Clip, pose: str) -> tuple[Array, ...]:
    """The clip's points (F, 131, 2), its pose input and its head's motion (F, 74, 2), kept for the clips used last."""
    points = cached_points(clip)
    return _TRACKS((clip, pose), lambda: (points, pose_input(points, pose), head_motion(points)))


class SpeechWindows(Dataset[dict[str, Tensor]]):
    """Windows of speech features with pose, references and the lower face to predict (section 3.1).

    For the small preset they vary, which the paper does not say: half of them come from changed copies of the speech
    where there are some, in some nobody speaks, pose and references tremble, some features are not heard. Dropout
    would do as well as the last, but its masks would hang on how many processes there are.
    """

    def __init__(self, clips: Sequence[Clip], config: A2LMConfig, seed: int) -> None:
        self.config, self.seed, self._clips = config, seed, listed(clips)
        self._parts = Turns(np.maximum(1, self._clips.columns["frames"] // config.window))
        self.copies = int(np.isfinite(self._clips.columns[f"speeds.{config.encoder}"]).sum()) if config.light else 0
        """How many changed copies of speech there are."""

    def _speeds(self, clip: Clip) -> list[float]:
        return clip.speeds(self.config.encoder) if self.config.light else []

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, place: Any) -> dict[str, Tensor]:
        """(epoch, index) -> features (T, L, W), pose and head (T, 74, 2), references (R, 131, 2), truth (T, 57, 2),
        heard (T, L, W): which features the net may read, real (T,): which frames exist; a clip shorter than the window
        is held at its last frame."""
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        number, part = self._parts[index]
        clip = self._clips[number]
        points, pose, head = cached_track(clip, self.config.pose)
        features, at, real = self._heard(clip, part, random)
        skew = math.exp(random.normal(0, _SKEW)) if self.config.light else 1.0
        chosen = spread_at_random(points, self.config.references, random, skew)
        if self.config.light and random.random() < _STILL:
            chosen = [chosen[int(random.integers(len(chosen)))]] * len(chosen)
        references = points[chosen]
        truth = _at(points[:, LOWER], at)
        if self._speeds(clip) and random.random() < _SILENT:
            features, truth = self._silence(clip), _closed(_at(head, at), references)
        heard = np.ones((len(at), *features.shape[1:]), bool)
        pose = _at(pose, at)
        if self.config.light:
            references = references + random.normal(0, _TREMBLE, references.shape).astype(np.float32)
            pose = pose + random.normal(0, _TREMBLE, pose.shape[1:]).astype(np.float32)
            heard &= random.random(features.shape[1:]) >= _NOT_HEARD
            start, length = random.integers(len(at)), random.integers(1, _LONGEST_GAP + 1)
            heard[start : start + length] = False
        return {
            "features": features,
            "heard": torch.from_numpy(heard),
            "pose": torch.from_numpy(pose),
            "head": torch.from_numpy(_at(head, at)),
            "references": torch.from_numpy(references),
            "truth": torch.from_numpy(truth),
            "real": torch.from_numpy(real),
        }

    def _heard(
        self, clip: Clip, part: int, random: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.float64], NDArray[np.bool_]]:
        """A window (T, L, W) of the features near this part of the clip, where on its video track each row stands, (T,)
        frames and parts of frames, and which rows exist (T,)."""
        speeds, window, total = self._speeds(clip), self.config.window, clip.facts.frames
        changed = int(random.integers(len(speeds))) if speeds and random.random() < 0.5 else None
        speed = 1.0 if changed is None else speeds[changed]
        late = clip.facts.av_offset if self.config.av_align else 0
        # row j is heard while frame (j + 1/2) speed - 1/2 - late is seen; rows without a picture are left out
        end = max(1, int(total / speed))
        first = min(max(0, math.ceil((late + 0.5) / speed - 0.5)), end - 1)
        last = max(first, min(end, math.floor((total + late - 0.5) / speed + 0.5)) - 1)
        room = max(0, last + 1 - first - window)
        low, high = (min(room, (part + k) * window / speed) for k in (0, 1))
        start = first + round(low + random.random() * (high - low))
        rows = np.minimum(np.arange(start, start + window), last)
        name = "features" if changed is None else f"changed{changed}"
        features = clip.features(self.config.encoder, start, min(start + window, last + 1), name)[rows - start]
        at = np.clip((rows + 0.5) * speed - 0.5 - late, 0, total - 1)
        return features, at, np.arange(start, start + window) <= last

    def _silence(self, clip: Clip) -> Tensor:
        """A window (T, L, W) in which nobody speaks, held at its last frame."""
        features = clip.features(self.config.encoder, 0, self.config.window, "silence")
        return features[np.minimum(np.arange(self.config.window), len(features) - 1)]


def _closed(head: Array, references: Array) -> Array:
    """The most closed of the references' mouths, carried by the head: (T, 74, 2), (R, 131, 2) -> (T, 57, 2)."""
    faces = torch.from_numpy(references)[None]
    shape = mouth_shapes(faces)[0, int(lip_opening(references).argmin())]
    return (carried_lower_face(torch.from_numpy(head)[None], faces)[0] + shape).numpy()


def _at(track: Array, at: NDArray[np.float64]) -> Array:
    """A track (F, P, 2) at frames and parts of frames (T,), by linear interpolation: (T, P, 2)."""
    before = np.floor(at).astype(int)
    share = (at - before).astype(np.float32)[:, None, None]
    return np.asarray(track[before] * (1 - share) + track[np.minimum(before + 1, len(track) - 1)] * share, np.float32)
