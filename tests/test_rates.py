"""Rates and durations in words."""

from __future__ import annotations

from spear.rates import duration, rate


def test_a_rate_is_at_least_one() -> None:
    assert [rate(x) for x in (12.345, 1, 0.5, 1 / 60, 1 / 120, 1 / 7200)] == [
        "12.3/s", "1/s", "30/min", "1/min", "30/h", "0.5/h",
    ]  # fmt: skip


def test_a_duration_is_at_least_one() -> None:
    assert [duration(x) for x in (0.2, 59, 60, 5400, 86_400)] == ["0 s", "59 s", "1.0 min", "1.5 h", "1.0 d"]
