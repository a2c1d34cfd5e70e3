"""One function over many clips: in this process, or on worker processes that may die without taking the rest along."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spear.temporary import temporary_folder

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_each(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield (item, result), or (item, the exception it raised), as they finish; in order where jobs is 1.

    With jobs > 1 a dask LocalCluster runs one single-threaded process per job; an item that kills its worker comes back
    as an exception and the others go on.
    """
    if jobs <= 1 or len(items) <= 1:
        for item in items:
            try:
                yield item, function(item)
            except Exception as error:
                yield item, error
        return
    import dask
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    def outcome(future: Any) -> Result | Exception:
        failure = future.exception()
        return future.result() if failure is None else failure

    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.logging.distributed": "error"}
    workers = {"n_workers": min(jobs, len(items)), "threads_per_worker": 1, "memory_limit": 0}
    with (
        dask.config.set(settings),
        temporary_folder(Path(tempfile.gettempdir())) as folder,
        LocalCluster(
            **workers,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
            local_directory=str(folder),
            preload=["spear.quiet_worker"],
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = {client.submit(function, item, pure=False): item for item in items}
        near_a_crash = []
        for future in as_completed(futures):
            result = outcome(future)
            if isinstance(result, KilledWorker):
                near_a_crash.append(futures[future])
            else:
                yield futures[future], result
            future.release()
        for item in near_a_crash:  # dask blames all that waited for the dead process; alone, the innocent come through
            result = outcome(client.submit(function, item, pure=False))
            died = isinstance(result, KilledWorker)
            yield item, RuntimeError("its worker process died (out of memory, or a crash)") if died else result
