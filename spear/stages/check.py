"""`spear check`: is every file of clips, models and renders still what was written, by the checksums that they hold?"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spear.checkpoint import read_tensors
from spear.clip import Clip, info_digest
from spear.errors import SpearError
from spear.files import read_json, sha256_of
from spear.progress import Progress, no_progress
from spear.provenance import read_sidecar, sidecar_path

_RENDERS = (".mp4", ".mov", ".mkv")
_MADE_BY = {"landmarks": "spear landmarks", "latents": "spear train-lm2face --cache-latents"}


@dataclass
class Checked:
    """whole: files that fit their checksum. damaged: those that do not, each with what is wrong and what to do.
    unknown: how many have none, by the end of their name."""

    whole: int = 0
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)


def check(folder: Path, progress: Progress = no_progress) -> Checked:
    """Read every file below a folder (or one file) and compare it with the checksum that was stored when it was made.

    Raises SpearError where there is nothing to check.
    """
    folder = Path(folder)
    if not folder.exists():
        raise SpearError(f"{folder} does not exist; give a folder of clips, models or renders")
    checked = Checked()
    tests = list(_tests(folder, checked))
    for number, (path, test) in enumerate(tests):
        progress(number, len(tests), path.name)
        try:
            if test():
                checked.whole += 1
            else:
                checked.unknown[path.suffix] += 1
        except (SpearError, OSError) as error:
            checked.damaged.append((path, str(error)))
    progress(len(tests), len(tests), "")
    if not tests:
        raise SpearError(f"{folder} holds no file with a checksum; give a folder of clips, models or renders")
    return checked


def _tests(folder: Path, checked: Checked) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """Each file that spear makes, and what says whether it is whole: True, False where nothing can be said."""
    for path in [folder] if folder.is_file() else _files(folder):
        clip = Clip(path.parent)
        if path == clip.info_path:
            yield path, partial(_check_info, clip)
        elif path in (clip.face_path, clip.audio_path) and clip.info_path.exists():
            yield path, partial(_check_media, clip, path)
        elif path.suffix == ".safetensors":
            yield path, partial(_check_tensors, clip, path)
        elif path.suffix in _RENDERS and sidecar_path(path).exists():
            yield path, partial(_check_render, path)
        elif not (path.suffix == ".json" and path.with_suffix("").suffix in _RENDERS):
            checked.unknown[path.suffix] += 1


def _files(folder: Path) -> Iterator[Path]:
    """Sorted; hidden ones are not looked at."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(top, name) for name in sorted(names) if not name.startswith("."))


def _check_info(clip: Clip) -> bool:
    path, again = clip.info_path, f"delete {clip.folder} and run `spear preprocess` again"
    value, info = read_json(path), clip.info
    written = json.dumps(value, sort_keys=True) + "\n"
    if "sha256" in value and (info_digest(value) != value["sha256"] or path.read_bytes() != written.encode()):
        raise SpearError(f"{path} is damaged: its checksum does not match; {again}")
    lost = [p.name for p in (clip.face_path, clip.audio_path) if p.name in info.files_sha256 and not p.exists()]
    if lost:
        raise SpearError(f"{clip.folder} lacks {' and '.join(lost)}; {again}")
    return "sha256" in value


def _check_media(clip: Clip, path: Path) -> bool:
    try:
        _check_info(clip)
        known = clip.info.files_sha256.get(path.name)
    except SpearError:
        return False  # said of clip.json
    if known is not None and sha256_of(path) != known:
        raise SpearError(
            f"{path} is damaged: its checksum does not match; delete {clip.info_path} and run `spear preprocess` again"
        )
    return known is not None


def _check_tensors(clip: Clip, path: Path) -> bool:
    try:
        read_tensors(path)
    except SpearError as error:
        if not clip.info_path.exists():
            raise
        command = _MADE_BY.get(path.stem, f"spear extract-audio-features --encoder {path.stem}")
        raise SpearError(f"{str(error).rpartition(';')[0]}; delete it and run `{command}` again") from error
    return True


def _check_render(path: Path) -> bool:
    record = read_sidecar(path)
    if record is None or record.video.sha256 == sha256_of(path):
        return record is not None
    raise SpearError(f"{path} is not the video that {sidecar_path(path).name} is of; render it again")
