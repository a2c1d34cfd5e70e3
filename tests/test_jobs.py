"""One function over many items: in order in this process, or on worker processes that may die."""

from __future__ import annotations

import os
import time

import pytest

from spear.errors import Terminated, UnusableClip
from spear.jobs import run_each


def _square(number: int) -> int:
    if number == 3:
        raise UnusableClip("three is no use")
    return number * number


def _deadly(number: int) -> int:
    if number in (1, 2):
        os._exit(1)  # as a crash in a C library or the kernel's out-of-memory killer does
    time.sleep(0.02)
    return os.getpid()


def test_in_this_process_in_order() -> None:
    results = list(run_each(_square, [1, 2, 3, 4], jobs=1))
    assert results[:2] == [(1, 1), (2, 4)]
    assert results[3] == (4, 16)
    item, error = results[2]
    assert item == 3
    assert isinstance(error, UnusableClip)
    assert str(error) == "three is no use"


def test_items_are_taken_up_one_by_one() -> None:
    started: list[int] = []
    results = run_each(lambda number: started.append(number), [1, 2, 3], jobs=1)
    assert started == []
    next(results)
    assert started == [1]


def test_no_items() -> None:
    assert list(run_each(_square, [], jobs=4)) == []


def test_ctrl_c_is_no_result() -> None:
    def interrupt(number: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_each(interrupt, [1], jobs=1))


def test_on_worker_processes() -> None:
    results = dict(run_each(_square, [1, 2, 3, 4, 5], jobs=2))
    assert {k: v for k, v in results.items() if k != 3} == {1: 1, 2: 4, 4: 16, 5: 25}
    assert isinstance(results[3], UnusableClip)  # the kind of error survives the way back
    assert str(results[3]) == "three is no use"


def test_items_that_kill_their_worker_are_named_and_all_others_are_done() -> None:
    """Also those that only waited for the process that died."""
    results = dict(run_each(_deadly, list(range(6)), jobs=2))
    died = {item: result for item, result in results.items() if isinstance(result, Exception)}
    assert sorted(results) == list(range(6))
    assert {item: str(error) for item, error in died.items()} == dict.fromkeys(
        (1, 2), "its worker process died (out of memory, or a crash)"
    )
    assert os.getpid() not in results.values()


def test_a_signal_is_no_items_fault() -> None:
    """It ends the work; another item is not begun."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise Terminated

    with pytest.raises(Terminated):
        list(run_each(work, [1, 2], 1))
    assert begun == [1]
