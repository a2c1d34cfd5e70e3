"""What a training must know of all clips before it begins, in columns: read from one file, not from every folder.

The index of a folder of clips is made by whoever needs it first, in clips/.index/; whatever changes a clip removes it
(`storage.index_forgotten`). What is done by hand shows in times of change: of clips/ where clips come or go, and of up
to 1,000 clips. Each clip is still checked when it is read. `spear pack` writes the same beside its tars, with
the place of every file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spear.checkpoint import read_about, read_tensors, save_tensors
from spear.clip import SPLITS, Clip, Facts, find_clips
from spear.errors import SpearError
from spear.progress import Progress, Report, no_progress
from spear.storage import INDEX, InFolder, InTar, Member, index_forgotten

PACKED = "index.safetensors"
"""Beside the tars of `spear pack`, written last."""
_NAME = "clips.safetensors"
_VERSION = 2
_WATCHED = 1000
"""Clips whose times of change are looked at."""
_RECENT = 2048
"""Clips that are kept as objects."""
_ENDS = b"\0"
"""Between two ids: the one character that no file name has."""
Columns = dict[str, NDArray[Any]]
"""Each with a row for every clip: split, speaker (number in about["speakers"]), frames, av_offset, has_audio,
fingerprint (8 bytes), landmarks (number in about["landmarks"], -1 where none fit); of each encoder features.<name>:
number in about["settings"], -1 where none fit, and speeds.<name>, NaN where there are fewer. Of packed
clips also shard, and <file>.start and .size, -1 where absent."""


class ClipRows(Sequence[Clip]):
    """Clips, by id; an object is made for those alone that are asked for."""

    def __init__(self, root: Path, ids: list[str], columns: Columns, about: dict[str, Any]) -> None:
        self.root, self.ids, self.columns, self.about = root, ids, columns, about
        self._recent = lru_cache(maxsize=_RECENT)(self._clip)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.chosen(np.arange(len(self))[row])
        return self._recent(range(len(self))[row])

    def __getstate__(self) -> tuple[Any, ...]:
        return self.root, self.ids, self.columns, self.about

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def chosen(self, rows: NDArray[Any]) -> ClipRows:
        """Those of the given numbers."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return ClipRows(self.root, [self.ids[row] for row in rows], columns, self.about)

    def of_split(self, split: str) -> ClipRows:
        """Those of one split. Raises SpearError where there are none."""
        rows = np.flatnonzero(self.columns["split"] == SPLITS.index(split))
        if not len(rows):
            raise SpearError(f"no clip of the {split} split in {self.root}; preprocess more videos, at least three")
        return self.chosen(rows)

    @property
    def speakers(self) -> list[str]:
        """Of each clip."""
        return [self.about["speakers"][number] for number in self.columns["speaker"].tolist()]

    @property
    def encoders(self) -> list[str]:
        """Those of which there are features, of any of the clips that were listed together."""
        return list(self.about["settings"])

    def usable(self, report: Report, encoder: str | None = None) -> ClipRows:
        """Those that have landmarks, and features of `encoder` where one is named; the others are listed in the report.

        Raises SpearError, naming the stage to run, where none is left.
        """
        fit = self.columns["landmarks"] >= 0
        if encoder is not None:
            fit &= self.columns.get(f"features.{encoder}", np.full(len(self), -1)) >= 0
            fit &= self.columns["has_audio"]
        for row in np.flatnonzero(~fit):
            if (reason := _reason(self[row], encoder)) is None:
                with index_forgotten(self.root):
                    raise SpearError(f"{self[row].folder} was changed by hand; run the same command again")
            report.skipped.append((self.ids[row], reason))
        if not fit.any():
            raise SpearError(report.skipped[-len(self)][1])
        return self.chosen(np.flatnonzero(fit))

    def _clip(self, row: int) -> Clip:
        value = {name: column[row] for name, column in self.columns.items()}
        speeds = {e: [float(s) for s in value[f"speeds.{e}"] if s == s] for e in self.about["settings"]}
        facts = Facts(
            int(value["frames"]), self.about["speakers"][value["speaker"]], SPLITS[value["split"]],
            bool(value["has_audio"]), int(value["av_offset"]), value["fingerprint"].tobytes().hex(), speeds,
        )  # fmt: skip
        if "shard" not in value:
            return Clip(self.root / self.ids[row], InFolder(), facts)
        tar = self.root / self.about["shards"][value["shard"]]
        members = {
            name: Member(tar, int(value[f"{name}.start"]), int(value[f"{name}.size"]))
            for name in self.about["files"] if value[f"{name}.size"] >= 0
        }  # fmt: skip
        return Clip(tar / self.ids[row], InTar(members), facts)


def same_settings(encoder: str, *parts: ClipRows) -> dict[str, Any]:
    """What the features of clips that were listed together were made with. Raises SpearError where that differs."""
    command = f"extract-audio-features --encoder {encoder}"
    number = _same(f"features.{encoder}", f"{encoder}.safetensors", command, parts)
    return dict(parts[0].about["settings"][encoder][number])


def same_detector(*parts: ClipRows) -> dict[str, Any]:
    """The same of their landmarks."""
    return dict(parts[0].about["landmarks"][_same("landmarks", "landmarks.safetensors", "landmarks", parts)])


def _same(column: str, file: str, command: str, parts: Sequence[ClipRows]) -> int:
    first = parts[0].columns[column][0]
    for part in parts:
        for row in np.flatnonzero(part.columns[column] != first)[:1]:
            raise SpearError(
                f"{part[row].folder / file} was made with other settings than the rest; run `spear {command}` again"
            )
    return int(first)


def _reason(clip: Clip, encoder: str | None) -> str | None:
    try:
        clip.require_landmarks()
        if encoder is not None:
            if not clip.facts.has_audio:
                return f"{clip.folder} has no sound; preprocess videos with a voice"
            clip.require_features(encoder)
    except SpearError as error:
        return str(error)
    return None


def indexed_clips(root: Path, progress: Progress = no_progress) -> ClipRows:
    """All clips of a folder, or of a folder that `spear pack` made. Raises SpearError as `find_clips` does."""
    root = Path(root)
    if (root / PACKED).exists():
        return read_rows(root, root / PACKED)
    if not root.is_dir():
        find_clips(root)  # says so
    kept = root / INDEX / _NAME
    if kept.exists():
        with suppress(SpearError):  # damaged or of another version: it is made again
            about = read_about(kept)
            if about.get("index") == _VERSION and about["changed"] == _times(root, list(about["changed"])):
                return read_rows(root, kept)
    return _make_index(root, progress)


def read_rows(root: Path, path: Path) -> ClipRows:
    """The clips below root that an index lists."""
    columns, about = read_tensors(path)
    if about.get("index") != _VERSION:
        raise SpearError(f"{path} has version {about.get('index')}, this spear reads {_VERSION}; pack the clips again")
    names = columns.pop("ids").numpy().tobytes()
    ids = [os.fsdecode(name) for name in names.split(_ENDS)]
    return ClipRows(root, ids, {name: column.numpy() for name, column in columns.items()}, about)


def write_rows(rows: ClipRows, path: Path) -> None:
    """Write an index, whole or absent."""
    ids = np.frombuffer(_ENDS.join(os.fsencode(name) for name in rows.ids), np.uint8).copy()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in rows.columns.items()}
    save_tensors(path, {**tensors, "ids": torch.from_numpy(ids)}, {**rows.about, "index": _VERSION})


def _make_index(root: Path, progress: Progress) -> ClipRows:
    """Walk through the clips, and keep what was found, unless a clip was changed meanwhile or nothing can be written.

    Files are made by the folder's descriptor: whoever changes a clip removes the folder, and then they are nowhere.
    """
    try:
        (root / INDEX).mkdir(exist_ok=True)
        folder = os.open(root / INDEX, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return list_clips(find_clips(root), progress)
    try:
        found = find_clips(root)
        step = -(-len(found) // _WATCHED)
        changed = _times(root, ["", *(clip.id for clip in found[::step])])
        rows = list_clips(found, progress)
        rows.about["changed"] = changed
        with suppress(OSError, SpearError):
            write_rows(rows, Path(f"/proc/self/fd/{folder}") / _NAME)
    except SpearError:
        with suppress(OSError):
            (root / INDEX).rmdir()
        raise
    finally:
        os.close(folder)
    return rows


def _times(root: Path, names: list[str]) -> dict[str, list[int]]:
    """When clips/ itself (no name) and folders in it have changed, and their clip.json."""
    times = {}
    for name in names:
        with suppress(OSError):
            paths = [root / name, root / name / "clip.json"] if name else [root]
            times[name] = [path.stat().st_mtime_ns for path in paths]
    return times


def listed(clips: Sequence[Clip]) -> ClipRows:
    """The same clips with what is known of them in columns."""
    return clips if isinstance(clips, ClipRows) else list_clips(clips)


def list_clips(clips: Sequence[Clip], progress: Progress = no_progress) -> ClipRows:
    """What is to be known of each clip; all of one folder. Raises SpearError where one is damaged."""
    speakers, detectors, settings = _Numbers(), _Numbers(), dict[str, _Numbers]()
    rows: list[dict[str, Any]] = []
    for done, listed in enumerate(clips):
        if done % 1000 == 0:
            progress(done, len(clips), "listing the clips")
        clip = Clip(listed.folder)  # its clip.json is not kept
        facts = clip.facts
        row: dict[str, Any] = {
            "split": SPLITS.index(facts.split), "speaker": speakers(facts.speaker), "frames": facts.frames,
            "av_offset": facts.av_offset, "has_audio": facts.has_audio, "fingerprint": facts.fingerprint,
            "landmarks": -1,
        }  # fmt: skip
        for path in sorted(clip.folder.glob("*.safetensors")):
            about = _about(clip, path)
            fits = about.get("clip") == facts.fingerprint
            if path == clip.landmarks_path:
                row["landmarks"] = detectors(about["settings"]) if fits else -1
            elif "encoder" in about:
                known = settings.setdefault(path.stem, _Numbers())
                row[f"features.{path.stem}"] = known(about["settings"]) if fits else -1
                row[f"speeds.{path.stem}"] = about["speeds"] if fits else []
        rows.append(row)
    about = {"speakers": speakers.values, "landmarks": detectors.values,
             "settings": {name: known.values for name, known in sorted(settings.items())}}  # fmt: skip
    return ClipRows(clips[0].folder.parent, [clip.id for clip in clips], _columns(rows, list(settings)), about)


def _about(clip: Clip, path: Path) -> dict[str, Any]:
    """What a derived file says about itself; nothing where it is damaged."""
    try:
        return clip.storage.about(path)
    except SpearError:
        return {}


def _columns(rows: list[dict[str, Any]], encoders: list[str]) -> Columns:
    def column(name: str, dtype: Any) -> NDArray[Any]:
        """One value of all clips, -1 where one has none."""
        return np.array([row.get(name, -1) for row in rows], dtype)

    columns = {name: column(name, dtype) for name, dtype in (
        ("split", np.uint8), ("speaker", np.int32), ("frames", np.int32), ("av_offset", np.int32),
        ("has_audio", np.bool_), ("landmarks", np.int32), *((f"features.{name}", np.int32) for name in encoders),
    )}  # fmt: skip
    marks = b"".join(bytes.fromhex(row["fingerprint"]) for row in rows)
    columns["fingerprint"] = np.frombuffer(marks, np.uint8).reshape(len(rows), -1).copy()
    for name in encoders:
        speeds: list[list[float]] = [row.get(f"speeds.{name}", []) for row in rows]
        columns[f"speeds.{name}"] = table = np.full((len(rows), max(map(len, speeds))), np.nan)
        for row, known in enumerate(speeds):
            table[row, : len(known)] = known
    return columns


class _Numbers:
    """Numbers from 0 on for equal JSON values, in the order in which they come."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[str, int] = {}

    def __call__(self, value: Any) -> int:
        number = self._known.setdefault(repr(value), len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number
