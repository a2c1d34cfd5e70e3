"""Reading other people's weight files: state dicts of torch, never code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spear.errors import SpearError


def read_state_dict(path: Path, advice: str) -> dict[str, Tensor]:
    """Name -> tensor of a file that torch.save wrote; pickled code does not run.

    advice: what to do where the file is damaged or something else, for the SpearError that is raised then.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle torch raises nearly anything, KeyError and IndexError too
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SpearError(
            f"{path} is not a readable weight file ({type(error).__name__}: {reason[:120]}); {advice}"
        ) from error
    if not isinstance(weights, dict):
        raise SpearError(f"{path} holds no state dict; {advice}")
    return weights
