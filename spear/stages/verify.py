"""`spear verify`: is this video marked as synthetic, and is it still what was marked? Asks nobody on the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from spear import watermark
from spear.audio import open_media
from spear.c2pa_sign import Manifest, read_manifest
from spear.errors import SpearError, UnusableClip
from spear.files import sha256_of
from spear.progress import Progress, no_progress
from spear.provenance import Record, is_comment, read_sidecar, sidecar_path
from spear.video import Footage

Status = Literal["marked", "unmarked", "tampered"]
_FRAMES = 250
"""Frames in which the invisible mark is looked for, spread over the video: one would do, but not a cut-in."""


@dataclass
class Verified:
    """What a video says about itself.

    status: `tampered` where something contradicts the video; else `marked` where anything says that it is synthetic,
    `unmarked` where nothing does. comment: SPEAR's, or None. sidecar: `right`, `wrong` (it is of other bytes), `absent`
    or `unread`; record: its content. watermark: None where no frame can be read. notes: sentences for the user.
    """

    status: Status
    comment: str | None
    sidecar: Literal["right", "wrong", "absent", "unread"]
    record: Record | None
    manifest: Manifest
    watermark: watermark.Mark | None
    notes: list[str] = field(default_factory=list)


def verify(path: Path, progress: Progress = no_progress) -> Verified:
    """Read comment, sidecar, C2PA manifest and invisible mark of a video. Raises SpearError where it is no video.

    A video that can no longer be opened, but has a sidecar or a manifest, is tampered with.
    """
    path = Path(path)
    if not path.is_file():
        raise SpearError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a video")
    notes: list[str] = []
    sidecar, record = _sidecar(path, notes)
    manifest = read_manifest(path)
    comment, mark, damage = None, None, None
    try:
        comment = _comment(path)
        mark = _mark(path, progress)
    except UnusableClip as error:
        damage = error
    contradictions = _contradictions(path, sidecar, record, manifest, comment)
    if damage is not None:
        if not contradictions and record is None and manifest.state == "absent":
            raise damage
        notes.append(f"the pictures cannot be read: {damage}")
    if contradictions:
        status: Status = "tampered"
    else:
        says_so = manifest.state == "valid" and manifest.synthetic
        status = "marked" if comment or says_so or (mark is not None and mark.found) else "unmarked"
    notes = contradictions + _remarks(record, manifest, mark) + notes
    return Verified(status, comment, sidecar, record, manifest, mark, notes)


def _sidecar(path: Path, notes: list[str]) -> tuple[Literal["right", "wrong", "absent", "unread"], Record | None]:
    try:
        record = read_sidecar(path)
    except SpearError as error:  # it says nothing about the video, good or bad
        notes.append(str(error))
        return "unread", None
    if record is None:
        return "absent", None
    return ("right" if record.video.sha256 == sha256_of(path) else "wrong"), record


def _comment(path: Path) -> str | None:
    with open_media(path, "a video") as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    comment: str = tags.get("comment", "")
    return comment if is_comment(comment) else None


def _mark(path: Path, progress: Progress) -> watermark.Mark:
    """The invisible mark, voted over frames that are spread over the whole video."""
    footage, detector = Footage(path), watermark.Detector()
    wanted = set(np.linspace(0, footage.expected - 1, min(footage.expected, _FRAMES)).round().astype(int).tolist())
    for number, picture in footage.chosen(wanted):
        detector.add(picture.rgb())
        progress(number + 1, footage.expected, "looking for the mark")
    return detector.result()


def _contradictions(
    path: Path, sidecar: str, record: Record | None, manifest: Manifest, comment: str | None
) -> list[str]:
    found = []
    if manifest.state == "tampered":
        found.append(f"the C2PA manifest does not fit the video: {manifest.detail}")
    if record is not None and sidecar == "wrong":
        where = sidecar_path(path).name
        found.append(f"{where} is of a video with sha256 {record.video.sha256[:12]}..., this is another")
    if record is not None and sidecar == "right":
        if record.provenance and comment is None:
            found.append("the sidecar says that the video has a comment, but it has none")
        if record.signed and manifest.state == "absent":
            found.append("the sidecar says that the video is signed, but it is not")
    return found


def _remarks(record: Record | None, manifest: Manifest, mark: watermark.Mark | None) -> list[str]:
    notes = []
    if record is not None and record.watermark is not None and mark is not None and not mark.found:
        notes.append("the sidecar says that there is an invisible mark, but it was not found")
    if record is not None and not record.provenance:
        notes.append("the sidecar says that it was rendered with --no-provenance")
    if manifest.state == "unread":
        notes.append(f"a C2PA manifest is there, but not read: {manifest.detail}")
    if manifest.state == "valid" and not manifest.trusted:
        notes.append(f"nobody known vouches for the signer of the C2PA manifest ({manifest.signer or 'no name'})")
    if manifest.state == "valid" and not manifest.synthetic:
        notes.append("the C2PA manifest does not say that the video is synthetic")
    return notes
