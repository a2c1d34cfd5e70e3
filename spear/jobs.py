"""One function over many clips: in this process, in one of its own, or in many on this machine or on a dask cluster.

Wherever a clip is worked on, a process of `spear.isolation` does it, and reports what became of it; dask only hands
the clips out, a few at a time.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spear.errors import SpearError
from spear.isolation import Child, Lost, child_of_this_thread, end_all_children
from spear.temporary import temporary_folder
from spear.workers import Limits, Workers, limits_of

Item = TypeVar("Item")
Result = TypeVar("Result")
Where = Callable[[Any], Path]
Outcome = tuple[Item, Result | Exception]

_MOST_OF_A_TASK, _SECONDS_OF_A_TASK = 20, 2.0
"""Clips that are handed out together: so many that it pays, so few that the end is balanced and progress is seen."""
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado.application", "asyncio")
"""Of dask and what it stands on: what they find while a cluster closes, above all after Ctrl-C, is nobody's fault.
They say it after the cluster is gone: so they are silent for the whole process."""
_WAITING = 32
"""Tasks that wait on a cluster that has no worker yet; dask-jobqueue starts them for those that wait."""
_LIVES = 4
"""Dask workers that one clip may lose until it is left out: who killed them was mostly somebody else."""


def run_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers, where: Where | None = None
) -> Iterator[Outcome[Item, Result]]:
    """Yield (item, result), or (item, the exception it raised), as they finish; in their order where one process works.

    A clip that crashes, hangs or eats memory comes back as Lost, and the others go on; but not where `workers` are this
    very process, which also does a single item. where: the folder that an item writes in, for what a dead process
    leaves there. What is handed to another process must be something that can be sent there: no lambda.
    Raises SpearError where the cluster cannot be reached.
    """
    if workers.scheduler is None and (workers.jobs == 0 or len(items) <= 1):
        for item in items:
            try:
                yield item, function(item)
            except Exception as error:
                yield item, error
    elif workers.apart:
        with _cluster(workers, len(items)) as (client, limits):
            yield from _handed_out(function, items, client, limits, where)
    else:
        child = Child(limits_of(workers))
        try:
            for item in items:
                yield item, child.run(function, item, where)
        finally:
            end_all_children()


@contextmanager
def _cluster(workers: Workers, items: int) -> Iterator[tuple[Any, Limits]]:
    """A dask client, of a cluster inside this process or of one that runs already."""
    import dask
    from distributed import Client, LocalCluster

    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if workers.scheduler is not None:
        try:
            client = Client(workers.scheduler, timeout=20, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SpearError(
                f"no dask scheduler answers at {workers.scheduler} ({' '.join(str(error).split())}); start one with "
                "`dask scheduler`, or leave --scheduler out"
            ) from error
        with client:
            yield client, limits_of(workers)
        return
    with (
        dask.config.set({"distributed.admin.system-monitor.gil.enabled": False}),
        temporary_folder(Path(tempfile.gettempdir())) as folder,
        LocalCluster(
            n_workers=min(workers.jobs, items), threads_per_worker=1, processes=False, memory_limit=0,
            dashboard_address="127.0.0.1:0", local_directory=str(folder),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        try:
            yield client, limits_of(workers)
        finally:
            end_all_children()


def _handed_out(
    function: Callable[[Item], Result], items: Sequence[Item], client: Any, limits: Limits, where: Where | None
) -> Iterator[Outcome[Item, Result]]:
    """Hand out the items, in their order, a bounded number at once, and yield what becomes of them."""
    from distributed import KilledWorker, as_completed

    todo, pace = iter(items), _Pace()
    alone: deque[tuple[Item, int]] = deque()
    """Clips of tasks whose dask worker was lost, and how often: from now on one by one."""
    under_way: dict[str, tuple[list[Item], int]] = {}
    running = as_completed(loop=client.loop)

    def hand_out() -> None:
        """Give the cluster tasks until it has two for each thread: new clips first, then those of lost workers."""
        most = max(2 * sum(client.nthreads().values()), 2) if client.nthreads() else _WAITING
        while len(under_way) < most:
            lost = 0
            batch = list(itertools.islice(todo, pace.size()))
            if not batch and alone:
                (one, lost) = alone.popleft()
                batch = [one]
            if not batch:
                return
            task = client.submit(_work_on, function, batch, limits, where, pure=False)
            under_way[task.key] = (batch, lost)
            running.add(task)

    hand_out()
    for task in running:
        batch, lost = under_way.pop(task.key)
        failure = task.exception() if task.status == "error" else None
        if task.status == "finished":
            results, seconds = task.result()
            pace.note(len(batch), seconds)
            yield from zip(batch, results, strict=True)
        elif isinstance(failure, KilledWorker) and lost + 1 < _LIVES:
            alone += [(item, lost + 1) for item in batch]
        elif isinstance(failure, KilledWorker):
            yield batch[0], Lost(f"{_LIVES} dask workers were lost over it; see whether the file is sound")
        else:
            why = " ".join(f"{type(failure).__name__}: {failure}".split()) if failure else "it was cancelled"
            raise SpearError(f"the dask cluster could not do a task ({why}); run the same command again")
        task.release()
        hand_out()


class _Pace:
    """How many clips make a task of about two seconds: neighbours take about as long, since the longest come first."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def note(self, clips: int, seconds: float) -> None:
        """So long did so many take."""
        one = seconds / clips
        self._seconds = one if self._seconds is None else (self._seconds + one) / 2

    def size(self) -> int:
        """Clips of the next task; one as long as nothing is known."""
        if self._seconds is None:
            return 1
        return max(1, min(_MOST_OF_A_TASK, int(_SECONDS_OF_A_TASK / max(self._seconds, 1e-6))))


def _work_on(
    function: Callable[[Item], Result], batch: list[Item], limits: Limits, where: Where | None
) -> tuple[list[Result | Exception], float]:
    """In a thread of a dask worker: what became of each of a task's clips, and how long they took together."""
    begun, child = time.monotonic(), child_of_this_thread(limits)
    return [child.run(function, item, where) for item in batch], time.monotonic() - begun
