"""Adaptation: stage 2 goes on training on one ref before that is rendered; kept by the hashes of ref and model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from spear.checkpoint import read_about
from spear.errors import SpearError
from spear.face_pairs import FacePairs
from spear.files import sha256_of, user_cache
from spear.nets.autoencoder import load_autoencoder
from spear.nets.lm2face import Lm2Face, image_tensor
from spear.painter import half_precision, load_lm2face
from spear.points import Array
from spear.pretrained.perceptual import PerceptualLoss, autoencoder_perceptual, find_vgg19, load_perceptual
from spear.progress import Progress
from spear.temporary import is_left, this_process
from spear.training import fit
from spear.training_faces import SMALL_WEIGHTS, Weights, face_task
from spear.training_task import Schedule
from spear.version import __version__

LEAST_FRAMES = 10
"""A ref of fewer has nothing to adapt to: references and targets would be the same pictures."""
_MOST_FRAMES = 160
"""Of a long ref that many are kept in memory, evenly spread."""
_BATCH = 4
_SCHEDULE = Schedule(epochs=1, batch_size=_BATCH, learning_rate=5e-4, final_rate=0.1, validate_every=10_000)


class RefFaces:
    """Frames of a ref in memory, with their latents."""

    def __init__(self, net: Lm2Face, points: Array, crops: NDArray[np.uint8], device: torch.device) -> None:
        """points (F, 131, 2) crop px, crops (F, 256, 256, 3)."""
        self.speaker, self.frames = "ref", len(points)
        self._points, self._crops = points, crops
        parts = []
        for i in range(0, len(crops), _BATCH):
            images = image_tensor(crops[i : i + _BATCH]).to(device)
            with half_precision(device):
                parts.append((net.encode_picture(images).float().cpu(), net.encode_masked(images).float().cpu()))
        self._latents = dict(zip(("picture", "masked"), (torch.cat(p) for p in zip(*parts, strict=True)), strict=True))

    def points(self) -> Array:
        """(F, 131, 2) crop px."""
        return self._points

    def read(self, frames: list[int]) -> NDArray[np.uint8]:
        """The crops of these frames, (N, 256, 256, 3) RGB."""
        return self._crops[frames]

    def latents(self, frames: list[int]) -> dict[str, Tensor]:
        """Of these frames, by name."""
        return {name: value[frames] for name, value in self._latents.items()}


def adapted_lm2face(
    model: Path,
    vae: str | None,
    ref: Path,
    face: str,
    points: Array,
    read: Callable[[list[int]], NDArray[np.uint8]],
    steps: int,
    progress: Progress,
) -> Lm2Face:
    """The net of the checkpoint `model` after `steps` more steps on the frames of a ref; at once where that was done.

    points: (F, 131, 2) crop px; read: gives crops (N, 256, 256, 3) of frames. A run that was stopped goes on. Raises
    SpearError as `load_lm2face` does, InterruptedTraining after a signal.
    """
    about = {"ref": sha256_of(ref), "model": read_about(model)["sha256"], "face": face, "frames": len(points),
             "steps": steps, "spear": __version__}  # fmt: skip
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    kept = user_cache() / "adapted" / f"{key}.safetensors"
    work = kept.with_suffix(f".{this_process()}")  # its own: two runs at once must not share one
    left = [path for path in kept.parent.glob(f"{key}.*-*") if is_left(path.suffix[1:], path)]
    if not kept.exists():
        for path in left:  # what a stopped run left is gone on with
            with suppress(OSError):  # another run took it, or this one has some already
                path.rename(work)
        _adapt(load_lm2face(model, vae).requires_grad_(True), work, about, points, read, progress)
        os.replace(work / "lm2face.safetensors", kept)
    for path in (*left, work):
        shutil.rmtree(path, ignore_errors=True)
    return load_lm2face(kept, vae)


def _adapt(
    net: Lm2Face, work: Path, about: dict[str, object], points: Array,
    read: Callable[[list[int]], NDArray[np.uint8]], progress: Progress,
) -> None:  # fmt: skip
    """Train in the folder `work`."""
    steps = int(str(about["steps"]))
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    light = net.config.light
    perceptual = autoencoder_perceptual(load_autoencoder()) if light else _vgg19()
    weights = replace(SMALL_WEIGHTS if light else Weights(), gan=0.0)  # a critic is not taught in minutes
    net.vae.to(accelerator.device)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_FRAMES)).astype(int)).tolist()
    faces = RefFaces(net, points[chosen], read(chosen), accelerator.device)
    data, samples = (FacePairs([faces], net.config, n, seed=0, augment=False) for n in (steps * _BATCH, _BATCH))
    data.show(steps * _BATCH)  # an epoch is the whole training; of long clips it would be longer
    task = face_task(
        accelerator, net, perceptual.to(accelerator.device), weights, data, samples, _SCHEDULE.learning_rate, about, {}
    )
    task.workers = 0  # everything is in memory; a worker process would take a core
    fit(task, _SCHEDULE, work, accelerator, lambda done, total, _: progress(done, total, "adapting to the ref"))


def _vgg19() -> PerceptualLoss:
    path = find_vgg19()
    if not path.exists():
        raise SpearError(f"{path} is absent; put torchvision's file there, or render this model without --adapt")
    return load_perceptual(path)
