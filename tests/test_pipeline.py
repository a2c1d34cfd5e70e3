"""Work on threads: order, errors, bounds, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from spear.pipeline import Meanwhile, Stopped, in_order


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_when_even(n: int) -> int:
        time.sleep(0.01 * (n % 2 == 0))
        return n * n

    with in_order(slow_when_even, range(12), workers, ahead=4) as squares:
        assert list(squares) == [n * n for n in range(12)]


def test_one_worker_sees_the_items_one_after_the_other() -> None:
    seen: list[int] = []
    with in_order(seen.append, range(20), 1, ahead=5) as results:
        assert list(results) == [None] * 20
    assert seen == [*range(20)]


def test_workers_work_at_the_same_time() -> None:
    meet = threading.Barrier(3, timeout=10)  # a worker alone would wait in vain
    with in_order(lambda _: meet.wait(), range(3), 3, ahead=3) as results:
        assert sorted(results) == [0, 1, 2]


def test_no_more_items_are_taken_than_allowed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(50):
            taken.append(n)
            yield n

    with in_order(lambda n: n, items(), 2, ahead=3) as results:
        for result in results:
            assert len(taken) <= result + 1 + 3  # this one, and three ahead


def test_items_may_be_fewer_than_what_is_held() -> None:
    with in_order(lambda n: n, [1, 2], 2, ahead=9) as results:
        assert list(results) == [1, 2]
    with in_order(lambda n: n, [], 2, ahead=9) as results:
        assert list(results) == []


def _broken(n: int) -> int:
    if n == 3:
        raise ValueError("item 3 is bad")
    return n


def test_an_error_of_the_work_comes_where_its_result_would_have() -> None:
    got: list[int] = []
    with pytest.raises(ValueError, match="item 3 is bad"), in_order(_broken, range(100), 2, ahead=4) as results:
        got.extend(results)
    assert got == [0, 1, 2]


def test_an_error_of_the_items_comes_out() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("the file ends early")

    with pytest.raises(OSError, match="ends early"), in_order(lambda n: n, items(), 2, ahead=4) as results:
        list(results)


def test_an_error_of_the_caller_ends_the_work() -> None:
    done: list[int] = []

    def interrupted() -> None:
        with in_order(done.append, range(1000), 2, ahead=6) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count <= 7


# --- one piece of work beside the caller


def test_meanwhile_gives_the_result_and_how_far_it_is() -> None:
    go, told = threading.Event(), []

    def work(note: object) -> str:
        note(7)  # type: ignore[operator]
        go.wait(10)
        return "done"

    def tell(done: int) -> None:
        told.append(done)
        go.set()

    with Meanwhile(work) as running:
        assert running.result(tell) == "done"
    assert set(told) <= {0, 7}
    assert told[-1] == 7


def test_meanwhile_raises_what_the_work_raises() -> None:
    def work(_: object) -> None:
        raise ValueError("no face")

    with Meanwhile(work) as running, pytest.raises(ValueError, match="no face"):
        running.result()


def test_work_that_nobody_waits_for_ends_at_its_next_note() -> None:
    started, ended = threading.Event(), []

    def work(note: object) -> None:
        try:
            for n in range(10_000):
                started.set()
                note(n)  # type: ignore[operator]
                time.sleep(0.001)
        except Stopped:
            ended.append("stopped")
            raise

    def in_trouble() -> None:
        with Meanwhile(work):
            started.wait(10)
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        in_trouble()
    assert ended == ["stopped"]
