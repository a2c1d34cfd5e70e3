"""What the command line shows: one progress bar, one report, one line for an error. No heavy import at the top."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from spear.rates import rate

if TYPE_CHECKING:
    from spear.progress import Progress, Report

_SHOWN_REASONS = 5
_RATE_OVER = 300.0
"""Seconds over which the rate is taken: clips may be minutes long."""


def is_main_process() -> bool:
    """Whether this process speaks; under torchrun only rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line for people, on stdout."""
    if is_main_process():
        print(text, flush=True)


def fail(error: BaseException) -> None:
    """The one line of an error, on stderr."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr with rate and time left; a callback for a stage. Not on a terminal: nothing."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        """How many are done in a second or minute, as of late."""

        def render(self, task: Task) -> Text:
            """Nothing before the first is done."""
            return Text(rate(task.speed) if task.speed else "", "progress.data.speed")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate(),
               TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[what]}", markup=False))  # fmt: skip
    with Bar(
        *columns, console=console, disable=not (console.is_terminal and is_main_process()), transient=True,
        speed_estimate_period=_RATE_OVER,
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None, what="")

        def progress(done: int, total: int, what: str) -> None:
            """See Progress; a total of 0 is one that nobody knows yet."""
            bar.update(task, completed=done, total=total or None, what=what)

        yield progress


def show_report(report: Report, what: str) -> None:
    """Counts first, then what was left out and why. Ends the command with 3 where something was."""
    say(f"{report.done} {what} done, {report.kept} already there, {len(report.skipped)} left out")
    for note in report.notes:
        say(f"note: {note}")
    for name, reason in report.skipped[:_SHOWN_REASONS]:
        say(f"left out: {name}: {reason}")
    if len(report.skipped) > _SHOWN_REASONS:
        say(f"left out: {len(report.skipped) - _SHOWN_REASONS} more")
    some_left_out(len(report.skipped))


def some_left_out(count: int) -> None:
    """Exit code 3: done, but not with all clips."""
    if count:
        raise typer.Exit(3)
