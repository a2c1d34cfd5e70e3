"""Scores under torchrun or `accelerate launch`: every process scores a part of the clips, the first one sums up."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from spear.scores.compare import Scores
from spear.shards import Shard
from spear.workers import Workers

_PATIENCE = timedelta(days=30)
"""How long the processes wait for each other: parts are not alike."""


def scored_by_ranks(
    score: Callable[[Workers, bool], Scores | None], workers: Workers, environment: Mapping[str, str] = os.environ
) -> Scores | None:
    """What `score(workers, True)` gives; under torchrun the first process alone returns it, the others None.

    score: its second argument tells whether the scores are to be shown; else they are only to be in the cache. Each
    process first scores its own share, and the first one then finds all in the cache (`score_cache`): so the result
    does not depend on how many there are, and a clip that some process could not score is told by the one that speaks.
    Where processes do not share a cache, the first one does the work again.
    Raises what `score` raises, in the first process.
    """
    ranks, rank = (int(environment.get(name, number)) for name, number in (("WORLD_SIZE", "1"), ("RANK", "0")))
    if ranks == 1:
        return score(workers, True)
    from accelerate import PartialState

    state = PartialState(timeout=_PATIENCE)
    with suppress(Exception):  # whatever it is, the first process meets it again and tells
        score(replace(workers, shard=share_of_rank(workers.shard, rank, ranks)), False)
    state.wait_for_everyone()
    return score(workers, True) if rank == 0 else None


def share_of_rank(part: Shard, rank: int, ranks: int) -> Shard:
    """The share of one process in a part of all clips: shares are disjoint, and together they are the part."""
    return Shard(part.index + part.count * rank, part.count * ranks)
