"""How fast many clips are done, and how long the rest will take, in words."""

from __future__ import annotations


def rate(per_second: float) -> str:
    """Three figures, with a unit in which the number is at least one."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 1 or unit == "h":
            return f"{per_second * seconds:.3g}/{unit}"
    raise AssertionError


def duration(seconds: float) -> str:
    """One figure after the point, with a unit in which the number is at least one."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
