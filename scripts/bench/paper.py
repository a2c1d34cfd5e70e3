"""What the paper preset asks of GPUs, up to all of MEAD on eight: python scripts/bench/paper.py [--json FILE].

Nets of the real size with random weights, which take as long as trained ones. Work is counted: multiplying and adding
are two. On a GPU steps and frames are timed as well, the shipped preset's beside them, and hours are those of what was
timed. Without one they are arithmetic: counted work, done at an assumed share of an H200's peak. In both cases GPUs are
taken to share the work without loss, and reading, decoding, validations and borrowed nets of the scores cost nothing.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import stages  # before torch, whose threads stage1 sets

# isort: split
import encoders
import numpy as np
import stage1
import torch
import typer
from accelerate import PartialState
from machine import Peak, clocked, flops_of, peaks, synchronise
from mead import MEAD
from stage1 import Line

from spear.clip import FPS, Clip
from spear.files import write_json
from spear.nets.lm2face import Lm2FaceConfig, build_lm2face
from spear.painter import Painter, load_lm2face
from spear.pretrained.audio_encoders import load_encoder
from spear.pretrained.perceptual import _vgg19
from spear.pretrained.vae import load_kl_autoencoder
from spear.stages import train_a2lm, train_lm2face
from spear.stages.render import PACKAGED
from spear.training_task import Part, Task

GPUS, SHARE = 8, 0.35
"""For all of MEAD; how much of its peak an H200 is assumed to reach."""
PEAKS = {"bf16": 989e12, "fp32": 67e12}
"""FLOP/s of it, as its maker states them. Stage 2 computes in bf16, stage 1 and the speech encoders in fp32."""
HOURS, TRAINED, TESTED = 280, 0.8, 0.1
FACES_OF_A_CLIP = 8
"""What train-lm2face shows of each clip in an epoch."""
BATCH = 32
FULL_SIZE: dict[str, Any] = dict(
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, scaling_factor=0.18215,
)  # fmt: skip
"""Stable Diffusion's autoencoder."""


class Machine:
    """Counts, and times where there is a GPU."""

    def __init__(self) -> None:
        self.device, self.lines = PartialState().device, list[Line]()
        self.timed = self.device.type != "cpu"
        self.peaks: dict[str, Peak] = peaks(self.device) if self.timed else {}

    def __call__(self, what: str, work: Any, count: int, unit: str, kind: str, bar: str = "") -> float:
        """Seconds of one of `count` steps or frames that `work` does; on a CPU those that are assumed of a GPU. kind:
        `bf16` or `fp32`, in which most of it is computed."""
        gflop = flops_of(work) / 1e9 / count
        self.add(Line(f"{what}: work of a {unit}", gflop, "GFLOP"))
        if not self.timed:
            return 1e9 * gflop / (PEAKS[kind] * SHARE)

        def done() -> None:
            work()
            synchronise(self.device)

        seconds = clocked(done, 5).wall / count
        peak = max(self.peaks[kind])
        share = f"{100 * 1e9 * gflop / seconds / peak:.0f} % of the measured {kind} peak, {peak / 1e12:.0f} TFLOP/s"
        self.add(Line(what, 1 / seconds, f"{unit}s/s", bar, share))
        return seconds

    def add(self, line: Line) -> None:
        """To the table, and at once to stderr: what was measured is not lost if what comes next fails."""
        self.lines.append(line)
        print(stage1.shown([line]).splitlines()[-1], file=sys.stderr, flush=True)


def write_vae(folder: Path) -> str:
    """The autoencoder of the paper preset, of full size, with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(**FULL_SIZE).save_pretrained(folder)
    return str(folder)


def write_vgg19(path: Path) -> Path:
    """The net of the perceptual loss, with random weights."""
    torch.save({f"features.{name}": value for name, value in _vgg19().state_dict().items()}, path)
    return path


def step_seconds(machine: Machine, task: Task, batch: int, kind: str, bar: str) -> float:
    """A step of a training with a batch of 32, of which a CPU counts the work of fewer samples."""
    size = batch if machine.timed else 1
    given = {key: value.to(machine.device) for key, value in stages.batch_of(task, size).items()}
    for module in task.modules.values():
        module.train()
    step = partial(task.step, given, 0.5, Part(size))
    if not machine.timed:
        return batch * machine(f"{task.name} paper", step, size, "sample", kind)
    what = f"{task.name} paper, batch {batch}"
    try:
        return machine(what, step, 1, "step", kind, bar)
    except torch.OutOfMemoryError:
        machine.add(Line(what, math.nan, "steps/s", bar, "does not fit into the memory"))
    for module in task.modules.values():
        module.saves_memory = True  # only stage 2 looks at it
    torch.get_device_module(machine.device).empty_cache()
    return machine(f"{what}, --save-memory", step, 1, "step", kind, bar)


def trainings(machine: Machine, folder: Path, vae: str) -> dict[str, float]:
    """GPU-seconds of both trainings, all epochs."""
    for number in range(BATCH + 1):
        clip = Clip(folder / "made" / f"clip{number}")
        stages._write_clip(clip, number)
        clip.write_features("hubert", torch.randn(75, 3, encoders.LARGE["hidden_size"]), {"encoder": "made"})
    perceptual, made = write_vgg19(folder / "vgg19.pth"), MEAD * TRAINED / BATCH
    a2lm, _ = stages.captured("train_a2lm", folder, preset="paper", encoder="hubert")
    seconds = step_seconds(machine, a2lm, BATCH, "fp32", "")
    epochs = train_a2lm.SCHEDULES["paper"].epochs
    spent = {f"train-a2lm, {epochs} epochs": seconds * made * epochs}
    lm2face, _ = stages.captured("train_lm2face", folder, preset="paper", vae=vae, perceptual=perceptual)
    seconds = step_seconds(machine, lm2face, BATCH, "bf16", "35 / 50 % of the peak")
    epochs = train_lm2face.PRESETS["paper"][0].epochs
    spent[f"train-lm2face, {epochs} epochs of {FACES_OF_A_CLIP} faces a clip"] = (
        seconds * made * FACES_OF_A_CLIP * epochs
    )
    return spent


def painting(machine: Machine, vae: str) -> float:
    """GPU-seconds of a frame that the paper preset's nets paint; beside it the shipped preset, and what else painting
    takes on the way to the GPU and back, which is why several threads feed it."""
    net = load_kl_autoencoder(vae)
    paper = build_lm2face(Lm2FaceConfig.paper("made"), net).eval().requires_grad_(False)
    shipped, found = load_lm2face(PACKAGED / "lm2face.safetensors"), []
    still = np.repeat(next(stage1._swaying_astronaut(1))[None, :256, :256], BATCH, 0)
    points = stage1.moving_points(BATCH, 0)
    for name, one, bar in (("paper", paper, "250 / 500"), ("shipped", shipped, "- / 3000")):
        size = BATCH if machine.timed else 1
        painter = Painter(one, points, lambda chosen: still[chosen])
        work = partial(painter.lower_faces, *painter.inputs(still[:size], points[:size]))
        found.append(machine(f"nets of the {name} preset, batch {size}", work, size, "frame", "bf16", bar))
        for threads in (1, 2, 4, 8) if machine.timed else ():
            rate = painted_a_second(painter, list(still[:4]), points[:4], threads)
            machine.add(Line(f"all of Painter.paint, {name} preset, batches of 4, threads {threads}", rate, "frames/s"))
    return found[0]


def painted_a_second(painter: Painter, crops: list[Any], points: Any, threads: int) -> float:
    """Frames that so many threads paint in a second, as `spear render` has them."""
    with ThreadPoolExecutor(threads) as pool:
        for batches in (2 * threads, 32 * threads):  # the first ones warm up
            started = time.perf_counter()
            list(pool.map(lambda _: painter.paint(crops, points, points), range(batches)))
    return batches * len(crops) / (time.perf_counter() - started)


def features(machine: Machine) -> float:
    """GPU-seconds of a second of speech through HuBERT (large)."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder("hubert", str(encoders.write_large("hubert", Path(folder))))
    samples = stage1.speech().to(machine.device)
    return machine("hubert (large)", lambda: encoder(samples), int(stage1.SECONDS), "second of speech", "fp32")


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
) -> None:
    """Count, measure, print a table, write JSON."""
    machine = Machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vae = write_vae(folder / "vae")
        spent = {"extract-audio-features --encoder hubert": features(machine) * HOURS * 3600}
        spent["metrics of the test split (half of its frames painted)"] = (
            painting(machine, vae) * HOURS * 3600 * FPS * TESTED / 2
        )
        spent |= trainings(machine, folder, vae)
    how = "as timed on one" if machine.timed else f"assumed: {100 * SHARE:.0f} % of the stated peak of an H200"
    for stage, seconds in spent.items():
        machine.add(Line(f"all of MEAD, {GPUS} GPUs: {stage}", seconds / GPUS / 3600, "hours", note=how))
    print(stage1.shown(machine.lines))
    if json_file is not None:
        write_json(json_file, {"machine": stage1.machine(), "lines": [asdict(line) for line in machine.lines]})


if __name__ == "__main__":
    typer.run(main)
