"""One function over many items: in order in this process, or on worker processes that may die."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import pytest
from command_line import children_of
from traps import die_writing, killed_by_others, square, threads, trap, unsendable

from spear.errors import Terminated, UnusableClip
from spear.isolation import Lost
from spear.jobs import _Pace, run_each
from spear.workers import HERE, Workers


def test_in_this_process_in_order() -> None:
    results = list(run_each(square, [1, 2, 3, 4], HERE))
    assert results[:2] == [(1, 1), (2, 4)]
    assert results[3] == (4, 16)
    item, error = results[2]
    assert item == 3
    assert isinstance(error, UnusableClip)
    assert str(error) == "three is no use"


def test_items_are_taken_up_one_by_one() -> None:
    started: list[int] = []
    results = run_each(lambda number: started.append(number), [1, 2, 3], HERE)
    assert started == []
    next(results)
    assert started == [1]


def test_no_items() -> None:
    assert list(run_each(square, [], Workers(4))) == []


def test_ctrl_c_is_no_result() -> None:
    def interrupt(number: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_each(interrupt, [1], HERE))


def test_dask_is_silent_when_its_cluster_is_gone() -> None:
    """What goes wrong late, while it closes, it would tell with a traceback."""
    assert len(list(run_each(square, [1, 2, 4], Workers(2)))) == 3
    for name in (
        "distributed.batched",
        "distributed.client",
        "distributed.scheduler",
        "distributed.gc",
        "asyncio",
        "tornado.application",
    ):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_on_worker_processes() -> None:
    results = dict(run_each(square, [1, 2, 3, 4, 5], Workers(2)))
    assert {k: v for k, v in results.items() if k != 3} == {1: 1, 2: 4, 4: 16, 5: 25}
    assert isinstance(results[3], UnusableClip)  # the kind of error survives the way back
    assert str(results[3]) == "three is no use"


@pytest.mark.parametrize("jobs", [1, 2])
def test_items_that_end_their_process_are_named_and_all_others_are_done(jobs: int) -> None:
    limits, before = Workers(jobs, clip_timeout=2, memory=300_000_000), children_of(os.getpid())
    results = dict(run_each(trap, list(range(8)), limits))
    lost = {item: str(result) for item, result in results.items() if isinstance(result, Exception)}
    assert sorted(results) == list(range(8))
    assert lost == {
        1: "its process crashed (SIGSEGV); see whether the file is sound",
        2: "its process ended with exit code 7; see whether the file is sound",
        3: "its process crashed (SIGABRT: terminate called: no memory); see whether the file is sound",
        4: "it took longer than 2 s; look at it, or give it more with --clip-timeout",
        5: "it wanted more than 0.3 GB of memory; give fewer --jobs, or more with --memory",
    }
    assert {type(results[item]) for item in lost} == {Lost}
    assert os.getpid() not in results.values()
    assert children_of(os.getpid()) == before


def test_a_clip_is_not_blamed_for_what_others_kill(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    assert list(run_each(killed_by_others, paths, Workers(1))) == [(path, 3) for path in paths]


def test_a_dead_process_leaves_nothing_in_the_folder_of_its_clip(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    results = dict(run_each(partial(die_writing, tmp_path), ["bad", "good"], Workers(1), where=tmp_path.joinpath))
    assert isinstance(results["bad"], Lost)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad", "good"]


def test_what_cannot_travel_back_is_said() -> None:
    results = dict(run_each(unsendable, [0, 1], Workers(1)))
    assert "lock" in str(results[0])
    assert str(results[1]).startswith("ValueError: <unlocked _thread.lock")


def test_several_processes_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    half = max(cores // 2, 1)
    for _, found in run_each(threads, [0, 1], Workers(2)):
        assert found == (half, half, str(half))


def test_a_task_is_about_two_seconds_and_at_most_twenty_clips() -> None:
    pace = _Pace()
    assert pace.size() == 1  # nothing is known yet
    pace.note(1, 0.25)
    assert pace.size() == 8
    pace.note(8, 8 * 0.75)  # the mean of before and now: half a second
    assert pace.size() == 4
    pace.note(4, 400)
    assert pace.size() == 1
    for _ in range(20):
        pace.note(1, 0)
    assert pace.size() == 20


def test_a_signal_is_no_items_fault() -> None:
    """It ends the work; another item is not begun."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise Terminated

    with pytest.raises(Terminated):
        list(run_each(work, [1, 2], HERE))
    assert begun == [1]
