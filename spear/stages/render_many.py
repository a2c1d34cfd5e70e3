"""`spear render --list`: many renders, by as many processes or machines as there are."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

from spear.clip_work import KEPT, shard_note, work_through
from spear.errors import SpearError
from spear.left_out import LeftOut
from spear.marking import choose_marking
from spear.progress import Progress, Report, no_progress
from spear.provenance import Source, read_sidecar, source, sources
from spear.render_list import Row, read_list
from spear.stages.render import CONTAINERS, MODELS, PACKAGED, render
from spear.version import __version__
from spear.workers import HERE, Workers

_MOST_NOTES = 10


@dataclass(frozen=True)
class RenderOptions:
    """What all renders of a list share; named and meant as in `render` and in `choose_marking`."""

    models: Path | None = None
    face: str = "largest"
    encoder_weights: str | None = None
    vae: str | None = None
    adapt: int = 0
    precision: str = "auto"
    provenance: bool = True
    watermark: bool = False
    sign_cert: Path | None = None
    sign_key: Path | None = None

    def words(self) -> list[str]:
        """As they are typed; those that are as usual are left out."""
        words = []
        for field in fields(self):
            value, flag = getattr(self, field.name), field.name.replace("_", "-")
            if value != field.default:
                words += (
                    [f"--{flag}", str(value)] if not isinstance(value, bool) else [f"--{'no-' * (not value)}{flag}"]
                )
        return words


def render_many(
    table: Path,
    folder: Path | None = None,
    options: RenderOptions = RenderOptions(),
    workers: Workers = HERE,
    progress: Progress = no_progress,
) -> Report:
    """Make every render of a list (see `read_list`); those whose video and sidecar still fit are left alone.

    What could not be rendered stands with its reason in <list>.skipped.jsonl. Raises SpearError for a list that cannot
    be meant, for models that are absent, and where nothing could be rendered.
    """
    rows = read_list(table, folder, CONTAINERS)
    mine = [row for row in rows if row.name in workers.shard]
    mine.sort(key=lambda row: -_size(row.audio))  # the longest first, so that none is left alone at the end
    report = Report(notes=shard_note(workers.shard, len(mine), len(rows)))
    left_out = LeftOut("render", table.with_name(f"{table.name}.skipped.jsonl"))
    done = work_through(
        partial(_render_one, options=options), mine, workers, report, left_out, progress,
        name=_identity, where=_folder, told=_told,
    )  # fmt: skip
    notes = [f"{row.name}: {note}" for row, found in done for note in found]
    report.notes += notes[:_MOST_NOTES] + [f"{len(notes) - _MOST_NOTES} more"] * (len(notes) > _MOST_NOTES)
    left_out.publish()
    if mine and report.done + report.kept == 0:
        raise SpearError(f"none of {len(mine)} renders could be made, the first: {report.skipped[0][1]}")
    return report


def _render_one(row: Row, options: RenderOptions) -> list[str] | str:
    """What the user should know of it. Raises SpearError where it cannot be made."""
    command = shlex.join(
        ["spear", "render", "--audio", str(row.audio), "--ref", str(row.ref), "-o", str(row.out), *options.words()]
    )
    if _is_rendered(row, options, command):
        return KEPT
    marking = choose_marking(
        row.out, options.provenance, options.watermark, options.sign_cert, options.sign_key, command
    )
    made = render(
        row.audio, row.ref, row.out, options.models, options.face, options.encoder_weights, options.vae,
        adapt=options.adapt, precision=options.precision, marking=marking,
    )  # fmt: skip
    return made.notes


def _is_rendered(row: Row, options: RenderOptions, command: str) -> bool:
    """Whether the video is there and its sidecar tells of this command, these inputs and weights, and this version."""
    try:
        record = read_sidecar(row.out)
        if record is None or (record.command, record.spear) != (command, __version__):
            return False
        known = [_source_of(path, *_state(path)) for path in (row.out, row.audio, row.ref)]
        weights = [(options.models or PACKAGED) / name for name in MODELS]
        weights += [Path(name) for name in (options.encoder_weights, options.vae) if name and Path(name).exists()]
        return known == [record.video, record.audio, record.ref] and sources(weights) == record.weights
    except (SpearError, OSError):
        return False  # rendering it will tell


@lru_cache(maxsize=256)
def _source_of(path: Path, size: int, mtime_ns: int) -> Source:
    """Name and hash of a file, which many rows may share."""
    return source(path)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _identity(row: Row) -> str:
    """What its record may be called: names of files may hold folders."""
    return sha256(os.fsencode(row.name)).hexdigest()[:16]


def _folder(row: Row) -> Path:
    return row.out.parent


def _told(row: Row) -> dict[str, str]:
    return {"out": row.name, "audio": str(row.audio), "ref": str(row.ref)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # which its turn will tell
