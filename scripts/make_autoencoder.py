"""Make spear/weights/autoencoder.safetensors again: distil the light autoencoder from taef2, then train both parts on.

python scripts/make_autoencoder.py --clips clips --portraits ../shared/data/portraits_pd --weights ../shared/weights
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from spear.clip import find_clips
from spear.crop import crop_transform, warp_crop
from spear.face import FaceTracker
from spear.nets.autoencoder import Autoencoder, save_autoencoder
from spear.pretrained.perceptual import load_perceptual
from spear.video import Footage

SIDE = 128  # training windows: four times the variety of whole crops at the same cost
BATCH = 16
TAUGHT = 4  # the teacher costs four times the pupil: it sees this many of a batch


class TeacherBlock(nn.Module):
    """taef2's block: three convolutions and the identity; at 32x32 a pointwise net is added first."""

    def __init__(self, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(*[m for _ in range(3) for m in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())][:-1])
        self.pool = (
            nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False), nn.GroupNorm(4, 256), nn.ReLU(), nn.Conv2d(256, 64, 1, bias=False)
            )
            if pool
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def teacher_encoder(path: Path) -> nn.Sequential:
    """taef2's encoder (MIT, see the README beside the file): picture in 0..1 -> (B, 32, H/8, W/8)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), TeacherBlock(False)]
    for stage in range(3):
        layers.append(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False))
        layers += [TeacherBlock(stage == 2) for _ in range(3)]
    net = nn.Sequential(*layers, nn.Conv2d(64, 32, 3, padding=1))
    weights = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return net.eval().requires_grad_(False)


def load_crops(clips: Path, per_clip: int) -> list[NDArray[np.uint8]]:
    """`per_clip` crops of each clip of the train split, evenly over its time, at least one a second."""
    crops = []
    for clip in find_clips(clips, "train"):
        count = max(per_clip, clip.info.frames // 25)
        wanted = set(np.linspace(0, clip.info.frames - 1, count).astype(int).tolist())
        crops += [frame for i, frame in enumerate(Footage(clip.face_path).frames()) if i in wanted]
    return crops


def load_portraits(folder: Path) -> list[NDArray[np.uint8]]:
    """The face crop of every still that shows a face."""
    crops = []
    for path in sorted(folder.glob("*.jpg")):
        frame = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        with FaceTracker() as tracker:
            points = tracker(frame)
        if points is not None:
            crops.append(warp_crop(frame, crop_transform(points[None], 0)[0]))
    return crops


def windows(crops: list[NDArray[np.uint8]], grey: list[NDArray[np.uint8]], seed: int) -> Iterator[Tensor]:
    """Endless batches (BATCH, 3, SIDE, SIDE) in -1..1: random place, size, mirror, colour; grey ones are tinted."""
    random = np.random.default_rng(seed)
    while True:
        batch = []
        for _ in range(BATCH):
            tint = bool(grey) and random.random() < 0.35
            picture = grey[random.integers(len(grey))] if tint else crops[random.integers(len(crops))]
            size = int(random.integers(96, 192))
            top, left = random.integers(0, 257 - size, 2)
            window = cv2.resize(
                picture[top : top + size, left : left + size], (SIDE, SIDE), interpolation=cv2.INTER_AREA
            )
            window = window[:, ::-1] if random.random() < 0.5 else window
            strength = 0.12 if random.random() < 0.7 else 0.4
            matrix = np.eye(3) + random.normal(0, strength, (3, 3)) * (0.4 + 0.6 * np.eye(3))
            value = (window / 255.0) @ matrix.T.astype(np.float32)
            if tint:
                value = value ** random.uniform(0.7, 1.4, 3) if value.min() >= 0 else np.clip(value, 0, 1)
            batch.append(np.clip(value + random.normal(0, 0.04), 0, 1).astype(np.float32))
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) * 2 - 1


def main(
    clips: Annotated[Path, typer.Option(help="clips/ of redistributable footage")],
    portraits: Annotated[Path, typer.Option(help="grey stills")],
    weights: Annotated[Path, typer.Option(help="folder with taef2_encoder.pth and mobilenet_v2-b0353104.pth")],
    out: Annotated[Path, typer.Option(help="where the weights go")] = Path("spear/weights/autoencoder.safetensors"),
    minutes: float = 15.0,
    seed: int = 0,
) -> None:
    """Train the light autoencoder: L1 + squared error, perceptual loss, and latents like the teacher's."""
    torch.manual_seed(seed)
    crops, grey = load_crops(clips, per_clip=4), load_portraits(portraits)
    print(f"{len(crops)} crops, {len(grey)} portraits")
    net, teacher = Autoencoder().to(memory_format=torch.channels_last), teacher_encoder(weights / "taef2_encoder.pth")
    perceptual = load_perceptual(weights / "mobilenet_v2-b0353104.pth")
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99))
    started, step = time.monotonic(), 0
    for batch in windows(crops, grey, seed):
        spent = (time.monotonic() - started) / (60 * minutes)
        if spent >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * spent)) + 1e-5
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latent, wanted = net.encode(batch), teacher((batch[:TAUGHT] + 1) / 2)
            picture = net.decode(latent)
            feature_loss = perceptual(picture, batch)
        error = picture.float() - batch
        loss = error.abs().mean() + 4 * error.square().mean() + 0.05 * feature_loss.float()
        loss = loss + 0.05 * (latent[:TAUGHT].float() - wanted.float()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            psnr = -10 * np.log10(error.detach().square().mean().item() / 4)
            print(
                json.dumps(
                    {"step": step, "share": round(spent, 3), "loss": round(loss.item(), 4), "psnr": round(psnr, 2)}
                ),
                flush=True,
            )
        if step % 500 == 0:
            save_autoencoder(out, net, seed=seed, steps=step)
    save_autoencoder(out, net, seed=seed, steps=step)


if __name__ == "__main__":
    typer.run(main)
