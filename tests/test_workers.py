"""Who works on many clips, and the limits of each process."""

from __future__ import annotations

import os

from spear.workers import HERE, Workers, limits_of, memory_of_machine


def test_memory_and_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    one, four = limits_of(Workers(1)), limits_of(Workers(4))
    assert one.threads == 0  # as many as it likes
    assert four.threads == max(cores // 4, 1)
    assert one.memory == int(memory_of_machine() * 0.9)
    assert abs(four.memory - one.memory / 4) < 1
    assert limits_of(Workers(4, memory=5)).memory == 5
    assert one.folder == os.getcwd()


def test_who_works_apart() -> None:
    assert not HERE.apart
    assert not Workers(1).apart
    assert Workers(2).apart
    assert Workers(0, scheduler="tcp://x:1").apart


def test_the_machine_has_no_more_memory_than_it_has() -> None:
    assert 0 < memory_of_machine() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
