"""What `spear metrics` does alike for the clips of a split and for pairs of videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.judges import Available
from spear.points import N_LOWER
from spear.pretrained.inception import WEIGHTS_SHA256_PREFIX
from spear.report.page import Shown
from spear.scores.compare import LANDMARK_SCORES, METRICS, ClipScores, Scores
from spear.scores.frechet import FrechetScore
from spear.shards import Shard
from spear.video import Frame

Item = TypeVar("Item")


def checked_metrics(which: frozenset[str], figures: Path | None) -> frozenset[str]:
    """The scores to compute: figures bring those of landmarks. Raises SpearError for no score or an unknown one."""
    if figures is not None and not which & LANDMARK_SCORES:
        which |= {"ld"}
    unknown = sorted(which - set(METRICS))
    if unknown or not which:
        problem = f"unknown score {', '.join(unknown)}" if unknown else "no score was chosen"
        raise SpearError(f"{problem}; give some of {', '.join('--' + name for name in METRICS)}")
    return which


def told(error: Exception) -> str:
    """Why a clip was left out: our own sentences as they are, others with what kind of error they are."""
    return str(error) if isinstance(error, SpearError) else f"{type(error).__name__}: {error}"


def in_part(items: list[Item], name: Callable[[Item], str], shard: Shard) -> list[Item]:
    """Those of this part of the work. Raises SpearError where there are none."""
    mine = [item for item in items if name(item) in shard]
    if not mine:
        raise SpearError(f"part {shard} holds none of the {len(items)} clips; take fewer parts, or leave --shard out")
    return mine


class Pictures:
    """FID's statistics over all clips, taken from each as soon as its turn is there, so that they are not all held."""

    def __init__(self, order: Sequence[str]) -> None:
        """order: the clips; theirs, and not that of their coming, is the order of merging: so bytes do not vary."""
        self.frechet: FrechetScore | None = None
        self._order, self._waiting = list(order), dict[str, FrechetScore | None]()

    def take(self, clip: str, scores: ClipScores | None) -> None:
        """Take the statistics of a finished clip out of its scores; None: it could not be scored."""
        self._waiting[clip] = None if scores is None else scores.frechet
        if scores is not None and scores.frechet is not None:
            scores.counts["pictures"] = scores.frechet.truth.count
            scores.frechet = None
        while self._order and self._order[0] in self._waiting:
            found = self._waiting.pop(self._order.pop(0))
            if found is not None:
                self.frechet = self.frechet or FrechetScore(None, found.pred.width)
                self.frechet.merge(found)


def scores_of(
    clips: Sequence[ClipScores], protocol: dict[str, Any], values: dict[str, float | None], notes: list[str],
    available: Available, frechet: FrechetScore | None,
) -> Scores:  # fmt: skip
    """Totals, a row for each clip, and FID over the pictures of all of them with its warnings."""
    scores = Scores(protocol, values, [clip.row() for clip in clips], notes)
    if frechet is not None:
        scores.values["fid"] = frechet.value()
        scores.notes += [*frechet.notes(), *_weights_notes(available.sha256["fid"])]
    return scores


def _weights_notes(sha256: str) -> list[str]:
    """A warning where the Inception weights are not the file that everybody's FID is computed with."""
    if sha256.startswith(WEIGHTS_SHA256_PREFIX):
        return []
    return [f"fid is not comparable: the Inception weights have SHA-256 {sha256[:8]}, not {WEIGHTS_SHA256_PREFIX}"]


def shown_of(
    scores: ClipScores, windows: NDArray[np.float64], frames: Callable[[], Iterator[tuple[Frame | None, Frame]]],
    pred_sound: Path | None, truth_sound: Path | None,
) -> Shown:  # fmt: skip
    """One clip for the report. windows: (F, 4); a series that begins later in the clip gets NaN for what is before."""
    series = {name: np.array([np.nan] * (scores.frames - len(values)) + values)
              for name, values in scores.series.items()}  # fmt: skip
    none = np.full((scores.frames, N_LOWER, 2), np.nan, np.float32)
    pred, truth = (np.stack(side) if side else none for side in (scores.pred_points, scores.truth_points))
    return Shown(scores.clip, scores.row(), series, pred, truth, windows, frames, pred_sound, truth_sound)
