"""What every worker process of `--jobs` is told first: dask calls `dask_setup` in it."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Ctrl-C reaches all processes of a terminal; only the one that the user started ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
