"""Scores turned into what the template of the report prints: strings and numbers in order, no markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spear.clip import FPS
from spear.report.choice import LARGE_IS_BAD
from spear.report.plots import distribution
from spear.scores.labels import DISTANCES, UNITS, label_of, number

if TYPE_CHECKING:
    from spear.report.page import Shown
    from spear.scores.compare import Scores

_HEADLINES = ("ld_percent", "lip_opening_r", "lvd_percent", "psnr_hull", "psnr_crop", "ssim_crop", "lpips", "fid")
"""The scores that stand large at the top and whose spread is drawn."""
_FRAME_SERIES = {"ld_percent": ("ld", 100.0), "lvd_percent": ("lvd", 100.0)}
"""Where the series of a headline has another name: that, and the factor to the headline's unit."""
_PUBLISHED = ("ld", "lvd", "psnr", "ssim", "fid")


@dataclass(frozen=True)
class Cell:
    """One place in a table: what is read, and what it is sorted by (None: nothing there)."""

    text: str
    key: float | str | None
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A heading: label, unit, and whether the column holds numbers."""

    label: str
    unit: str
    numeric: bool


@dataclass(frozen=True)
class Grid:
    """A table of rows that all have one cell for each column."""

    columns: list[Column]
    rows: list[list[Cell]]


def headlines(scores: Scores) -> list[dict[str, str]]:
    """The few scores to read first: label, value, unit, interval."""
    names = [name for name in _HEADLINES if _finite(scores.values.get(name)) is not None]
    return [
        dict(zip(("label", "unit"), label_of(name), strict=True))
        | {"value": number(scores.values[name]), "interval": _interval(scores, name)}
        for name in names
    ]


def distances(scores: Scores) -> list[dict[str, Any]]:
    """A line for each distance: label, and a value and its interval in each of the units."""
    shown = [name for name in DISTANCES if any(f"{name}_{unit}" in scores.values for unit in UNITS)]
    return [
        {"label": DISTANCES[name], "cells": [_valued(scores, f"{name}_{unit}") for unit in UNITS]} for name in shown
    ]


def other_scores(scores: Scores) -> list[dict[str, str]]:
    """A line for each score that is no distance, new ones included: label, unit, value, interval."""
    taken = {f"{name}_{unit}" for name in DISTANCES for unit in UNITS}
    return [
        dict(zip(("label", "unit"), label_of(name), strict=True)) | _valued(scores, name)
        for name in scores.values
        if name not in taken
    ]


def _valued(scores: Scores, name: str) -> dict[str, str]:
    return {"value": number(_finite(scores.values.get(name))), "interval": _interval(scores, name)}


def _interval(scores: Scores, name: str) -> str:
    ends = scores.intervals.get(name) or ()
    return f"{number(ends[0])} to {number(ends[1])}" if len(ends) == 2 else ""


def clip_grid(rows: Sequence[dict[str, Any]], anchors: dict[str, str]) -> Grid:
    """The per-clip table; distances in percent only. anchors: clip -> where on the page it is shown."""
    return _grid(rows, {"clip": anchors})


def group_grid(scores: Scores) -> Grid:
    """The totals of each group of clips; empty where none were asked for."""
    by = str(scores.protocol.get("by", "group"))
    return _grid([{by: name} | values for name, values in scores.groups.items()], {})


def _grid(rows: Sequence[dict[str, Any]], links: dict[str, dict[str, str]]) -> Grid:
    """First who it is and how much of it, then what matters most, then everything else."""
    there = dict.fromkeys(name for row in rows for name in row)
    first = [*list(there)[:1], *(name for name in ("clips", "frames", *_HEADLINES) if name in there)]
    names = dict.fromkeys([*first, *there])
    hidden = {f"{base}_{unit}" for base in DISTANCES for unit in UNITS if f"{base}_percent" in names} - {
        f"{base}_percent" for base in DISTANCES
    }
    columns = {}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        if name not in hidden and values:
            label, unit = label_of(name)
            columns[name] = Column(label, unit, all(isinstance(value, int | float) for value in values))
    return Grid(
        list(columns.values()),
        [[_cell(row.get(name), links.get(name, {})) for name in columns] for row in rows],
    )


def _cell(value: Any, links: dict[str, str]) -> Cell:
    if isinstance(value, int | float):
        known = _finite(value)
        return Cell(number(known), known)
    return Cell("-", None) if value is None else Cell(words(value), words(value), links.get(str(value), ""))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def words(value: Any) -> str:
    """A value of the protocol as people read it."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {words(item)}" for name, item in value.items())
    return ", ".join(words(item) for item in value) if isinstance(value, list | tuple) else str(value)


def spreads(scores: Scores, shown: Sequence[Shown]) -> list[dict[str, str]]:
    """The spread of each main score over clips, or over the frames of a single one: label, unit, svg, summary."""
    found: list[dict[str, str]] = []
    for name in _HEADLINES:
        values = _over_frames(shown, name) if len(scores.per_clip) == 1 else _over_clips(scores.per_clip, name)
        if len(values) > 1:
            label, unit = label_of(name)
            ordered = sorted(values)
            low, middle, high = (number(v) for v in (ordered[0], _median(ordered), ordered[-1]))
            found.append({
                "label": label, "unit": unit, "summary": f"lowest {low}, median {middle}, highest {high}",
                "svg": distribution(values, scores.values.get(name), label, f"s{len(found)}"),
            })  # fmt: skip
    return found


def _over_clips(rows: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := _finite(row.get(name))) is not None]


def _over_frames(shown: Sequence[Shown], name: str) -> list[float]:
    series, factor = _FRAME_SERIES.get(name, (name, 1.0))
    values = shown[0].series.get(series, ()) if shown else ()
    return [factor * float(value) for value in values if math.isfinite(value)]


def _median(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def published(scores: Scores) -> list[dict[str, Any]]:
    """The published tables in the order of their rows: name, headings, and rows with a model and its values."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in scores.against:
        tables.setdefault(str(row.get("table", "")), []).append(row)
    found = []
    for name, rows in tables.items():
        columns = [column for column in _PUBLISHED if any(row.get(column) is not None for row in rows)]
        lines = [
            {
                "model": str(row.get("model", "")),
                "measured": bool(row.get("measured")),
                "values": [_as_printed(row.get(column)) for column in columns],
            }
            for row in rows
        ]
        found.append({"name": name, "columns": [column.upper() for column in columns], "rows": lines})
    return found


def _as_printed(value: Any) -> str:
    """A number that others printed has the figures that they gave it; one of ours has four."""
    text = str(value)
    return number(value) if isinstance(value, float) and len(text) > 6 else "-" if value is None else text


def lead(scores: Scores) -> dict[str, Any]:
    """What was compared: a title, the two sides where they are two files, and how much of it."""
    rows, protocol = scores.per_clip, scores.protocol
    names = [str(row.get("clip", "")) for row in rows]
    frames = sum(row.get("frames") or 0 for row in rows)
    clips = "1 clip" if len(rows) == 1 else f"{len(rows):,} clips"
    subject = names[0] if len(names) == 1 else clips
    amount = f"{clips}, {frames:,} frames, {_clock(frames / FPS)}"
    if "split" in protocol:
        amount += f"; split: {protocol['split']}"
    sides = [words(protocol[side]) for side in ("pred", "truth") if side in protocol]
    return {"title": f"Scores of {subject}", "sides": sides if len(sides) == 2 else [], "amount": amount}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def clip_facts(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What stands beside a clip's players: label, value, unit of those headlines that its row has."""
    names = [name for name in _HEADLINES if _finite(row.get(name)) is not None]
    return [(label_of(name)[0], number(row[name]), label_of(name)[1]) for name in names]


def told_value(series: str, value: float) -> str:
    """One frame's value in words; LD comes in face widths."""
    if series == "ld":
        return f"LD {number(100 * value)} % of face width"
    label, unit = label_of(series)
    return f"{label} {number(value)} {unit}".rstrip()


def ends(series: str | None) -> tuple[str, str]:
    """How the worst and the best are told: `highest LD`, `lowest LD`."""
    if series is None:
        return "", ""
    label = "LD" if series == "ld" else label_of(series)[0]
    return (f"highest {label}", f"lowest {label}") if LARGE_IS_BAD[series] else (f"lowest {label}", f"highest {label}")
