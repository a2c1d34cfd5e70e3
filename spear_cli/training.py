"""The two trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spear_cli.boundary import app
from spear_cli.console import progress_bar, say
from spear_cli.options import (
    CacheLatents,
    Clips,
    DecodedFrames,
    Epochs,
    Init,
    LearningRate,
    MaxMinutes,
    Models,
    Preset,
    Refs,
    Restart,
    SaveMemory,
    Seed,
    Vae,
)


@app.command(epilog="Example: `spear train-a2lm --preset small --max-minutes 5`")
def train_a2lm(
    clips: Clips = Path("clips"),
    models: Models = Path("models"),
    preset: Preset = "small",
    encoder: Annotated[
        str | None, typer.Option(help="Whose features (`none`: a control); may be left out where there is one.")
    ] = None,
    pose: Annotated[
        str, typer.Option(help="`rigid` (head motion only) or `raw` (the paper's; gives the mouth away).")
    ] = "rigid",
    epochs: Epochs = None,
    max_minutes: MaxMinutes = None,
    learning_rate: LearningRate = None,
    av_align: Annotated[
        bool, typer.Option("--av-align/--no-av-align", help="Correct clips whose sound is late or early.")
    ] = True,
    seed: Seed = 0,
    restart: Restart = False,
) -> None:
    """Train stage 1, audio to landmarks."""
    from spear.stages.train_a2lm import train_a2lm as stage

    with progress_bar("train-a2lm") as progress:
        report, trained = stage(
            clips, models, preset, encoder, pose, epochs, max_minutes, learning_rate, av_align, seed, restart, progress
        )  # fmt: skip
    _show_training(models / "a2lm.safetensors", report, trained)


@app.command(epilog="Example: `spear train-lm2face --preset small --max-minutes 15`")
def train_lm2face(
    clips: Clips = Path("clips"),
    models: Models = Path("models"),
    preset: Preset = "small",
    frames_per_clip: Annotated[int, typer.Option(min=1, help="An epoch is that many random frames of each clip.")] = 8,
    epochs: Epochs = None,
    max_minutes: MaxMinutes = None,
    learning_rate: LearningRate = None,
    refs: Refs = None,
    init: Init = None,
    perceptual: Annotated[Path | None, typer.Option(help="VGG19 or MobileNetV2 weights (torchvision's file).")] = None,
    vae: Vae = None,
    cache_latents: CacheLatents = False,
    decoded_frames: DecodedFrames = None,
    save_memory: SaveMemory = False,
    seed: Seed = 0,
    restart: Restart = False,
) -> None:
    """Train stage 2, landmarks to face; sheets of samples appear in models/lm2face.samples and in TensorBoard."""
    from spear.stages.train_lm2face import train_lm2face as stage

    with progress_bar("train-lm2face") as progress:
        report, trained = stage(
            clips, models, preset, frames_per_clip, epochs, max_minutes, learning_rate, refs, init, perceptual, vae,
            cache_latents, decoded_frames, save_memory, seed, restart, progress,
        )  # fmt: skip
    _show_training(models / "lm2face.safetensors", report, trained)


def _show_training(path: Path, report: Any, trained: Any) -> None:
    for name, reason in report.skipped:
        say(f"left out: {name}: {reason}")
    say(f"{path}: " + ", ".join(f"{name} {value:.4g}" for name, value in trained.figures.items() if name != "score"))
    if trained.steps > 1:
        kept = f"the data loader kept the trainer {100 * trained.busy:.0f} % busy"
        say(f"{trained.steps_per_second:.3g} steps/s, {kept}")
