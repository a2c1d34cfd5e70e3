"""Where the files of a clip are: in its folder, or as members of a tar that are read in place, without unpacking."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from spear.checkpoint import about_of, checked, read_about, read_tensors
from spear.errors import SpearError

_DTYPES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""Those that clips have."""
_LONGEST_HEADER = 100_000_000
"""Bytes, as safetensors itself has it."""


class Member(NamedTuple):
    """Bytes of a tar: they begin at `start` and are `size`."""

    tar: Path
    start: int
    size: int


class Storage(Protocol):
    """What a clip needs of the files in its folder. path: as if they were there; errors name it."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""

    def about(self, path: Path) -> dict[str, Any]:
        """What a tensor file says about itself. Raises SpearError."""

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """All tensors, their checksum checked. Raises SpearError."""

    def window(self, path: Path) -> Window:
        """A tensor file of which rows are read. Raises SpearError."""

    def media(self, path: Path) -> str | io.BytesIO:
        """What a decoder opens."""


class InFolder:
    """Files by their own names."""

    def exists(self, path: Path) -> bool:
        """See Storage."""
        return path.exists()

    def about(self, path: Path) -> dict[str, Any]:
        """See Storage."""
        return read_about(path)

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """See Storage."""
        return read_tensors(path)[0]

    def window(self, path: Path) -> Window:
        """See Storage."""
        return Window(path, Member(path, 0, path.stat().st_size))

    def media(self, path: Path) -> str | io.BytesIO:
        """See Storage."""
        return str(path)


class InTar:
    """Members of a tar, by the names that the files had."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members

    def exists(self, path: Path) -> bool:
        """See Storage."""
        return path.name in self._members

    def about(self, path: Path) -> dict[str, Any]:
        """See Storage."""
        return self.window(path).about

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """See Storage."""
        try:
            tensors = load(self._bytes(path))
        except SafetensorError as error:
            raise SpearError(f"{path} is not a readable safetensors file ({error}); pack the clips again") from error
        return checked(path, tensors, self.about(path))

    def window(self, path: Path) -> Window:
        """See Storage."""
        return Window(path, self._members[path.name])

    def media(self, path: Path) -> str | io.BytesIO:
        """See Storage."""
        return io.BytesIO(self._bytes(path))

    def _bytes(self, path: Path) -> bytes:
        member = self._members[path.name]
        with open(member.tar, "rb") as file:
            file.seek(member.start)
            return file.read(member.size)


class Window:
    """A safetensors file, in a larger file or alone, of which rows of tensors are read and nothing else."""

    def __init__(self, path: Path, member: Member) -> None:
        """path: what errors name. Raises SpearError where it is no such file, or one that spear has not written."""
        self.path, self._member = path, member
        with open(member.tar, "rb") as file:
            self._header, self._data = self._read_header(file)
        text = self._header.pop("__metadata__", {})
        self.about = about_of(path, text)

    def _read_header(self, file: BinaryIO) -> tuple[dict[str, Any], int]:
        file.seek(self._member.start)
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > min(self._member.size, _LONGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) != self._member.size:
                raise ValueError("it is cut off")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpearError(f"{self.path} is not a readable safetensors file ({error}); make it again") from error
        return header, self._member.start + 8 + length

    def __contains__(self, name: str) -> bool:
        return name in self._header

    @property
    def names(self) -> list[str]:
        """Of its tensors, sorted."""
        return sorted(self._header)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop of a tensor (N, ...) in float32, as a slice of it has them."""
        if name not in self._header:
            raise SpearError(f"{self.path} has no tensor {name!r}; make it again")
        known = self._header[name]
        dtype, (count, *rest) = _DTYPES[known["dtype"]], known["shape"]
        start, stop, _ = slice(start, stop).indices(count)
        width = math.prod(rest) * dtype.itemsize
        with open(self._member.tar, "rb") as file:
            file.seek(self._data + known["data_offsets"][0] + start * width)
            data = bytearray(file.read(max(stop - start, 0) * width))
        if len(data) < max(stop - start, 0) * width:
            raise SpearError(f"{self.path} is cut off; make it again")
        values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return values.view(-1, *rest).float()


def require_finite(path: Path, rows: Tensor, first: int = 0, where: str = "") -> None:
    """Raises SpearError naming the first frame whose numbers are none; rows (N, ...) from frame `first` on."""
    if not (good := rows.isfinite().flatten(1).all(1)).all():
        frame = first + int(good.int().argmin())
        raise SpearError(f"{path} has numbers that are not finite in frame {frame}{where}; delete it and make it again")


INDEX = ".index"
"""The folder in clips/ of what trainings keep about all clips; any change to a clip removes it."""
_TRIES = 10


@contextmanager
def index_forgotten(clips: Path) -> Iterator[None]:
    """Around a change to a clip: no index that was begun before or during it survives."""
    _forget(clips / INDEX)
    try:
        yield
    finally:
        _forget(clips / INDEX)


def _forget(folder: Path) -> None:
    for _ in range(_TRIES):  # whoever is just writing an index may add a file while others are removed
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError:
            continue
