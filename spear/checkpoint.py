"""Tensor files that describe themselves: safetensors with one sorted-JSON metadata key and a checksum; no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spear.errors import SpearError
from spear.files import require_room, whole
from spear.temporary import temporary_folder
from spear.version import __version__

FORMAT = 1
_KEY = "spear"
_UNREADABLE = (OSError, SafetensorError, RuntimeError, MemoryError)
"""What reading raises; the last two where a header announces more than fits into the memory."""


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what is known about them, whole or absent; equal content gives equal bytes. Raises SpearError.

    about: JSON values; `format` and `sha256` (of names, types, shapes and bytes, and of all else in about) are added.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    about = json.loads(json.dumps({**about, "format": FORMAT}))  # as it will be read: JSON has no tuples
    about["sha256"] = _digests(tensors, about)[1]
    require_room(Path(path), sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    # safetensors writes to a temporary file of its own, whose name tells nobody whether its process is dead
    with whole(path) as temporary, temporary_folder(temporary.parent) as folder:
        # it does not keep the order of several keys either, so equal content would give different bytes
        try:
            save_file(tensors, folder / temporary.name, metadata={_KEY: json.dumps(about, sort_keys=True)})
            os.replace(folder / temporary.name, temporary)
        except SafetensorError as error:
            raise SpearError(f"cannot write {path}: {error}; free disk space or choose another folder") from error


def read_about(path: Path) -> dict[str, Any]:
    """What a tensor file says about itself, without reading its tensors. Raises SpearError where it says nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise SpearError(f"{path} does not exist") from error
    except _UNREADABLE as error:
        raise SpearError(f"{path} is not a readable safetensors file ({error}); make it again") from error
    return about_of(path, metadata)


def about_of(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the metadata of a tensor file say about it. Raises SpearError where they are not of this version."""
    said = metadata.get(_KEY, "null")
    try:
        about = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise SpearError(f"{path} is not a readable safetensors file ({error}); make it again") from error
    if not isinstance(about, dict):
        raise SpearError(f"{path} was not written by spear; give a file that a spear command made")
    if (found := about.get("format")) != FORMAT:
        later = isinstance(found, int) and found > FORMAT
        then = "install the spear that wrote it, or make it again" if later else "make it again"
        raise SpearError(f"{path} has format {found}, this spear {__version__} reads format {FORMAT}; {then}")
    if json.dumps(about, sort_keys=True) != said:  # a bit that changes no value is one that no checksum sees
        raise _damaged(path)
    return about


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and what is known about them. Raises SpearError where the checksum does not match."""
    about = read_about(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except _UNREADABLE as error:
        raise SpearError(f"{path} is not a readable safetensors file ({error}); make it again") from error
    return checked(path, tensors, about), about


def checked(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors. Raises SpearError where their checksum is not the one that the file tells."""
    if about.get("sha256") not in _digests(tensors, about):
        raise _damaged(path)
    return tensors


def _damaged(path: Path) -> SpearError:
    return SpearError(f"{path} is damaged: its checksum does not match; make it again or restore a copy")


def save_checkpoint(
    path: Path, kind: str, config: dict[str, Any], weights: dict[str, torch.Tensor], **about: Any
) -> None:
    """Write a trained net: its kind (`a2lm`, `lm2face`, `autoencoder`), its config and its weights."""
    save_tensors(path, weights, {"kind": kind, "config": config, **about})


def load_checkpoint(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and description of a net of this kind. Raises SpearError where the file is absent or of another kind."""
    if not path.is_file():
        raise SpearError(
            f"no {path.name} in {path.parent}; run `spear train-{kind}` first, or give another folder with --models"
        )
    weights, about = read_tensors(path)
    if about.get("kind") != kind:
        raise SpearError(
            f"{path} holds a checkpoint of kind {about.get('kind')!r}, {kind!r} is needed here; give that one"
        )
    return weights, about


def _digests(tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> tuple[str, str]:
    """Of the tensors alone, as files of version 0.1 have it, and of tensors and about."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    alone = digest.hexdigest()
    rest = {name: value for name, value in about.items() if name != "sha256"}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return alone, digest.hexdigest()
