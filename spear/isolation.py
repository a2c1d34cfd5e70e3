"""A process of its own for work on clips: one that crashes, hangs or eats memory takes nothing along but itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, BinaryIO

from spear.errors import UnusableClip
from spear.temporary import remove_left
from spear.worker import FUNCTION, ITEM
from spear.workers import Limits

_TICK = 0.1
"""Seconds between looks at the clock and the memory while a clip is worked on."""
_STARTING = 600.0
"""Seconds that a process may take to start and import, on a busy file system."""
_GRACE = 1.0
"""Seconds that a process has to remove its temporary files before it is killed."""
_GB = 1e9
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its own processes; another one with the same rank would be in their way."""


class Lost(UnusableClip):
    """The process that worked on this clip did not survive it."""


class _Died(Exception):
    """lives: how many processes a clip may cost that has this to say."""

    def __init__(self, what: str, lives: int) -> None:
        super().__init__(what)
        self.lives = lives


class Child:
    """A process that works for one thread of this one, and is made anew when a clip has cost it its life."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._errors: BinaryIO | None = None
        """What the process writes to stdout and stderr: its last words."""
        self._function = b""
        """What the process works with, as it was sent."""
        self._lock = threading.Lock()
        self._stopped = False
        _CHILDREN.add(self)

    def run(self, function: Callable[[Any], Any], item: Any, where: Callable[[Any], Path] | None = None) -> Any:
        """What function(item) gives, or the exception that it raises; Lost where the process did not survive it.

        where: the folder in which it writes, so that temporary files of a dead process are removed. Whoever was killed
        from outside is not to blame at once: the clip has several lives.
        """
        deaths, sent = 0, bytes(ForkingPickler.dumps((FUNCTION, function)))
        while True:
            try:
                return self._attempt(sent, item)
            except _Died as death:
                self.end()
                deaths += 1
                if where is not None:
                    remove_left(where(item))
                if self._stopped or deaths >= death.lives:
                    return Lost(str(death))

    def _attempt(self, function: bytes, item: Any) -> Any:
        for last in (False, True):
            try:
                connection = self._ready(function)
                connection.send((ITEM, item))
                break
            except (BrokenPipeError, ConnectionResetError):  # it had nothing to do for a while and has ended
                self.end()
                if last:
                    raise _Died("its process cannot be reached; run the same command again", 1) from None
        return self._answer(connection, self.limits.seconds)

    def _answer(self, connection: Connection, seconds: float) -> Any:
        begun = time.monotonic()
        while not connection.poll(_TICK):
            if time.monotonic() - begun > seconds:
                raise _Died(f"it took longer than {seconds:g} s; look at it, or give it more with --clip-timeout", 1)
            if self._memory() > self.limits.memory:
                most = f"{self.limits.memory / _GB:.2g} GB"
                raise _Died(f"it wanted more than {most} of memory; give fewer --jobs, or more with --memory", 2)
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._obituary() from None

    def _ready(self, function: bytes) -> Connection:
        """The connection to a process that has imported the function. Raises _Died where no more is to be started."""
        with self._lock:
            if self._stopped:
                raise _Died("it was stopped; run the same command again", 1)
            if self._connection is None:
                self._start()
                self._function = b""
            connection = self._connection
            assert connection is not None
        if function != self._function:
            connection.send_bytes(function)
            self._answer(connection, _STARTING)
            self._function = function
        return connection

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._errors = os.fdopen(os.memfd_create("last words"), "rb")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spear.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors,
                cwd=self.limits.folder, env=_environment(self.limits.threads), process_group=0,
            )  # fmt: skip
        self._connection = Connection(ours.detach())

    def _memory(self) -> int:
        """Bytes that the process has in memory; 0 where it has just died."""
        assert self._process is not None
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _obituary(self) -> _Died:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        code = self._process.poll()
        last = self._last_words()
        if code is None or code >= 0:
            return _Died(f"its process ended with exit code {code}{last}; see whether the file is sound", 2)
        name = signal.Signals(-code).name
        if -code in _FROM_OUTSIDE:
            return _Died(f"its process was killed ({name}) again and again; is there too little memory?", 5)
        return _Died(f"its process crashed ({name}{last}); see whether the file is sound", 2)

    def _last_words(self) -> str:
        """The last line that the process wrote, after a colon; nothing where it was silent."""
        assert self._errors is not None
        size = os.fstat(self._errors.fileno()).st_size
        words = os.pread(self._errors.fileno(), 4000, max(0, size - 4000)).decode(errors="replace").strip()
        return f": {words.splitlines()[-1]}" if words else ""

    def end(self) -> None:
        """End the process by force, which has died anyway or does not deserve better."""
        with self._lock:
            process, self._process, self._connection = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """From any thread: let the process remove what it is writing and end; no other is started."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def wait(self) -> None:
        """After `stop`: until the process has ended, if need be by force."""
        process = self._process
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            process.kill()
            process.wait()


_CHILDREN: weakref.WeakSet[Child] = weakref.WeakSet()
_OF_THREAD = threading.local()


def child_of_this_thread(limits: Limits) -> Child:
    """The process that works for this thread; with other limits than before, a new one."""
    child: Child | None = getattr(_OF_THREAD, "child", None)
    if child is None or child.limits != limits:
        if child is not None:
            child.end()
        child = _OF_THREAD.child = Child(limits)
    return child


def end_all_children() -> None:
    """End every process that works for this one, all at the same time."""
    children = list(_CHILDREN)
    for child in children:
        child.stop()
    for child in children:
        child.wait()


def _environment(threads: int) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in _RANKS}
    known["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if threads:
        known = dict.fromkeys(_THREADS, str(threads)) | known
    return known
