"""Work on several threads with results in order: what decodes, paints and encodes at the same time.

Threads are enough, for PyAV, OpenCV, MediaPipe and torch let go of the interpreter while they compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def one_thread() -> Iterator[None]:
    """Nets of this thread compute on one core: the order of a sum, and its last bit, depends on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stopped(Exception):
    """Raised inside work that nobody waits for any more."""


@contextmanager
def in_order(work: Callable[[Item], Made], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Iterator[Made]]:
    """Give `work(item)` for every item, in their order, made by `workers` threads while the caller uses earlier ones.

    The caller's thread takes the items, at most `ahead` more than it has been given results, so that memory is bounded;
    with one worker, work sees them one after the other. What items or work raise comes out where the result would have.
    Afterwards, whatever happened, no thread is left.
    """
    waiting: deque[Future[Made]] = deque()

    def made() -> Iterator[Made]:
        """Results in the order of their items, of which some more are under way meanwhile."""
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    pool = ThreadPoolExecutor(workers)
    try:
        yield made()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for what is under way


class Meanwhile(Generic[Made]):
    """One piece of work on a thread of its own, while the caller does something else; a context manager.

    work: is given a function that it calls now and then with how far it is, which raises Stopped once the caller has
    left the context without the result. Then the thread ends at that call.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], Made]) -> None:
        self._left, self._done = Event(), 0
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(work, self._note)

    def _note(self, done: int) -> None:
        self._done = done
        if self._left.is_set():
            raise Stopped

    def result(self, tell: Callable[[int], None] = lambda _: None) -> Made:
        """What the work returns; raises what it raises. tell: is told now and then how far it is, by this thread."""
        while wait([self._future], timeout=0.1).not_done:
            tell(self._done)
        tell(self._done)
        return self._future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._pool.shutdown(cancel_futures=True)
