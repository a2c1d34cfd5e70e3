"""Temporary files that do not outlive their use: each is named by its process, and those of dead ones are removed.

Nobody can clean up after `kill -9` but whoever comes next. A name says which process it belongs to:
`.spear-<machine>-<pid>-<start>-<random><suffix>`, so that of processes that work in one folder at once none takes
away what another one is writing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

_PREFIX = ".spear-"
_OWNED = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)")
_DAY = 86_400
"""Seconds after which what another machine has not touched is taken for dead: its processes cannot be seen here."""


@contextmanager
def temporary_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield an empty file in a folder, for its owner alone; what was not moved then vanishes. Raises OSError."""
    _remove_left_once(os.path.abspath(folder), os.getpid())
    handle, name = tempfile.mkstemp(prefix=f"{_PREFIX}{this_process()}-", suffix=suffix, dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """The same, a folder. Raises OSError."""
    _remove_left_once(os.path.abspath(folder), os.getpid())
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{this_process()}-", dir=folder) as name:
        yield Path(name)


def this_process() -> str:
    """A name that no other process has, of this machine or another, now or later: <machine>-<pid>-<start>."""
    return _name_of(os.getpid())


def is_left(owner: str, path: Path) -> bool:
    """Whether the process that has this name is dead, as far as can be known. path: what it was writing."""
    machine, pid, start = owner.split("-")
    if machine == _machine():
        return not _lives(int(pid), int(start))
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except FileNotFoundError:
        return False


@lru_cache(maxsize=64)
def _remove_left_once(folder: str, pid: int) -> None:
    """Each process looks once."""
    remove_left(Path(folder))


def remove_left(folder: Path) -> None:
    """Remove what dead processes left in a folder. What cannot be removed is left alone."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = _OWNED.match(entry.name.removeprefix(_PREFIX)) if entry.name.startswith(_PREFIX) else None
            if owner is None:
                continue
            with suppress(OSError):  # another process may be faster, or it is another user's
                if is_left(owner[0], Path(entry.path)):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


@lru_cache(maxsize=1)
def _name_of(pid: int) -> str:
    _, start = _state(pid) or ("", 0)
    return f"{_machine()}-{pid}-{start}"


@lru_cache(maxsize=1)
def _machine() -> str:
    """Names the machine as it is since it was started, and the container: process numbers mean nothing beyond."""
    known = [
        socket.gethostname(),
        Path("/proc/sys/kernel/random/boot_id").read_text(),
        os.readlink("/proc/self/ns/pid"),
    ]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:8]


def _lives(pid: int, start: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, of whom /proc may say nothing
    found = _state(pid)
    return found is None or (found[1] == start and found[0] not in "ZX")


def _state(pid: int) -> tuple[str, int] | None:
    """State (Z: dead, not yet waited for) and start, in ticks since boot, of a process; None where that is not told."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return after_name[0], int(after_name[19])  # fields 3 and 22, see proc(5)
