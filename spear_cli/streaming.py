"""Where `spear render --stream` writes."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from spear.errors import SpearError

STDOUT = Path("-")


class _AtOnce(io.BufferedWriter):
    """Hands on all bytes of a write, where a raw file may take some of them and a buffered one keep them."""

    def write(self, data: Any) -> int:
        """Write all of it, now. Returns how many bytes that were."""
        count = super().write(data)
        self.flush()
        return count


@contextmanager
def open_stream(out: Path, inputs: tuple[Path, ...]) -> Iterator[BinaryIO]:
    """Open stdout (`-`), a pipe or a file for the bytes of a video; all that is said goes to stderr from here on.

    Of a file that was not finished nothing is left. Raises SpearError where stdout is a terminal, `out` one of the
    inputs, or whoever reads the bytes has gone.
    """
    if out != STDOUT and out.exists() and any(out.samefile(path) for path in inputs if path.exists()):
        raise SpearError(f"{out} is the audio or the ref itself; give another -o")
    if out == STDOUT and os.isatty(1):
        raise SpearError("a terminal shows no video; pipe it into a player, or give a name with -o")
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)  # whatever prints, libraries in C included
    target = io.FileIO(stdout, "wb") if out == STDOUT else io.FileIO(out, "wb")
    try:
        with _AtOnce(target) as handle:
            yield handle
    except BrokenPipeError as error:
        name = "stdout" if out == STDOUT else out
        raise SpearError(f"nobody reads {name} any more; rendering was stopped") from error
    except BaseException:
        with suppress(OSError):
            if out != STDOUT and stat.S_ISREG(out.stat().st_mode):
                out.unlink()
        raise
