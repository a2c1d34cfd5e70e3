"""`spear render`, of one video or of a list."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from spear.shards import own_part
from spear.version import __version__
from spear.workers import CLIP_TIMEOUT
from spear_cli.boundary import STARTED, app
from spear_cli.console import progress_bar, say, show_report
from spear_cli.options import (
    Adapt,
    ClipTimeout,
    Face,
    Jobs,
    Memory,
    Provenance,
    RenderList,
    Scheduler,
    ShardOption,
    SignCert,
    SignKey,
    Vae,
    Watermark,
    workers_of,
)


@app.command(
    epilog="Examples: `spear render --audio speech.wav --ref face.mp4 -o out.mp4`, "
    "`spear render --list renders.csv -o renders/ --jobs 2`"
)
def render(
    audio: Annotated[Path | None, typer.Option(help="Speech, any format and length (a video's sound too).")] = None,
    ref: Annotated[Path | None, typer.Option(help="A video or a picture of the face.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The video to write.", show_default="out.mp4; with --list its folder"),
    ] = None,
    renders: RenderList = None,
    models: Annotated[
        Path | None,
        typer.Option(help="Folder of trained models.", show_default="models/ where it has both, else those that ship"),
    ] = None,
    face: Face = "largest",
    encoder_weights: Annotated[
        str | None, typer.Option(help="Folder or hub id of the audio encoder's weights.")
    ] = None,
    vae: Vae = None,
    sheet: Annotated[
        Path | None, typer.Option(help="A PNG to write: crop, sketch, face and frame of eight moments.")
    ] = None,
    adapt: Adapt = 0,
    precision: Annotated[
        str, typer.Option(help="Of stage 2: `auto` (the fastest that the device has), `fp32`, `bf16` or `int8` (CPUs).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="`auto` (a GPU where there is one) or `cpu`.")] = "auto",
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Send a fragmented MP4 as it is made: to stdout (`-o -`), a pipe or a file."),
    ] = False,
    provenance: Provenance = True,
    watermark: Watermark = False,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    shard: ShardOption = None,
    clip_timeout: ClipTimeout = CLIP_TIMEOUT,
    memory: Memory = None,
) -> None:
    """Make the face of a video or picture speak, or those of a whole list.

    What is found out about a ref is kept in ~/.cache/spear/refs, so that its next render begins sooner.
    """
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f"--device {device} is neither auto nor cpu")
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    here = Path("models")
    if models is None and all((here / f"{name}.safetensors").exists() for name in ("a2lm", "lm2face")):
        models = here
    if renders is not None:
        if audio or ref or sheet or stream:
            raise typer.BadParameter("--list has audio, ref and out of each render; leave --audio, --ref, --sheet out")
        workers = workers_of(jobs, scheduler, clip_timeout, memory, own_part(shard))
        from spear.stages.render_many import RenderOptions, render_many

        options = RenderOptions(
            models, face, encoder_weights, vae, adapt, precision, provenance, watermark, sign_cert, sign_key
        )
        with progress_bar("render") as progress:
            report = render_many(renders, out, options, workers, progress)
        show_report(report, "renders")
        return
    if audio is None or ref is None:
        raise typer.BadParameter("give --audio and --ref, or a --list of many")
    if jobs > 1 or scheduler or shard:
        raise typer.BadParameter("--jobs, --scheduler and --shard are for a --list of many")
    _render_one(audio, ref, out or Path("out.mp4"), models, face, encoder_weights, vae, sheet, adapt, precision, stream,
                (provenance, watermark, sign_cert, sign_key))  # fmt: skip


def _render_one(
    audio: Path, ref: Path, out: Path, models: Path | None, face: str, encoder_weights: str | None, vae: str | None,
    sheet: Path | None, adapt: int, precision: str, stream: bool, marks: tuple[bool, bool, Path | None, Path | None],
) -> None:  # fmt: skip
    from spear.marking import choose_marking
    from spear.stages.render import render as stage
    from spear_cli.streaming import STDOUT, open_stream

    marking = choose_marking(out, *marks, shlex.join(["spear", *sys.argv[1:]]))
    imported = time.monotonic() - STARTED
    opened = open_stream(out, (audio, ref)) if stream or out == STDOUT else nullcontext(out)
    with opened as target, progress_bar("render") as progress:
        made = stage(audio, ref, target, models, face, encoder_weights, vae, sheet, adapt, progress, precision, marking)
    for note in made.notes:
        say(f"note: {note}")
    rate = made.frames / max(made.seconds["faces"], 1e-9)
    say(f"models: {models}" if models else f"models: those that ship with spear {__version__}")
    if target is not out:
        say(f"first frame after {imported + made.seconds['first frame']:.1f} s")
    say(f"{out}: {made.frames} frames of {made.width}x{made.height}, {rate:.1f} frames/s")
