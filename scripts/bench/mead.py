"""A simulated MEAD: its names, counts and irregularities around tiny videos, and clips as the stages leave them.

All by hard links, so that hundreds of thousands of files take little room and little time.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import stage1
from stages import write_footage

from spear.clip import Clip

MEAD = 281_400
"""60 people, 670 clips in each of 7 views."""
MEN = (3, 5, 7, 9, 11, 12, 13, 19, *range(22, 36), 37, *range(39, 43))
WOMEN = (9, 11, *range(14, 20), 21, *range(23, 27), 28, 29, 33, *range(35, 39), 40)
PUBLIC = [f"M{n:03}" for n in MEN] + [f"W{n:03}" for n in WOMEN]
OTHERS = [f"M{n:03}" for n in range(43, 49)] + [f"W{n:03}" for n in range(41, 47)]
VIEWS = ("front", "left_30", "left_60", "right_30", "right_60", "top", "down")
EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
SILENT, BROKEN = 0.01, 0.002
"""Shares of clips without a sound file, and of files that end too early."""
KINDS = 8
LINKS = 60_000
"""Names of one file that file systems allow."""


class Linked:
    """Hard links to a file; where it has had as many as it may, to a copy."""

    def __init__(self, file: Path) -> None:
        self._file, self._count, self._copies = file, 0, itertools.count()

    def __call__(self, name: Path) -> None:
        self._count += 1
        if self._count % LINKS == 0:
            copy = self._file.with_name(f"{self._file.stem}-{next(self._copies)}{self._file.suffix}")
            self._file = Path(shutil.copy(self._file, copy))
        os.link(self._file, name)


def names(clips: int) -> Iterator[tuple[str, str, str, int, int]]:
    """person, view, emotion, level, number of each clip: all of MEAD, or so many of the public people's front views,
    drawn by chance, for some numbers are missing there."""
    people, views = (PUBLIC + OTHERS, VIEWS) if clips >= MEAD else (PUBLIC, VIEWS[:1])
    every = [
        (person, view, emotion, level, number)
        for person, view, emotion in itertools.product(people, views, EMOTIONS)
        for level in range(1, 2 if emotion == "neutral" else 4)
        for number in range(1, 41 if emotion == "neutral" else 31)
    ]
    if clips > len(every):
        raise ValueError(f"MEAD has {MEAD} clips, the public people's front views {len(every)}; not {clips}")
    yield from sorted(random.Random(0).sample(every, clips))


def make_tree(root: Path, clips: int, media: list[Path]) -> None:
    """<person>/video/<view>/<emotion>/level_<k>/<NNN>.mp4, sound in audio/; hidden files of another system."""
    chance, broken = random.Random(1), media[0].with_name("broken.mp4")
    broken.write_bytes(media[0].read_bytes()[:2000])
    videos, damaged, sound = [Linked(file) for file in media], Linked(broken), Linked(media[0].with_suffix(".m4a"))
    for person, view, emotion, level, number in names(clips):
        folder = root / person / "video" / view / emotion / f"level_{level}"
        beside = root / person / "audio" / emotion / f"level_{level}"
        if number == 1 or not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            beside.mkdir(parents=True, exist_ok=True)
            (folder / "._001.mp4").touch()
        video = damaged if chance.random() < BROKEN else videos[chance.randrange(len(videos))]
        video(folder / f"{number:03}.mp4")
        heard = beside / f"{number:03}.m4a"
        if chance.random() >= SILENT and not heard.exists():
            sound(heard)


def make_media(folder: Path) -> list[Path]:
    """Tiny videos of half a second, and their sound."""
    media = [write_footage(folder / f"{kind}.mp4", 0.4 + 0.04 * kind, None) for kind in range(KINDS)]
    shutil.copy(media[0], folder / "0.m4a")
    return media


def make_clips(folder: Path, count: int) -> Path:
    """Folders of clips as the stages leave them, by hard links: 80 % for training."""
    made, clips, parts = folder / "made", folder / "clips", {}
    for split in ("train", "val", "test"):
        stage1._write_clip(Clip(made / split), 0, split)
        parts[split] = {path.name: Linked(path) for path in sorted((made / split).iterdir())}
    for number in range(count):
        where = clips / f"clip{number:06}"
        where.mkdir(parents=True)
        for name, link in parts[{8: "val", 9: "test"}.get(number % 10, "train")].items():
            link(where / name)
    return clips
