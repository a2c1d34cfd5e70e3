"""Training samples from clip folders: each a pure function of (seed, epoch, index), read in windows."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spear.clip import CROP, Clip
from spear.errors import SpearError
from spear.nets.a2lm import A2LMConfig, carried_lower_face, mouth_shapes
from spear.nets.lm2face import blend_mask, image_tensor, sketch_tensor
from spear.points import LOWER, OUTER_LIPS, Array, head_motion, lip_opening, pose_input
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


def data_digest(clips: list[Clip]) -> str:
    """Tells whether a training is resumed on the data that it began with."""
    lines = [f"{clip.id} {clip.fingerprint} {clip.info.av_offset}" for clip in clips]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=1024)
def cached_points(clip: Clip) -> Array:
    """The clip's points (F, 131, 2), kept for the clips used last."""
    return clip.landmarks()[0]


def spread_at_random(points: Array, count: int, random: np.random.Generator, skew: float = 1.0) -> list[int]:
    """One random frame from each of `count` parts of the order of lip opening: references for training.

    The parts are equal; with a skew above 1 there are more of closed mouths, below 1 of open ones.
    """
    order = np.argsort(lip_opening(points), kind="stable")
    edges = np.linspace(0, 1, count + 1) ** skew * len(order)
    picks = (edges[:-1] + random.random(count) * np.diff(edges)).astype(int)
    return [int(order[min(p, len(order) - 1)]) for p in picks]


@lru_cache(maxsize=1024)
def cached_track(clip: Clip, pose: str) -> tuple[Array, Array, Array]:
    """The clip's points (F, 131, 2), its pose input and its head's motion (F, 74, 2), kept for the clips used last."""
    points = cached_points(clip)
    return points, pose_input(points, pose), head_motion(points)


class SpeechWindows(Dataset[dict[str, Tensor]]):
    """Windows of speech features with pose, references and the lower face to predict (section 3.1).

    For the small preset they vary, which the paper does not say: half of them come from changed copies of the speech
    where there are some, in some nobody speaks, pose and references tremble, some features are not heard. Dropout
    would do as well as the last, but its masks would hang on how many processes there are.
    """

    def __init__(self, clips: list[Clip], config: A2LMConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.items = [(clip, part) for clip in clips for part in range(max(1, clip.info.frames // config.window))]
        self._speeds = {clip.id: clip.speeds(config.encoder) if config.light else [] for clip in clips}

    @property
    def copies(self) -> int:
        """How many changed copies of speech there are."""
        return sum(map(len, self._speeds.values()))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> dict[str, Tensor]:
        """(epoch, index) -> features (T, L, W), pose and head (T, 74, 2), references (R, 131, 2), truth (T, 57, 2),
        heard (T, L, W): which features the net may read, real (T,): which frames exist; a clip shorter than the window
        is held at its last frame."""
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        clip, part = self.items[index]
        points, pose, head = cached_track(clip, self.config.pose)
        features, at, real = self._heard(clip, part, random)
        skew = math.exp(random.normal(0, _SKEW)) if self.config.light else 1.0
        chosen = spread_at_random(points, self.config.references, random, skew)
        if self.config.light and random.random() < _STILL:
            chosen = [chosen[int(random.integers(len(chosen)))]] * len(chosen)
        references = points[chosen]
        truth = _at(points[:, LOWER], at)
        if self._speeds[clip.id] and random.random() < _SILENT:
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
        speeds, window, total = self._speeds[clip.id], self.config.window, clip.info.frames
        changed = int(random.integers(len(speeds))) if speeds and random.random() < 0.5 else None
        speed = 1.0 if changed is None else speeds[changed]
        late = clip.info.av_offset if self.config.av_align else 0
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


class FacePairs(Dataset[dict[str, Tensor]]):
    """A target frame and references of the same clip, for stage 2 (section 3.2): `per_clip` random frames of each clip
    (more of long ones) make an epoch."""

    def __init__(self, clips: list[Clip], references: int, per_clip: int, seed: int, augment: bool = True) -> None:
        self.references, self.seed, self.augment = references, seed, augment
        self.items = [clip for clip in clips for _ in range(max(per_clip, per_clip * clip.info.frames // 75))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> dict[str, Tensor]:
        """(epoch, index) -> target (3, 256, 256) in -1..1, points (131, 2), sketch, mask, mouth (1, 256, 256) in 0..1,
        and ref_images, ref_points, ref_sketches with R in front."""
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        clip = self.items[index]
        points = cached_points(clip)
        target = int(random.integers(len(points)))
        frames = [target, *reference_frames(points, self.references, random, target)]
        images, faces = read_faces(clip, frames), points[frames]
        if self.augment:
            images, faces = _vary(images, faces, random)
        masks = np.stack([blend_mask([faces[0], faces[int(random.integers(1, len(faces)))]]), mouth_box(faces[0])])
        pictures, sketches = image_tensor(images), sketch_tensor(faces)
        return {
            "target": pictures[0], "points": torch.from_numpy(faces[0]), "sketch": sketches[0],
            "mask": torch.from_numpy(masks[:1]), "mouth": torch.from_numpy(masks[1:]),
            "ref_images": pictures[1:], "ref_points": torch.from_numpy(faces[1:]), "ref_sketches": sketches[1:],
        }  # fmt: skip


def reference_frames(points: Array, count: int, random: np.random.Generator, target: int) -> list[int]:
    """Training references: the most closed and the most open mouth, the rest at random in between, never the target."""
    others = np.delete(np.arange(len(points)), target) if len(points) > 1 else np.zeros(1, int)
    picks = spread_at_random(points[others], count, random)
    if count > 1:
        opening = lip_opening(points[others])
        picks = [int(opening.argmin()), *picks[1:-1], int(opening.argmax())]
    return [int(others[p]) for p in picks]


def read_faces(clip: Clip, frames: list[int]) -> NDArray[np.uint8]:
    """Crops of the given frames, (N, 256, 256, 3) uint8 RGB, without decoding the rest of the clip."""
    import decord

    reader = decord.VideoReader(str(clip.face_path), num_threads=1)
    if len(reader) != clip.info.frames:
        raise SpearError(
            f"{clip.face_path} has {len(reader)} frames, clip.json says {clip.info.frames}; "
            "delete the folder and run `spear preprocess` again"
        )
    return reader.get_batch(frames).asnumpy()


def mouth_box(points: Array) -> Array:
    """The box around the lips and 8 px more, as a mask (256, 256) of 0 and 1, for section 4.2's mouth loss."""
    lips = points[OUTER_LIPS]
    left, top = np.clip(np.floor(lips.min(0)) - 8, 0, CROP).astype(int)
    right, bottom = np.clip(np.ceil(lips.max(0)) + 9, 0, CROP).astype(int)
    mask = np.zeros((CROP, CROP), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def _vary(images: NDArray[np.uint8], faces: Array, random: np.random.Generator) -> tuple[NDArray[np.uint8], Array]:
    """One mirror and one change of colour for all; a small turn, shift and change of size for each reference."""
    colour = np.eye(3) * random.uniform(0.75, 1.25) + random.normal(0, 0.08, (3, 3))
    gamma = random.uniform(0.8, 1.25)
    table = np.linspace(0, 1, 256) ** gamma * 255
    images = np.clip(table[images] @ colour.T, 0, 255).astype(np.uint8)
    if random.random() < 0.5:
        images = np.ascontiguousarray(images[:, :, ::-1])
        faces = faces * np.array([-1, 1], np.float32) + np.array([CROP - 1, 0], np.float32)
    images, faces = images.copy(), faces.copy()
    for i in range(1, len(images)):
        turn = cv2.getRotationMatrix2D((CROP / 2, CROP / 2), random.normal(0, 2.5), random.uniform(0.95, 1.05))
        turn[:, 2] += random.normal(0, 3, 2)
        images[i] = cv2.warpAffine(images[i], turn, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE)
        faces[i] = faces[i] @ turn[:, :2].T.astype(np.float32) + turn[:, 2].astype(np.float32)
    return images, faces
