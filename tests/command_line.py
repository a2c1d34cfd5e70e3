"""`spear` as its users run it: real arguments, real exit codes, what really arrives on stdout and stderr."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not take the cores from other tests
_STAGES = ("preprocess", "extract_audio_features", "landmarks", "train_a2lm", "train_lm2face", "render", "metrics")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"spear.stages.{name}" for name in _STAGES])


class Run(NamedTuple):
    """How a command ended and what it said."""

    code: int | None
    out: str
    err: str


def spear(*args: str | Path, cwd: Path, **env: str) -> Run:
    """Run a command in a process of its own, as a shell does."""
    run = subprocess.run(
        [sys.executable, "-m", "spear_cli", *map(str, args)], cwd=cwd, env=os.environ | env, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return Run(run.returncode, run.stdout, run.stderr)


def mind_signals() -> None:
    """For a process that is to be interrupted: what a shell runs in the background inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fork_plainly() -> None:
    """For a fork: what it starts itself is forked as well, as in a command that a shell has started; processes of
    another forkserver would not notice that it was killed."""
    multiprocessing.set_start_method("fork", force=True)


def forked_spear(*args: str | Path, cwd: Path, most_bytes: int | None = None, **env: str) -> Run:
    """The same in a fork of a process that has imported the stages already, which saves seconds of importing.

    most_bytes: no file may grow larger, as if the disk were full.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "out"), Path(folder, "err")
        process = FORKS.Process(target=_run, args=([*map(str, args)], cwd, said, most_bytes, env))
        process.start()
        process.join(300)
        assert process.exitcode is not None, f"spear {args} does not end"
        return Run(process.exitcode, said[0].read_text(), said[1].read_text())


def _run(args: list[str], cwd: Path, said: tuple[Path, Path], most_bytes: int | None, env: dict[str, str]) -> None:
    from spear_cli.app import main

    fork_plainly()
    for descriptor, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.update(env)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    sys.argv = ["spear", *args]
    main()


def done(run: Run) -> str:
    """What a command that went well said on stdout; on stderr it said nothing."""
    assert (run.code, run.err) == (0, ""), run.err
    return run.out


def complaint(run: Run, code: int = 1) -> str:
    """The line of a command that failed, without `error: `: one line on stderr, nothing on stdout."""
    assert (run.code, run.out) == (code, ""), run
    assert run.err.startswith("error: "), run
    assert run.err.endswith("\n"), run
    assert run.err.count("\n") == 1, run
    return run.err.removeprefix("error: ").rstrip("\n")


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder, hidden ones too: name -> time of its last change and digest."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    pids = []
    for path in found:
        with suppress(OSError):  # the thread has just ended
            pids += [int(child) for child in path.read_text().split()]
    return [child for child in pids if _lives(child)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants_of(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    children = children_of(pid)
    return children + [below for child in children for below in descendants_of(child)]
