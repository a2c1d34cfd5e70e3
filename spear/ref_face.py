"""The face of a ref, whatever is said over it: where it is in each frame, and crops of it.

What was found out is kept in the user's cache by the hash of the ref's bytes, so that the next render begins at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spear.checkpoint import read_tensors, save_tensors
from spear.clip import CROP
from spear.crop import crop_transform, cut, to_crop
from spear.errors import SpearError
from spear.face import DETECTOR, Found, find_face, steady_face
from spear.files import sha256_of, user_cache
from spear.points import N_POINTS
from spear.remarks import on_faces
from spear.version import __version__
from spear.video import Footage, Frame


class Kept(NamedTuple):
    """found: in the first frames; whole: there are no more. crops: of some frames by number, as they are where
    `looked_at` frames are, for the place of the crop is smoothed over time."""

    found: Found
    whole: bool
    looked_at: int = 0
    crops: dict[int, Frame] = {}  # noqa: RUF012


class RefFace:
    """A face in the first frames of a ref: points (F, 131, 2) crop px, transforms (F, 4) from frame to crop, and the
    frames that do not show it, where its place is interpolated."""

    def __init__(
        self, footage: Footage, choice: str, stop: int | None = None, seen: Callable[[int], None] = lambda _: None
    ) -> None:
        """choice, stop, seen: as for `follow_face`. Raises UnusableClip as that does."""
        self._footage, self._cache = footage, _Cache(footage.path, choice)
        kept = self._cache.load()
        if kept is None or (not kept.whole and (stop is None or len(kept.found.points) < stop)):
            found = find_face(footage, choice, stop, seen)
            kept = Kept(found, stop is None or len(found.points) < stop)
            self._cache.save(kept)
        self._kept = kept
        found = Found(kept.found.points[:stop], kept.found.faces_seen)
        points, self.missing = steady_face(found, footage, choice, "hold")
        self.remarks = on_faces(found, points, self.missing)
        """What a person should know of the faces, with frame numbers."""
        self.transforms = crop_transform(points)
        self.points = to_crop(points, self.transforms)

    def crops(self, chosen: list[int]) -> NDArray[np.uint8]:
        """The crops of some frames, (N, 256, 256, 3), in one pass: a jump would first read a long ref to its end."""
        crops = {i: cut(picture, self.transforms[i]).crop for i, picture in self._footage.chosen(set(chosen))}
        return np.stack([crops[i] for i in chosen])

    def references(self, chosen: list[int]) -> NDArray[np.uint8]:
        """The same for frames that become references: they are kept for the next time."""
        kept = self._kept
        if kept.looked_at == len(self.points) and kept.crops.keys() >= set(chosen):
            return np.stack([kept.crops[i] for i in chosen])
        crops = self.crops(chosen)
        self._cache.save(kept._replace(looked_at=len(self.points), crops=dict(zip(chosen, crops, strict=True))))
        return crops


class _Cache:
    """The place of one ref and face in the user's cache."""

    def __init__(self, ref: Path, choice: str) -> None:
        self._about = {"ref": sha256_of(ref), "detector": DETECTOR, "face": choice, "spear": __version__,
                       "format": 2}  # fmt: skip
        key = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:24]
        self._path = user_cache() / "refs" / f"{key}.safetensors"

    def load(self) -> Kept | None:
        """None where nothing was kept, or the file is damaged: what was in it is found out again."""
        with contextlib.suppress(SpearError, OSError, ValueError, KeyError, TypeError):
            tensors, about = read_tensors(self._path)
            return _read({name: tensor.numpy() for name, tensor in tensors.items()}, about)
        return None

    def save(self, kept: Kept) -> None:
        """A cache that cannot be written is no reason to fail: then nothing is kept."""
        nowhere = np.full((N_POINTS, 2), np.nan, np.float32)
        points = np.stack([nowhere if p is None else p for p in kept.found.points])
        crops = np.stack([*kept.crops.values()]) if kept.crops else np.zeros((0, CROP, CROP, 3), np.uint8)
        about = {**self._about, "faces": kept.found.faces_seen, "whole": kept.whole, "looked_at": kept.looked_at,
                 "crops": list(kept.crops)}  # fmt: skip
        with contextlib.suppress(SpearError, OSError):
            save_tensors(self._path, {"points": torch.from_numpy(points), "crops": torch.from_numpy(crops)}, about)


def _read(tensors: dict[str, NDArray[Any]], about: dict[str, Any]) -> Kept:
    """Raises ValueError, KeyError or TypeError where a file with the right checksum holds something else."""
    points, crops, numbers = tensors["points"], tensors["crops"], about["crops"]
    if points.shape[1:] != (N_POINTS, 2) or crops.shape != (len(numbers), CROP, CROP, 3) or crops.dtype != np.uint8:
        raise ValueError(f"points of {points.shape}, crops of {crops.shape} {crops.dtype}")
    found = Found([None if np.isnan(p).any() else p for p in points], int(about["faces"]))
    return Kept(found, bool(about["whole"]), int(about["looked_at"]), dict(zip(numbers, crops, strict=True)))
