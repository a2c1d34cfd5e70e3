"""Batches for the training loop, made ahead on worker processes, and how long the loop waits for them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

import cv2
from torch.utils.data import DataLoader

from spear.errors import SpearError


class TrainingSet(Protocol):
    """Samples that depend on (epoch, index) and nothing else, so that a resumed run sees the same ones."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: tuple[int, int]) -> Any: ...


class Batches:
    """The batches for the given places (epoch, index), in their order; to be gone through once."""

    def __init__(self, data: TrainingSet, places: Iterator[list[tuple[int, int]]], workers: int) -> None:
        self.waited = 0.0
        """Seconds in which the trainer waited for a batch; the first one, which starts the workers, left out."""
        if workers:
            cv2.setNumThreads(1)  # a worker that is forked while OpenCV has threads waits for them forever
        self._loader: DataLoader[Any] = DataLoader(
            data, batch_sampler=places, num_workers=workers,  # type: ignore[arg-type]
            prefetch_factor=4 if workers else None, worker_init_fn=_prepare_worker,
        )  # fmt: skip
        self._reading: Iterator[Any] | None = None

    def stop(self) -> None:
        """End the worker processes at once, whatever they are reading: waiting for them would take seconds."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader would take their end for a failure
        for worker in getattr(self._reading, "_workers", ()):
            worker.kill()
            worker.join()

    def __iter__(self) -> Iterator[Any]:
        """Raises SpearError where a worker does, with the same words."""
        batches, first = self._told_plainly(), True
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self.waited += 0.0 if first else time.monotonic() - asked
            first = False
            yield batch

    def _told_plainly(self) -> Iterator[Any]:
        """An error from a worker process comes with its traceback as text, of which the user gets the end."""
        try:
            self._reading = iter(self._loader)
            yield from self._reading
        except SpearError as error:
            raise SpearError(str(error).strip().splitlines()[-1].partition("Error: ")[2] or str(error)) from error


def _prepare_worker(worker: int) -> None:
    """A signal to the trainer's process group (Ctrl-C, a cluster's) must not kill its loader processes in mid-step, and
    they say nothing where the trainer stops while it takes a batch from them."""
    os.setpgid(0, 0)
    sys.excepthook = _without_hang_ups


def _without_hang_ups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Of the thread that hands over the memory of a batch (multiprocessing's `resource_sharer`)."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
