"""Scores of clips that were finished before: kept in the user's cache by the hashes of all that they depend on.

So a run over thousands of clips that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from spear.checkpoint import read_tensors, save_tensors
from spear.errors import SpearError
from spear.files import user_cache
from spear.scores.compare import ClipScores
from spear.scores.frechet import FeatureStatistics, FrechetScore

AnyScores = TypeVar("AnyScores", bound=ClipScores)
_PLAIN = ("frames", "pred_missing", "truth_missing", "whole", "counts", "remarks")
_STACKED = ("pred_points", "truth_points", "windows")
_SIDES = ("pred", "truth")
_LIBRARIES = ("av", "mediapipe", "numpy", "opencv-contrib-python", "scipy", "torch")


def load_scores(cls: type[AnyScores], name: str, about: dict[str, Any]) -> AnyScores | None:
    """The scores that `save_scores` kept under an equal `about`, for a clip that is called `name` now; None where there
    are none, or their file is damaged."""
    try:
        return _read(cls(name), *read_tensors(_path(about)))
    except (SpearError, OSError, KeyError, TypeError, ValueError):
        return None


def _read(scores: AnyScores, tensors: dict[str, torch.Tensor], said: dict[str, Any]) -> AnyScores:
    for key in _PLAIN:
        setattr(scores, key, said["plain"][key])
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "series":
            scores.series[rest] = tensor.tolist()
        elif kind in _STACKED:
            setattr(scores, kind, list(tensor.numpy()))
    if said["frechet"] is not None:
        scores.frechet = FrechetScore(None, said["frechet"])
        sides = [{key.removeprefix(f"{side}/"): tensor.numpy() for key, tensor in tensors.items()
                  if key.startswith(f"{side}/")} for side in _SIDES]  # fmt: skip
        scores.frechet.pred, scores.frechet.truth = (FeatureStatistics.of(s, said["frechet"]) for s in sides)
    return scores


def save_scores(scores: ClipScores, about: dict[str, Any]) -> None:
    """Keep scores for the next run. A cache that cannot be written is no reason to lose them: then nothing is kept."""
    tensors = {f"series/{name}": torch.tensor(values, dtype=torch.float64) for name, values in scores.series.items()}
    for key in _STACKED:
        if rows := getattr(scores, key):
            tensors[key] = torch.from_numpy(np.stack(rows))
    if scores.frechet is not None:
        for side in _SIDES:
            found = getattr(scores.frechet, side).tensors()
            tensors |= {f"{side}/{name}": torch.from_numpy(value) for name, value in found.items()}
    plain = {key: getattr(scores, key) for key in _PLAIN}
    width = None if scores.frechet is None else scores.frechet.pred.width
    with contextlib.suppress(SpearError, OSError):
        save_tensors(_path(about), tensors, {"plain": plain, "frechet": width})


def _path(about: dict[str, Any]) -> Path:
    words = json.dumps({**about, "code": _code()}, sort_keys=True)
    key = hashlib.sha256(words.encode()).hexdigest()[:24]
    return user_cache() / "metrics" / key[:2] / f"{key}.safetensors"


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of this package's source and of the versions of what computes for it: changed ones keep scores apart."""
    digest = hashlib.sha256(repr([version(name) for name in _LIBRARIES]).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
