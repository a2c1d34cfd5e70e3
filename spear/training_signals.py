"""SIGINT and SIGTERM during a training: they stop it where its state is whole, and soon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE = {int(signal.SIGINT): 0.8, int(signal.SIGTERM): 7.0}
"""Seconds that the step in progress gets to end after each signal; a second signal is obeyed at once."""


class Stopped(BaseException):
    """The signal stops what is being done now. Nothing that goes on after an error may catch it."""


class Signals:
    """Those that came since `caught` began. alone: no other process waits for this one, which may stop anywhere.

    Several processes only note a signal, and stop together after the step.
    """

    def __init__(self, alone: bool) -> None:
        self.number = 0
        """Of the first one; 0: none came."""
        self._alone, self._process, self._nothing_half_done = alone, os.getpid(), False
        self._before: dict[int, Any] = {}

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Catch them for as long as the block lasts."""
        self._before = {number: signal.signal(number, self._on_signal) for number in PATIENCE}
        self._before[int(signal.SIGALRM)] = signal.signal(signal.SIGALRM, self._on_alarm)
        try:
            yield self
        finally:
            self.step_is_done()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def stops_at_once(self) -> Iterator[None]:
        """A block that nothing is lost by leaving: a signal, one that came before too, raises Stopped."""
        self._nothing_half_done = self._alone
        try:
            if self.number and self._alone:
                raise Stopped
            yield
        finally:
            self._nothing_half_done = False

    def step_is_done(self) -> None:
        """The step in progress when the signal came has ended in time."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process that is just being forked; its trainer will end it
        self.number = number
        signal.signal(number, self._before[number])
        if self._nothing_half_done:
            raise Stopped
        if self._alone:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE[number])

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            raise Stopped
