"""`spear status`: what is done of a folder of clips, what is missing, what failed, and how long the rest will take.

Nothing but names and times of files is read, for they are what every process and machine that works on the folder
leaves behind; so it may be asked at any time, of a folder of any size.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from spear.clip import Clip
from spear.errors import SpearError
from spear.files import read_json
from spear.left_out import LIST, UNFINISHED, read_left_out
from spear.rates import duration, rate

_RECENT = 200
"""Clips whose times of finishing tell the pace."""
_PAUSE = 20
"""A gap longer than so many usual ones is a pause between two runs."""
_QUIET = 120.0
"""Seconds after which nobody seems to work, unless clips take longer than that."""
_SHOWN = 5


@dataclass
class StageStatus:
    """Of one stage: clips done, left out and missing (None: nobody knows how many there are), seconds since the last
    one was finished, clips per second as of late, and whether somebody seems to work."""

    stage: str
    done: int
    left_out: int
    missing: int | None
    since_last: float | None = None
    per_second: float | None = None
    running: bool = False

    @property
    def seconds_left(self) -> float | None:
        """For what is missing at this pace."""
        if self.missing is None or not self.per_second:
            return None
        return self.missing / self.per_second

    def line(self) -> str:
        """In words."""
        words = [f"{self.stage}: {self.done} done"]
        words += [f"{self.missing} missing"] if self.missing else []
        words += [f"{self.left_out} left out"] if self.left_out else []
        if self.missing and self.per_second:
            rest = duration(self.missing / self.per_second)
            pause = f"nothing for {duration(self.since_last or 0)}; {rest} at the pace before"
            words.append(f"{rate(self.per_second)}, {rest} left" if self.running else pause)
        return ", ".join(words)


@dataclass
class Status:
    """Of a folder of clips, stage by stage; what was left out, as in skipped.jsonl."""

    clips: str
    stages: list[StageStatus] = field(default_factory=list)
    models: dict[str, float] = field(default_factory=dict)
    """Trained models in `models` beside the clips, and seconds since each was written."""
    left_out: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> str:
        """Sorted JSON, on one line."""
        stages = [asdict(stage) | {"seconds_left": stage.seconds_left} for stage in self.stages]
        return json.dumps({**asdict(self), "stages": stages}, sort_keys=True)

    def to_text(self) -> str:
        """A line for each stage, and the reasons for what was left out, the most frequent kinds by their first."""
        lines = [stage.line() for stage in self.stages]
        lines += [f"train-{net}: best model written {duration(age)} ago" for net, age in self.models.items()]
        for row in self.left_out[:_SHOWN]:
            what = next(row[name] for name in ("source", "clip") if name in row)
            lines.append(f"left out by {row['stage']}: {what}: {row['reason']}")
        if len(self.left_out) > _SHOWN:
            lines.append(f"left out: {len(self.left_out) - _SHOWN} more; see {Path(self.clips) / LIST}")
        return "\n".join(lines)


def status(clips: Path) -> Status:
    """Look at a folder of clips. Raises SpearError where it is none."""
    if not clips.is_dir():
        raise SpearError(f"{clips} is not a folder; run `spear preprocess VIDEOS` first, or give the clips' folder")
    times: dict[str, list[float]] = {"clip.json": [], "landmarks.safetensors": []}
    for name, changed in _products(clips):
        times.setdefault(name, []).append(changed)
    left_out = list(read_left_out(clips / LIST))
    count = Counter(row["stage"] for row in left_out)
    there, now = len(times["clip.json"]), time.time()
    found = Status(str(clips), left_out=left_out)
    for name, finished in times.items():
        stage = _stage_of(name)
        total = _videos(clips) if stage == "preprocess" else there
        missing = None if total is None else max(total - len(finished) - count[stage], 0)
        found.stages.append(_with_pace(StageStatus(stage, len(finished), count[stage], missing), finished, now))
    for net in ("a2lm", "lm2face"):
        with suppress(FileNotFoundError):
            found.models[net] = max(0.0, now - (clips.parent / "models" / f"{net}.safetensors").stat().st_mtime)
    return found


def _products(clips: Path) -> Iterator[tuple[str, float]]:
    """Name of each file that a stage ends with, and when it was written, of all whole clips."""
    with os.scandir(clips) as folders:
        for folder in folders:
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            with suppress(FileNotFoundError), os.scandir(folder.path) as files:
                found = {file.name: file for file in files if not file.name.startswith(".")}
                if "clip.json" in found:
                    ends = (name for name in found if name == "clip.json" or name.endswith(".safetensors"))
                    yield from [(name, found[name].stat().st_mtime) for name in ends]


def _stage_of(name: str) -> str:
    clip = Clip(Path())
    known = {
        clip.info_path.name: "preprocess",
        clip.landmarks_path.name: "landmarks",
        clip.latents_path.name: "train-lm2face --cache-latents",
    }
    return known.get(name) or f"extract-audio-features --encoder {name.removesuffix('.safetensors')}"


def _videos(clips: Path) -> int | None:
    """How many videos a run of preprocess has that is not done; None where there is none."""
    counts = []
    for path in (clips / UNFINISHED).glob("preprocess.*.json"):
        with suppress(SpearError, KeyError, TypeError):  # it has just ended
            counts.append(int(read_json(path)["clips"]))
    return max(counts, default=None)


def _with_pace(stage: StageStatus, finished: Iterable[float], now: float) -> StageStatus:
    """Add how fast the last clips followed each other, pauses left out."""
    times = np.sort(np.array(list(finished)))[-_RECENT:]
    if len(times):
        stage.since_last = max(0.0, now - float(times[-1]))
    if len(times) > 1:
        gaps = np.diff(times)
        gaps = gaps[gaps <= _PAUSE * max(float(np.median(gaps)), 0.05)]
        mean = float(gaps.mean()) if len(gaps) else 0.0
        stage.per_second = 1 / max(mean, 1e-3)
        stage.running = bool(stage.missing) and (stage.since_last or 0) < max(_QUIET, _PAUSE * mean)
    return stage
