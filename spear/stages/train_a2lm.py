"""`spear train-a2lm`: train stage 1, audio to landmarks (sections 3.1, 4.2, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from spear.checkpoint import save_checkpoint
from spear.clip import CROP, Clip
from spear.clip_index import ClipRows, same_detector, same_settings
from spear.controls import controls
from spear.dataset import SpeechWindows, cached_points, data_digest
from spear.errors import SpearError
from spear.losses import a2lm_loss, landmark_length_loss, landmark_mse
from spear.nets.a2lm import A2LM, A2LMConfig, build_a2lm
from spear.points import LOWER, POSES, UPPER, face_width, lip_opening
from spear.pretrained.audio_encoders import ENCODERS, NoAudio
from spear.progress import Progress, Report, no_progress
from spear.scores.landmark import (
    landmark_distance,
    landmark_velocity_distance,
    opening_amplitude,
    opening_correlation,
)
from spear.talker import predict_clip
from spear.training import begin_anew, clips_of, fit
from spear.training_task import Part, Schedule, Task, Trained

SCHEDULES = {
    "small": Schedule(epochs=60, batch_size=32, learning_rate=1e-3, final_rate=0.05, validate_every=100),
    "paper": Schedule(epochs=200, batch_size=32, learning_rate=1e-4, final_rate=0.1, validate_every=500),
}
_CONTROL_PAIRS = 6
"""Of the val split, for swap and wrong audio: a validation should not take longer for them."""
_MOST_VALIDATED = 256
"""Clips, evenly spread over the val split: more would not change which net is best, and take hours."""
_SHOWN = 1e4
"""Losses are in sides of the crop; so many times that, they are numbers to read."""


def train_a2lm(
    clips: Path,
    models: Path,
    preset: str = "small",
    encoder: str | None = None,
    pose: str = "rigid",
    epochs: int | None = None,
    max_minutes: float | None = None,
    learning_rate: float | None = None,
    av_align: bool = True,
    seed: int = 0,
    restart: bool = False,
    progress: Progress = no_progress,
) -> tuple[Report, Trained]:
    """Train on the train split, choose by the val split, write models/a2lm.safetensors.

    encoder: whose features to read; may be left out where the clips have those of one encoder only. av_align: correct
    clips whose sound is late or early. Returns the report and what `fit` does, with the figures of `_validate`: ld and
    ld_baseline in percent of the face width, r of lip opening, and more.
    """
    for option, value, known in (("preset", preset, SCHEDULES), ("pose", pose, POSES), ("encoder", encoder, ENCODERS)):
        if value is not None and value not in known:
            raise SpearError(f"--{option} {value} is not one of {', '.join(known)}")
    report = Report()
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    parts = clips_of(accelerator, clips, progress)
    encoder = encoder or _only_encoder(parts[0])
    train, val = (part.usable(report, encoder) for part in parts)
    config = replace(_config(preset, encoder, pose, train, val), av_align=av_align)
    changes: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    schedule = replace(SCHEDULES[preset], seed=seed, max_minutes=max_minutes,
                       **{k: v for k, v in changes.items() if v is not None})  # fmt: skip
    if restart:
        begin_anew(models, "a2lm")

    torch.manual_seed(seed)
    net = build_a2lm(config)
    data = SpeechWindows(train, config, seed)
    _standardise(net, data)
    optimiser = torch.optim.Adam(net.parameters(), lr=schedule.learning_rate)
    model, optimiser = accelerator.prepare(net, optimiser)
    loss_of = landmark_length_loss if config.light else a2lm_loss

    def step(batch: dict[str, Tensor], share: float, part: Part) -> dict[str, Tensor]:
        """One step on this process's part of a batch. Returns its losses."""
        features = torch.where(batch["heard"], batch["features"], net.feature_mean)
        pred = model(features, *(batch[name] for name in ("pose", "references", "head"))) / CROP
        truth = batch["truth"] / CROP
        pred = torch.where(batch["real"][..., None, None], pred, truth)
        loss = loss_of(pred, truth) * part.weight()
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return {"loss": loss * _SHOWN, "mse": landmark_mse(pred, truth) * part.weight() * _SHOWN}

    def export(path: Path, about: dict[str, Any]) -> None:
        """Write what `load_a2lm` reads."""
        save_checkpoint(path, "a2lm", asdict(config), net.state_dict(), training=about, seed=seed, preset=preset)

    settings = {**asdict(config), "preset": preset, "clips": data_digest(train), "val": data_digest(val),
                "landmarks": same_detector(train, val), "copies": data.copies,
                "learning_rate": schedule.learning_rate}  # fmt: skip
    task = Task("a2lm", {"a2lm": net}, {"adam": optimiser}, data, step, lambda _: _validate(net, val), export, settings)
    return report, fit(task, schedule, models, accelerator, progress)


def _only_encoder(clips: ClipRows) -> str:
    have = [name for name in ENCODERS if name in clips.encoders]
    have = [name for name in have if name != NoAudio.name] or have  # the control is there on purpose, beside others
    if not have:
        raise SpearError(f"no audio features in {clips.root}; run `spear extract-audio-features` first")
    if len(have) > 1:
        raise SpearError(f"the clips have features of {' and '.join(have)}; choose one with --encoder")
    return have[0]


def _config(preset: str, encoder: str, pose: str, train: ClipRows, val: ClipRows) -> A2LMConfig:
    settings = same_settings(encoder, train, val)
    shape = train[0].features(encoder, 0, 1).shape
    known: dict[str, Any] = {
        "encoder": encoder,
        "encoder_settings": settings,
        "feature_shape": (shape[1], shape[2]),
        "pose": pose,
    }
    return A2LMConfig(**known) if preset == "small" else A2LMConfig.paper(**known)


def _standardise(net: A2LM, data: SpeechWindows) -> None:
    """Store mean and deviation of each feature over up to 200 windows in the net."""
    picks = np.linspace(0, len(data) - 1, min(200, len(data))).astype(int)
    values = torch.cat([data[0, int(i)]["features"] for i in picks])
    net.feature_mean.copy_(values.mean(0))
    net.feature_scale.copy_(values.std(0).clamp_min(1e-3))


def _validate(net: A2LM, clips: Sequence[Clip]) -> dict[str, float]:
    """Means over clips (256 of them at most): LD, that of the baseline and LVD in percent of the face width, LVD over
    the baseline's, r and amplitude of lip opening; and the controls over some pairs. Raises SpearError where one would
    not be finite."""
    if len(clips) > _MOST_VALIDATED:
        clips = [clips[int(i)] for i in np.linspace(0, len(clips) - 1, _MOST_VALIDATED)]
    rows = []
    for clip in clips:
        pred, baseline = (value.numpy() for value in predict_clip(net, clip))
        points = cached_points(clip)
        if not (np.isfinite(pred).all() and np.isfinite(points).all()):
            raise SpearError(
                f"a2lm: what is predicted for {clip.folder} is not finite; make its features and landmarks again, "
                "or begin anew with --restart and a lower --learning-rate"
            )
        truth, width = points[:, LOWER], face_width(points)
        opening, true_opening = lip_opening(np.concatenate([points[:, UPPER], pred], axis=1)), lip_opening(points)
        rows.append({
            "ld": 100 * landmark_distance(pred, truth, width),
            "ld_baseline": 100 * landmark_distance(baseline, truth, width),
            "lvd": 100 * landmark_velocity_distance(pred, truth, width, squared=False),
            "lvd_baseline": 100 * landmark_velocity_distance(baseline, truth, width, squared=False),
            "r": opening_correlation(opening, true_opening),
            "amplitude": opening_amplitude(opening, true_opening),
        })  # fmt: skip
    # the amplitude over a true mouth that is still is infinite
    figures = {name: float(np.mean([row[name] for row in rows if np.isfinite(row[name])] or [0])) for name in rows[0]}
    return {"score": figures["ld"], **figures, **controls(net, clips, most=_CONTROL_PAIRS).values}
