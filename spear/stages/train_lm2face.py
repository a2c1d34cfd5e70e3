"""`spear train-lm2face`: train stage 2, landmarks to face with SPADE-Net (sections 3.2, 4.2, 4.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from spear.checkpoint import read_about
from spear.clip_index import same_detector
from spear.dataset import data_digest
from spear.errors import SpearError
from spear.face_pairs import FacePairs, FacesOfClips
from spear.files import sha256_of
from spear.latents import keep_latents
from spear.nets.autoencoder import load_autoencoder
from spear.nets.lm2face import Lm2Face, Lm2FaceConfig, build_lm2face
from spear.painter import load_lm2face
from spear.pretrained.perceptual import autoencoder_perceptual, find_vgg19, load_perceptual
from spear.pretrained.vae import DEFAULT as DEFAULT_VAE
from spear.pretrained.vae import load_kl_autoencoder
from spear.progress import Progress, Report, no_progress
from spear.training import begin_anew, clips_of, fit
from spear.training_faces import SMALL_WEIGHTS, Weights, face_task
from spear.training_task import Schedule, Trained

PRESETS = {
    "small": (
        Schedule(epochs=12, batch_size=8, learning_rate=1e-3, final_rate=0.05, validate_every=200),
        SMALL_WEIGHTS,
    ),
    "paper": (Schedule(epochs=300, batch_size=32, learning_rate=1e-4, final_rate=0.1, validate_every=1000), Weights()),
}
_FURTHER_RATE = 0.3
"""What is left of the learning rate where a trained net goes on."""


def train_lm2face(
    clips: Path,
    models: Path,
    preset: str = "small",
    frames_per_clip: int = 8,
    epochs: int | None = None,
    max_minutes: float | None = None,
    learning_rate: float | None = None,
    refs: int | None = None,
    init: Path | None = None,
    perceptual: Path | None = None,
    vae: str | None = None,
    cache_latents: bool = False,
    decoded_frames: int | None = None,
    save_memory: bool = False,
    seed: int = 0,
    restart: bool = False,
    progress: Progress = no_progress,
) -> tuple[Report, Trained]:
    """Train on the train split, choose by the val split, write models/lm2face.safetensors and sheets of samples.

    frames_per_clip: an epoch is that many random frames of each clip. refs: how many frames of a person are references.
    init: a checkpoint to go on from. perceptual: VGG19 or MobileNetV2 weights for the perceptual loss; without it the
    small preset takes the autoencoder that ships, the paper preset torch hub's VGG19. vae: folder or hub id of the
    paper preset's AutoencoderKL. cache_latents: encode every frame once, into the clips' folders; frames are then not
    varied. decoded_frames: only so many of a batch are decoded, the others compared in latent space. save_memory:
    compute activations twice instead of keeping them. Returns the report and the best validation's figures.
    """
    if preset not in PRESETS:
        raise SpearError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
    if perceptual is None and preset == "paper":
        perceptual = find_vgg19()
    report = Report()
    schedule, weights = PRESETS[preset]
    if init is not None:
        schedule = replace(schedule, learning_rate=schedule.learning_rate * _FURTHER_RATE)
    changes: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    schedule = replace(
        schedule, seed=seed, max_minutes=max_minutes, **{k: v for k, v in changes.items() if v is not None}
    )
    if restart:
        begin_anew(models, "lm2face")

    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    train, val = (part.usable(report) for part in clips_of(accelerator, clips, progress))
    torch.manual_seed(seed)
    net = _net(preset, refs, init, vae)
    loss = load_perceptual(perceptual) if perceptual else autoencoder_perceptual(load_autoencoder())
    perceptual_loss = loss.to(accelerator.device)
    net.saves_memory = save_memory
    net.vae.to(accelerator.device)
    if cache_latents:
        with accelerator.main_process_first():
            for part in (train, val):
                keep_latents(part, net, accelerator.device, progress)
    pairs = [
        FacePairs(FacesOfClips(part, cache_latents), net.config, count, seed, augment=varied)
        for part, count, varied in ((train, frames_per_clip, not cache_latents), (val, 1, False))
    ]
    settings = {"preset": preset, "clips": data_digest(train), "val": data_digest(val),
                "landmarks": same_detector(train, val), "frames_per_clip": frames_per_clip, "vae": net.config.vae,
                "learning_rate": schedule.learning_rate, "perceptual": perceptual and sha256_of(perceptual),
                "refs": net.config.bank, "init": init and _identity(init, models), "cache_latents": cache_latents,
                "decoded_frames": decoded_frames}  # fmt: skip
    about = {"seed": seed, "preset": preset}
    task = face_task(
        accelerator, net, perceptual_loss, weights, pairs[0], pairs[1], schedule.learning_rate, settings, about,
        decoded_frames,
    )  # fmt: skip
    return report, fit(task, schedule, models, accelerator, progress)


def _identity(init: Path, models: Path) -> str:
    """The checksum of a checkpoint; its name where this very training will write another one in its place."""
    return str(init) if init.resolve().parent == models.resolve() else str(read_about(init)["sha256"])


def _net(preset: str, refs: int | None, init: Path | None, vae: str | None) -> Lm2Face:
    """A fresh net of the preset, or the one to go on from. Raises SpearError where that is of another preset."""
    if init is not None:
        net = load_lm2face(init, vae).requires_grad_(True)
        if net.config.light != (preset == "small"):
            raise SpearError(f"--init {init} is not of the {preset} preset; give --preset or another checkpoint")
        net.config = net.config if refs is None else net.config.with_bank(refs)
        return net
    autoencoder: Any
    if preset == "small":
        autoencoder = load_autoencoder()
        config = Lm2FaceConfig(autoencoder.identity(), autoencoder.latent_channels)
    else:
        autoencoder = load_kl_autoencoder(vae or DEFAULT_VAE)
        config = Lm2FaceConfig.paper(autoencoder.identity())
    return build_lm2face(config if refs is None else config.with_bank(refs), autoencoder)
