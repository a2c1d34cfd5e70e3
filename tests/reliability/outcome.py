"""How a command ended that was given something bad: run in a fork, watched, judged."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
from command_line import FORKS, files, fork_plainly

from spear.checkpoint import read_tensors
from spear.errors import SpearError

GB = 1 << 30


@dataclass
class Outcome:
    """code: exit code, negative for the signal that ended it, None where it hung and was killed.

    changed: files that are new or other than before, by name. partial: those of them that are not whole. left: hidden
    temporary files.
    """

    args: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float
    changed: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def hung(self) -> bool:
        return self.code is None

    @property
    def traceback(self) -> bool:
        """A traceback, what stands for one, or the end by a signal such as a segmentation fault."""
        said = self.out + self.err
        found = "Traceback (most recent call last)" in said or "this is a mistake in spear" in said
        return found or (self.code or 0) < 0

    @property
    def clear(self) -> bool:
        """It failed as every command should: one line on stderr, nothing on stdout, exit code 1 to 9."""
        line = self.err.startswith("error: ") and self.err.endswith("\n") and self.err.count("\n") == 1
        return self.code in range(1, 10) and line and not self.out

    @property
    def line(self) -> str:
        """The sentence of a clear error, without `error: `."""
        assert self.clear, self
        return self.err.removeprefix("error: ").rstrip("\n")

    @property
    def done(self) -> bool:
        """It went well and said nothing on stderr."""
        return self.code == 0 and not self.err

    @property
    def sound(self) -> bool:
        """It went well or failed clearly, and left nothing half-written or temporary."""
        return (self.done or self.clear) and not (self.traceback or self.partial or self.left)


def run_cli(
    *args: str | Path,
    cwd: Path,
    timeout: float = 60,
    memory: int | None = None,
    most_bytes: int | None = None,
    prepare: Callable[[], None] | None = None,
    watch: bool = True,
    **env: str,
) -> Outcome:
    """Run `spear ARGS` in a fork of a process that has imported the stages, and say how it ended.

    timeout: s, after which it and its children are killed. memory: bytes of private memory (RLIMIT_DATA: torch and
    mediapipe reserve far more address space than they use, so RLIMIT_AS says little). most_bytes: no file may grow
    larger. prepare: called in the fork before the command. watch: compare the files below cwd before and after.
    """
    _imported()
    words = tuple(map(str, args))
    before = files(cwd) if watch else {}
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "out"), Path(folder, "err")
        process = FORKS.Process(target=_run, args=(words, cwd, said, memory, most_bytes, prepare, env))
        begun = time.monotonic()
        process.start()
        process.join(timeout)
        code = process.exitcode
        if code is None:
            assert process.pid is not None
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not become a group of its own yet
                process.kill()
            process.join()
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in said]
        result = Outcome(words, code, *texts, seconds=time.monotonic() - begun)
    if watch:
        after = files(cwd)
        result.changed = [name for name, what in after.items() if before.get(name) != what]
        result.left = [name for name in result.changed if Path(name).name.startswith(".")]
        result.partial = [n for n in result.changed if n not in result.left and not is_whole(cwd / n)]
    return result


@cache
def _imported() -> None:
    """Wait for the process that forks, so that the time of its imports is nobody's."""
    first = FORKS.Process(target=os.getpid)
    first.start()
    first.join()


def _run(
    args: tuple[str, ...],
    cwd: Path,
    said: tuple[Path, Path],
    memory: int | None,
    most_bytes: int | None,
    prepare: Callable[[], None] | None,
    env: dict[str, str],
) -> None:
    os.setsid()
    fork_plainly()
    for descriptor, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    from spear_cli.app import main

    os.chdir(cwd)
    os.environ.update(env)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if prepare is not None:
        prepare()
    sys.argv = ["spear", *args]
    main()


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end as what its name says."""
    try:
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix in (".mp4", ".mkv", ".mov", ".wav"):
            with av.open(f"file:{path}") as container:
                return sum(1 for _ in container.decode(container.streams[0])) > 0
        else:
            return path.stat().st_size > 0
    except (SpearError, ValueError, OSError):  # FFmpeg's errors are OSErrors or ValueErrors
        return False
    return True
