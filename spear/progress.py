"""How stages tell what they do without printing: a callback for progress, a record for the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what); total 0 means unknown."""


def no_progress(done: int, total: int, what: str) -> None:
    """Say nothing: the default of every stage."""


@dataclass
class Report:
    """What a stage over many clips did: nothing is dropped in silence."""

    done: int = 0
    kept: int = 0
    """Clips whose result was there already and still fits."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Clip (or source) and the reason why it was left out."""
    notes: list[str] = field(default_factory=list)
