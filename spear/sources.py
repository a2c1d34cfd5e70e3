"""Which videos there are, what is known about them from where they lie, and which split each belongs to."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from spear.clip import SPLITS
from spear.errors import SpearError

LAYOUTS = ("auto", "mead", "flat")
SPLIT_BY = ("clip", "speaker")
_VIDEO = {
    ".mp4",
    ".mov",
    ".m4v",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".flv",
    ".wmv",
    ".3gp",
    ".ogv",
    ".gif",
}
_SOUND = (".wav", ".m4a", ".flac", ".mp3", ".aac", ".ogg", ".opus")
_MEAD = re.compile(
    r"(?P<speaker>[MW]\d{3})/video/(?P<view>[^/]+)/(?P<emotion>[^/]+)/level_(?P<level>\d+)/(?P<name>[^/]+)\.\w+$"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One video. sound: its audio file, where it lies beside the video."""

    id: str
    path: Path
    sound: Path | None
    speaker: str
    view: str | None = None
    emotion: str | None = None
    level: int | None = None


def is_video_name(path: Path) -> bool:
    """Whether a file's name ends like a video's."""
    return path.suffix.lower() in _VIDEO


def find_videos(top: Path) -> list[Path]:
    """The videos below a folder, sorted; hidden ones and other files are passed over."""
    return list(_walk(top, Counter()))


def find_sources(videos: list[Path], layout: str = "auto") -> tuple[list[Source], list[str]]:
    """All videos below the given files and folders, sorted by id, and notes about files that are no videos.

    layout: `mead` reads <M|W>NNN/video/<view>/<emotion>/level_<k>/<NNN>.mp4; `flat` takes the parent folder as the
    speaker; `auto` decides for each file. Raises SpearError where there is no video.
    """
    if layout not in LAYOUTS:
        raise SpearError(f"--layout {layout} is not one of {', '.join(LAYOUTS)}")
    for known in (_names_in, _real_folder):
        known.cache_clear()
    sources: dict[str, Source] = {}
    seen: set[str] = set()
    passed_over: Counter[str] = Counter()
    for top in videos:
        if not top.exists():
            raise SpearError(f"{top} does not exist; give a video or a folder of videos")
        for path in _walk(top, passed_over):
            if (real := _real(path)) in seen:  # a folder and a part of it were given
                continue
            seen.add(real)
            source = _describe(path, top, layout)
            source = marked(source) if source.id in sources else source
            sources[source.id] = source
    if not sources:
        raise SpearError(f"no video in {', '.join(map(str, videos))}; give a folder with .mp4, .mov, .mkv ... files")
    notes = [
        f"{count} {suffix or 'nameless'} file(s) passed over: not a video"
        for suffix, count in sorted(passed_over.items())
    ]
    return [sources[key] for key in sorted(sources)], notes


def marked(source: Source) -> Source:
    """The same video under an id that tells it apart from another video of its name."""
    mark = hashlib.sha256(os.fsencode(source.path.resolve())).hexdigest()[:6]
    return replace(source, id=f"{source.id}-{mark}")


def _walk(top: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """In order of names, depth first; links to folders are not followed."""
    if top.is_file():
        yield top
        return
    with os.scandir(top) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(top / entry.name, passed_over)
        elif entry.is_file():
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in _VIDEO:
                yield top / entry.name
            elif suffix not in _SOUND:
                passed_over[suffix] += 1


def _real(path: Path) -> str:
    """Where a file really lies. Asked for once for each folder, since all of MEAD has more files than patience."""
    if path.is_symlink():
        return os.path.realpath(path)
    return os.path.join(_real_folder(path.parent), path.name)


@lru_cache(maxsize=64)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


@lru_cache(maxsize=64)
def _names_in(folder: Path) -> frozenset[str]:
    """The files in a folder, and links to such; none where there is no such folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_file())
    return frozenset()


def _describe(path: Path, top: Path, layout: str) -> Source:
    match = _MEAD.search(path.absolute().as_posix()) if layout != "flat" else None
    if match:
        speaker, view, emotion, level, name = match.group("speaker", "view", "emotion", "level", "name")
        identity = _plain(f"{speaker}_{view}_{emotion}_{level}_{name}")
        beside = path.absolute().parents[4] / "audio" / emotion / f"level_{level}" / path.name
        sound = _sound_of(beside) or _sound_of(path)
        return Source(identity, path, sound, speaker, view, emotion, int(level))
    if layout == "mead":
        raise SpearError(
            f"{path} is not <M|W>NNN/video/<view>/<emotion>/level_<k>/<NNN>.mp4; use --layout auto or flat"
        )
    inside = path.relative_to(top) if top.is_dir() else Path(path.name)
    speaker = path.absolute().parent.name
    return Source(_plain("_".join(inside.with_suffix("").parts)), path, _sound_of(path), _plain(speaker))


def _sound_of(video: Path) -> Path | None:
    names = _names_in(video.parent)
    return next((video.with_suffix(suffix) for suffix in _SOUND if f"{video.stem}{suffix}" in names), None)


def _plain(name: str) -> str:
    """A folder name that every file system takes; a mark keeps apart what the cleaning would make equal."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-")[:120] or "_"
    return plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}"


def assign_splits(sources: list[Source], by: str, seed: int) -> dict[str, str]:
    """Clip id -> train, val or test: 80/10/10 (section 4.3) by clip or speaker, a function of the list and the seed, or
    as a file says.

    by: `clip`, `speaker`, or a .csv file with the columns clip and split; clips that it does not name are for training.
    Without a file each split has at least one clip (or speaker) where there are three. Raises SpearError.
    """
    if by.endswith(".csv"):
        return _splits_of(Path(by), {source.id for source in sources})
    if by not in SPLIT_BY:
        raise SpearError(f"--split-by {by} is not one of {', '.join(SPLIT_BY)}, nor a .csv file")
    key = {source.id: source.id if by == "clip" else source.speaker for source in sources}
    order = sorted(set(key.values()), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    share = round(len(order) / 10) if len(order) > 9 else int(len(order) > 2)
    place = {name: "test" if i < share else "val" if i < 2 * share else "train" for i, name in enumerate(order)}
    return {source.id: place[key[source.id]] for source in sources}


def _splits_of(path: Path, ids: set[str]) -> dict[str, str]:
    if not path.is_file():
        raise SpearError(f"{path} does not exist; give --split-by a .csv file with the columns clip and split")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, ValueError) as error:  # a field of megabytes; no UTF-8
        raise SpearError(f"{path} cannot be read ({error}); give a table with the columns clip and split") from error
    for number, row in enumerate(rows, start=2):
        if row.get("clip") not in ids or row.get("split") not in SPLITS:
            raise SpearError(
                f"{path}, line {number}: wants the id of a clip that there is and one of {', '.join(SPLITS)}, "
                f"has {row.get('clip')}, {row.get('split')}"
            )
    return dict.fromkeys(ids, "train") | {row["clip"]: row["split"] for row in rows}
