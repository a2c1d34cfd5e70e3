"""Writing files whole or not at all, and telling whether a file still fits what it was made from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.temporary import temporary_file

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not grow so large here",
}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it takes the name `path`, else it vanishes.

    The suffix is kept, since encoders choose the container by it. Raises SpearError where the folder cannot be written
    or the disk is full; then an older file of that name is as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise SpearError(f"cannot write {path}: it is a folder; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack = ExitStack()
        temporary = stack.enter_context(temporary_file(path.parent, path.suffix))
    except OSError as error:
        raise SpearError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or change its permissions"
        ) from error
    written = 0
    try:
        with stack:
            try:
                yield temporary
                _sync(temporary)
                temporary.chmod(0o644)  # until now its owner's alone; the result is an ordinary file
                os.replace(temporary, path)
            except Exception:
                written = temporary.stat().st_size if temporary.exists() else 0
                raise
    except Exception as error:
        if why := _is_full(error):
            raise _no_room(path, why, f"more than {written / 1e6:.1f}") from error
        raise


def require_room(path: Path, needed: int) -> None:
    """Raises SpearError where a file of so many bytes does not fit on the disk: before it is written, not after."""
    if needed > _free(path):
        raise _no_room(path, _FULL[errno.ENOSPC], f"{needed / 1e6:.1f}")


def _free(path: Path) -> int:
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free


def _no_room(path: Path, why: str, megabytes: str) -> SpearError:
    room = f"{megabytes} MB are needed, {_free(path) / 1e6:.1f} MB are free"
    return SpearError(f"cannot write {path}: {why} ({room}); make room or choose another folder")


def _is_full(error: BaseException | None) -> str | None:
    """Why there is no room, where an error or what caused it says so; None for others. Rust says it in words only."""
    if error is None:
        return None
    for code, why in _FULL.items():
        if getattr(error, "errno", None) == code or f"(os error {code})" in str(error):
            return why
    return _is_full(error.__cause__)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written in. Raises SpearError at once where that fails, not after hours of work."""
    require_text(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, so that the folder stays as it is
    except OSError as error:
        raise SpearError(
            f"cannot write in {folder}: {error.strerror or error}; choose another folder or change its permissions"
        ) from error


def require_text(folder: Path) -> None:
    """Raises SpearError for a name that is not UTF-8: libraries that read tensors cannot open what is in there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise SpearError(f"the name of {folder} is no UTF-8 text; rename it") from None


def user_cache() -> Path:
    """Where this user's caches are: `~/.cache/spear`, or below `$XDG_CACHE_HOME`. What lies there can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spear"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or absent."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_picture(path: Path) -> None:
    """Raises SpearError where a PNG cannot be written under this name: before the work, not after it."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise SpearError(f"{path} does not end in .png; give the picture a name that does")
    make_folder(path.parent)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture (H, W, 3) as PNG, whole or absent. Raises SpearError as check_picture."""
    check_picture(path)
    with whole(path) as temporary:
        temporary.write_bytes(
            cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        )  # imwrite is silent about a full disk


def write_json(path: Path, value: Any) -> None:
    """Write sorted JSON, whole or absent; equal values give equal bytes. Raises ValueError for NaN."""
    write_text(path, json.dumps(value, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises SpearError where it is damaged or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpearError(f"cannot read {path}: {error}; delete it and run the stage that makes it again") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
