"""What tests let other processes do; it imports little, since each of them imports it anew."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from spear.errors import UnusableClip
from spear.temporary import temporary_file


def square(number: int) -> int:
    if number == 3:
        raise UnusableClip("three is no use")
    return number * number


def trap(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)  # as a C library does that reads beyond its memory
    if number == 2:
        os._exit(7)
    if number == 3:
        print("terminate called: no memory", file=sys.stderr, flush=True)
        os.abort()
    if number == 4:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        while True:  # deaf to everything but SIGKILL
            time.sleep(10)
    if number == 5:
        hoard = []
        while True:
            hoard.append(bytearray(20_000_000))
            time.sleep(0.01)
    return os.getpid()


def die_writing(top: Path, name: str) -> None:
    with temporary_file(top / name):
        if name == "bad":
            os.kill(os.getpid(), signal.SIGSEGV)


def unsendable(number: int) -> object:
    if number:
        raise ValueError(threading.Lock())
    return threading.Lock()


def threads(_: int) -> tuple[int, int, str]:
    """How many threads torch and OpenCV take, and what others are told."""
    import cv2
    import torch

    return torch.get_num_threads(), cv2.getNumThreads(), os.environ["OPENBLAS_NUM_THREADS"]


def killed_by_others(path: Path) -> int:
    """Dies the first two times that it is asked."""
    with path.open("a") as file:
        file.write("x")
    if path.stat().st_size < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return path.stat().st_size
