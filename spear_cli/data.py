"""The commands that make clips of videos, and everything that trainings read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear.shards import own_part
from spear.workers import CLIP_TIMEOUT
from spear_cli.boundary import app
from spear_cli.console import progress_bar, show_report
from spear_cli.options import (
    Changed,
    Clips,
    ClipTimeout,
    Encoder,
    Face,
    Jobs,
    Memory,
    Scheduler,
    Seed,
    ShardOption,
    workers_of,
)


@app.command(epilog="Example: `spear preprocess videos/ --jobs 2`")
def preprocess(
    videos: Annotated[list[Path], typer.Argument(help="Videos, folders of videos, or MEAD's tree.")],
    clips: Clips = Path("clips"),
    layout: Annotated[str, typer.Option(help="`auto`, `mead` or `flat`.")] = "auto",
    face: Face = "largest",
    on_missing_face: Annotated[str, typer.Option(help="`hold` (interpolate), `skip` the clip, or `fail`.")] = "hold",
    split_by: Annotated[
        str, typer.Option(help="80/10/10 by `clip` or `speaker`, or a .csv file with columns clip, split.")
    ] = "clip",
    seed: Seed = 0,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    shard: ShardOption = None,
    clip_timeout: ClipTimeout = CLIP_TIMEOUT,
    memory: Memory = None,
) -> None:
    """Cut videos to clips/: a 256x256 face at 25 fps, 16 kHz sound, a split."""
    from spear.stages.preprocess import preprocess as stage

    workers = workers_of(jobs, scheduler, clip_timeout, memory, own_part(shard))
    with progress_bar("preprocess") as progress:
        report = stage(videos, clips, layout, face, on_missing_face, split_by, seed, workers, progress)
    show_report(report, "clips")


@app.command(epilog="Example: `spear extract-audio-features --encoder mfcc`")
def extract_audio_features(
    clips: Clips = Path("clips"),
    encoder: Encoder = "whisper",
    weights: Annotated[str | None, typer.Option(help="Folder or hub id of the encoder's weights.")] = None,
    changed: Changed = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    shard: ShardOption = None,
    clip_timeout: ClipTimeout = CLIP_TIMEOUT,
    memory: Memory = None,
) -> None:
    """Compute speech features, one row for each video frame."""
    from spear.stages.extract_audio_features import extract_audio_features as stage

    workers = workers_of(jobs, scheduler, clip_timeout, memory, own_part(shard))
    with progress_bar(f"extract-audio-features ({encoder})") as progress:
        report = stage(clips, encoder, weights, changed, workers, progress)
    show_report(report, "clips")


@app.command(epilog="Example: `spear landmarks --jobs 2`")
def landmarks(
    clips: Clips = Path("clips"),
    detector: Annotated[str, typer.Option(help="`mediapipe`, or `face-alignment` (approximate).")] = "mediapipe",
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    shard: ShardOption = None,
    clip_timeout: ClipTimeout = CLIP_TIMEOUT,
    memory: Memory = None,
) -> None:
    """Find the 131 face points in every frame of every clip."""
    from spear.stages.landmarks import landmarks as stage

    workers = workers_of(jobs, scheduler, clip_timeout, memory, own_part(shard))
    with progress_bar("landmarks") as progress:
        report = stage(clips, detector, workers, progress)
    show_report(report, "clips")


@app.command(epilog="Example: `spear pack clips shards`")
def pack(
    clips: Annotated[Path, typer.Argument(help="Folder of the clips.")],
    shards: Annotated[Path, typer.Argument(help="Folder of the tars; give it to trainings as --clips.")],
    shard_size: Annotated[int, typer.Option(min=1, help="About so many MB a tar.")] = 1000,
) -> None:
    """Pack clips into few large tars, for file systems that hate small files; WebDataset reads them, too."""
    from spear.stages.pack import pack as stage

    with progress_bar("pack") as progress:
        report = stage(clips, shards, shard_size, progress)
    show_report(report, "shards")
