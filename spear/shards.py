"""Which part of the work is this process's own, where several share it without speaking to each other."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from spear.errors import SpearError

_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`; `in` tells whether a clip's id belongs to it."""

    index: int = 0
    count: int = 1

    def __contains__(self, identity: object) -> bool:
        return in_shard(str(identity), self.index, self.count)

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def in_shard(identity: str, index: int, count: int) -> bool:
    """Whether a clip belongs to part `index` (from 0) of `count`: a function of its id alone, on every machine."""
    return int.from_bytes(hashlib.sha256(identity.encode(errors="surrogateescape")).digest()[:8]) % count == index


def choose_shard(asked: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """`i/n` with i from 1 to n; where nothing is asked for, this task's part of a Slurm array, this process's part of
    what torchrun or `accelerate launch` started, or all.

    Raises SpearError for what is no such part.
    """
    if asked is None:
        task = _of_slurm(environment)
        rank, ranks = (int(environment.get(name, number)) for name, number in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return Shard(task.index * ranks + rank, task.count * ranks)
    match = re.fullmatch(r"(\d+)/(\d+)", asked)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SpearError(f"--shard {asked} is not i/n with i from 1 to n; give 1/4 for the first of four parts")
    return Shard(int(match[1]) - 1, int(match[2]))


def _of_slurm(environment: Mapping[str, str]) -> Shard:
    """Raises SpearError where the array's numbers have gaps that differ, for then the parts are not told by them."""
    names = ("TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_STEP")
    number, count, first, step = (environment.get(f"SLURM_ARRAY_{name}") for name in names)
    if number is None or count is None:
        return Shard()
    index, rest = divmod(int(number) - int(first or 0), int(step or 1))
    if rest or not 0 <= index < int(count):
        row = f"{count} in a row; start the array with --array 0-{int(count) - 1}, or give --shard"
        raise SpearError(f"task {number} of the Slurm array is none of {row}")
    return Shard(index, int(count))


def own_part(asked: str | None, environment: MutableMapping[str, str] = os.environ) -> Shard:
    """The same, for a process that then works on its part alone: it has its own GPU, and waits for no other process.

    Accelerate would gather all processes first, and wait for ever for one that has nothing to do.
    """
    shard = choose_shard(asked, environment)
    local = environment.pop("LOCAL_RANK", None)
    environment.pop("WORLD_SIZE", None)
    if local is not None:
        seen = [name for name in environment.get(_GPUS, "").split(",") if name]
        environment[_GPUS] = seen[int(local) % len(seen)] if seen else local
    return shard
