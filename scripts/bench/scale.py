"""How SPEAR scales to all of MEAD: python scripts/bench/scale.py [--clips 28040] [--json FILE].

A tree with MEAD's names, counts and irregularities is made from tiny videos by hard links, and folders of clips as the
stages leave them. Overheads are measured on all of them, real work on a few; what all of MEAD takes is the product.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import stage1  # before torch, which reads what it sets

# isort: split
import cv2
import typer
from machine import peak_memory
from mead import MEAD, PUBLIC, make_clips, make_media, make_tree
from stage1 import Line
from stages import write_footage

from spear.clip import FPS
from spear.files import sha256_of, write_json
from spear.shards import in_shard
from spear.sources import assign_splits, find_sources
from spear.video import Footage, VideoWriter

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev"

FRAMES, HOURS, CORES = 25_000_000, 280, 256
"""All of MEAD, at 25 fps; the machines that the estimate is for."""


def index(root: Path) -> list[Line]:
    """What it costs to know which clips there are, and how even shards are."""
    started = time.perf_counter()
    sources, _ = find_sources([root])
    found = time.perf_counter() - started
    assign_splits(sources, "clip", 0)
    split = time.perf_counter() - started - found
    counts = [sum(in_shard(source.id, i, 8) for source in sources) for i in range(8)]
    of_many = Counter(next(i for i in range(CORES) if in_shard(source.id, i, CORES)) for source in sources[:20_000])
    spread = f"of {CORES} shards of 20,000 clips: {min(of_many.values())} to {max(of_many.values())}"
    return [
        Line(f"walk over {len(sources)} videos", found, "s", note=f"{1e6 * found / len(sources):.0f} us a video"),
        Line("deal them out to splits", split, "s"),
        Line("largest of 8 shards over the mean", max(counts) / (len(sources) / 8), "times", note=spread),
    ]


ENGINE = """
import json, re, sys, time
from pathlib import Path
from spear.jobs import run_each
from spear.workers import Workers
count, jobs = int(sys.argv[1]), int(sys.argv[2])
memory = lambda: int(re.search("VmHWM:\\\\s*(\\\\d+)", Path("/proc/self/status").read_text())[1]) / 1e6
items = [str(i) for i in range(count)]
before, first = memory(), None
for item, result in run_each(str.upper, items, Workers(jobs)):
    first = first or time.perf_counter()
print(json.dumps({"seconds": time.perf_counter() - first, "before": before, "memory": memory()}))
"""


def engine(clips: int) -> list[Line]:
    """Clips that take no time: what handing them out costs, and what the one who hands out keeps in memory."""
    lines = []
    for jobs in (1, 2):
        run = subprocess.run([sys.executable, "-c", ENGINE, str(clips), str(jobs)], stdout=subprocess.PIPE, check=True)
        said = json.loads(run.stdout)
        note = f"{clips} clips; memory {said['memory']:.2f} GB, {said['before']:.2f} before"
        each = 1000 * said["seconds"] / clips
        lines.append(Line(f"engine, {jobs} worker(s): overhead of a clip", each, "ms", "5 at 20 clips a task", note))
    return lines


def spear(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line; 3 says that some clips were left out."""
    run = subprocess.run(
        [sys.executable, "-m", "spear_cli", *map(str, words)], capture_output=True, text=True, **options
    )
    if run.returncode not in (0, 3):
        raise RuntimeError(f"spear {words[0]} ended with {run.returncode}: {run.stderr}")
    return run


def digests(clips: Path) -> dict[str, str]:
    """What stands in a folder of clips."""
    return {str(path.relative_to(clips)): sha256_of(path) for path in sorted(clips.rglob("*.*")) if path.is_file()}


def resumed(root: Path, folder: Path) -> list[Line]:
    """A part of the tree: killed with all its processes again and again, then done; and a run that nobody killed."""
    whole, killed, lines = folder / "whole", folder / "killed", []
    part = root / PUBLIC[0] / "video" / "front" / "angry"
    started = time.perf_counter()
    spear("preprocess", part, "--clips", whole)
    took, count, rounds = time.perf_counter() - started, len(list(whole.glob("*/clip.json"))), 0
    while len(list(killed.glob("*/clip.json"))) < count and rounds < 20:
        command = [sys.executable, "-m", "spear_cli", "preprocess", part, "--clips", killed, "--jobs", 2]
        run = subprocess.Popen(list(map(str, command)), start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(8)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        rounds += 1
    spear("preprocess", part, "--clips", killed, "--jobs", 2)
    equal = digests(whole) == digests(killed)
    lines.append(Line(f"{count} clips, one worker", 1000 * took / count, "ms a clip", note="start-up included"))
    lines.append(
        Line("killed after 8 s, again and again: as if never killed", float(equal), "", note=f"{rounds} kills")
    )
    return lines


def workers(folder: Path, seconds: float = 20, clips: int = 8) -> list[Line]:
    """Two workers against one that has one core as well, on long clips; a run with nothing to do is subtracted."""
    first = write_footage(folder / "long" / "0.mp4", seconds, None)
    for number in range(1, clips):
        os.link(first, first.with_name(f"{number}.mp4"))
    cores, took = sorted(os.sched_getaffinity(0)), {}
    for jobs in (1, 2):
        words = [sys.executable, "-m", "spear_cli", "preprocess", first.parent, "--clips", folder / f"long{jobs}"]
        whole, idle = (peak_memory([*words, "--jobs", jobs], cores[:jobs]).seconds for _ in range(2))
        took[jobs] = whole - idle
    frames = clips * seconds * FPS
    note = f"{frames / took[1]:.0f} and {frames / took[2]:.0f} frames/s"
    return [Line("preprocess, long clips: two workers against one", took[1] / took[2], "times", "1.8", note)]


def starts(folder: Path, count: int) -> list[Line]:
    """How long a training takes until its first step, twice: the index is made by the first."""
    clips, lines = make_clips(folder, count), []
    for what in ("without", "with"):
        models = folder / f"models {what}"
        command = [
            sys.executable,
            "-m",
            "spear_cli",
            "train-a2lm",
            "--clips",
            clips,
            "--models",
            models,
            "--encoder",
            "mfcc",
        ]
        started = time.perf_counter()
        run = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        log = models / "a2lm.log.jsonl"
        while run.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        took = time.perf_counter() - started
        status = Path(f"/proc/{run.pid}/status").read_text()
        memory = int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1e6  # type: ignore[index]
        run.terminate()
        run.wait()
        bar = "10 s, 2 GB" if what == "with" else ""
        lines.append(
            Line(f"train-a2lm, {count} clips, {what} an index: first step", took, "s", bar, f"{memory:.2f} GB")
        )
    cost = peak_memory([sys.executable, "-m", "spear_cli", "status", clips])
    return [*lines, Line(f"spear status, {count} clips", cost.seconds, "s", note=f"{cost.gigabytes:.2f} GB")]


def units(folder: Path) -> list[Line]:
    """Real work on 1080p, as MEAD's is: processor time and bytes of a frame, and what that makes for all of MEAD."""
    source, videos, clips = DATA / "mead_W023_level_2_surprised_010.mp4", folder / "units", folder / "units clips"
    videos.mkdir()
    for number in range(6):
        if source.exists():
            shutil.copy(source, videos / f"{number}.mp4")
        else:
            write_large(videos / f"{number}.mp4")
    lines = []
    for stage in ("preprocess", "landmarks", "extract-audio-features"):
        words = [
            sys.executable,
            "-m",
            "spear_cli",
            stage,
            *([videos] if stage == "preprocess" else []),
            "--clips",
            clips,
        ]
        few = peak_memory([*words, "--jobs", 1]).processor  # the first time; then nothing is left to do but to start
        idle = peak_memory([*words, "--jobs", 1]).processor
        frames = sum(json.loads(path.read_text())["frames"] for path in clips.glob("*/clip.json"))
        cost, hours = (few - idle) / frames, (few - idle) / frames * FRAMES / 3600
        note = f"all of MEAD: {hours:.0f} core-hours, {hours / CORES:.1f} h on {CORES} cores"
        lines.append(Line(f"{stage}, 1080p: a frame", 1000 * cost, "ms of a core", note=note))
    sizes = Counter[str]()
    for path in clips.glob("*/*"):
        sizes[path.name] += path.stat().st_size
    for name, size in sorted(sizes.items()):
        note = f"all of MEAD: {size / frames * FRAMES / 1e12:.3f} TB"
        lines.append(Line(f"{name}: a frame", size / frames / 1000, "kB", note=note))
    return lines


def write_large(path: Path) -> None:
    """Three seconds of the astronaut at 1920x1080."""
    small = write_footage(path.with_name("small.mp4"), 3, None)
    with VideoWriter(path, 1920, 1080, small) as writer:
        for frame in Footage(small).frames():
            writer.write(cv2.resize(frame, (1920, 1080)))
    small.unlink()


def main(
    clips: Annotated[int, typer.Option(help=f"In the tree; {MEAD}: all of MEAD.")] = 28_040,
    handed: Annotated[
        int, typer.Option(help="Clips that the engine hands out, folders that a training starts on.")
    ] = MEAD,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    at: Annotated[Path | None, typer.Option(help="Where the tree is made; it is removed afterwards.")] = None,
) -> None:
    """Make the tree, measure, print a table, write JSON."""
    about, lines = stage1.machine(), list[Line]()
    with tempfile.TemporaryDirectory(dir=at) as name:
        folder = Path(name)
        make_tree(folder / "mead", clips, make_media(folder))
        tree = folder / "mead"
        works: list[tuple[Any, ...]] = [(index, tree), (engine, handed), (workers, folder), (resumed, tree, folder),
                                        (units, folder), (starts, folder, handed)]  # fmt: skip
        for measure, *given in works:
            lines += measure(*given)
            print(stage1.shown(lines), end="\n\n", flush=True)
    if json_file is not None:
        write_json(json_file, {"machine": about, "lines": [asdict(line) for line in lines]})


if __name__ == "__main__":
    typer.run(main)
