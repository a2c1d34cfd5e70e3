"""`--shard i/n` and Slurm arrays: every clip has one part, whoever asks."""

from __future__ import annotations

import hashlib

import pytest

from spear.errors import SpearError
from spear.shards import Shard, choose_shard, in_shard


def test_every_clip_is_in_one_part_and_the_parts_are_alike() -> None:
    ids = [f"M{speaker:03}_front_angry_1_{number:03}" for speaker in range(20) for number in range(30)]
    sizes = []
    for index in range(4):
        sizes.append(sum(name in Shard(index, 4) for name in ids))
    assert sum(sizes) == 600
    assert min(sizes) > 120
    assert all(name in Shard() for name in ids)


def test_the_part_is_the_digest_modulo_the_count() -> None:
    digest = hashlib.sha256(b"talker_0").hexdigest()
    assert in_shard("talker_0", int(digest[:16], 16) % 7, 7)


def test_what_is_asked_for_counts_from_one() -> None:
    assert choose_shard("1/4", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}) == Shard(0, 4)
    assert str(choose_shard("4/4", {})) == "4/4"
    assert choose_shard(None, {}) == Shard(0, 1)
    for wrong in ("0/4", "5/4", "1", "a/b", "1/4/2", "-1/4"):
        with pytest.raises(SpearError) as caught:
            choose_shard(wrong, {})
        assert str(caught.value) == (
            f"--shard {wrong} is not i/n with i from 1 to n; give 1/4 for the first of four parts"
        )


def test_a_slurm_array_shares_the_work() -> None:
    """sbatch --array 10-16:2 has the tasks 10, 12, 14 and 16."""
    known = {"COUNT": "4", "MIN": "10", "MAX": "16", "STEP": "2"}
    of_array = {f"SLURM_ARRAY_TASK_{name}": value for name, value in known.items()}
    found = [choose_shard(None, of_array | {"SLURM_ARRAY_TASK_ID": str(task)}) for task in (10, 12, 14, 16)]
    assert found == [Shard(i, 4) for i in range(4)]
    with pytest.raises(SpearError) as caught:  # --array 1,5,17
        choose_shard(None, {"SLURM_ARRAY_TASK_ID": "17", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"})
    assert str(caught.value) == (
        "task 17 of the Slurm array is none of 3 in a row; start the array with --array 0-2, or give --shard"
    )
