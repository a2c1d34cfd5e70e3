"""One function over many clips: in this process, or on worker processes that may die without taking the rest along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

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
    from distributed import Client, LocalCluster, as_completed

    settings = {"distributed.scheduler.allowed-failures": 1, "distributed.logging.distributed": "error",
                "distributed.worker.memory.terminate": False}  # fmt: skip
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=min(jobs, len(items)), threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = {client.submit(function, item, pure=False): item for item in items}
        for future in as_completed(futures):
            failure = future.exception() if future.status == "error" else None
            yield futures[future], future.result() if failure is None else failure
            future.release()
