"""A list of renders to make: a .csv or .jsonl file with audio, ref and out in every row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spear.errors import SpearError

COLUMNS = ("audio", "ref", "out")


class Row(NamedTuple):
    """One render. name: `out` as the list has it, which tells the renders apart."""

    name: str
    audio: Path
    ref: Path
    out: Path


def read_list(path: Path, folder: Path | None, suffixes: tuple[str, ...]) -> list[Row]:
    """The renders of a list, in its order.

    audio and ref are found from the list's own folder on, or absolute. out lies below `folder`, without one below the
    list's folder, and nowhere else. Raises SpearError, naming the line, for what cannot be meant.
    """
    rows: dict[str, Row] = {}
    for number, values in _lines(path):
        where = f"{path}, line {number}"
        texts = [values.get(column) for column in COLUMNS]
        if not all(isinstance(text, str) and _is_name(text) for text in texts):
            raise SpearError(f"{where}: wants text for audio, ref and out, has {', '.join(map(repr, texts))}")
        audio, ref, name = map(str, texts)
        out = Path(name)
        if out.is_absolute() or ".." in out.parts:
            raise SpearError(f"{where}: out {name} leaves the folder; give a path below it, and the folder with -o")
        if out.suffix.lower() not in suffixes:
            raise SpearError(f"{where}: out {name} does not end in {', '.join(suffixes)}; give it a name that does")
        row = Row(str(out), path.parent / audio, path.parent / ref, (folder or path.parent) / out)
        if row.name in rows:
            raise SpearError(f"{where}: out {name} is there twice; give each render a name of its own")
        rows[row.name] = row
    _apart(path, rows)
    if not rows:
        raise SpearError(f"{path} has no row; give one with {', '.join(COLUMNS)} for each render")
    return list(rows.values())


def _is_name(text: str) -> bool:
    """Whether a file could be called so."""
    try:
        return bool(text) and "\0" not in text and bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def _apart(path: Path, rows: dict[str, Row]) -> None:
    """Raises SpearError where a render would take the place of something that another one reads."""
    read = {file.absolute() for row in rows.values() for file in (row.audio, row.ref)}
    for row in rows.values():
        if row.out.absolute() in read:
            raise SpearError(f"{path}: {row.name} is both an out and an audio or ref; give it another name")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each line. Raises SpearError for what is neither CSV with a header nor JSON lines."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise SpearError(f"{path} ends neither in .csv nor in .jsonl; give a list with {', '.join(COLUMNS)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".csv":
                table = csv.DictReader(file)
                yield from ((table.line_num, row) for row in table)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    yield number, row if isinstance(row, dict) else {}
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise SpearError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; mend the list") from error
