"""`spear pack`: clips -> a few large tars and an index of what is where in them, from which trainings read in place."""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spear.clip import SPLITS, Clip
from spear.clip_index import PACKED, ClipRows, indexed_clips, write_rows
from spear.errors import SpearError
from spear.files import make_folder, read_json, whole, write_json
from spear.progress import Progress, Report, no_progress

_OURS = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.(tar|json)")
_BLOCK = tarfile.BLOCKSIZE
_MB = 1_000_000


class _File(NamedTuple):
    row: int
    path: Path
    size: int
    changed: int

    @property
    def member(self) -> str:
        """WebDataset takes what is before the first dot for the name of the sample, so an id must not have one."""
        return f"{self.path.parent.name.replace('%', '%25').replace('.', '%2E')}.{self.path.name}"


def pack(clips: Path, shards: Path, shard_size: int = 1000, progress: Progress = no_progress) -> Report:
    """Write shards/<split>-<number>.tar of about shard_size MB and shards/index.safetensors, which says that all is
    there. Equal clips give equal bytes; shards that fit are kept. Raises SpearError where there are no clips.
    """
    if shards.resolve().is_relative_to(clips.resolve()):
        raise SpearError(f"{shards} is in {clips}, whose clips are packed; give another folder")
    rows = indexed_clips(clips, progress)
    if "shards" in rows.about:
        raise SpearError(f"{clips} holds packed clips; give the folder that they were packed from")
    make_folder(shards)
    plan, report = _plan(rows, shard_size * _MB), Report()
    places: dict[str, list[tuple[int, int]]] = {}
    for number, (name, files) in enumerate(plan.items()):
        progress(number, len(plan), name)
        kept = _kept(shards / name, files)
        if kept is None:
            (shards / PACKED).unlink(missing_ok=True)
            kept = _write(shards / name, files)
        else:
            report.kept += 1
        places[name] = kept
    report.done = len(plan) - report.kept
    if report.done or not (shards / PACKED).exists():
        write_rows(_with_places(rows, plan, places), shards / PACKED)
    for path in shards.iterdir():
        if _OURS.fullmatch(path.name) and f"{path.stem}.tar" not in plan:
            path.unlink()  # of more clips than there are now
    progress(len(plan), len(plan), "")
    return report


def _plan(rows: ClipRows, limit: int) -> dict[str, list[_File]]:
    """Which files of which clips go into each tar; no clip is torn."""
    plan: dict[str, list[_File]] = {}
    for code, split in enumerate(SPLITS):
        size, number = limit, -1
        for row in np.flatnonzero(rows.columns["split"] == code).tolist():
            files = _files(row, rows[row])
            if size >= limit:
                size, number = 0, number + 1
            plan.setdefault(f"{split}-{number:05d}.tar", []).extend(files)
            size += sum(file.size for file in files)
    return plan


def _files(row: int, clip: Clip) -> list[_File]:
    paths = [clip.info_path, clip.face_path, clip.audio_path, *sorted(clip.folder.glob("[!.]*.safetensors"))]
    known = [(path, path.stat()) for path in paths if path.exists()]
    return [_File(row, path, status.st_size, status.st_mtime_ns) for path, status in known]


def _note(tar: Path) -> Path:
    return tar.with_suffix(".json")


def _digest(files: list[_File]) -> str:
    lines = [f"{file.member} {file.size} {file.changed}" for file in files]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _kept(tar: Path, files: list[_File]) -> list[tuple[int, int]] | None:
    """Where the files stand in a tar that was made of them as they are now; None where there is none."""
    if not (tar.exists() and _note(tar).exists()):
        return None
    note = read_json(_note(tar))
    if note["digest"] != _digest(files) or note["size"] != tar.stat().st_size:
        return None
    return [(start, size) for start, size in note["places"]]


def _write(tar: Path, files: list[_File]) -> list[tuple[int, int]]:
    """Start and size of each file in the tar, bytes."""
    _note(tar).unlink(missing_ok=True)
    places = []
    with whole(tar) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            for file in files:
                about = tarfile.TarInfo(file.member)  # owner, time and mode are always the same
                about.size = file.size
                with open(file.path, "rb") as data:
                    archive.addfile(about, data)
                places.append((archive.offset - -(-file.size // _BLOCK) * _BLOCK, file.size))
        size = temporary.stat().st_size
    write_json(_note(tar), {"digest": _digest(files), "size": size, "places": places})
    return places


def _with_places(rows: ClipRows, plan: dict[str, list[_File]], places: dict[str, list[tuple[int, int]]]) -> ClipRows:
    """The same clips, with the tar of each and the place of every file in it."""
    columns = {**rows.columns, "shard": np.zeros(len(rows), np.int32)}
    names = sorted({file.path.name for files in plan.values() for file in files})
    for name in names:
        columns |= {f"{name}.start": np.full(len(rows), -1, np.int64), f"{name}.size": np.full(len(rows), -1, np.int64)}
    for shard, (tar, files) in enumerate(plan.items()):
        for file, (start, size) in zip(files, places[tar], strict=True):
            columns["shard"][file.row] = shard
            columns[f"{file.path.name}.start"][file.row] = start
            columns[f"{file.path.name}.size"][file.row] = size
    about = {key: value for key, value in rows.about.items() if key != "changed"}
    return ClipRows(rows.root, rows.ids, columns, {**about, "shards": list(plan), "files": names})
