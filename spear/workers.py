"""Who works on many clips, as the user chose it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from spear.shards import Shard

CLIP_TIMEOUT = 3600.0
"""Seconds for one clip: far more than an hour's footage needs, and an end for a decoder that hangs."""
_SHARE_OF_MEMORY = 0.9


@dataclass(frozen=True)
class Workers:
    """Who works on many clips, and within which limits.

    jobs: processes on this machine; 0 is this very process, which a clip that crashes takes along. scheduler: address
    of a dask cluster that works instead. clip_timeout: s for one clip. memory: bytes for one process; None is its share
    of what the machine has. shard: the part of all clips that is worked on.
    """

    jobs: int = 0
    scheduler: str | None = None
    clip_timeout: float = CLIP_TIMEOUT
    memory: int | None = None
    shard: Shard = field(default_factory=Shard)

    @property
    def apart(self) -> bool:
        """Whether clips are worked on by several processes."""
        return self.scheduler is not None or self.jobs > 1


HERE = Workers()
"""This process, clip after clip."""


@dataclass(frozen=True)
class Limits:
    """For one process that works on clips: s for a clip, bytes, threads (0: as many as it likes), and the folder in
    which names of files are meant."""

    seconds: float
    memory: int
    threads: int
    folder: str


def limits_of(workers: Workers) -> Limits:
    """The limits of one of several processes on this machine."""
    jobs, cores = max(workers.jobs, 1), len(os.sched_getaffinity(0))
    memory = workers.memory or int(memory_of_machine() * _SHARE_OF_MEMORY / jobs)
    return Limits(workers.clip_timeout, memory, max(cores // jobs, 1) if jobs > 1 else 0, os.getcwd())


def memory_of_machine() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        path = Path("/sys/fs/cgroup", name)
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            bounds.append(int(text))
    return min(bounds)
