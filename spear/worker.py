"""The process that works on clips, one after the other, for `spear.isolation`; it ends with whoever started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from spear.errors import Terminated

_IDLE = 60.0
"""Seconds without work after which it ends: on a cluster it would keep nets in memory for nobody."""
_PR_SET_PDEATHSIG = 1
FUNCTION, ITEM = "function", "item"
"""The two kinds of messages."""


def main(descriptor: int, parent: int) -> None:
    """Answer what comes through a socket: a function, with an echo as soon as it is imported, and then each item, with
    what the function gives or raises."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it reaches all; the one that was started ends us
    signal.signal(signal.SIGTERM, _terminate)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was asked for
        return
    connection, function = Connection(descriptor), None
    while connection.poll(_IDLE):
        try:
            kind, content = connection.recv()
        except EOFError:
            return
        if kind == FUNCTION:
            function = content
            connection.send(FUNCTION)
        else:
            _send(connection, _outcome(function, content))


def _outcome(function: Any, item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:
        return error


def _send(connection: Connection, outcome: Any) -> None:
    try:
        connection.send(outcome)
    except (AttributeError, TypeError, ValueError) as error:  # something that cannot travel, in an exception mostly
        connection.send(RuntimeError(f"{type(outcome).__name__}: {outcome} ({error})"))


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except Terminated:  # temporary files are gone by now; libraries take their time to take leave
        os._exit(128 + signal.SIGTERM)
