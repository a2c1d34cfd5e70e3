"""kill -9 at random moments: after the same command again everything has the bytes of a run that nobody disturbed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import multiprocessing.util
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import files, mind_signals
from conftest import talker
from made_up import make_clip

from reliability.conftest import Tally
from reliability.outcome import Outcome, is_whole, run_cli
from spear.checkpoint import read_tensors
from spear.files import sha256_of

pytestmark = pytest.mark.reliability

SIGNALS = 8


@dataclass(frozen=True)
class Case:
    """A command, and how what it needs is made in an empty folder."""

    args: tuple[str, ...]
    prepare: Callable[[Path], None]
    outputs: str
    """The folder whose files it makes, all of them."""
    kills: int = 20


def _videos(root: Path) -> None:
    (root / "videos").mkdir()
    for seed in range(3):
        talker(root / "videos" / f"talker_{seed}.mp4", seed, seconds=0.6)


def _clips(root: Path) -> None:
    _videos(root)
    assert _spear("preprocess", "videos", root=root).done


def _training_clips(root: Path) -> None:
    for number, split in enumerate(["train", "train", "train", "val"]):
        make_clip(root / "clips" / f"c{number}", frames=25, seed=number, split=split)


def _speech_and_face(root: Path) -> None:
    (root / "out").mkdir(parents=True)
    for name, seed in (("speech", 5), ("face", 1)):
        talker(root / f"{name}.mp4", seed, seconds=0.6)


RENDER = ("render", "--audio", "speech.mp4", "--ref", "face.mp4", "-o", "out/out.mp4", "--sheet", "out/out.png")
METRICS = (
    "metrics",
    "videos/talker_0.mp4",
    "videos/talker_1.mp4",
    "--figures",
    "figures",
    "--report",
    "report",
)
CASES = {
    "preprocess": Case(("preprocess", "videos"), _videos, "clips"),
    "landmarks": Case(("landmarks",), _clips, "clips"),
    "extract-audio-features": Case(("extract-audio-features", "--encoder", "mfcc"), _clips, "clips"),
    "train-a2lm": Case(("train-a2lm", "--epochs", "5"), _training_clips, "models"),
    "train-lm2face": Case(
        ("train-lm2face", "--epochs", "2", "--frames-per-clip", "1", "--refs", "3"), _training_clips, "models"
    ),
    "render": Case(RENDER, _speech_and_face, "out"),
    "render --adapt": Case((*RENDER, "--adapt", "2"), _speech_and_face, "out", kills=8),
    "render --watermark": Case((*RENDER, "--watermark"), _speech_and_face, "out", kills=6),
    "metrics": Case(METRICS, _videos, "report", kills=8),
}


def as_a_user(
    note: Path | None = None, at: int | None = None, after: float | None = None, number: int = signal.SIGKILL
) -> None:
    """What a fork of the test inherits and a shell's child does not; and states saved often, for kills to hit.

    The process sends itself a signal before it touches a file for the `at`th time, or `after` s. Notes when the command
    began and how often it touched a file.
    """
    from spear import training

    multiprocessing.set_start_method("fork", force=True)
    mind_signals()
    training.AUTOSAVE_SECONDS = 0.1
    began, counter, touches = time.monotonic(), itertools.count(1), [0]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in _TOUCHES and not str(args[0]).endswith((".py", ".pyc", ".so")):
            touches[0] = next(counter)
            if touches[0] == at:
                os.kill(os.getpid(), number)

    def tell() -> None:
        if note is not None:
            note.write_text(json.dumps({"touches": touches[0], "seconds": time.monotonic() - began}))

    sys.addaudithook(hook)
    multiprocessing.util.Finalize(None, tell, exitpriority=0)
    if after is not None:  # no alarm: trainings have their own
        timer = threading.Timer(after, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


_TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "tempfile.mkstemp", "shutil.rmtree"}


def _spear(*args: str, root: Path, **how: Any) -> Outcome:
    """Run a command with its cache and its temporary folder below `root`; how: as `as_a_user`."""
    (root / "tmp").mkdir(exist_ok=True)
    where = {"XDG_CACHE_HOME": str(root / "cache"), "TMPDIR": str(root / "tmp"), "OMP_NUM_THREADS": "1"}
    return run_cli(*args, cwd=root, timeout=120, prepare=partial(as_a_user, **how), watch=False, **where)


def _moments(root: Path, case: Case, seed: int, count: int) -> list[dict[str, Any]]:
    """When to interrupt: half by the clock, half before a file is touched, whatever the machine's load."""
    note = root.parent / "note"
    whole = _spear(*case.args, root=root, note=note)
    assert whole.done, whole
    most, random = json.loads(note.read_text()), np.random.default_rng(seed)
    by_clock = [{"after": random.uniform(0.01, most["seconds"])} for _ in range(count // 2)]
    return by_clock + [{"at": int(n)} for n in random.integers(1, most["touches"] + 1, count - count // 2)]


def _made(root: Path) -> dict[str, object]:
    """What every file holds, by name: its digest, but of logs and states without the time that training took.

    TensorBoard's files and the list of clips are left out: they hold times.
    """
    found: dict[str, object] = {}
    for name, (_, digest) in files(root).items():
        if "tensorboard" in name or ".index/" in name:
            continue
        if name.endswith(".log.jsonl"):
            rows = [json.loads(line) for line in (root / name).read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif name.endswith("state.safetensors"):
            tensors, about = read_tensors(root / name)
            said = {key: value for key, value in about.items() if key not in ("seconds", "sha256")}
            found[name] = said, {key: value.numpy().tobytes() for key, value in tensors.items()}
        else:
            found[name] = digest
    return found


def _temporary(root: Path) -> list[str]:
    """Temporary files, and what is in the temporary folder but torch's cache, which has a fixed name."""
    paths = {*root.rglob(".spear-*"), *(root / "tmp").iterdir()} - {*(root / "tmp").glob("torchinductor_*")}
    return sorted(str(path.relative_to(root)) for path in paths)


def _torn(root: Path) -> list[str]:
    """Files with a final name that are not whole. The last line of a log may be: the next run drops it."""
    final = [name for name in files(root) if not Path(name).name.startswith(".") and "/.spear-" not in name]
    return [name for name in final
            if "tensorboard" not in name and not name.endswith(".log.jsonl") and not is_whole(root / name)]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kills_leave_no_trace(name: str, tmp_path: Path, tally: Tally) -> None:
    case = CASES[name]
    given, unbroken = tmp_path / "given", tmp_path / "unbroken"
    given.mkdir()
    case.prepare(given)
    shutil.copytree(given, unbroken)
    moments = _moments(unbroken, case, len(name), case.kills)
    wanted = _made(unbroken)
    assert _temporary(unbroken) == []
    assert any(path.startswith(case.outputs) for path in wanted.keys() - _made(given).keys())
    hit = 0
    for moment in moments:
        root = tmp_path / "killed"
        shutil.copytree(given, root)
        hit += _spear(*case.args, root=root, **moment).code == -signal.SIGKILL
        torn = _torn(root)
        again = _spear(*case.args, root=root)
        assert again.done, (again, moment)
        made, left = _made(root), _temporary(root)
        lost = [path for path, what in wanted.items() if made.get(path) != what]
        tally.add(partial=len(torn) + len(left), bytes_lost=len(lost))
        assert (torn, left, lost, made.keys() - wanted.keys()) == ([], [], [], set()), moment
        shutil.rmtree(root)
    assert hit >= case.kills // 4  # by the clock it may be too late


@pytest.mark.parametrize("name", ["landmarks", "extract-audio-features", "render", "render --adapt"])
def test_four_processes_at_once_do_what_one_does(name: str, tmp_path: Path) -> None:
    """On the same clips, to the same output, with the same cache."""
    case = CASES[name]
    alone = tmp_path / "alone"
    alone.mkdir()
    case.prepare(alone)
    together = Path(shutil.copytree(alone, tmp_path / "together"))
    assert _spear(*case.args, root=alone).done
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(_spear, *case.args, root=together) for _ in range(4)]
    for run in runs:
        assert run.result().done, run.result()
    assert (_made(together), _temporary(together)) == (_made(alone), [])


def test_no_sidecar_stands_beside_another_video(tmp_path: Path) -> None:
    """Killed at each of the last moments of a render that takes the place of another one."""
    _speech_and_face(root := tmp_path / "root")
    note = tmp_path / "note"
    assert _spear(*RENDER, root=root, note=note).done
    touches = json.loads(note.read_text())["touches"]
    other = ("render", "--audio", "face.mp4", *RENDER[3:])
    shutil.copytree(root / "out", tmp_path / "old")
    for at in range(touches - 11, touches + 1):
        shutil.rmtree(root / "out")
        shutil.copytree(tmp_path / "old", root / "out")
        _spear(*other, root=root, at=at)
        sidecar = root / "out/out.mp4.json"
        if sidecar.exists():
            said = json.loads(sidecar.read_text())["video"]["sha256"]
            assert said == sha256_of(root / "out/out.mp4"), at


SAID = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


@pytest.mark.parametrize("number", SAID, ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["render", "render --adapt"])
def test_a_signal_ends_a_render_in_one_line(name: str, number: signal.Signals, tmp_path: Path, tally: Tally) -> None:
    case, (code, word) = CASES[name], SAID[number]
    given = tmp_path / "given"
    given.mkdir()
    case.prepare(given)
    root = Path(shutil.copytree(given, tmp_path / "root"))
    moments, ended = _moments(root, case, code, SIGNALS), 0
    for moment in moments:
        shutil.rmtree(root)
        shutil.copytree(given, root)
        outcome = _spear(*case.args, root=root, number=number, **moment)
        left = _temporary(root)
        tally.add(partial=len(left))
        assert (left, _processes_in(root)) == ([], []), moment
        if outcome.code == 0:  # it came too late
            continue
        line = rf"error: ({word}|stopped (after step \d|within a long step)); run the same command again to go on.*\n"
        assert re.fullmatch(line, outcome.err), outcome.err
        assert (outcome.code, outcome.out, _torn(root)) == (code, "", [])
        ended += 1
    assert ended >= SIGNALS // 4


def _processes_in(root: Path) -> list[str]:
    """Processes whose working folder this is."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == root:
                found.append(link.parent.name)
    return found
