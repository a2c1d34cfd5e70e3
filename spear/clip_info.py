"""What clip.json says of a clip, and what of it must be known before the clip is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any

FPS = 25
FORMAT = 2


@dataclass(frozen=True)
class ClipInfo:
    """What clip.json says. crop: per frame (a, b, x, y), so that crop = [[a, -b], [b, a]] @ source + (x, y), px."""

    source: str
    source_sha256: str
    source_size: int
    source_mtime_ns: int
    width: int
    height: int
    frames: int
    crop: list[list[float]]
    missing: list[int]
    """Frames in which no face was found; their crop is interpolated."""
    has_audio: bool
    speaker: str
    view: str | None
    emotion: str | None
    level: int | None
    split: str
    split_rule: str
    settings: dict[str, Any] = field(default_factory=dict)
    av_offset: int = 0
    """Frames by which the sound is late (early where negative) and is to be corrected; 0 where that is not certain."""
    av_offset_r: float | None = None
    """Correlation of mouth and sound at the offset that fits best, certain or not; None where none was estimated."""
    remarks: list[str] = field(default_factory=list)
    """What a person should know of this clip, with frame numbers: see spear.remarks."""
    files_sha256: dict[str, str] = field(default_factory=dict)
    """Of face.mp4 and audio.wav; empty in clips of older versions. clip.json also holds its own."""
    sound: dict[str, Any] | None = None
    """sha256, size and mtime_ns of the file beside the video that the sound is from; None where it is the video's."""
    fps: int = FPS
    format: int = FORMAT


def info_digest(value: dict[str, Any]) -> str:
    """The checksum that clip.json holds of all else in it."""
    rest = {name: part for name, part in value.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_types(info: ClipInfo) -> None:
    """Raises TypeError for a value of another type than the field's, or no frame: somebody has edited it."""
    kinds = {"str": str, "int": int, "float": int | float, "bool": bool, "list": list, "dict": dict, "None": type(None)}
    for known in fields(info):
        value = getattr(info, known.name)
        if not any(isinstance(value, kinds[kind.split("[")[0]]) for kind in str(known.type).split(" | ")):
            raise TypeError(f"{known.name} is {value!r:.40}, no {known.type}")
    if info.frames < 1:
        raise TypeError(f"{info.frames} frames")


@dataclass(frozen=True)
class Facts:
    """What of a clip must be known before it is read: an index of all clips has it in columns. speeds: by encoder, how
    many times faster each changed copy of the speech is; None where no index told them."""

    frames: int
    speaker: str
    split: str
    has_audio: bool
    av_offset: int
    fingerprint: str
    speeds: dict[str, list[float]] | None = None


def without_crop(text: bytes) -> bytes:
    """clip.json, four numbers a frame shorter."""
    begin = text.find(b'"crop": [[')
    end = text.find(b"]]", begin)
    return text if min(begin, end) < 0 else text[:begin] + b'"crop": []' + text[end + 2 :]
