"""The commands. Each body calls the stage of its own name; nothing heavy is imported before one runs."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from spear.errors import SpearError, Terminated
from spear.shards import choose_shard, own_part
from spear.version import __version__
from spear.workers import CLIP_TIMEOUT
from spear_cli.console import fail, progress_bar, say, show_report
from spear_cli.options import (
    Adapt,
    Against,
    CacheLatents,
    Changed,
    Clips,
    ClipTimeout,
    DecodedFrames,
    Encoder,
    Epochs,
    Face,
    Figures,
    Init,
    Jobs,
    LearningRate,
    MaxMinutes,
    Memory,
    Models,
    PageFolder,
    Pred,
    Preset,
    Provenance,
    Refs,
    RenderList,
    Restart,
    SaveMemory,
    Scheduler,
    ScoresShard,
    Seed,
    ShardOption,
    SignCert,
    SignKey,
    Truth,
    Vae,
    Watermark,
    workers_of,
)

if TYPE_CHECKING:
    from spear.progress import Report

_STARTED = time.monotonic()


class _Group(TyperGroup):
    """The one place where an error becomes a line and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run and exit; a wrong option gets one line as well, where typer would draw a box."""
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except TyperException as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "spear")
            if message := error.format_message().rstrip("."):  # empty where `spear` alone has shown the help
                fail(SpearError(f"{message[0].lower()}{message[1:]}; see `{command} --help`"))
            sys.exit(error.exit_code)

    def invoke(self, ctx: Any) -> Any:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads make busy cores 10 times slower
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # they are for developers: `python -W default -m spear_cli ...`
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except SpearError as error:
            fail(error)
            if getattr(error, "code", 0) > 128:  # a signal: all is saved, and taking torch apart takes half a second
                sys.stdout.flush()
                os._exit(error.code)  # type: ignore[attr-defined]
            raise typer.Exit(getattr(error, "code", 1)) from None
        except KeyboardInterrupt:
            fail(SpearError("interrupted; run the same command again to go on"))
            raise typer.Exit(130) from None
        except Terminated:
            fail(SpearError("terminated; run the same command again to go on"))
            raise typer.Exit(143) from None
        except BrokenPipeError:  # whoever reads stdout, `head` say, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(141) from None
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            fail(SpearError(f"{error.strerror or error}{where}; check the path, its permissions and the free space"))
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if os.environ.get("SPEAR_DEBUG"):
                raise
            fail(_unexpected(error))
            raise typer.Exit(1) from None


def _unexpected(error: Exception) -> SpearError:
    """What no stage has foreseen, in one line as well."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return SpearError("the memory is full; use smaller pictures, shorter speech or fewer --jobs")
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}"[:200]
    return SpearError(
        f"{what} ({Path(place.filename).name}, line {place.lineno}); this is a mistake in spear: "
        "set SPEAR_DEBUG=1 to see where it comes from, and report it"
    )


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


app = typer.Typer(
    cls=_Group,
    name="spear",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start here: `spear render --audio speech.wav --ref face.mp4 -o out.mp4`",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"spear {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Speech plus a reference video in, a talking face out.

    Each command reads and writes plain files in the current folder; a second run does only what is missing.
    """


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
    _show_report(report, "clips")


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
    _show_report(report, "clips")


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
    _show_report(report, "clips")


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
    precision: Annotated[str, typer.Option(help="`auto` (bf16 where the device has it), `fp32` or `bf16`.")] = "auto",
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
        workers = workers_of(jobs, scheduler, clip_timeout, memory, choose_shard(shard))
        from spear.stages.render_many import RenderOptions, render_many

        options = RenderOptions(
            models, face, encoder_weights, vae, adapt, precision, provenance, watermark, sign_cert, sign_key
        )
        with progress_bar("render") as progress:
            report = render_many(renders, out, options, workers, progress)
        _show_report(report, "renders")
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
    imported = time.monotonic() - _STARTED
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
    the numbers were measured. Finished clips are kept in ~/.cache/spear/metrics, so a stopped run goes on.
    """
    if (pred is None) != (truth is None):
        raise typer.BadParameter("give both PRED and TRUTH, or neither for the test split")
    if pred is not None and by is not None:
        raise typer.BadParameter("--by is for the clips of a split; leave it out for two videos")
    if json_out and csv_out:
        raise typer.BadParameter("--json and --csv both want stdout; leave one out")
    from spear.stages.metrics import metrics as stage
    from spear.stages.metrics_videos import compare_videos
    from spear_cli.tables import show_scores

    chosen = {"ld": ld, "lvd": lvd, "psnr": psnr, "ssim": ssim, "fid": fid,
              "lpips": lpips, "lmd": lmd, "csim": csim, "sync": sync}  # fmt: skip
    which = frozenset(name for name, wanted in chosen.items() if wanted or all_scores)
    which = which or frozenset({"ld", "lvd", "psnr", "ssim"})
    workers = workers_of(jobs, scheduler, clip_timeout, memory, choose_shard(shard, {}))
    with progress_bar("metrics") as progress:
        if pred is not None and truth is not None:
            scores = compare_videos(
                pred, truth, which, inception_weights, figures, progress, syncnet_weights=syncnet_weights,
                report=report, against=against, workers=workers,
            )  # fmt: skip
        else:
            scores = stage(
                clips, models, which, split, by, inception_weights, vae, figures, progress,
                report=report, against=against, workers=workers,
            )  # fmt: skip
    show_scores(scores, "json" if json_out else "csv" if csv_out else "tables")
    _some_left_out(scores.left_out)


@app.command(epilog="Example: `spear status clips`")
def status(
    clips: Annotated[Path, typer.Argument(help="Folder of the clips.")] = Path("clips"),
    json_out: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Tell what is done of a folder of clips, what is missing, what failed and why, and how long the rest will take.

    Also while others work on it. Counts files by their names; whether they still fit is what each command looks at.
    """
    from spear.stages.status import status as stage

    found = stage(clips)
    say(found.to_json() if json_out else found.to_text())


@app.command(epilog="Example: `spear verify out.mp4`")
def verify(video: Annotated[Path, typer.Argument(help="Any video.")]) -> None:
    """Tell whether a video is marked as synthetic: its comment, sidecar, C2PA manifest and invisible mark.

    Exit code 0: marked, 4: unmarked, 5: changed since it was marked. Nothing is asked on the network.
    """
    from spear.stages.verify import verify as stage

    with progress_bar("verify") as progress:
        found = stage(video, progress)
    mark = found.watermark
    say(f"{video}: {found.status}")
    say(f"comment: {found.comment or 'none'}")
    say(f"sidecar: {found.sidecar}")
    say(f"C2PA manifest: {found.manifest.state}" + (f" ({found.manifest.detail})" if found.manifest.detail else ""))
    say("invisible mark: " + ("not looked for" if mark is None else "found" if mark.found else "none"))
    for note in found.notes:
        say(f"note: {note}")
    raise typer.Exit({"marked": 0, "unmarked": 4, "tampered": 5}[found.status])


@app.command(epilog="Example: `spear check clips`")
def check(folder: Annotated[Path, typer.Argument(help="A folder of clips, models or renders, or one file.")]) -> None:
    """Find files that are no longer what was written, by the checksums that they hold.

    Exit code 0: none, 1: some, each named with what to run again.
    """
    from spear.stages.check import check as stage

    with progress_bar("check") as progress:
        found = stage(folder, progress)
    for _, reason in found.damaged:
        say(f"damaged: {reason}")
    if found.unknown:
        kinds = ", ".join(f"{count} {suffix or 'nameless'}" for suffix, count in sorted(found.unknown.items()))
        say(f"note: without a checksum, so not checked: {kinds}")
    if found.damaged:
        total = found.whole + len(found.damaged)
        raise SpearError(f"{len(found.damaged)} of {total} files in {folder} are damaged; do as said above for each")
    say(f"{found.whole} files are what was written")


def _show_report(report: Report, what: str) -> None:
    show_report(report, what)
    _some_left_out(len(report.skipped))


def _some_left_out(count: int) -> None:
    """Exit code 3: done, but not with all clips."""
    if count:
        raise typer.Exit(3)


def _show_training(path: Path, report: Any, trained: Any) -> None:
    for name, reason in report.skipped:
        say(f"left out: {name}: {reason}")
    say(f"{path}: " + ", ".join(f"{name} {value:.4g}" for name, value in trained.figures.items() if name != "score"))
    if trained.steps > 1:
        kept = f"the data loader kept the trainer {100 * trained.busy:.0f} % busy"
        say(f"{trained.steps_per_second:.3g} steps/s, {kept}")


def main() -> None:
    """The entry point of the `spear` command."""
    app(prog_name="spear")  # also where it runs as `python -m spear_cli`
