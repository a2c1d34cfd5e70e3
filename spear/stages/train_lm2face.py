"""`spear train-lm2face`: train stage 2, landmarks to face with SPADE-Net (sections 3.2, 4.2, 4.3)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spear.checkpoint import load_checkpoint, save_checkpoint
from spear.clip import find_clips
from spear.dataset import FacePairs, data_digest, usable_clips
from spear.errors import SpearError
from spear.files import write_picture
from spear.losses import critic_loss, generator_loss, masked_mse
from spear.nets.autoencoder import load_autoencoder
from spear.nets.critic import Critic
from spear.nets.lm2face import Lm2Face, Lm2FaceConfig, build_lm2face, composite
from spear.painter import half_precision
from spear.pretrained.perceptual import PerceptualLoss, autoencoder_perceptual, find_vgg19, load_perceptual
from spear.pretrained.vae import DEFAULT as DEFAULT_VAE
from spear.pretrained.vae import load_kl_autoencoder
from spear.progress import Progress, Report, no_progress
from spear.training import Schedule, Task, Trained, fit


@dataclass(frozen=True)
class Weights:
    """The weights of equation 8, and from which share of the training on the critic takes part."""

    reconstruction: float = 1.0
    perceptual: float = 4.0
    gan: float = 1.0
    mouth: float = 2.5
    critic_from: float = 0.0


PRESETS = {
    "small": (
        Schedule(epochs=12, batch_size=8, learning_rate=1e-3, final_rate=0.05, validate_every=100),
        Weights(reconstruction=10.0, perceptual=1.0, gan=0.03, mouth=10.0, critic_from=0.5),
    ),
    "paper": (Schedule(epochs=300, batch_size=32, learning_rate=1e-4, final_rate=0.1, validate_every=1000), Weights()),
}
_SHEET_ROWS = 8


def train_lm2face(
    clips: Path,
    models: Path,
    preset: str = "small",
    frames_per_clip: int = 8,
    epochs: int | None = None,
    max_minutes: float | None = None,
    learning_rate: float | None = None,
    perceptual: Path | None = None,
    vae: str | None = None,
    seed: int = 0,
    restart: bool = False,
    progress: Progress = no_progress,
) -> tuple[Report, Trained]:
    """Train on the train split, choose by the val split, write models/lm2face.safetensors and sheets of samples.

    frames_per_clip: an epoch is that many random frames of each clip. perceptual: VGG19 or MobileNetV2 weights for the
    perceptual loss; without it the small preset takes the autoencoder that ships, the paper preset torch hub's VGG19.
    vae: folder or hub id of the paper preset's AutoencoderKL. Returns the report and the best validation's figures.
    """
    if preset not in PRESETS:
        raise SpearError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
    report = Report()
    train = usable_clips(find_clips(clips, "train"), report)
    val = usable_clips(find_clips(clips, "val"), report)
    schedule, weights = PRESETS[preset]
    changes: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    schedule = replace(
        schedule, seed=seed, max_minutes=max_minutes, **{k: v for k, v in changes.items() if v is not None}
    )
    config, autoencoder = _autoencoder(preset, vae)
    if restart:
        shutil.rmtree(models / "lm2face.state", ignore_errors=True)

    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    loss = _perceptual(preset, perceptual).to(accelerator.device)
    torch.manual_seed(seed)
    autoencoder.to(accelerator.device)
    net, critic = build_lm2face(config, autoencoder), Critic()
    optimisers: dict[str, torch.optim.Optimizer] = {
        "generator": torch.optim.Adam(net.parameters(), lr=schedule.learning_rate, betas=(0.5, 0.99)),
        "critic": torch.optim.Adam(critic.parameters(), lr=schedule.learning_rate, betas=(0.5, 0.99)),
    }
    model, judge = accelerator.prepare(net, critic)
    for name, optimiser in optimisers.items():
        optimisers[name] = accelerator.prepare(optimiser)
    step = _step(accelerator, net, model, judge, loss, weights, optimisers)
    data = FacePairs(train, config.references, frames_per_clip, seed)
    samples = _samples(FacePairs(val, config.references, 1, seed, augment=False), accelerator.device)

    def export(path: Path, about: dict[str, Any]) -> None:
        half = {name: value.half() for name, value in net.state_dict().items()}
        save_checkpoint(path, "lm2face", asdict(config), half, training=about, seed=seed, preset=preset)

    def validate(steps: int) -> dict[str, float]:
        return _validate(net, loss, weights, samples, models / "lm2face.samples" / f"step_{steps:06d}.png")

    settings = {"preset": preset, "clips": data_digest(train), "frames_per_clip": frames_per_clip, "vae": config.vae,
                "learning_rate": schedule.learning_rate, "perceptual": str(perceptual)}  # fmt: skip
    task = Task("lm2face", {"lm2face": net, "critic": critic}, optimisers, data, step, validate, export, settings)
    return report, fit(task, schedule, models, accelerator, progress)


def load_lm2face(path: Path, vae: str | None = None) -> Lm2Face:
    """A trained net with its autoencoder, frozen. Raises SpearError where file or autoencoder do not fit each other."""
    weights, about = load_checkpoint(path, "lm2face")
    config = Lm2FaceConfig(**about["config"])
    autoencoder: Any = load_autoencoder() if config.light else load_kl_autoencoder(vae or DEFAULT_VAE)
    if autoencoder.identity() != config.vae:
        raise SpearError(
            f"{path} was trained in the latents of {config.vae}, here is {autoencoder.identity()}; "
            "train it again, or take the spear version or --vae that it was trained with"
        )
    net = build_lm2face(config, autoencoder)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval().requires_grad_(False)


def _autoencoder(preset: str, vae: str | None) -> tuple[Lm2FaceConfig, Any]:
    if preset == "small":
        light = load_autoencoder()
        return Lm2FaceConfig(light.identity(), light.latent_channels), light
    kl = load_kl_autoencoder(vae or DEFAULT_VAE)
    return Lm2FaceConfig.paper(kl.identity()), kl


def _perceptual(preset: str, path: Path | None) -> PerceptualLoss:
    if path is None and preset == "small":
        return autoencoder_perceptual(load_autoencoder())
    return load_perceptual(path or find_vgg19())


def _step(
    accelerator: Accelerator, net: Lm2Face, model: Any, judge: Any, perceptual: PerceptualLoss, weights: Weights,
    optimisers: dict[str, Any],
) -> Callable[[dict[str, Tensor], float], dict[str, Tensor]]:  # fmt: skip
    """One step of generator and critic with the losses of equation 8, on the blended picture that a viewer sees."""
    shown = net.config.shown_row

    def step(batch: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        with half_precision(accelerator.device):
            references = net.make_references(batch["ref_images"], batch["ref_points"], batch["ref_sketches"])
            generated, _ = model(batch["target"], batch["points"], batch["sketch"], references)
        seen = composite(generated.float(), batch["target"], batch["mask"], shown)
        truth = batch["target"][..., shown:, :]
        losses = _picture_losses(perceptual, seen, batch, shown)
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        judged = share >= weights.critic_from
        if judged:
            judge.requires_grad_(False)
            with half_precision(accelerator.device):
                losses["gan"] = generator_loss(judge(seen).float())
            total = total + weights.gan * losses["gan"]
        optimisers["generator"].zero_grad()
        accelerator.backward(total)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimisers["generator"].step()
        if judged:
            judge.requires_grad_(True)
            with half_precision(accelerator.device):
                losses["critic"] = critic_loss(judge(truth).float(), judge(seen.detach()).float())
            optimisers["critic"].zero_grad()
            accelerator.backward(losses["critic"])
            optimisers["critic"].step()
        return losses

    return step


def _picture_losses(
    perceptual: PerceptualLoss, seen: Tensor, batch: dict[str, Tensor], shown: int
) -> dict[str, Tensor]:
    """The parts of equation 8 that compare pictures; seen: (B, 3, h, 256), blended, from row `shown` down."""
    truth, mask, mouth = (batch[name][..., shown:, :] for name in ("target", "mask", "mouth"))
    with half_precision(seen.device):
        features = perceptual(seen, truth).float()
    return {
        "reconstruction": masked_mse(seen, truth, mask),
        "perceptual": features,
        "mouth": masked_mse(seen, truth, mouth),
    }


def _samples(data: FacePairs, device: torch.device) -> list[dict[str, Tensor]]:
    """Up to 32 frames of the val split, the same at every validation, in batches of 8."""
    picks = np.linspace(0, len(data) - 1, min(32, len(data))).astype(int)
    rows = [data[0, int(i)] for i in picks]
    return [
        {name: torch.stack([row[name] for row in rows[i : i + 8]]).to(device) for name in rows[0]}
        for i in range(0, len(rows), 8)
    ]


def _validate(
    net: Lm2Face, perceptual: PerceptualLoss, weights: Weights, samples: list[dict[str, Tensor]], sheet: Path
) -> dict[str, float]:
    """Figures over the samples and a sheet; `score` is equation 8 without the critic, who judges ever more severely."""
    shown = net.config.shown_row
    figures: list[tuple[float, ...]] = []
    rows: list[Any] = []
    for batch in samples:
        with half_precision(batch["target"].device):
            references = net.make_references(batch["ref_images"], batch["ref_points"], batch["ref_sketches"])
            generated, aligned = net(batch["target"], batch["points"], batch["sketch"], references)
        seen = composite(generated.float(), batch["target"], batch["mask"], shown)
        truth, mask = (batch[name][..., shown:, :] for name in ("target", "mask"))
        squared = (seen.clamp(-1, 1) - truth).square() / 4
        hull = (squared * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
        full = squared.sum((1, 2, 3)) / batch["target"][0].numel()
        psnr = [(-10 * torch.log10(value.clamp_min(1e-10))).mean().item() for value in (hull, full)]
        losses = _picture_losses(perceptual, seen, batch, shown)
        score = sum(getattr(weights, name) * value.item() for name, value in losses.items())
        figures.append((score, losses["perceptual"].item(), *psnr, len(truth)))
        if len(rows) < _SHEET_ROWS:
            warped = net.vae.decode(aligned.latent)[..., shown - net.config.first_row * 8 :, :]
            rows += _sheet_rows(batch, shown, warped, generated, seen)
    write_picture(sheet, np.vstack(rows[:_SHEET_ROWS]))
    table = np.array(figures)
    means = np.average(table[:, :-1], axis=0, weights=table[:, -1]).tolist()
    return dict(zip(("score", "perceptual", "psnr_hull", "psnr_crop"), means, strict=True))


def _sheet_rows(batch: dict[str, Tensor], shown: int, warped: Tensor, generated: Tensor, seen: Tensor) -> list[Any]:
    """Figure 4 of the paper: reference, masked target, sketch, warped, generated, blended, truth."""
    target = batch["target"]
    masked = target.clone()
    masked[..., 128:, :] = -1

    def whole_crop(lower: Tensor) -> Tensor:
        return torch.cat([target[..., :shown, :], lower], 2)

    columns = [batch["ref_images"][:, 0], masked, batch["sketch"].expand(-1, 3, -1, -1) * 2 - 1,
               whole_crop(warped), whole_crop(generated), whole_crop(seen), target]  # fmt: skip
    sheet = torch.cat([nn.functional.avg_pool2d(c.float(), 2) for c in columns], 3)
    return list(((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
