"""Work on many clips: some crash, hang or eat memory; workers are killed; signals; many at once on one folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import descendants_of, mind_signals
from conftest import talker

from spear.files import sha256_of

pytestmark = pytest.mark.reliability

FAULTS = Path(__file__).with_name("faults")
STAGES = {
    "preprocess": ("preprocess", "videos"),
    "landmarks": ("landmarks",),
    "extract-audio-features": ("extract-audio-features", "--encoder", "mfcc"),
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four videos of 20 frames, with sound."""
    folder = tmp_path_factory.mktemp("footage")
    return [talker(folder / f"{seed}.mp4", seed, seconds=0.8) for seed in range(4)]


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory, footage: list[Path]) -> Path:
    """Twelve clips as one process makes them, with landmarks and features."""
    folder = tmp_path_factory.mktemp("serial")
    videos(folder, footage, 12)
    for words in STAGES.values():
        assert finish(start(*words, cwd=folder))[0] == 0
    return folder


def videos(folder: Path, footage: list[Path], count: int) -> None:
    """A folder `videos` with so many videos, each of the footage several times."""
    (folder / "videos").mkdir()
    for number in range(count):
        os.link(footage[number % len(footage)], folder / f"videos/v{number:03}.mp4")


def start(*words: str | Path, cwd: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spear_cli", *map(str, words)], cwd=cwd, env=os.environ | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=mind_signals,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300 * patience())
    finally:
        process.kill()
    return process.returncode, out, err


def hashes(folder: Path) -> dict[str, str]:
    """Every file below clips/, hidden ones too."""
    clips = folder / "clips"
    return {str(path.relative_to(clips)): sha256_of(path) for path in clips.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "clips/skipped.jsonl").read_text().splitlines()]


def patience() -> float:
    """How much longer than alone everything may take on this machine now."""
    return max(1.0, 2 * os.getloadavg()[0] / len(os.sched_getaffinity(0)))


# --- a bad clip among forty ------------------------------------------------------------------------------------------


REASONS = {
    "crash": "its process crashed (SIGSEGV); see whether the file is sound",
    "hang": "it took longer than 8 s; look at it, or give it more with --clip-timeout",
    "hoard": "it wanted more than 1.5 GB of memory; give fewer --jobs, or more with --memory",
}


@pytest.mark.parametrize(
    ("stage", "how", "jobs"),
    [
        ("preprocess", "crash", 2), ("preprocess", "hang", 2), ("preprocess", "hoard", 2), ("preprocess", "crash", 1),
        ("landmarks", "crash", 2), ("landmarks", "hang", 1), ("extract-audio-features", "hoard", 2),
    ],
)  # fmt: skip
def test_of_forty_clips_thirty_nine_are_done(
    stage: str, how: str, jobs: int, footage: list[Path], tmp_path: Path, tally: Any
) -> None:
    videos(tmp_path, footage, 39)
    os.link(footage[0], tmp_path / "videos/bad.mp4")
    if stage != "preprocess":
        assert finish(start("preprocess", "videos", "--jobs", "2", cwd=tmp_path))[0] == 0
    begun, wait = time.monotonic(), patience()
    words = (*STAGES[stage], "--jobs", str(jobs), "--clip-timeout", "8", "--memory", "1.5")
    path = os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")])
    code, out, err = finish(start(*words, cwd=tmp_path, PYTHONPATH=path, DEADLY=how))
    seconds = time.monotonic() - begun
    assert (code, err) == (3, ""), err
    name = "videos/bad.mp4" if stage == "preprocess" else "bad"
    assert out == f"39 clips done, 0 already there, 1 left out\nleft out: {name}: {REASONS[how]}\n"
    assert [row["reason"] for row in rows(tmp_path)] == [REASONS[how]]
    assert not [path for path in tmp_path.rglob(".spear-*")]
    assert seconds < 60 * wait
    tally.add(tried=1, coped=1)


# --- workers that are killed -----------------------------------------------------------------------------------------


def test_a_worker_killed_every_five_seconds_for_a_minute(footage: list[Path], serial: Path, tmp_path: Path) -> None:
    """Every clip is done, once, and is what it always is."""
    videos(tmp_path, footage, 150)
    process, kills, dice = start("preprocess", "videos", "--jobs", "2", cwd=tmp_path), 0, random.Random(0)
    while process.poll() is None and kills < 12:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(dice.choice(descendants_of(process.pid)), signal.SIGKILL)
            kills += 1
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert out == "150 clips done, 0 already there, 0 left out\n"
    assert kills >= 2
    found, expected = hashes(tmp_path), hashes(serial)
    assert len(found) == 3 * 150
    for number in range(150):
        for name in ("face.mp4", "audio.wav"):
            assert found[f"v{number:03}/{name}"] == expected[f"v{number % 4:03}/{name}"]


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A real scheduler and real workers, each process its own; the scheduler's address."""
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    processes = [subprocess.Popen([*dask, "scheduler", *options], **quiet)]
    try:
        while not file.exists() or not file.read_text():
            assert processes[0].poll() is None
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for _ in range(workers):
            alone = [
                *dask,
                "worker",
                address,
                "--nthreads",
                "1",
                "--no-dashboard",
                "--local-directory",
                folder / "dask",
            ]
            processes.append(subprocess.Popen(alone, **quiet))
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)


def test_a_dask_cluster_that_loses_a_worker(footage: list[Path], serial: Path, tmp_path: Path) -> None:
    videos(tmp_path, footage, 12)
    (tmp_path / "cluster").mkdir()
    with dask_cluster(tmp_path / "cluster", 2) as (address, workers):
        process = start("preprocess", "videos", "--scheduler", address, cwd=tmp_path)
        while not [*tmp_path.glob("clips/*/clip.json")]:
            assert process.poll() is None, finish(process)
            time.sleep(0.1)
        os.kill(descendants_of(workers[0].pid)[0], signal.SIGKILL)  # its nanny starts another
        assert finish(process) == (0, "12 clips done, 0 already there, 0 left out\n", "")
        for words in (STAGES["landmarks"], STAGES["extract-audio-features"]):
            assert finish(start(*words, "--scheduler", address, cwd=tmp_path))[0] == 0
    assert hashes(tmp_path) == hashes(serial)


def test_no_scheduler_is_one_line(footage: list[Path], tmp_path: Path) -> None:
    videos(tmp_path, footage, 2)
    code, out, err = finish(start("preprocess", "videos", "--scheduler", "tcp://127.0.0.1:9", cwd=tmp_path))
    assert (code, out) == (1, "")
    assert err.startswith("error: no dask scheduler answers at tcp://127.0.0.1:9 (")
    assert err.endswith("); start one with `dask scheduler`, or leave --scheduler out\n")
    assert err.count("\n") == 1


# --- many at once on one folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [True, False])
def test_four_processes_on_one_folder(overlap: bool, footage: list[Path], serial: Path, tmp_path: Path) -> None:
    videos(tmp_path, footage, 12)
    for words in STAGES.values():
        parts = [() if overlap else ("--shard", f"{i}/4") for i in range(1, 5)]
        for process in [start(*words, *part, cwd=tmp_path) for part in parts]:
            code, _, err = finish(process)
            assert (code, err) == (0, "")
    assert hashes(tmp_path) == hashes(serial)


def test_the_tasks_of_a_slurm_array_make_what_one_run_makes(footage: list[Path], tmp_path: Path) -> None:
    """And name what they left out in one list."""
    one = tmp_path / "one"
    for folder in (one, tmp_path):
        folder.mkdir(exist_ok=True)
        videos(folder, footage, 12)
        for name in ("bad_1", "bad_2", "bad_3", "bad_4", "bad_5", "bad_6"):
            (folder / f"videos/{name}.mp4").write_text("no video")
    assert [finish(start(*words, cwd=one))[0] for words in STAGES.values()] == [3, 0, 0]
    for words in STAGES.values():
        known = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "5"}
        tasks = [start(*words, cwd=tmp_path, **known, SLURM_ARRAY_TASK_ID=str(task)) for task in (5, 6)]
        ends = [finish(task) for task in tasks]
        assert [err for _, _, err in ends] == ["", ""]
        assert {code for code, _, _ in ends} <= {0, 3}
        assert {out.splitlines()[1].split(":")[1] for _, out, _ in ends} == {" part 1/2", " part 2/2"}
    assert [row["source"] for row in rows(tmp_path)] == [f"videos/bad_{i}.mp4" for i in range(1, 7)]
    assert hashes(tmp_path) == hashes(one)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code", "most"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 10)])
@pytest.mark.parametrize(("stage", "jobs"), [*((stage, jobs) for stage in STAGES for jobs in (1, 2)), ("render", 1)])
def test_a_signal_ends_the_work(
    number: int, code: int, most: float, stage: str, jobs: int, footage: list[Path], serial: Path, tmp_path: Path
) -> None:
    """At once, with one line; no process and no temporary file is left, and the same command makes the rest."""
    videos(tmp_path, footage, 12)
    words = (*STAGES.get(stage, ()), "--jobs", str(jobs))
    if stage == "render":
        table = [f"videos/v{i:03}.mp4,videos/v{i:03}.mp4,made/{i}.mp4" for i in range(8)]
        (tmp_path / "list.csv").write_text("\n".join(["audio,ref,out", *table]))
        words = ("render", "--list", "list.csv", "--jobs", str(jobs))
    elif stage != "preprocess":
        shutil.copytree(serial / "clips", tmp_path / "clips")
        name = "landmarks" if stage == "landmarks" else "mfcc"
        for path in tmp_path.glob(f"clips/*/{name}.safetensors"):
            path.unlink()
    process, dice = start(*words, cwd=tmp_path), random.Random(number + jobs)
    while not descendants_of(process.pid):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 2.5))
    if process.poll() is not None:
        pytest.skip("was done before the signal came")
    family, begun, wait = descendants_of(process.pid), time.monotonic(), patience()
    process.send_signal(number)
    found = finish(process)
    assert time.monotonic() - begun < most * wait
    if " done" in found[1]:
        pytest.skip("was done when the signal came, and only about to end")
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert found == (code, "", f"error: {word}; run the same command again to go on\n")
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert not [path for path in tmp_path.rglob(".spear-*")]
    again = finish(start(*words, cwd=tmp_path))
    assert (again[0], again[2]) == (0, "")
    if stage in ("landmarks", "extract-audio-features"):
        assert hashes(tmp_path) == hashes(serial)
