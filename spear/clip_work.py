"""What every stage over many clips does alike: work on each, count, and keep why some were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spear.errors import SpearError, UnusableClip
from spear.jobs import run_each
from spear.left_out import LeftOut
from spear.progress import Progress, Report
from spear.shards import Shard
from spear.workers import Workers

Item = TypeVar("Item")

KEPT = "already there"
"""What a stage's function gives for a clip that another process has done meanwhile."""


def work_through(
    function: Callable[[Item], Any],
    work: Sequence[Item],
    workers: Workers,
    report: Report,
    left_out: LeftOut,
    progress: Progress,
    *,
    name: Callable[[Item], str],
    where: Callable[[Item], Path],
    told: Callable[[Item], dict[str, str]] = lambda item: {},
    strict: bool = False,
) -> Iterator[tuple[Item, Any]]:
    """Yield each clip that is done and what the function gave; the others go to the report and the list.

    name: a clip's id; where: its folder; told: what the list says of it, if not its id. strict: a clip that cannot be
    used ends the work. Raises what is wrong with the command and not with a clip: a SpearError that is no UnusableClip.
    """
    for number, (item, result) in enumerate(run_each(function, work, workers, where), start=1):
        if isinstance(result, SpearError) and (strict or not isinstance(result, UnusableClip)):
            raise result
        if isinstance(result, Exception):
            kind = "" if isinstance(result, UnusableClip) else f"{type(result).__name__}: "
            leave_out(report, left_out, name(item), f"{kind}{result}", told(item))
        else:
            left_out.forget(name(item))
            if isinstance(result, str) and result == KEPT:
                report.kept += 1
            else:
                report.done += 1
                yield item, result
        progress(number, len(work), name(item))
    report.skipped.sort()  # with several processes they come in the order of finishing


def leave_out(report: Report, left_out: LeftOut, identity: str, reason: str, told: dict[str, str]) -> None:
    """Say that a clip is left out, in the report and in the list."""
    report.skipped.append((next(iter(told.values()), identity), reason))
    left_out.note(identity, reason, **told)


def shard_note(shard: Shard, here: int, there: int) -> list[str]:
    """What to say where this is only a part of the work."""
    return [f"part {shard}: {here} of {there} clips"] if shard.count > 1 else []
