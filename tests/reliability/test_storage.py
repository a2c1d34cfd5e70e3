"""Issue 8, 9 and 10: a full disk, files that may not grow, folders that may not be written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability.conftest import Tally
from reliability.outcome import Outcome, is_whole, run_cli

STAGES = {
    "preprocess": "preprocess videos",
    "landmarks": "landmarks --clips found",
    "extract-audio-features": "extract-audio-features --clips found --encoder mfcc --changed 1",
    "train-a2lm": "train-a2lm --clips made --epochs 1",
    "train-lm2face": "train-lm2face --clips made --epochs 1 --frames-per-clip 1",
    "render": "render --audio speech.wav --ref face.png -o out.mp4 --sheet sheet.png",
    "metrics": "metrics videos/talker.mp4 videos/talker.mp4 --ld --figures figures --report report",
}
FREE_KB = {"preprocess": (0, 8), "landmarks": (0, 8), "render": (0, 8), "train-lm2face": (0, 400)}
"""Room that is left on the full disk; elsewhere (0, 20)."""
ROOM = re.compile(r"\(([0-9.]+|more than [0-9.]+) MB are needed, [0-9.]+ MB are free\)")


@pytest.fixture(scope="session")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, tiny_talker: Path, tiny_speech: Path, portrait_png: Path,
    made_clips: Path, talker_clips: Path,
) -> Path:  # fmt: skip
    """What the commands of STAGES read; nobody may change it."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "videos").mkdir()
    shutil.copy(tiny_talker, folder / "videos")
    shutil.copy(tiny_speech, folder / "speech.wav")
    shutil.copy(portrait_png, folder / "face.png")
    shutil.copytree(made_clips, folder / "made")
    shutil.copytree(talker_clips, folder / "found")
    return folder


@pytest.fixture
def work(tmp_path: Path, inputs: Path) -> Path:
    return shutil.copytree(inputs, tmp_path / "work")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 120 MB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _lost(before: dict[str, bytes], folder: Path) -> int:
    """Bytes of files that are gone or other than before, logs aside, which grow."""
    now = _contents(folder)
    return sum(len(data) for name, data in before.items() if now.get(name) != data and not _grows(name))


def _grows(name: str) -> bool:
    return name.endswith(".jsonl") or "tensorboard" in name


def _judge(tally: Tally, run: Outcome, before: dict[str, bytes], folder: Path) -> None:
    tally.judge(run)
    lost = _lost(before, folder)
    tally.add(bytes_lost=lost)
    assert run.clear, run
    assert not run.traceback, run
    assert (run.partial, run.left, lost) == ([], [], 0), run


def _completes(folder: Path, stage: str) -> None:
    again = run_cli(*STAGES[stage].split(), cwd=folder, timeout=300)
    assert again.done, again
    assert (again.partial, again.left) == ([], [])
    assert all(is_whole(folder / name) for name in again.changed)


@pytest.mark.reliability
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(stage: str, disk: Path, tally: Tally, inputs: Path) -> None:
    shutil.copytree(inputs, disk, dirs_exist_ok=True)
    for free in FREE_KB.get(stage, (0, 20)):
        filler = disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free * 1024)
        before = _contents(disk)
        run = run_cli(*STAGES[stage].split(), cwd=disk, timeout=300)
        _judge(tally, run, before, disk)
        filler.unlink()
        if free:
            assert ROOM.search(run.line), run.line
    _completes(disk, stage)


@pytest.mark.reliability
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train-lm2face"])
def test_files_that_may_not_grow(stage: str, work: Path, tally: Tally) -> None:
    """Trainings hand batches on in shared memory, which counts; those of stage 2 are larger than its models."""
    before = _contents(work)
    most = 4_000_000 if stage.startswith("train") else 3000
    run = run_cli(*STAGES[stage].split(), cwd=work, timeout=300, most_bytes=most)
    _judge(tally, run, before, work)
    _completes(work, stage)


def test_a_full_disk_is_told_in_megabytes(work: Path, tally: Tally) -> None:
    before = _contents(work)
    run = run_cli(*STAGES["extract-audio-features"].split(), cwd=work, most_bytes=3000)
    _judge(tally, run, before, work)
    assert run.line.startswith(
        "cannot write found/talker/mfcc.safetensors: files may not grow so large here (more than 0.0 MB"
    )
    assert run.line.endswith("); make room or choose another folder")
    assert ROOM.search(run.line)


@pytest.mark.reliability
@pytest.mark.parametrize("stage", STAGES)
def test_folders_that_may_not_be_written(stage: str, disk: Path, tally: Tally, inputs: Path) -> None:
    shutil.copytree(inputs, disk, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # root may write whatever the modes are
    before = _contents(disk)
    run = run_cli(*STAGES[stage].split(), cwd=disk, timeout=300)
    _judge(tally, run, before, disk)
    assert run.line.startswith("cannot write"), run.line
    assert "read-only file system" in run.line.lower(), run.line


@pytest.mark.reliability
@pytest.mark.parametrize("stage", ["preprocess", "landmarks", "render"])
def test_the_temporary_folder_may_be_elsewhere_or_full(stage: str, work: Path, tally: Tally, disk: Path) -> None:
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
    words = STAGES[stage].split() + (["--jobs", "2"] if stage != "render" else [])
    if stage == "preprocess":
        shutil.copy(work / "videos" / "talker.mp4", work / "videos" / "other.mkv")
    run = run_cli(*words, cwd=work, timeout=120, TMPDIR=str(disk))
    tally.judge(run)
    assert run.sound, run


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
@pytest.mark.reliability
def test_output_on_another_file_system(work: Path, tally: Tally) -> None:
    other = Path("/dev/shm", f"spear-{os.getpid()}")
    other.mkdir()
    try:
        words = STAGES["render"].replace("out.mp4", f"{other}/out.mp4").split()
        assert run_cli(*words, cwd=work).done
        assert run_cli("landmarks", "--clips", "found", "--jobs", "2", cwd=work, TMPDIR=str(other)).done
        assert is_whole(other / "out.mp4")
        assert sorted(p.name for p in other.iterdir()) == ["out.mp4", "out.mp4.json"]
    finally:
        shutil.rmtree(other)
