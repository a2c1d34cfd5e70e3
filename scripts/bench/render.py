"""How fast a render is on this machine, and where its time goes: python scripts/bench/render.py [--json FILE].

Times of parts are those of one core, which other programs cannot lengthen much; figures of whole renders are seconds of
the clock, true only where nobody else computes: the notes say how much of the cores was idle before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch reads it

import av
import cv2
import numpy as np
import torch
import typer
from machine import flops_of
from skimage import data

from spear.audio import load_audio, write_wav
from spear.clip import SAMPLE_RATE
from spear.crop import cut
from spear.face import find_face
from spear.files import write_json
from spear.nets.blending import blend_columns, blend_mask
from spear.nets.int8 import Int8Conv, has_int8
from spear.nets.lm2face import image_tensor, sketch_tensor
from spear.painter import Painter, half_precision, load_lm2face
from spear.points import nearest_mouths
from spear.ref_face import RefFace
from spear.stages.render import PACKAGED
from spear.video import Footage, Patch, VideoWriter

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REFS = {
    "512x512": "dev/retalking_face5.mp4",
    "640x480": "dev/elospheres_av_masker1_01_T4_matrix1605.webm",
    "1920x1080": "dev/mead_W023_level_2_surprised_010.mp4",
}
"""Of another size they are scaled; where they are absent, an astronaut stands in."""
FPS_BARS = {"640x480": "20 / 30", "1920x1080": "10 / 18"}
BATCH = 4
CHILD = """
import json, re, resource, sys, time
from pathlib import Path
from spear.pretrained.audio_encoders import load_encoder
from spear.stages.render import render
load_encoder("whisper")  # start-up: what is imported
started = time.monotonic()
made = render(*map(Path, sys.argv[1:4]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"frames": made.frames, "render": time.monotonic() - started, "parts": made.seconds,
                  "cpu": used.ru_utime + used.ru_stime,
                  "peak_gb": int(re.search("VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e6}))
"""


@dataclass(frozen=True)
class Line:
    """One row of a table. bar: floor / target; gflop: work of a frame; share: of the measured peak."""

    what: str
    value: float
    unit: str
    bar: str = ""
    gflop: float | None = None
    share: float | None = None
    note: str = ""


def idle(seconds: float = 0.5) -> float:
    """Share of all cores that nobody used for a moment."""

    def times() -> list[int]:
        return [int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    before = times()
    time.sleep(seconds)
    spent = [b - a for a, b in zip(before, times(), strict=True)]
    return (spent[3] + spent[4]) / max(sum(spent), 1)


def core_seconds(work: Callable[[], Any], repeats: int = 9, clock: Callable[[], float] = time.thread_time) -> float:
    """The least time of this thread (or what `clock` tells) in `repeats` calls, after two that warm up."""
    times = []
    for _ in range(repeats + 2):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times[2:])


def peaks() -> list[Line]:
    """What one core reaches."""
    a, x, w = (torch.randn(shape) for shape in ((1536, 1536), (8, 96, 20, 32), (96, 96, 3, 3)))
    x, w = (value.to(memory_format=torch.channels_last) for value in (x, w))
    a_half, x_half, w_half = (value.bfloat16() for value in (a, x, w))
    product, convolution = 2 * 1536**3, 2 * 9 * 96 * 96 * 640 * 8
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "matrix product, fp32": (lambda: a @ a, product),
        "convolution, fp32": (lambda: torch.nn.functional.conv2d(x, w, padding=1), convolution),
        "matrix product, bf16": (lambda: a_half @ a_half, product),
        "convolution, bf16": (lambda: torch.nn.functional.conv2d(x_half, w_half, padding=1), convolution),
    }
    if has_int8(torch.device("cpu")):
        layer, whole = Int8Conv(torch.nn.Conv2d(96, 96, 3, padding=1)), x.byte()
        works["convolution, int8"] = (lambda: layer.convolve(whole, 1.0, 0), convolution)
    with torch.inference_mode():
        return [
            Line(f"peak of one core, {what}", work / core_seconds(done) / 1e9, "GFLOP/s")
            for what, (done, work) in works.items()
        ]


class Parts:
    """Times of the parts of a frame, on one core, whose peak is so many GFLOP/s."""

    def __init__(self, peak: float) -> None:
        self.lines, self._peak = list[Line](), peak

    def __call__(self, what: str, work: Callable[[], Any], net: bool = False, per: int = BATCH, **how: Any) -> Any:
        """Time `work`, which is that of `per` frames, and return what it returns; of a net also its operations."""
        ms = 1e3 * core_seconds(work, **how) / per
        gflop = flops_of(work) / 1e9 / per if net else None
        self.lines.append(Line(what, ms, "ms", gflop=gflop, share=gflop and gflop / ms * 1e3 / self._peak))
        return work()


def parts(ref: Path, peak: float) -> list[Line]:
    """What one frame of this ref costs one core, part by part."""
    footage, part = Footage(ref), Parts(peak)
    found = RefFace(footage, "largest", 60)
    pictures, points, transforms = list(footage.pictures(0, BATCH)), found.points, found.transforms
    own, driven, columns = points[:BATCH], points[10 : 10 + BATCH], blend_columns(points)
    part("decode", lambda: sum(1 for _ in footage.pictures(0, 30)), per=30, clock=time.process_time)
    part("all of it to RGB", lambda: [picture.rgb() for picture in pictures])
    part("find the face, decoding included", lambda: find_face(footage, "largest", 30), per=30, clock=time.process_time)
    cuts = part("cut the face", lambda: [cut(p, t) for p, t in zip(pictures, transforms, strict=False)])
    crops = [one.crop for one in cuts]
    painter = Painter(load_lm2face(PACKAGED / "lm2face.safetensors"), points, found.crops, columns=columns)
    net, count = painter.net, painter.net.config.references
    sketches = part("sketches", lambda: sketch_tensor(driven))
    images = part("pictures to floats", lambda: image_tensor(np.stack(crops)))
    which, nearness = (torch.from_numpy(value) for value in nearest_mouths(points[:24], driven, count))
    refs = part("references", lambda: painter.references.chosen(which, nearness))
    with torch.inference_mode(), half_precision(torch.device("cpu"), painter.precision):
        masked = part("encoder", lambda: net.encode_masked(images), net=True)
        target = net.make_target(masked, net.encode_sketch(sketches), torch.from_numpy(driven))
        whole = part("SPADE-Net, decoder, warp, refine", lambda: net(target, refs, columns=columns), net=True)
        align = (refs.latents, refs.features, target.sketch, whole.aligned.flow, nearness)
        paint = (target.masked, target.masked[:, :1], target.sketch, whole.aligned)
        refine = (whole.picture, whole.warped, whole.latent[:, :, 2:, columns])
        part("- SPADE-Net", lambda: (net.spade_net.align(*align), net.spade_net.paint(*paint)), net=True)
        part("- decoder", lambda: net.vae.decode(whole.latent[..., columns]), net=True)
        part("- refine", lambda: net.refine(*refine), net=True)
    faces = part("all of Painter.paint", lambda: painter.paint(crops, driven, own))
    part("- blend masks", lambda: [blend_mask([a, b]) for a, b in zip(driven, own, strict=True)])
    patches = part("paste", lambda: [one.pasted(*face) for one, face in zip(cuts, faces, strict=True)])
    return [*part.lines, encoding(footage, patches[0])]


def encoding(footage: Footage, patch: Patch) -> Line:
    """VideoWriter on pictures of the ref, a part of which is another: YUV of that and H.264."""
    pictures = list(footage.pictures(0, 60))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        with VideoWriter(Path(folder, "a.mp4"), footage.width, footage.height, colours=footage.colours) as writer:
            for picture in pictures:
                writer.write(picture, patch)
        spent = 1e3 * (time.process_time() - started) / len(pictures)
    return Line("make YUV, H.264", spent, "ms", note="of all cores")


def nets_on_all_cores(ref: Path, work: float, peak: float) -> Line:
    """Painter.paint at 256x256 as render has it: a thread for each core. work: GFLOP of a frame."""
    found, cores, rates = RefFace(Footage(ref), "largest", 60), len(os.sched_getaffinity(0)), []
    crops, columns = list(found.crops(list(range(BATCH)))), blend_columns(found.points)
    painter = Painter(load_lm2face(PACKAGED / "lm2face.safetensors"), found.points, found.crops, columns=columns)

    def paint(_: int) -> None:
        painter.paint(crops, found.points[9 : 9 + BATCH], found.points[:BATCH])

    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):
            free, started = idle(), time.perf_counter()
            list(pool.map(paint, range(8 * cores)))
            rates.append((8 * BATCH * cores / (time.perf_counter() - started), free))
    rate, free = max(rates)
    note = f"{painter.precision}, {cores} cores, {100 * free:.0f} % idle before, best of 5"
    return Line("nets at 256x256", rate, "frames/s", "40 / 60", work, rate * work / (peak * cores), note)


def made_ref(size: str, folder: Path) -> Path:
    """The footage, scaled to this size where it has another one."""
    width, height = map(int, size.split("x"))
    source, out = DATA / REFS[size], folder / f"{size}.mp4"
    footage = Footage(source) if source.exists() else None
    if footage is not None and (footage.width, footage.height) == (width, height):
        return source
    if not out.exists():
        swaying = (np.roll(data.astronaut()[:384], round(6 * np.sin(k / 9)), 1) for k in range(100))
        with VideoWriter(out, width, height) as writer:
            for frame in swaying if footage is None else footage.frames():
                writer.write(cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC))
    return out


def speech_of(seconds: float, folder: Path) -> Path:
    """The demo's voice, repeated to this length."""
    path = folder / f"{seconds:g}.wav"
    write_wav(
        path, np.resize(load_audio(Path(__file__).parents[1] / "demo" / "speech.wav"), round(seconds * SAMPLE_RATE))
    )
    return path


def rendered(audio: Path, ref: Path, out: Path, cache: Path) -> dict[str, Any]:
    """A render in a process of its own: what CHILD says, the seconds of the whole process, how idle it was before."""
    free, started = idle(), time.monotonic()
    command = [sys.executable, "-c", CHILD, *map(str, (audio, ref, out))]
    run = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, stdout=subprocess.PIPE, check=True)
    return {**json.loads(run.stdout), "process": time.monotonic() - started, "idle": free}


def first_frame(audio: Path, ref: Path, cache: Path) -> float:
    """Seconds from the command until a player that reads the stream has a picture."""
    command = [sys.executable, "-m", "spear_cli", "render", "--audio", audio, "--ref", ref, "-o", "-"]
    environment, started = {**os.environ, "XDG_CACHE_HOME": str(cache)}, time.monotonic()
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen(list(map(str, command)), **options) as process:
        frames = av.open(process.stdout).decode(video=0)
        next(frames)
        seconds = time.monotonic() - started
        for _ in frames:  # to the end, or the command would complain
            pass
    return seconds


def whole_renders(size: str, folder: Path, seconds: float, repeats: int) -> list[Line]:
    """A ref twice, the second time from the cache; the best of some tries, since others may use the cores."""
    ref, audio, lines = made_ref(size, folder), speech_of(seconds, folder), []
    caches = [folder / f"cache {size} {number}" for number in range(repeats)]
    tries = [[rendered(audio, ref, folder / "out.mp4", cache) for _ in range(2)] for cache in caches]
    first, second = (min((pair[i] for pair in tries), key=lambda run: run["render"]) for i in range(2))
    for what, run, bar in (("first", first, FPS_BARS.get(size, "")), ("second", second, "")):
        note = f"process {run['process']:.1f} s, {run['cpu'] / run['frames'] * 1e3:.0f} ms of cores a frame, "
        note += f"{run['peak_gb']:.2f} GB, {100 * run['idle']:.0f} % idle before"
        lines.append(Line(f"{size}, {what} render", run["frames"] / run["render"], "frames/s", bar, note=note))
    gain, note = first["render"] / second["render"], f"of whole processes {first['process'] / second['process']:.2f}"
    lines.append(Line(f"{size}, second render is faster by", gain, "times", "1.5 / 2", note=note))
    short = speech_of(5, folder)
    for what, places in (("first", [folder / f"new {cache.name}" for cache in caches]), ("second", caches)):
        took = min(first_frame(short, ref, cache) for cache in places)
        lines.append(Line(f"{size}, command to first frame, {what} time", took, "s", "8 / 4"))
    return lines


def shown(lines: list[Line]) -> str:
    """The table for people."""
    cells = [("what", "value", "unit", "bar", "GFLOP", "of peak", "note")]
    for x in lines:
        work, share = "" if x.gflop is None else f"{x.gflop:.2f}", "" if x.share is None else f"{100 * x.share:.0f} %"
        cells.append((x.what, f"{x.value:.4g}", x.unit, x.bar, work, share, x.note))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    seconds: Annotated[float, typer.Option(help="Of speech in the whole renders.")] = 20,
    repeats: Annotated[int, typer.Option(help="Tries of each whole render; 0: none.")] = 2,
    memory: Annotated[str, typer.Option(help="Lengths of speech, s, for peak memory, as in 10,60,600.")] = "",
) -> None:
    """Measure, print tables, write JSON."""
    torch.set_num_threads(1)
    tables = {"this machine": peaks()}
    peak = max(line.value for line in tables["this machine"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        for size in REFS:
            tables[f"a frame of {size}, one core"] = lines = parts(made_ref(size, folder), peak)
            work = sum(line.gflop or 0 for line in lines if not line.what.startswith("-"))
            tables[f"nets, {size}"] = [nets_on_all_cores(made_ref(size, folder), work, peak)]
            if repeats:
                tables[f"whole renders of {size}"] = whole_renders(size, folder, seconds, repeats)
        tables["memory"] = []
        for length in map(float, filter(None, memory.split(","))):
            run = rendered(speech_of(length, folder), made_ref("640x480", folder), folder / "out.mp4", folder / "cache")
            tables["memory"].append(Line(f"peak, {length:g} s of speech", run["peak_gb"], "GB", "2.5 / 1.5"))
    print("\n\n".join(f"{title}\n{shown(lines)}" for title, lines in tables.items() if lines))
    if json_file is not None:
        write_json(json_file, {title: [asdict(line) for line in lines] for title, lines in tables.items()})


if __name__ == "__main__":
    typer.run(main)
