"""The judge of all other reliability tests sees what it is there to see."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from reliability.outcome import Outcome, run_cli


def _write(name: str, text: str) -> None:
    Path(name).write_text(text)


def test_a_command_that_fails_clearly(tmp_path: Path) -> None:
    run = run_cli("verify", "nowhere.mp4", cwd=tmp_path)
    assert run.line == "nowhere.mp4 does not exist; give a video"
    assert run.sound
    assert run.changed == []


def test_half_a_file_and_a_temporary_one_are_seen(tmp_path: Path) -> None:
    run = run_cli("verify", "x.mp4", cwd=tmp_path, prepare=partial(_write, "half.json", '{"a": '))
    assert (run.partial, run.left, run.sound) == (["half.json"], [], False)
    run = run_cli("verify", "x.mp4", cwd=tmp_path, prepare=partial(_write, ".left.json", "{}"))
    assert (run.partial, run.left, run.sound) == ([], [".left.json"], False)


def test_a_hang_is_ended(tmp_path: Path) -> None:
    run = run_cli("verify", "x.mp4", cwd=tmp_path, timeout=1, prepare=partial(time.sleep, 60))
    assert run.hung
    assert run.seconds < 10


def test_a_signal_counts_as_a_traceback(tmp_path: Path) -> None:
    run = run_cli("verify", "x.mp4", cwd=tmp_path, prepare=partial(os.abort))
    assert run.code == -signal.SIGABRT
    assert run.traceback


def _fail() -> None:
    import spear.stages.verify

    def broken(*_: object) -> None:
        raise KeyError("nobody foresaw this")

    spear.stages.verify.verify = broken  # type: ignore[assignment]


def test_what_nobody_has_foreseen_is_one_line_and_counts_as_a_traceback(tmp_path: Path) -> None:
    run = run_cli("verify", "x.mp4", cwd=tmp_path, prepare=_fail)
    assert run.line.startswith("KeyError: 'nobody foresaw this' (test_outcome.py, line ")
    assert run.line.endswith("this is a mistake in spear: set SPEAR_DEBUG=1 to see where it comes from, and report it")
    assert run.traceback
    run = run_cli("verify", "x.mp4", cwd=tmp_path, prepare=_fail, SPEAR_DEBUG="1")
    assert "Traceback (most recent call last)" in run.err


@pytest.mark.parametrize(
    ("code", "err", "clear"),
    [
        (1, "error: a.mp4 is damaged; replace it\n", True),
        (0, "error: a.mp4 is damaged; replace it\n", False),
        (1, "error: one\nerror: two\n", False),
        (1, "Traceback (most recent call last):\nKeyError\n", False),
        (1, "", False),
    ],
)
def test_what_is_a_clear_error(code: int, err: str, clear: bool) -> None:
    assert Outcome((), code, "", err, 0.0).clear is clear
