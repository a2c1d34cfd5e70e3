"""Options that several commands share, and those of long words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from spear.shards import Shard
from spear.workers import Workers

Clips = Annotated[Path, typer.Option("--clips", help="Folder of the clips.")]
Models = Annotated[Path, typer.Option("--models", help="Folder of the trained models.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that work on clips at the same time.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A dask cluster that works instead: tcp://HOST:8786.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only part I of N, told by the clips' ids.",
        show_default="this task's of a Slurm array, else all",
    ),
]
RenderList = Annotated[
    Path | None,
    typer.Option(
        "--list",
        help="Many renders: a .csv or .jsonl file with audio, ref (absolute, or from the list's folder on) and out "
        "(below -o, else below the list's folder) in each row.",
    ),
]
ScoresShard = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N, for the cache.")]
ClipTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds after which a clip is given up.")]
Memory = Annotated[
    float | None,
    typer.Option(
        min=0.1, help="GB that a process may take until its clip is given up.", show_default="90 % of all, shared out"
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")]
Preset = Annotated[str, typer.Option(help="`small` (two CPU cores) or `paper` (a GPU).")]
MaxMinutes = Annotated[float | None, typer.Option(min=0.01, help="Stop after this long, over all resumes.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")]
LearningRate = Annotated[float | None, typer.Option(help="Instead of the preset's.")]
Restart = Annotated[bool, typer.Option("--restart", help="Forget an earlier run of this training.")]
Vae = Annotated[str | None, typer.Option(help="Folder or hub id of the paper preset's AutoencoderKL.")]
Face = Annotated[str, typer.Option(help="`largest`, or the number of the face from the left, from 0.")]
Encoder = Annotated[
    str,
    typer.Option(
        help="`mfcc`, `hubert`, `wav2vec2-conformer`, `unispeech`, `whisper` (ships with the package), "
        "or `none` (zeros: the control without audio)."
    ),
]
Changed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Changed copies of the speech (tempo, colour, noise), which the small preset trains on.",
        show_default="4 for mfcc and whisper, else 0",
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        help="Folder for figures of every scored clip, old ones overwritten: predicted over true points as a picture "
        "and a video, and the lip opening over time. Brings --ld."
    ),
]
Refs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Frames of a person that are references, spread over lip opening; kept in the model.",
        show_default="24 (small), 1 (paper)",
    ),
]
Init = Annotated[Path | None, typer.Option(help="Go on from this trained lm2face.safetensors, with .3 of the rate.")]
CacheLatents = Annotated[
    bool, typer.Option("--cache-latents", help="Encode every frame once, into clips/; frames are not varied then.")
]
DecodedFrames = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Decode only so many frames of a batch; the rest is compared in latent space.",
        show_default="all",
    ),
]
SaveMemory = Annotated[
    bool, typer.Option("--save-memory", help="Compute activations twice instead of keeping them (checkpointing).")
]
Adapt = Annotated[
    int,
    typer.Option(
        min=0,
        help="Train on the ref for so many steps first: 100 take about a minute on two cores; kept for the next time.",
        show_default="0: not",
    ),
]
Pred = Annotated[
    str | None,
    typer.Argument(help="A rendered video, a folder of them or a glob in quotes; without it the test split."),
]
Truth = Annotated[str | None, typer.Argument(help="The true video, folder or glob; names match without their suffix.")]
PageFolder = Annotated[
    Path | None,
    typer.Option("--report", help="Folder for index.html, a page to look at and play, and scores.json, scores.csv."),
]
Against = Annotated[str | None, typer.Option(help="`paper`: its Tables 1 to 3 beside what is found here.")]
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance",
        help="Mark the video as synthetic: comment, C2PA where c2pa-python is.",
    ),
]
Watermark = Annotated[bool, typer.Option("--watermark", help="Also an invisible mark that survives H.264 at CRF 28.")]
SignCert = Annotated[Path | None, typer.Option(help="Your certificate chain (PEM) for the C2PA manifest.")]
SignKey = Annotated[Path | None, typer.Option(help="Its key (PEM); without both a key of your own is made.")]


def workers_of(
    jobs: int, scheduler: str | None, clip_timeout: float, memory: float | None, shard: Shard | None = None
) -> Workers:
    """Who works on the clips. Under torchrun that is each rank itself. Raises typer.BadParameter."""
    if scheduler is not None and jobs > 1:
        raise typer.BadParameter("--jobs are processes of this machine, --scheduler is a cluster; leave one out")
    here = jobs == 1 and "RANK" in os.environ
    shard = shard or Shard()
    return Workers(0 if here else jobs, scheduler, clip_timeout, None if memory is None else int(memory * 1e9), shard)
