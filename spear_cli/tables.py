"""Scores as tables for people, or as JSON for programs. No heavy import at the top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spear.scores.labels import DISTANCES, OTHERS, UNITS, number
from spear_cli.console import is_main_process

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spear.scores.compare import Scores

_MOST_CLIPS, _WORST = 20, 5
_LEAST_NAME = 12
"""Columns for the name of a clip, which folds."""
_PIPED_WIDTH = 120
"""Columns where the output is no terminal: room for whole clip names, still readable in a log."""
_CLIP_COLUMNS = {
    "frames": "frames",
    "ld_percent": "LD %",
    "ld_skill": "skill",
    "lip_opening_r": "lip r",
    "psnr_crop": "PSNR",
    "psnr_hull": "hull",
    "ssim_crop": "SSIM",
}
"""As many as stand beside a clip's name in 80 columns; the JSON has all."""
_GROUP_COLUMNS = {
    "clips": "clips",
    "frames": "frames",
    "ld_percent": "LD %",
    "ld_skill": "skill",
    "lip_opening_r": "lip r",
    "lip_opening_amplitude": "amplitude",
    "lvd_percent": "LVD %",
    "lvd_over_baseline": "LVD / base",
    "psnr_hull": "hull",
}
_WORST_BY = {"ld_percent": True, "psnr_hull": False, "psnr_crop": False, "ssim_crop": False}
"""What the worst clips are chosen by, the first that was measured, and whether a large value is a bad one."""


def show_scores(scores: Scores, form: str) -> None:
    """Print scores on stdout. form: `tables`, with protocol and notes; `json`; or `csv`, a line for each clip.

    `-` is a value that is not defined; the notes say why. Numbers are never cut, whatever the width.
    """
    if not is_main_process():
        return
    if form != "tables":
        print(scores.to_json() if form == "json" else scores.to_csv(), end="\n" if form == "json" else "", flush=True)
        return
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=_PIPED_WIDTH)
    tables = (
        _distances(scores.values, scores.intervals),
        _others(scores.values, scores.intervals),
        _against(scores),
        _groups(scores, console.width),
        _clips(scores.per_clip, console.width),
    )
    for table in tables:
        if table is not None:
            console.print(table)
    _lines(console, "protocol", [f"{name}: {_words(value)}" for name, value in scores.protocol.items()])
    _lines(console, "notes", scores.notes)


def _distances(values: dict[str, float | None], intervals: dict[str, list[float]]) -> Table | None:
    shown = [name for name in DISTANCES if any(f"{name}_{unit}" in values for unit in UNITS)]
    if not shown:
        return None
    sure = ["95 % interval, %"] if intervals else []
    table = _table("distance", [*UNITS.values(), *sure])
    for name in shown:
        numbers = (_number(values.get(f"{name}_{unit}")) for unit in UNITS)
        ends = [_ends(intervals.get(f"{name}_percent"))] if intervals else []
        table.add_row(_text(DISTANCES[name]), *numbers, *ends)
    return table


def _others(values: dict[str, float | None], intervals: dict[str, list[float]]) -> Table | None:
    distances = {f"{name}_{unit}" for name in DISTANCES for unit in UNITS}
    shown = [name for name in OTHERS if name in values]
    shown += [name for name in values if name not in distances and name not in shown]  # a new score is never hidden
    if not shown:
        return None
    table = _table("score", ["value", *(["95 % interval"] if intervals else []), "unit"])
    for name in shown:
        label, unit = OTHERS.get(name, (name, ""))
        ends = [_ends(intervals.get(name))] if intervals else []
        table.add_row(_text(label), _number(values[name]), *ends, unit)
    return table


def _ends(interval: list[float] | None) -> Any:
    """Both ends of a bootstrap interval."""
    return _text("" if interval is None else " to ".join(number(end) for end in interval))


def _against(scores: Scores) -> Table | None:
    if not scores.against:
        return None
    columns = [name for name in ("ld", "lvd", "psnr", "ssim", "fid") if any(name in row for row in scores.against)]
    table = _table("published by others, under their own protocol", ["table", *(name.upper() for name in columns)])
    for row in scores.against:
        table.add_row(_text(row["model"]), str(row["table"]), *(_number(row[n]) if n in row else "" for n in columns))
    return table


def _clips(rows: list[dict[str, Any]], width: int) -> Table | None:
    """A row for each clip, or only the worst ones; of a single clip the totals say it all."""
    if len(rows) < 2:
        return None
    title = "clip"
    if len(rows) > _MOST_CLIPS:
        worst_first = _worst_first(rows)
        title = f"worst {_WORST} of {len(rows)} clips" if worst_first else f"first {_WORST} of {len(rows)} clips"
        rows = (worst_first or rows)[:_WORST]
    return _rows(title, [(str(row["clip"]), row) for row in rows], _CLIP_COLUMNS, width)


def _groups(scores: Scores, width: int) -> Table | None:
    if not scores.groups:
        return None
    return _rows(f"by {scores.protocol['by']}", list(scores.groups.items()), _GROUP_COLUMNS, width)


def _rows(title: str, rows: list[tuple[str, dict[str, Any]]], headings: dict[str, str], width: int) -> Table:
    """A row for each name, with as many of the columns as leave room for it."""
    columns = [name for name in headings if any(name in row for _, row in rows)]
    widths = {name: 3 + max(len(headings[name]), *(len(_number(row.get(name))) for _, row in rows)) for name in columns}
    while columns and sum(widths[name] for name in columns) > width - _LEAST_NAME:
        columns.pop()
    table = _table(title, [headings[name] for name in columns])
    for name, row in rows:
        table.add_row(_text(name), *(_number(row.get(column)) for column in columns))
    return table


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for name, large_is_bad in _WORST_BY.items():
        measured = [row for row in rows if row.get(name) is not None]
        if measured:
            return sorted(measured, key=lambda row: row[name], reverse=large_is_bad)
    return []


def _table(title: str, columns: Iterable[str]) -> Table:
    """Where room is short the first column gives way first."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(title, overflow="fold")
    for name in columns:
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    return table


def _text(words: str) -> Any:
    """A cell of user text: table cells given as str would be read as markup."""
    from rich.text import Text

    return Text(words)


def _number(value: float | None) -> Any:
    """Four figures, for people; the JSON has them all."""
    from rich.text import Text

    return Text(number(value), no_wrap=False, overflow="fold")  # in a column too narrow it goes on below, never cut


def _words(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _lines(console: Console, title: str, lines: list[str]) -> None:
    """One line each, broken by the terminal alone, so that a search over piped output finds whole sentences."""
    if lines:
        console.print(title, soft_wrap=True)
    for line in lines:
        console.print("  " + line.replace("\n", "\\n"), soft_wrap=True)
