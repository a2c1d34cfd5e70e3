"""What a rendered video says about itself: a comment in its metadata, and a sidecar beside it that knows more.

The sidecar of `out.mp4` is `out.mp4.json`, format 1, one JSON object with sorted keys:

    format       1
    says         a sentence for whoever opens the file: that the face is synthetic
    spear        the version that rendered it
    command      the command line
    video        name and sha256 of the video, as it is after signing: any change of the video breaks it
    audio, ref   name and sha256 of what it was made from; names without folders, which tell of the machine
    weights      a list of such, every weights file that had a part in it
    provenance   false with --no-provenance: then the video has no comment, no manifest and no mark
    signed       whether the video holds a signed C2PA manifest
    watermark    the 16 bits of the invisible mark as text of 0 and 1, or null without one

It has no time in it, so that equal renders give equal sidecars. It is not signed itself: who can write the file can
change it; the C2PA manifest is what cannot be changed unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spear.errors import SpearError
from spear.files import read_json, sha256_of, write_json
from spear.version import __version__

FORMAT = 1
SAYS = "Synthetic face: made with SPEAR"
"""How the comment of every video begins, whatever the version."""
COMMENT = f"{SAYS} {__version__}"
"""Goes into the metadata of every rendered video."""


@dataclass(frozen=True)
class Source:
    """A file that a video was made from: its name without folders, and the hex SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """The content of a sidecar; see the top of this file."""

    video: Source
    audio: Source
    ref: Source
    weights: tuple[Source, ...]
    command: str
    provenance: bool = True
    signed: bool = False
    watermark: str | None = None
    spear: str = __version__


def is_comment(text: str) -> bool:
    """Whether a comment from a video's metadata is one that SPEAR writes, of this version or another."""
    return text.startswith(SAYS + " ")


def sources(paths: Iterable[Path]) -> tuple[Source, ...]:
    """The files by name and hash; of a folder all files below it. Equal contents give equal results.

    Raises SpearError where one cannot be read.
    """
    files: set[Path] = set()
    for path in paths:
        files |= {below for below in path.rglob("*") if below.is_file()} if path.is_dir() else {path}
    return tuple(sorted((source(path) for path in files), key=lambda found: (found.name, found.sha256)))


def source(path: Path, name: str | None = None) -> Source:
    """A file by name and hash. name: what to call it, where it still has a temporary one. Raises SpearError."""
    try:
        return Source(name or path.name, sha256_of(path))
    except OSError as error:
        what = f"cannot read {path} for its checksum: {error.strerror or error}"
        raise SpearError(f"{what}; check the path and its permissions") from error


def sidecar_path(video: Path) -> Path:
    """Where the sidecar of a video is: `out.mp4.json` for `out.mp4`."""
    return video.with_name(f"{video.name}.json")


def write_sidecar(video: Path, record: Record) -> None:
    """Write the sidecar of a video, whole or absent. Raises SpearError where that cannot be written."""
    write_json(sidecar_path(video), {"format": FORMAT, "says": SAYS, **asdict(record)})


def remove_sidecar(video: Path) -> None:
    """Take an old sidecar away, before a new video takes the name: with the old one it would look tampered with."""
    sidecar_path(video).unlink(missing_ok=True)


def read_sidecar(video: Path) -> Record | None:
    """The sidecar of a video, or None without one. Raises SpearError where it is damaged or not of this format."""
    path = sidecar_path(video)
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or "format" not in content:
        raise SpearError(f"{path} was not written by spear; rename it to verify the video without it")
    if content["format"] != FORMAT:
        raise SpearError(f"{path} has format {content['format']}, this spear reads format {FORMAT}; update spear")
    try:
        return _record(content)
    except (KeyError, TypeError) as error:
        raise SpearError(f"{path} is damaged ({error}); restore a copy, or render again") from error


def _record(content: dict[str, Any]) -> Record:
    """Raises KeyError for what is absent, TypeError for what is of another type."""
    watermark = content["watermark"]
    return Record(
        video=_source(content["video"]),
        audio=_source(content["audio"]),
        ref=_source(content["ref"]),
        weights=tuple(_source(one) for one in _typed(content["weights"], list)),
        command=_typed(content["command"], str),
        provenance=_typed(content["provenance"], bool),
        signed=_typed(content["signed"], bool),
        watermark=None if watermark is None else _typed(watermark, str),
        spear=_typed(content["spear"], str),
    )


def _source(content: Any) -> Source:
    content = _typed(content, dict)
    return Source(_typed(content["name"], str), _typed(content["sha256"], str))


def _typed(value: Any, wanted: type) -> Any:
    if not isinstance(value, wanted):
        raise TypeError(f"{value!r} where a {wanted.__name__} belongs")
    return value
