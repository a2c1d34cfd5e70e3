"""Promises of spear.temporary: what dead processes left is removed, what living ones write is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spear.temporary import is_left, temporary_file, temporary_folder, this_process

_WRITER = """
import sys
from pathlib import Path
from spear.temporary import temporary_file, temporary_folder
with temporary_file(Path(sys.argv[1]), ".mp4") as file, temporary_folder(Path(sys.argv[1])) as folder:
    file.write_text("half of")
    (folder / "part").write_text("half of")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that is writing a file and a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _touch(path: Path, age: float = 0) -> Path:
    path.write_text("half of")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def _write_something(folder: Path) -> None:
    with temporary_file(folder, ".txt"):
        pass


def test_a_file_and_a_folder_are_there_and_then_gone(tmp_path: Path) -> None:
    with temporary_file(tmp_path, ".mp4") as file, temporary_folder(tmp_path) as folder:
        assert {file, folder} == set(tmp_path.iterdir())
        assert (file.suffix, file.stat().st_mode & 0o777) == (".mp4", 0o600)
        assert all(path.name.startswith(f".spear-{this_process()}-") for path in (file, folder))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_wrote_is_removed_by_the_next(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.wait()
    assert len(list(tmp_path.iterdir())) == 2
    _write_something(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    writer.kill()
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # now it is a zombie, whose number is still taken
    _write_something(tmp_path)
    assert list(tmp_path.iterdir()) == []
    writer.wait()


def test_what_a_living_process_writes_stays(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    os.kill(writer.pid, signal.SIGSTOP)
    before = sorted(tmp_path.iterdir())
    _write_something(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    writer.kill()
    writer.wait()


def test_who_took_the_number_of_a_dead_process_does_not_keep_its_files(tmp_path: Path) -> None:
    machine, pid, start = this_process().split("-")
    left = _touch(tmp_path / f".spear-{machine}-{pid}-{int(start) - 1}-abc.mp4")
    mine = _touch(tmp_path / f".spear-{machine}-{pid}-{start}-abc.mp4")
    _write_something(tmp_path)
    assert (left.exists(), mine.exists()) == (False, True)


def test_another_machine_has_a_day(tmp_path: Path) -> None:
    young = _touch(tmp_path / ".spear-00000000-1-1-abc.mp4", age=86_000)
    old = _touch(tmp_path / ".spear-00000000-1-1-abd.mp4", age=87_000)
    _write_something(tmp_path)
    assert (young.exists(), old.exists()) == (True, False)


def test_another_users_process_lives(tmp_path: Path) -> None:
    """Process 1 is always there and may not be signalled by others; its start is known all the same."""
    machine, _, _ = this_process().split("-")
    start = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    assert not is_left(f"{machine}-1-{start}", tmp_path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    names = (".spear", ".spear-", ".spear-notes.txt", ".out.abcdefgh.mp4", "spear-00000000-1-1-a.mp4", "a.mp4")
    others = [_touch(tmp_path / name, age=99_999_999) for name in names]
    link = tmp_path / ".spear-00000000-1-1-link"
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    _write_something(tmp_path)
    assert all(path.exists() for path in (*others, tmp_path / "elsewhere"))


def test_a_fork_has_a_name_of_its_own() -> None:
    mine, (read, write) = this_process(), os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, this_process().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    assert theirs.split("-")[1] == str(child) != mine.split("-")[1]
