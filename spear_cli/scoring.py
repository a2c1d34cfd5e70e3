"""`spear metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear.shards import choose_shard
from spear.workers import CLIP_TIMEOUT, Workers
from spear_cli.boundary import app
from spear_cli.console import progress_bar, some_left_out
from spear_cli.options import (
    Against,
    Clips,
    ClipTimeout,
    Figures,
    Jobs,
    Memory,
    Models,
    PageFolder,
    Pred,
    Scheduler,
    ScoresShard,
    Truth,
    Vae,
    workers_of,
)

if TYPE_CHECKING:
    from spear.scores.compare import Scores


@app.command(
    epilog="Examples: `spear metrics --ld --psnr` (the test split), `spear metrics out.mp4 truth.mp4 --ld --psnr`, "
    "`spear metrics renders/ truths/ --all --jobs 2 --report report/`"
)
def metrics(
    pred: Pred = None,
    truth: Truth = None,
    ld: Annotated[bool, typer.Option("--ld", help="Landmark distance (equation 9), and how the lips open.")] = False,
    lvd: Annotated[bool, typer.Option("--lvd", help="Landmark velocity distance (equation 6).")] = False,
    psnr: Annotated[bool, typer.Option("--psnr", help="Peak signal-to-noise ratio, full frame and crop.")] = False,
    ssim: Annotated[bool, typer.Option("--ssim", help="Structural similarity, full frame and crop.")] = False,
    fid: Annotated[bool, typer.Option("--fid", help="Frechet inception distance of the face crops.")] = False,
    lpips: Annotated[bool, typer.Option("--lpips", help="LPIPS (AlexNet) of the face crops.")] = False,
    lmd: Annotated[bool, typer.Option("--lmd", help="LMD of Chen et al.; with face-alignment M-LMD, F-LMD.")] = False,
    csim: Annotated[bool, typer.Option("--csim", help="Cosine similarity of identity (dlib's embedding).")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Lips against speech; with SyncNet LSE-D, LSE-C.")] = False,
    all_scores: Annotated[bool, typer.Option("--all", help="All of these.")] = False,
    clips: Clips = Path("clips"),
    models: Models = Path("models"),
    split: Annotated[str, typer.Option(help="`train`, `val`, `test`, or `all` of them.")] = "test",
    by: Annotated[str | None, typer.Option(help="Also the scores of each `emotion` or `speaker`.")] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="pytorch-fid's weight file, for --fid.")] = None,
    syncnet_weights: Annotated[Path | None, typer.Option(help="syncnet_v2.model, for LSE-D and LSE-C.")] = None,
    vae: Vae = None,
    figures: Figures = None,
    report: PageFolder = None,
    against: Against = None,
    json_out: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
    csv_out: Annotated[bool, typer.Option("--csv", help="A line for each clip on stdout instead of a table.")] = False,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    shard: ScoresShard = None,
    clip_timeout: ClipTimeout = CLIP_TIMEOUT,
    memory: Memory = None,
) -> None:
    """Score rendered videos against the truth, or the trained models on the test split.

    PRED and TRUTH are matched by name. Without a choice of scores: --ld --lvd --psnr --ssim. Every output says how
    the numbers were measured. Finished clips are kept in ~/.cache/spear/metrics, so a stopped run goes on. Under
    torchrun every process scores a part of the clips, and the first one tells of all.
    """
    if (pred is None) != (truth is None):
        raise typer.BadParameter("give both PRED and TRUTH, or neither for the test split")
    if pred is not None and by is not None:
        raise typer.BadParameter("--by is for the clips of a split; leave it out for two videos")
    if json_out and csv_out:
        raise typer.BadParameter("--json and --csv both want stdout; leave one out")
    from spear.metrics_common import checked_metrics
    from spear.ranks import scored_by_ranks
    from spear.stages.metrics import metrics as stage
    from spear.stages.metrics_videos import compare_videos
    from spear_cli.tables import show_scores

    chosen = {"ld": ld, "lvd": lvd, "psnr": psnr, "ssim": ssim, "fid": fid,
              "lpips": lpips, "lmd": lmd, "csim": csim, "sync": sync}  # fmt: skip
    which = frozenset(name for name, wanted in chosen.items() if wanted or all_scores)
    # here already: figures bring a score, and every process must look for the same ones in the cache
    which = checked_metrics(which or frozenset({"ld", "lvd", "psnr", "ssim"}), figures)
    workers = workers_of(jobs, scheduler, clip_timeout, memory, choose_shard(shard, {}))
    with progress_bar("metrics") as progress:

        def score(workers: Workers, show: bool) -> Scores | None:
            """For `scored_by_ranks`; None where there is nothing to be done ahead."""
            drawn, page = (figures, report) if show else (None, None)
            if pred is not None and truth is not None:
                if figures is not None and not show:  # they are drawn while pairs are scored: the cache would not help
                    return None
                return compare_videos(
                    pred, truth, which, inception_weights, drawn, progress, syncnet_weights=syncnet_weights,
                    report=page, against=against, workers=workers,
                )  # fmt: skip
            return stage(
                clips, models, which, split, by, inception_weights, vae, drawn, progress,
                report=page, against=against, workers=workers,
            )  # fmt: skip

        scores = scored_by_ranks(score, workers)
    if scores is None:  # another process speaks
        return
    show_scores(scores, "json" if json_out else "csv" if csv_out else "tables")
    some_left_out(scores.left_out)
