"""Stage 2's training samples: each a pure function of (seed, epoch, index), read frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spear.clip import CROP, Clip
from spear.clip_index import listed
from spear.dataset import Turns, cached_points, spread_at_random
from spear.errors import SpearError
from spear.nets.blending import blend_mask
from spear.nets.lm2face import Lm2FaceConfig, image_tensor, sketch_tensor
from spear.points import OUTER_LIPS, Array, nearest_mouths

_APART = 12
"""Frames at least between a target and its references; fewer in a short clip."""
_SHARPER = 2.0
"""How many times what a blur of 1.5 px takes away is added at most to pictures of a sample."""
_USUAL_FRAMES = 75
"""A clip that is longer gives more samples."""


class Faces(Protocol):
    """Frames of one person."""

    speaker: str
    frames: int

    def points(self) -> Array:
        """(F, 131, 2) crop px."""

    def read(self, frames: list[int]) -> NDArray[np.uint8]:
        """The crops of these frames, (N, 256, 256, 3) RGB."""

    def latents(self, frames: list[int]) -> dict[str, Tensor]:
        """What is kept of these frames, encoded; nothing where nothing is."""


class ClipFaces:
    """The frames of a clip on disk. kept: its latents are in the folder and are to be used."""

    def __init__(self, clip: Clip, kept: bool = False) -> None:
        self.clip, self.kept = clip, kept
        self.speaker, self.frames = clip.facts.speaker, clip.facts.frames

    def points(self) -> Array:
        """(F, 131, 2) crop px."""
        return cached_points(self.clip)

    def read(self, frames: list[int]) -> NDArray[np.uint8]:
        """The crops of these frames, (N, 256, 256, 3) RGB."""
        return read_faces(self.clip, frames)

    def latents(self, frames: list[int]) -> dict[str, Tensor]:
        """Of these frames, by name; nothing unless they are kept."""
        return self.clip.latents(frames) if self.kept else {}


class FacesOfClips(Sequence[Faces]):
    """The same of many clips, each made when it is asked for."""

    def __init__(self, clips: Sequence[Clip], kept: bool = False) -> None:
        self._clips, self._kept = listed(clips), kept

    def known(self) -> list[tuple[str, int]]:
        """Speaker and frames of each, told without making it."""
        return list(zip(self._clips.speakers, self._clips.columns["frames"].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: Any) -> Any:
        return ClipFaces(self._clips[number], self._kept)


class FacePairs(Dataset[dict[str, Tensor]]):
    """A target frame and references of the same person (section 3.2): `per_clip` random frames of each, more of long
    ones, make an epoch. augment: change colours, mirror, and move references a little; latents that are kept would not
    follow, so they are not used then."""

    def __init__(
        self, faces: Sequence[Faces], config: Lm2FaceConfig, per_clip: int, seed: int, augment: bool = True
    ) -> None:
        self.config, self.seed, self.augment, self._faces = config, seed, augment, faces
        known = faces.known() if isinstance(faces, FacesOfClips) else [(f.speaker, f.frames) for f in faces]
        counts = _balanced([(who, max(per_clip, per_clip * frames // _USUAL_FRAMES)) for who, frames in known])
        self._turns = Turns(counts)

    def __len__(self) -> int:
        return len(self._turns)

    def show(self, most: int) -> None:
        """Make an epoch so long, and no longer; the one person that all is of is shown as often."""
        self._turns = Turns([most])

    def person(self, index: int) -> Faces:
        """Whose frames a sample is of."""
        return self._faces[self._turns[index][0]]

    def __getitem__(self, place: Any) -> dict[str, Tensor]:
        """(epoch, index) -> target (3, 256, 256) in -1..1, points (131, 2), sketch, mask, mouth (1, 256, 256) in 0..1;
        ref_images, ref_points, ref_sketches, ref_nearness with R in front; and latents where they are kept."""
        epoch, index = place
        random = np.random.default_rng([self.seed, epoch, index])
        person = self.person(index)
        points = person.points()
        target = int(random.integers(len(points)))
        references, nearness = reference_frames(points, self.config, random, target)
        frames = [target, *references]
        images, faces = person.read(frames), points[frames]
        if self.augment:
            images, faces = _vary(images, faces, random)
        masks = np.stack([blend_mask([faces[0]]), mouth_box(faces[0])])
        pictures, sketches = image_tensor(images), sketch_tensor(faces)
        return {
            "target": pictures[0], "points": torch.from_numpy(faces[0]), "sketch": sketches[0],
            "mask": torch.from_numpy(masks[:1]), "mouth": torch.from_numpy(masks[1:]),
            "ref_images": pictures[1:], "ref_points": torch.from_numpy(faces[1:]), "ref_sketches": sketches[1:],
            "ref_nearness": torch.from_numpy(nearness),
            **({} if self.augment else {f"latent_{n}": value for n, value in person.latents(frames).items()}),
        }  # fmt: skip


def _balanced(shares: list[tuple[str, int]]) -> list[int]:
    """How often each clip is shown, (speaker, wanted) each: people of whom there is much give to those of whom there is
    little, until each has the square root of its share. What many clips show of one person is much alike."""
    by_speaker: dict[str, int] = {}
    for speaker, count in shares:
        by_speaker[speaker] = by_speaker.get(speaker, 0) + count
    scale = sum(by_speaker.values()) / sum(count**0.5 for count in by_speaker.values())
    return [max(1, round(count * scale / by_speaker[speaker] ** 0.5)) for speaker, count in shares]


def reference_frames(
    points: Array, config: Lm2FaceConfig, random: np.random.Generator, target: int
) -> tuple[list[int], Array]:
    """Training references, R frame numbers, and the nearness (R,) of each: of a bank of random size those with the
    mouth most like the target's, as in rendering, but from other moments: dubbed speech fits no frame so well.

    A bank may be a single picture; where it has fewer than R, some stand twice.
    """
    away = np.flatnonzero(np.abs(np.arange(len(points)) - target) > min(_APART, (len(points) - 1) // 3))
    others = away if len(away) else np.arange(len(points))  # a clip of one frame
    size = round(math.exp(random.uniform(0, math.log(config.bank)))) if config.light else config.bank
    bank = others[sorted(set(spread_at_random(points[others], size, random)))]
    which, nearness = nearest_mouths(points[bank], points[target : target + 1], config.references)
    again = np.arange(config.references) % which.shape[1]
    return [int(frame) for frame in bank[which[0, again]]], nearness[0, again]


def read_faces(clip: Clip, frames: list[int]) -> NDArray[np.uint8]:
    """Crops of the given frames, (N, 256, 256, 3) uint8 RGB, without decoding the rest of the clip."""
    import decord

    try:
        reader = decord.VideoReader(clip.storage.media(clip.face_path), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise SpearError(
            f"{clip.face_path} cannot be decoded; delete the folder and run `spear preprocess` again"
        ) from error
    if len(reader) != clip.facts.frames:
        raise SpearError(
            f"{clip.face_path} has {len(reader)} frames, clip.json says {clip.facts.frames}; "
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
    """One mirror, one change of colour and one of sharpness for all; a small turn, shift and change of size for each
    reference."""
    colour = np.eye(3) * random.uniform(0.75, 1.25) + random.normal(0, 0.08, (3, 3))
    table = np.linspace(0, 1, 256) ** random.uniform(0.8, 1.25) * 255
    images = np.stack([cv2.transform(image, colour) for image in cv2.LUT(images, table.round().astype(np.uint8))])
    sharper = _SHARPER * random.random() ** 2  # footage is soft, what users bring may be sharp
    images = np.stack([cv2.addWeighted(i, 1 + sharper, cv2.GaussianBlur(i, (0, 0), 1.5), -sharper, 0) for i in images])
    if random.random() < 0.5:
        images = np.ascontiguousarray(images[:, :, ::-1])
        faces = faces * np.array([-1, 1], np.float32) + np.array([CROP - 1, 0], np.float32)
    images, faces = images.copy(), faces.copy()
    for i in range(1, len(images)):
        turn = cv2.getRotationMatrix2D((CROP / 2, CROP / 2), random.normal(0, 2.5), random.uniform(0.95, 1.05))
        turn[:, 2] += random.normal(0, 3, 2)
        images[i] = cv2.warpAffine(
            images[i], turn, (CROP, CROP), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )  # cubic: references must not be softer than the target
        faces[i] = faces[i] @ turn[:, :2].T.astype(np.float32) + turn[:, 2].astype(np.float32)
    return images, faces
