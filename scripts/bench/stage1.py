"""How fast stage 1 and what it reads are on this machine: python scripts/bench/stage1.py [--json FILE].

Every figure is a median of repeated runs, one after the other; nets are fresh, since weights do not change the time.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch reads it

import cv2
import numpy as np
import torch
import typer
from accelerate import PartialState
from skimage.data import astronaut

from spear.audio import load_audio
from spear.clip import CROP, FPS, SAMPLE_RATE, Clip, ClipInfo
from spear.crop import crop_transform, to_crop
from spear.face import FaceTracker
from spear.files import write_json
from spear.losses import landmark_mse, landmark_velocity
from spear.nets.a2lm import A2LM, A2LMConfig, build_a2lm, predict_landmarks
from spear.points import LOWER, N_LOWER, N_POINTS, N_UPPER, Array, head_motion, pose_input, spread_over_opening
from spear.pretrained.audio_encoders import load_encoder

SPEECH = Path(__file__).parents[1] / "demo" / "speech.wav"
SECONDS = 10
REPEATS = 5


@dataclass(frozen=True)
class Line:
    """One row of the table. bar: what the figure should reach, in words; note: what must be known to read it."""

    what: str
    value: float | None
    unit: str
    bar: str = ""
    note: str = ""


def median_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall-clock seconds of `repeats` calls, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def speech() -> torch.Tensor:
    """Ten seconds of the demo's voice, repeated: (160000,) float32."""
    return torch.from_numpy(np.resize(load_audio(SPEECH), SECONDS * SAMPLE_RATE))


def astronaut_points() -> Array:
    """What FaceTracker finds in the astronaut, (131, 2) px, kept for machines with a GPU and without MediaPipe."""
    return np.array(json.loads(Path(__file__).with_name("astronaut.json").read_text()), np.float32)


@cache
def portrait_points() -> Array:
    """The astronaut's points as preprocess would see them: (131, 2) crop px."""
    found = astronaut_points()
    return to_crop(found, crop_transform(found[None], smoothing=0)[0])


def moving_points(frames: int, seed: int) -> Array:
    """The astronaut swaying by a few px, jaw and lips moved at the rate of syllables: (F, 131, 2) crop px."""
    random, points = np.random.default_rng(seed), portrait_points()
    moments = np.arange(frames)
    track = np.repeat(points[None], frames, axis=0)
    track[..., 0] += 3 * np.sin(moments * 0.15 + random.uniform(0, 6))[:, None]
    below = np.clip((points[LOWER, 1] - points[LOWER, 1].mean()) / 10, 0, 1)
    track[:, LOWER, 1] += (4 + 4 * np.sin(moments * 0.9 + random.uniform(0, 6)))[:, None] * below
    return track.astype(np.float32)


def start_up() -> list[Line]:
    """What a user waits for before the help appears."""
    command = [sys.executable, "-m", "spear_cli", "--help"]
    seconds = median_seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
    return [Line("start-up of spear --help", seconds, "s")]


def features() -> list[Line]:
    """Both encoders that need no download."""
    lines, samples = [], speech().to(PartialState().device)
    for name in ("mfcc", "whisper"):
        encoder = load_encoder(name)
        seconds = median_seconds(lambda encoder=encoder: encoder(samples).cpu())  # type: ignore[misc]
        note = f"real-time factor {seconds / SECONDS:.4f}"
        lines.append(Line(f"{name} features of {SECONDS} s of speech", seconds, "s", note=note))
    return lines


def speech_to_landmarks() -> list[Line]:
    """What stage 1 adds to a rendering: features, the pose's low-pass, windows through the net."""
    encoder, track, samples = load_encoder("mfcc"), moving_points(SECONDS * FPS, seed=0), speech()
    net = build_a2lm(_small(encoder)).eval().to(PartialState().device)
    references = torch.from_numpy(track[spread_over_opening(track, net.config.references)])

    def work() -> None:
        pose, head = torch.from_numpy(pose_input(track, "rigid")), torch.from_numpy(head_motion(track))
        predict_landmarks(net, encoder(samples), pose, references, head)

    what = f"speech to landmarks, {SECONDS} s, mfcc, small preset"
    return [Line(what, median_seconds(work), "s", bar="under 1 s", note="a fresh net of that size, random weights")]


def _small(encoder: Any) -> A2LMConfig:
    return A2LMConfig(encoder=encoder.name, encoder_settings=encoder.settings, feature_shape=encoder.shape)


def face_detection() -> list[Line]:
    """FaceTracker alone on frames that are in memory: no decoding."""
    frames = list(_swaying_astronaut(100))

    def work() -> None:
        with FaceTracker() as tracker:
            assert all(tracker(frame) is not None for frame in frames)

    with _one_core():
        rate = len(frames) / median_seconds(work, repeats=3)
    return [Line("face detection, 640x480, one core", rate, "frames/s", bar="60 frames/s")]


def _swaying_astronaut(count: int) -> Iterator[np.ndarray]:
    """(480, 640, 3) uint8, the head and shoulders moving by some px."""
    still = cv2.resize(astronaut()[:384], (640, 480), interpolation=cv2.INTER_AREA)
    for i in range(count):
        shift = np.array([[1, 0, 8 * np.sin(i / 6)], [0, 1, 4 * np.cos(i / 9)]], np.float32)
        yield cv2.warpAffine(still, shift, (640, 480), borderMode=cv2.BORDER_REPLICATE)


@contextmanager
def _one_core() -> Iterator[None]:
    """Threads that are started meanwhile stay on the core as well."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def training(repeats: int = 3, clips: int = 65, epochs: int = 30) -> list[Line]:
    """`spear train-a2lm --preset small` on clips of 75 frames, a window each."""
    rates, busy = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(clips):
            _write_clip(Clip(Path(folder, "clips", f"clip{number}")), number, "val" if number == 0 else "train")
        for number in range(repeats):
            rate, share = _train(Path(folder, "clips"), Path(folder, f"models{number}"), epochs)
            rates.append(rate)
            busy += [] if share is None else [share]
    note = f"{clips - 1} made clips of 75 frames, batch 32, {epochs} epochs; from the log, start-up left out"
    return [
        Line("training, small preset, mfcc", statistics.median(rates), "steps/s", note=note),
        Line("trainer kept busy by the data loader", statistics.median(busy) if busy else None, "%",
             note="as spear train-a2lm says at its end"),
    ]  # fmt: skip


def _write_clip(clip: Clip, seed: int, split: str) -> None:
    """What stage 1 reads of a clip: clip.json, landmarks and mfcc features, no pictures."""
    points, encoder = moving_points(75, seed), load_encoder("mfcc")
    clip.folder.mkdir(parents=True)
    info: dict[str, Any] = dict(
        source=f"{clip.id}.mp4", source_sha256=f"{seed:064x}", source_size=1, source_mtime_ns=1, width=CROP,
        height=CROP, frames=len(points), crop=[[1.0, 0.0, 0.0, 0.0]] * len(points), missing=[], has_audio=True,
        speaker="made", view=None, emotion=None, level=None, split=split, split_rule="made",
    )  # fmt: skip
    clip.write_info(ClipInfo(**info))
    clip.write_landmarks(points, np.ones(len(points), np.float32), {"detector": "made"})
    clip.write_features("mfcc", encoder(speech().roll(SAMPLE_RATE * seed // 7)[: SAMPLE_RATE * 3]), encoder.settings)


def _train(clips: Path, models: Path, epochs: int) -> tuple[float, float | None]:
    """Steps per second between the first and the last step of the log, and the share in % that the command prints."""
    arguments = ["--encoder", "mfcc", "--clips", clips, "--models", models, "--epochs", epochs]
    command = [sys.executable, "-m", "spear_cli", "train-a2lm", *map(str, arguments)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [json.loads(line) for line in (models / "a2lm.log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "seconds" in row]
    rate = (steps[-1]["step"] - steps[0]["step"]) / (steps[-1]["seconds"] - steps[0]["seconds"])
    busy = re.search(r"kept the trainer (\d+) % busy", said)
    return rate, float(busy[1]) if busy else None


def paper_preset() -> list[Line]:
    """The paper's net at its batch size; on a CPU one step of one window, which proves no more than that it runs."""
    device = PartialState().device
    if device.type == "cpu":
        seconds, _ = _paper_steps(device, batch=1, steps=1, dtype=torch.float32)
        note = f"one step at batch 1 ran in {seconds:.1f} s here"
        return [Line("training, paper preset, batch 32, fp32 and bf16", None, "steps/s", "owed: needs a GPU", note)]
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        results = [_paper_steps(device, batch=32, steps=20, dtype=dtype) for _ in range(3)]
        note = f"peak memory {max(memory for _, memory in results) / 2**30:.2f} GiB, random features of HuBERT's size"
        rate = 20 / statistics.median(seconds for seconds, _ in results)
        lines.append(Line(f"training, paper preset, batch 32, {str(dtype).split('.')[1]}", rate, "steps/s", note=note))
    return lines


def _paper_steps(device: torch.device, batch: int, steps: int, dtype: torch.dtype) -> tuple[float, int]:
    """Seconds of `steps` training steps after two that warm up on a GPU, and the peak memory there in bytes."""
    net = build_a2lm(A2LMConfig.paper(encoder="hubert", encoder_settings={}, feature_shape=(3, 1024))).to(device)
    optimiser, window = torch.optim.Adam(net.parameters(), lr=1e-4), net.config.window
    shapes = [(window, 3, 1024), (window, N_UPPER, 2), (net.config.references, N_POINTS, 2)]
    inputs = [torch.randn(batch, *shape, device=device) for shape in shapes]
    truth = torch.randn(batch, window, N_LOWER, 2, device=device)

    def run(count: int) -> None:
        for _ in range(count):
            _step(net, optimiser, inputs, truth, dtype)

    if device.type == "cpu":
        started = time.perf_counter()
        run(steps)
        return time.perf_counter() - started, 0
    gpu = torch.get_device_module(device)
    gpu.reset_peak_memory_stats()
    run(2)
    gpu.synchronize()
    started = time.perf_counter()
    run(steps)
    gpu.synchronize()
    return time.perf_counter() - started, gpu.max_memory_allocated()


def _step(
    net: A2LM, optimiser: torch.optim.Optimizer, inputs: list[torch.Tensor], truth: torch.Tensor, dtype: torch.dtype
) -> None:
    """The stage's step: equation 7, gradients clipped."""
    with torch.autocast(truth.device.type, dtype, enabled=dtype != torch.float32):
        pred = net(*inputs)
    pred = pred.float() / CROP
    optimiser.zero_grad()
    (landmark_mse(pred, truth) + landmark_velocity(pred, truth)).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()


MEASURED = (start_up, features, speech_to_landmarks, face_detection, training, paper_preset)


def shown(lines: list[Line]) -> str:
    """The table for people."""
    cells = [(x.what, "-" if x.value is None else f"{x.value:.4g}", x.unit, x.bar, x.note) for x in lines]
    cells.insert(0, ("what", "median", "unit", "bar", "note"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def machine() -> dict[str, Any]:
    """What the figures depend on beside the program."""
    return {
        "device": str(PartialState().device),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    lines = [line for measure in MEASURED for line in measure()]
    print(shown(lines))
    if json_file is not None:
        write_json(json_file, {"machine": about, "lines": [asdict(line) for line in lines]})


if __name__ == "__main__":
    typer.run(main)
