"""How fast the stages before rendering are on this machine: python scripts/bench/stages.py [FOOTAGE] [--json FILE].

Without footage an astronaut sways, 640x480, and says what the demo says; footage runs forward and backward, in its own
size, with the same voice. Figures are medians of runs one after the other. "One core" binds all threads of the work to
one, as `taskset -c` does. Notes give the processor time of the same runs: other programs change it less.
"""

from __future__ import annotations

import importlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unittest import mock

import stage1  # before torch, which reads what it sets

# isort: split
import cv2
import numpy as np
import torch
import typer
from accelerate import PartialState
from machine import Clock, Cost, Peak, Worked, clocked, has_bf16, higher, peak_memory, worked
from stage1 import Line
from torch.utils.data import default_collate

from spear.audio import fit_to_frames, load_audio, write_wav
from spear.clip import FPS, SAMPLE_RATE, Clip
from spear.crop import crop_transform, warp_crop
from spear.face import FaceTracker, fill_missing
from spear.files import write_json
from spear.painter import computes_half
from spear.points import lip_opening
from spear.stages.landmarks import landmarks
from spear.stages.preprocess import preprocess
from spear.sync import estimate_offset
from spear.video import Footage, VideoWriter

if TYPE_CHECKING:  # it takes seconds
    from spear.training_task import Task

STAGES = ("preprocess", "extract_audio_features", "landmarks", "train_a2lm", "train_lm2face", "render", "metrics")
REPEATS = 3
PART_FRAMES = 100
CLIP_SECONDS = 6
BAR = "40 frames/s a core, 80 wanted"
CLIPS = 33
"""Of 75 frames, one of them for validation: one batch of stage 1."""
STEPS = 5
TRAININGS: dict[str, dict[str, str]] = {"train-a2lm": {"encoder": "whisper"}, "train-lm2face": {}}
FEATURES = (3, 384)
"""What whisper makes of a frame; noise of that size takes as long."""


def per_second(what: str, count: int, clock: Clock, bar: str = "", note: str = "") -> Line:
    """So many frames in that time."""
    spent = f"{1000 * clock.processor / count:.2f} ms of processor a frame"
    return Line(what, count / clock.wall, "frames/s", bar, "; ".join(part for part in (spent, note) if part))


def write_footage(path: Path, seconds: float, footage: Footage | None, **options: Any) -> Path:
    """The video that is measured, with the demo's voice. options: of the writer."""
    frames = round(seconds * FPS)
    shown: Iterable[Any] = stage1._swaying_astronaut(frames) if footage is None else footage.ping_pong(frames)
    size = (640, 480) if footage is None else (footage.width, footage.height)
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = path.with_suffix(".voice.wav")
    write_wav(sound, np.resize(load_audio(stage1.SPEECH), round(seconds * SAMPLE_RATE)))
    with VideoWriter(path, *size, sound, **options) as writer:
        for frame in shown:
            writer.write(frame)
    sound.unlink()
    return path


def start_up() -> list[Line]:
    """The help, and what a command imports before it does anything."""
    lines = stage1.start_up()
    for stage in STAGES:
        cost = peak_memory([sys.executable, "-c", f"import spear.stages.{stage}"])
        lines.append(Line(f"import of spear.stages.{stage}", cost.seconds, "s", note=f"{cost.gigabytes:.2f} GB; once"))
    return lines


def parts(folder: Path, footage: Footage | None) -> list[Line]:
    """What `preprocess` does with each frame, part by part, and `landmarks` with a clip, on one core."""
    video = write_footage(folder / "parts.mp4", PART_FRAMES / FPS, footage)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # its threads were started before and would stay on other cores
    try:
        with stage1._one_core():
            return _parts(folder, video)
    finally:
        cv2.setNumThreads(threads)


def _parts(folder: Path, video: Path) -> list[Line]:
    frames = list(Footage(video).frames())
    count = len(frames)
    with FaceTracker() as tracker:
        points = fill_missing([tracker(frame) for frame in frames])
        detected = clocked(lambda: [tracker(frame) for frame in frames])
    transforms = crop_transform(points)
    crops = [warp_crop(frame, transform) for frame, transform in zip(frames, transforms, strict=True)]

    def start() -> None:
        with FaceTracker() as tracker:
            tracker(frames[0])

    def encode() -> None:
        with VideoWriter(folder / "face.mp4", 256, 256, crf=12, random_access=True) as writer:
            for crop in crops:
                writer.write(crop)

    def sound() -> None:
        samples = fit_to_frames(load_audio(video), count)
        write_wav(folder / "audio.wav", samples)
        estimate_offset(lip_opening(points), samples, np.ones(count, bool))

    works = {
        "crop": lambda: [warp_crop(frame, row) for frame, row in zip(frames, transforms, strict=True)],
        "encode face.mp4": encode,
        "sound": sound,
        "decode to RGB, twice": lambda: [deque(Footage(video).frames(), maxlen=0) for _ in range(2)],
    }
    clocks = {"detect": detected} | {name: clocked(work) for name, work in works.items()}
    lines = [per_second(f"preprocess, one core: {name}", count, clock) for name, clock in clocks.items()]
    every = Clock(sum(c.wall for c in clocks.values()), sum(c.processor for c in clocks.values()))
    lines.append(per_second("preprocess, one core: parts together", count, every, BAR))
    lines.append(Line("preprocess: start of the face mesh, once a clip", clocked(start).wall, "s"))
    return [*lines, _landmarks_line(folder, video)]


def _landmarks_line(folder: Path, video: Path) -> Line:
    preprocess([video], folder / "clips")
    clip = Clip(folder / "clips" / video.stem)

    def work() -> None:
        clip.landmarks_path.unlink(missing_ok=True)
        landmarks(folder / "clips")

    return per_second("landmarks, one core", clip.info.frames, clocked(work), note="with the start of the face mesh")


def command(stage: str, *arguments: object, cores: Iterable[int] = ()) -> Cost:
    """What `spear STAGE ...` takes."""
    return peak_memory([sys.executable, "-m", "spear_cli", stage, *arguments], tuple(cores))


def end_to_end(folder: Path, footage: Footage | None) -> list[Line]:
    """`spear preprocess` itself, on one core and on two: from the first finished clips to the last."""
    videos = [folder / "talk" / f"{number}.mp4" for number in range(3 * 2)]
    write_footage(videos[0], CLIP_SECONDS, footage)
    for video in videos[1:]:
        shutil.copy(videos[0], video)
    cores, lines = sorted(os.sched_getaffinity(0)), list[Line]()
    for jobs, what in ((1, "one core"), (2, "--jobs 2, two cores")):
        if len(cores) < jobs:
            break
        rows = [_finished(folder, videos[: 3 * jobs], jobs, cores[:jobs]) for _ in range(REPEATS + 1 - jobs)]
        seconds, first = map(statistics.median, zip(*rows, strict=True))
        note = f"clips of {CLIP_SECONDS} s, the first after {first:.1f} s; bound to {cores[:jobs]}"
        rate = 2 * jobs * CLIP_SECONDS * FPS / seconds
        lines.append(Line(f"spear preprocess, {what}", rate, "frames/s", BAR, note))
    return lines


def _finished(folder: Path, videos: list[Path], jobs: int, cores: list[int]) -> tuple[float, float]:
    """Seconds from when each job has finished a clip to the end, and those until there is the first clip."""
    clips, started = Path(tempfile.mkdtemp(dir=folder)), time.time()
    command("preprocess", *videos, "--clips", clips, "--jobs", jobs, cores=cores)
    times = sorted(path.stat().st_mtime for path in clips.glob("*/clip.json"))
    return times[-1] - times[jobs - 1], times[0] - started


def features() -> list[Line]:
    """Both encoders that need no download, as stage1.py times them."""
    lines = (replace(x, what=x.what.split(" of ")[0], unit="of real time", note="") for x in stage1.features())
    return [replace(line, value=(line.value or 0) / stage1.SECONDS) for line in lines]


def training(folder: Path) -> list[Line]:
    """The steps of both trainings on made-up clips, their critic taking part, and how they use the machine."""
    for number in range(CLIPS):
        _write_clip(Clip(folder / "made" / f"clip{number}"), number)
    half = "bf16" if computes_half(PartialState().device) and has_bf16(PartialState().device) else "fp32"
    stages = {name: captured(name.replace("-", "_"), folder, **options) for name, options in TRAININGS.items()}
    rows = {name: steps(*made) for name, made in stages.items()}
    highest = [higher(one.highest, other.highest) for one, other in zip(*rows.values(), strict=True)]
    lines = [_peak_line(row.threads, kind, peak) for row, found in zip(rows["train-a2lm"], highest, strict=True)
             for kind, peak in found.items()]  # fmt: skip
    for (name, made), kind in zip(stages.items(), ("fp32", half), strict=True):
        reading = clocked(partial(batch_of, *made), 1).processor
        lines.append(Line(f"{name} small: reading a batch of {made[1]}", reading, "s", note="of processor"))
        lines.append(Line(f"{name} small: work of a step", rows[name][0].operations / 1e9, "GFLOP"))
        for row, found in zip(rows[name], highest, strict=True):
            lines += _step_lines(f"{name} small, threads {row.threads}", row, kind, found[kind])
    return lines


def _write_clip(clip: Clip, number: int) -> None:
    """A clip of stage1.py's, with features of the default encoder's size and pictures of the astronaut."""
    stage1._write_clip(clip, number, "val" if number == 0 else "train")
    clip.write_features("whisper", torch.randn(75, *FEATURES), {"encoder": "made"})
    if number:
        os.link(clip.folder.with_name("clip0") / clip.face_path.name, clip.face_path)
        return
    still = next(stage1._swaying_astronaut(1))
    points = stage1.astronaut_points() * 1.25 + [0, 4]  # where that picture has them
    with VideoWriter(clip.face_path, 256, 256, crf=12, random_access=True) as writer:
        for _ in range(75):
            writer.write(warp_crop(still, crop_transform(points[None], smoothing=0)[0]))


def captured(stage: str, folder: Path, preset: str = "small", **options: Any) -> tuple[Task, int]:
    """What the stage would hand to the training loop, instead of training: its task, and its preset's batch size."""
    module = importlib.import_module(f"spear.stages.{stage}")
    with mock.patch.object(module, "fit", lambda *parts: parts):
        _, (task, schedule, *_) = getattr(module, stage)(folder / "made", folder / "models", preset=preset, **options)
    return task, schedule.batch_size


def batch_of(task: Task, size: int) -> Any:
    """Samples as the training's loader would read them."""
    return default_collate([task.data[0, number % len(task.data)] for number in range(size)])


def steps(task: Task, size: int) -> list[Worked]:
    """The task's own steps with half of the training done; reading a batch is no part of them."""
    from spear.training_task import Part

    device = PartialState().device
    for module in task.modules.values():
        module.train()
    batch = {key: value.to(device) for key, value in batch_of(task, size).items()}
    return worked(lambda: task.step(batch, 0.5, Part(size)), device, STEPS)


def _peak_line(threads: int, kind: str, peak: Peak) -> Line:
    what = "the better of " + ", ".join(f"{name} {value / 1e9:.0f}" for name, value in peak._asdict().items())
    return Line(f"peak, {kind}, threads {threads}", max(peak) / 1e9, "GFLOP/s", note=what)


def _step_lines(what: str, row: Worked, kind: str, peak: Peak) -> list[Line]:
    busy = row.clock.processor / row.clock.wall
    share = 100 * row.speed / max(peak)
    note = f"{share:.0f} % of the {kind} peak, by processor time {share * row.threads / busy:.0f} %"
    rate = Line(what, 1 / row.clock.wall, "steps/s", note=f"{busy:.2f} cores busy")
    return [rate, Line(f"{what}: achieved", row.speed / 1e9, "GFLOP/s", note=note)]


def memory(folder: Path, footage: Footage | None, lengths: tuple[int, ...]) -> list[Line]:
    """Peak memory of preprocess and landmarks by the length of one video."""
    lines: list[Line] = []
    for seconds in lengths:
        video, clips = folder / f"memory{seconds}.mp4", folder / f"memory{seconds}"
        write_footage(video, seconds, footage, random_access=True)  # written faster
        costs = {"preprocess": command("preprocess", video, "--clips", clips)}
        costs["landmarks"] = command("landmarks", "--clips", clips)
        video.unlink()
        lines += [
            Line(f"memory of {stage}, {seconds} s", cost.gigabytes, "GB", note=f"{cost.seconds:.1f} s, all cores")
            for stage, cost in costs.items()
        ]
    return lines


def main(
    footage: Annotated[Path | None, typer.Argument(help="A video with a face.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Also the memory for 600 s, some minutes.")] = False,
) -> None:
    """Measure, print a table, write JSON."""
    about, source = stage1.machine(), None if footage is None else Footage(footage)
    about["footage"] = "astronaut, 640x480" if source is None else f"{source.path.name}, {source.width}x{source.height}"
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = [*start_up(), *parts(folder, source), *end_to_end(folder, source), *features(), *training(folder),
                 *memory(folder, source, (10, 60, 600) if long else (10, 60))]  # fmt: skip
    print(stage1.shown(lines))
    if json_file is not None:
        write_json(json_file, {"machine": about, "lines": [asdict(line) for line in lines]})


if __name__ == "__main__":
    typer.run(main)
