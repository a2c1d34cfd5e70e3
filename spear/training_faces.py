"""What stage 2's trainings share, from folders of clips and on one ref: the step of equation 8, figures, sheets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spear.checkpoint import save_checkpoint
from spear.crop import MASK_ROW
from spear.errors import SpearError
from spear.face_pairs import FacePairs
from spear.losses import critic_loss, generator_loss, masked_mse
from spear.nets.blending import composite
from spear.nets.critic import Critic, around
from spear.nets.lm2face import CELL, Lm2Face, Painted, References, Target
from spear.painter import half_precision
from spear.points import INNER_LIPS, OUTER_LIPS
from spear.pretrained.perceptual import PerceptualLoss
from spear.training_state import Sheet
from spear.training_task import Part, Task

Batch = dict[str, Tensor]

_SHEET_ROWS = 8
_MOST_WORKERS = 8
"""Processes that decode pictures; a GPU waits for fewer."""
_SAMPLES = 32
_SAMPLES_AT_ONCE = 8


@dataclass(frozen=True)
class Weights:
    """The weights of equation 8, and from which share of the training on the critic takes part.

    Not in the paper: warped, of the squared error of the references' warped pixels; critic_window, height and width,
    px, of what the critic sees around the lips (None: the whole picture); latent, of the squared error in latent space
    of those frames of a batch that are not decoded.
    """

    reconstruction: float = 1.0
    perceptual: float = 4.0
    gan: float = 1.0
    mouth: float = 2.5
    warped: float = 0.0
    latent: float = 1.0
    critic_from: float = 0.0
    critic_window: tuple[int, int] | None = None


SMALL_WEIGHTS = Weights(
    reconstruction=10.0, perceptual=1.0, gan=0.05, mouth=10.0, warped=5.0, critic_from=0.3, critic_window=(96, 128)
)
"""The small preset's."""


@dataclass(frozen=True)
class FaceStep:
    """One step of generator and critic with the losses of equation 8, on the blended picture that a viewer sees.

    net: the plain net. placed: `lm2face` and, unless its weight is 0, `critic`, as Accelerate wrapped them; optimisers
    have the same names. decoded: how many frames of a batch go through the decoder, all where it is None.
    """

    accelerator: Accelerator
    net: Lm2Face
    placed: dict[str, Any]
    perceptual: PerceptualLoss
    weights: Weights
    optimisers: dict[str, Any]
    decoded: int | None = None

    def __call__(self, batch: Batch, share: float, part: Part) -> dict[str, Tensor]:
        """share: how much of the training is done, 0..1; part: of the batch, that this is. Returns the losses."""
        with half_precision(self.accelerator.device):
            decoded = None if self.decoded is None else len(part.of(range(self.decoded)))
            painted = self.placed["lm2face"](*inputs_of(self.net, batch), decoded)
        losses, seen = self._losses(painted, batch, part)
        total = sum(getattr(self.weights, name) * value for name, value in losses.items())
        judge = self.placed.get("critic") if share >= self.weights.critic_from else None
        if judge is None:
            self._update("lm2face", total)
            return losses
        weight = part.weight(stop=self.decoded)
        judge.requires_grad_(False)
        fake = self._judged(seen, batch)
        with half_precision(self.accelerator.device):
            losses["gan"] = generator_loss(judge(fake).float()) * weight
        self._update("lm2face", total + self.weights.gan * losses["gan"])
        judge.requires_grad_(True)
        truth = batch["target"][: len(seen), :, self.net.config.shown_row :]
        with half_precision(self.accelerator.device):
            real = judge(self._judged(truth, batch)).float()
            losses["critic"] = critic_loss(real, judge(fake.detach()).float()) * weight
        self._update("critic", losses["critic"])
        return losses

    def _losses(self, painted: Painted, batch: Batch, part: Part) -> tuple[dict[str, Tensor], Tensor]:
        """This process's share of the losses that need no critic, and the blended pictures (b, 3, h, 256) of the frames
        that were decoded."""
        shown, count = self.net.config.shown_row, len(painted.picture)
        decoded = {name: value[:count] for name, value in batch.items()}
        seen = composite(painted.picture.float(), decoded["target"], decoded["mask"], shown)
        losses = picture_losses(self.perceptual, seen, decoded, shown)
        if painted.warped is not None:
            truth, mask = (decoded[name][..., shown:, :] for name in ("target", "mask"))
            losses["warped"] = masked_mse(painted.warped, truth, mask)
        weight = part.weight(stop=self.decoded)
        losses = {name: value * weight for name, value in losses.items()}
        if self.decoded is not None and self.decoded < part.size:
            losses["latent"] = self._latent_loss(painted, batch, count) * part.weight(start=self.decoded)
        return losses, seen

    def _latent_loss(self, painted: Painted, batch: Batch, count: int) -> Tensor:
        """Of the frames from `count` on; 0 where this process has none of them."""
        if count == len(painted.latent):
            return painted.latent.new_zeros((), dtype=torch.float32)
        kept = batch.get("latent_picture")
        truth = self.net.encode_picture(batch["target"][count:]) if kept is None else kept[count:, 0]
        where = nn.functional.avg_pool2d(batch["mask"][count:], CELL)[..., self.net.config.first_row :, :]
        return masked_mse(painted.latent[count:].float(), truth.float(), where)

    def _judged(self, picture: Tensor, batch: Batch) -> Tensor:
        """What the critic sees of pictures (b, 3, h, 256) from row `shown_row` down."""
        if self.weights.critic_window is None:
            return picture
        lips = batch["points"][: len(picture), [*OUTER_LIPS, *INNER_LIPS]].mean(1)
        lips[:, 1] -= self.net.config.shown_row
        return around(picture, lips, *self.weights.critic_window)

    def _update(self, name: str, loss: Any) -> None:
        self.optimisers[name].zero_grad()
        self.accelerator.backward(loss)
        if name != "critic":
            self.accelerator.clip_grad_norm_(self.placed[name].parameters(), 1.0)
        self.optimisers[name].step()


def face_task(
    accelerator: Accelerator, net: Lm2Face, perceptual: PerceptualLoss, weights: Weights, train: FacePairs,
    val: FacePairs, learning_rate: float, settings: dict[str, Any], about: dict[str, Any], decoded: int | None = None,
) -> Task:  # fmt: skip
    """Training of `net` on pairs, as the training loop takes it. settings: must be the same for a stopped run to go on;
    about: goes into the checkpoint."""
    if decoded is not None and decoded < accelerator.num_processes:
        raise SpearError(
            f"--decoded-frames {decoded} leaves some of {accelerator.num_processes} processes without one; give more"
        )
    modules: dict[str, nn.Module] = {"lm2face": net}
    if weights.gan:
        modules["critic"] = Critic()
    optimisers: dict[str, Any] = {
        name: torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.5, 0.99))
        for name, module in modules.items()
    }
    placed = {name: accelerator.prepare(module) for name, module in modules.items()}
    for name, optimiser in optimisers.items():
        optimisers[name] = accelerator.prepare(optimiser)
    step = FaceStep(accelerator, net, placed, perceptual, weights, optimisers, decoded)
    validate = FaceValidation(net, perceptual, weights, fixed_samples(val, accelerator.device))

    def export(path: Path, training: dict[str, Any]) -> None:
        """Write what `load_lm2face` reads, weights as float16."""
        half = {name: value.half() for name, value in net.state_dict().items()}
        save_checkpoint(path, "lm2face", asdict(net.config), half, training=training, **about)

    workers = max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // 2))
    return Task("lm2face", modules, optimisers, train, step, validate, export, settings, workers)


def inputs_of(net: Lm2Face, batch: Batch) -> tuple[Target, References]:
    """What the net takes, from pictures, or from latents where the batch brings them."""
    images, points = batch["ref_images"], batch["ref_points"]
    if "latent_picture" in batch:
        latents = batch["latent_picture"][:, 1:]
        masked = batch["latent_masked"][:, 0]
        drawn = batch["latent_sketch"] if "latent_sketch" in batch else _drawn(net, batch)
        target = net.make_target(masked, drawn[:, 0], batch["points"])
        return target, net.gather_references(latents, drawn[:, 1:], points, images, batch["ref_nearness"])
    masked, drawn = net.encode_masked(batch["target"]), net.encode_sketch(batch["sketch"])
    references = net.make_references(images, points, batch["ref_sketches"], batch["ref_nearness"])
    return net.make_target(masked, drawn, batch["points"]), references


def _drawn(net: Lm2Face, batch: Batch) -> Tensor:
    sketches = torch.cat([batch["sketch"][:, None], batch["ref_sketches"]], 1)
    return net.encode_sketch(sketches.flatten(0, 1)).unflatten(0, sketches.shape[:2])


def picture_losses(perceptual: PerceptualLoss, seen: Tensor, batch: Batch, shown: int) -> dict[str, Tensor]:
    """The parts of equation 8 that compare pictures; seen: (B, 3, h, 256), blended, from row `shown` down."""
    truth, mask, mouth = (batch[name][..., shown:, :] for name in ("target", "mask", "mouth"))
    with half_precision(seen.device):
        features = perceptual(seen, truth).float()
    return {
        "reconstruction": masked_mse(seen, truth, mask),
        "perceptual": features,
        "mouth": masked_mse(seen, truth, mouth),
    }


def fixed_samples(data: FacePairs, device: torch.device) -> list[Batch]:
    """Up to 32 samples, the same at every validation, in batches of 8."""
    picks = np.linspace(0, len(data) - 1, min(_SAMPLES, len(data))).astype(int)
    rows = [data[0, int(i)] for i in picks]
    return [
        {name: torch.stack([row[name] for row in rows[i : i + _SAMPLES_AT_ONCE]]).to(device) for name in rows[0]}
        for i in range(0, len(rows), _SAMPLES_AT_ONCE)
    ]


@dataclass(frozen=True)
class FaceValidation:
    """Figures of the net over fixed samples, and a sheet of them."""

    net: Lm2Face
    perceptual: PerceptualLoss
    weights: Weights
    samples: list[Batch]

    def __call__(self, show: Callable[[Sheet], None]) -> dict[str, float]:
        """`score` is equation 8 without the critic, who judges ever more severely; psnr_hull, psnr_crop: dB."""
        figures: list[tuple[float, ...]] = []
        rows: list[Any] = []
        for batch in self.samples:
            with half_precision(batch["target"].device):
                painted = self.net(*inputs_of(self.net, batch))
            seen = composite(painted.picture.float(), batch["target"], batch["mask"], self.net.config.shown_row)
            figures.append((*self._figures(seen, batch), len(seen)))
            if len(rows) < _SHEET_ROWS:
                rows += _sheet_rows(self.net, batch, painted, seen)
        show(np.vstack(rows[:_SHEET_ROWS]))
        table = np.array(figures)
        means = np.average(table[:, :-1], axis=0, weights=table[:, -1]).tolist()
        return dict(zip(("score", "perceptual", "psnr_hull", "psnr_crop"), means, strict=True))

    def _figures(self, seen: Tensor, batch: Batch) -> tuple[float, ...]:
        shown = self.net.config.shown_row
        truth, mask = (batch[name][..., shown:, :] for name in ("target", "mask"))
        squared = (seen.clamp(-1, 1) - truth).square() / 4
        hull = (squared * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
        full = squared.sum((1, 2, 3)) / batch["target"][0].numel()
        psnr = [(-10 * torch.log10(value.clamp_min(1e-10))).mean().item() for value in (hull, full)]
        losses = picture_losses(self.perceptual, seen, batch, shown)
        score = sum(getattr(self.weights, name) * value.item() for name, value in losses.items())
        return score, losses["perceptual"].item(), *psnr


def _sheet_rows(net: Lm2Face, batch: Batch, painted: Painted, seen: Tensor) -> list[Any]:
    """Figure 4 of the paper: reference, masked target, sketch, warped, generated, blended, truth, at half size."""
    target, shown = batch["target"], net.config.shown_row
    masked = target.clone()
    masked[..., MASK_ROW:, :] = -1
    warped = painted.warped
    if warped is None:
        warped = net.vae.decode(painted.aligned.latent)[..., shown - net.config.first_row * CELL :, :]

    def whole_crop(lower: Tensor) -> Tensor:
        """Rows from `shown` on under those of the target: (B, 3, 256, 256)."""
        return torch.cat([target[..., :shown, :], lower.float()], 2)

    columns = [batch["ref_images"][:, 0], masked, batch["sketch"].expand(-1, 3, -1, -1) * 2 - 1,
               whole_crop(warped), whole_crop(painted.picture), whole_crop(seen), target]  # fmt: skip
    sheet = torch.cat([nn.functional.avg_pool2d(c, 2) for c in columns], 3)
    return list(((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
