"""The borrowed nets that some scores need: which are here, what is absent, and all of them loaded once in a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from accelerate import PartialState

from spear.errors import SpearError
from spear.files import sha256_of
from spear.points import Array
from spear.pretrained import face_alignment_68, identity, inception, lpips, syncnet
from spear.scores.frechet import Embed
from spear.video import Frame

WANTING = {"fid": "fid", "lpips": "lpips", "csim": "csim", "m_lmd, f_lmd": "lmd", "lse_d, lse_c": "sync"}
"""What needs borrowed weights -> the score that it belongs to. Of the last two scores the rest needs none."""


_NOT_HERE = ", or use --detector mediapipe"
"""Advice of face-alignment's that helps where landmarks are made."""


@dataclass(frozen=True)
class WeightFiles:
    """Where the user says that weights are; None: where their own packages keep them."""

    inception: Path | None = None
    syncnet: Path | None = None


@dataclass(frozen=True)
class Available:
    """What of the scores that were asked for can be computed here."""

    which: frozenset[str]
    parts: frozenset[str]
    """Those of WANTING whose weights are here."""
    sha256: dict[str, str]
    """Part -> hash of its weights."""
    absent: list[str]
    """A sentence for each part whose weights are not here."""


def check_weights(which: frozenset[str], files: WeightFiles, videos: bool = True) -> Available:
    """Look for the weights of these scores, before any work. videos: not for a split, which has no whole video to look
    for 68 points in and to give to SyncNet. Raises SpearError where no score is left without weights,
    and where a file that was named is not there."""
    find: dict[str, Callable[[], Iterable[Path]]] = {
        "fid": lambda: [inception.find_inception_weights(files.inception)],
        "lpips": lpips.find_lpips_weights,
        "csim": lambda: [identity.find_identity_weights()],
        "m_lmd, f_lmd": face_alignment_68.weights_files,
        "lse_d, lse_c": lambda: [syncnet.find_syncnet_weights(files.syncnet)],
    }
    given = dict.fromkeys(WANTING) | {"fid": files.inception, "lse_d, lse_c": files.syncnet}
    left, hashes, absent = set(which), {}, []
    for part, score in WANTING.items():
        if score not in which:
            continue
        if score != part and not videos:
            absent.append(f"left out: {part}: they are for videos; give PRED and TRUTH")
            continue
        try:
            hashes[part] = " ".join(sha256_of(path) for path in find[part]())
        except SpearError as error:
            if given[part] is not None:
                raise
            if part == score:
                left.remove(score)
            absent.append(f"left out: {part}: {str(error).removesuffix(_NOT_HERE)}")
            reason = error
    if not left:
        raise reason
    return Available(frozenset(left), frozenset(hashes), hashes, absent)


@dataclass(frozen=True)
class Judges:
    """The nets, on Accelerate's device; None where a score is not asked for or its weights are absent."""

    embed: Embed | None = None
    lpips: lpips.Lpips | None = None
    identity: identity.Identity | None = None
    points_68: Callable[[Frame], Array | None] | None = None
    """A frame (H, W, 3) -> 68 points (68, 2) px, or None without a face."""
    syncnet: syncnet.SyncNet | None = None


@lru_cache(maxsize=1)
def load_judges(parts: frozenset[str], files: WeightFiles) -> Judges:
    """The nets of these parts. Raises SpearError where a weight file is damaged or another net's."""
    device = PartialState().device
    return Judges(
        inception.load_inception(files.inception).to(device).embed if "fid" in parts else None,
        lpips.load_lpips().to(device) if "lpips" in parts else None,
        identity.load_identity() if "csim" in parts else None,
        _points_68 if "m_lmd, f_lmd" in parts else None,
        syncnet.load_syncnet(files.syncnet).to(device) if "lse_d, lse_c" in parts else None,
    )


def _points_68(frame: Frame) -> Array | None:
    return face_alignment_68.detect_68(iter([frame]))[0]
