"""What stages left out of a folder, and why: told in one file, `skipped.jsonl`, that several processes keep at once.

Each clip that is left out has a record of its own, `.skipped/<stage>.<id>.json`, written and removed whole; the file is
made of all of them. Whoever writes it looks at the records again afterwards, and once more where one came in between:
so the last writer has seen all, without a lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spear.errors import SpearError
from spear.files import read_json, write_json, write_text
from spear.shards import Shard

LIST = "skipped.jsonl"
UNFINISHED = ".unfinished"


class LeftOut:
    """What one stage leaves out of the folder of the list."""

    def __init__(self, stage: str, path: Path) -> None:
        """stage: the command, as it is typed. path: the list. Records lie beside it, in a hidden folder of its name."""
        self._stage, self._path = stage, path
        self._known = {name for name, _ in _listed(_records_of(path))}

    def note(self, identity: str, reason: str, **names: str) -> None:
        """A clip is left out. names: what the list says beside the stage and the reason; its id if nothing is given."""
        name = self._name(identity)
        row = {"stage": self._stage, "reason": reason, **(names or {"clip": identity})}
        path = _records_of(self._path) / name
        if name not in self._known or not path.exists() or read_json(path) != row:
            write_json(path, row)
        self._known.add(name)

    def forget(self, identity: str) -> None:
        """A clip is done, or was done already."""
        if (name := self._name(identity)) in self._known:
            (_records_of(self._path) / name).unlink(missing_ok=True)

    def _name(self, identity: str) -> str:
        return f"{self._stage.replace(' ', '_')}.{identity}.json"

    def publish(self) -> None:
        """Make the list of all records; a list that says it already stays untouched."""
        folder, before = _records_of(self._path), None
        while (records := _listed(folder)) != before:
            rows = (json.dumps(row, sort_keys=True, ensure_ascii=False) for row in read_left_out(self._path))
            text = "".join(f"{row}\n" for row in rows)
            text = text.encode(errors="backslashreplace").decode()  # names that are no text, as JSON escapes them
            old = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
            if text != old:
                write_text(self._path, text)
            before = records
        with suppress(OSError):  # others are in it, or it was never there
            folder.rmdir()


def read_left_out(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a list, of its records, sorted by stage and id: `stage`, `reason`, and `clip` or what else they name.

    Raises SpearError for a damaged record.
    """
    folder = _records_of(path)
    for name, _ in sorted(_listed(folder)):
        try:
            yield read_json(folder / name)
        except SpearError:
            if (folder / name).exists():  # else its clip has been done meanwhile
                raise


@contextmanager
def unfinished(folder: Path, stage: str, count: int, shard: Shard, work: bool = True) -> Iterator[None]:
    """While a stage works, and after it was stopped, `.unfinished/` says of how many clips; nobody else knows."""
    path = folder / UNFINISHED / f"{stage}.{shard.index + 1}-of-{shard.count}.json"
    if work:
        write_json(path, {"clips": count})
    yield
    path.unlink(missing_ok=True)
    with suppress(OSError):  # another part is not done
        path.parent.rmdir()


def _records_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}")


def _listed(folder: Path) -> set[tuple[str, int]]:
    """Name and time of change of the records that there are."""
    found = set()
    with suppress(FileNotFoundError):
        for path in folder.glob("[!.]*.json"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
    return found
