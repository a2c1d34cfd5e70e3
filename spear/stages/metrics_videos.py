"""`spear metrics PRED TRUTH`: two videos, or two folders of them, compared frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spear.clip_work import shard_note
from spear.errors import SpearError, UnwritableFigures
from spear.figures import FigureFolder
from spear.files import sha256_of
from spear.jobs import run_each
from spear.judges import Available, WeightFiles, check_weights, load_judges
from spear.metrics_common import Pictures, checked_metrics, in_part, scores_of, shown_of, told
from spear.pair_scores import score_videos
from spear.progress import Progress, no_progress
from spear.published import PAPER, beside, check_source
from spear.report.page import Shown, check_report, write_report
from spear.score_cache import load_scores, save_scores
from spear.scores.bootstrap import intervals, resampled_means
from spear.scores.compare import ClipScores, Scores, total
from spear.scores.protocol import VIDEO_CROP, protocol_of
from spear.video_pairs import Lockstep, VideoPair, match_videos
from spear.workers import HERE, Workers


@dataclass(frozen=True)
class _Work:
    """What a worker process needs to know beside the pair."""

    available: Available
    files: WeightFiles
    threads: int
    figures: Path | None


def compare_videos(
    pred: str | Path,
    truth: str | Path,
    which: frozenset[str],
    inception_weights: Path | None = None,
    figures: Path | None = None,
    progress: Progress = no_progress,
    *,
    syncnet_weights: Path | None = None,
    report: Path | None = None,
    against: str | None = None,
    workers: Workers = HERE,
) -> Scores:
    """Score videos against the true ones, frame by frame at 25 fps; memory flat with length.

    pred, truth: a video, a folder or a glob each, matched by name. which: some of METRICS; one of landmarks brings LD,
    LVD and the lip opening, for LD alone rewards a mouth that does not move; one whose weights are absent is left out
    and named in the notes. figures: a folder for the figures of every pair, drawn over the true frames, with the true
    sound; they bring ld where no score of landmarks was asked for. report: a folder for the page. workers: processes,
    or threads where there is one pair; the scores do not depend on them, but for a part of the pairs. Pairs that were
    scored before come from the cache. Raises SpearError for an unknown score, where nothing can be paired or no pair
    could be scored, for files that cannot be written, and where no score is left without absent weights.
    """
    files = WeightFiles(inception_weights, syncnet_weights)
    available = check_weights(checked_metrics(which, figures), files)
    matched, notes = match_videos(pred, truth)
    pairs = in_part(matched, lambda pair: pair.name, workers.shard)
    alone = len(notes)
    folder = None if figures is None else FigureFolder(figures)
    if report is not None:
        check_report(report)
    if against is not None:
        check_source(against)
    load_judges(available.parts, files)  # a damaged weight file is no fault of the first pair
    work = _Work(available, files, max(workers.jobs, 1) if len(pairs) == 1 else 1, figures)
    pictures = Pictures([pair.name for pair in pairs])
    scored, left_out = _score(work, pairs, folder, pictures, workers, progress)
    of_pairs = [scores for _, scores in scored]
    notes = [*shard_note(workers.shard, len(pairs), len(matched)), *available.absent, *notes, *left_out]
    notes += [*(note for scores in of_pairs for note in scores.notes())]
    protocol = protocol_of(available.which, available.sha256, VIDEO_CROP)
    protocol |= {"pred": str(pred), "truth": str(truth), "pairs": len(scored)}
    protocol |= {"frames": sum(scores.frames for scores in of_pairs), **_RULES}
    scores = scores_of(of_pairs, protocol, total(of_pairs), notes, available, pictures.frechet)
    scores.intervals = intervals(resampled_means(of_pairs))
    for row, (pair, _) in zip(scores.per_clip, scored, strict=True):
        row |= {"pred": str(pair.pred), "truth": str(pair.truth)}
    scores.left_out = alone + len(left_out)
    if folder is not None:
        scores.notes += folder.notes()
    if against is not None:
        scores.against = beside(against, scores.values)
        scores.protocol["against"] = PAPER
    if report is not None:
        write_report(report, scores, [_shown(*one) for one in scored], progress)
    return scores


_RULES = {
    "lengths": "the first min(prediction, truth) frames are compared",
    "sizes": "a prediction of the same shape (aspect within 1 %) is resized to the truth's size, area mean down, "
    "bicubic up; the pixel that makes an odd size even is cut off",
    "rates": "other frame rates are read at 25: the frame that is on screen in the middle of each 40 ms",
    "no_face": "frames without a face are counted (of the prediction where a score needs its points), and left out of "
    "the scores that need one",
}


def _score(
    work: _Work, pairs: list[VideoPair], folder: FigureFolder | None, pictures: Pictures, workers: Workers,
    progress: Progress,
) -> tuple[list[tuple[VideoPair, ClipScores]], list[str]]:  # fmt: skip
    """Pairs that could be scored, in order, and why others could not. Raises the reason where none could."""
    outcomes: dict[str, ClipScores | Exception] = {}
    for pair, result in _results(work, pairs, workers, progress):
        if isinstance(result, UnwritableFigures):
            raise result
        if isinstance(result, Exception):
            outcomes[pair.name] = result
            pictures.take(pair.name, None)
        else:
            outcomes[pair.name], drawn = result
            pictures.take(pair.name, result[0])
            if folder is not None and drawn is not None:
                folder.take_in(drawn)
        if len(pairs) > 1:
            progress(len(outcomes), len(pairs), pair.name)
    left_out = [f"left out: {pair.name}: {told(reason)}" for pair in pairs
                if isinstance(reason := outcomes[pair.name], Exception)]  # fmt: skip
    scored = [(pair, found) for pair in pairs if isinstance(found := outcomes[pair.name], ClipScores)]
    if not scored:
        raise SpearError(f"no pair could be scored; {left_out[0].removeprefix('left out: ')}")
    return scored, left_out


def _results(
    work: _Work, pairs: list[VideoPair], workers: Workers, progress: Progress
) -> Iterator[tuple[VideoPair, tuple[ClipScores, FigureFolder | None] | Exception]]:
    if len(pairs) == 1:  # what is wrong with the only one is what is wrong with the command
        yield pairs[0], _score_pair(work, progress, pairs[0])
    else:
        yield from run_each(partial(_score_pair, work, no_progress), pairs, workers)


def _score_pair(work: _Work, progress: Progress, pair: VideoPair) -> tuple[ClipScores, FigureFolder | None]:
    which, parts = work.available.which, work.available.parts
    about = {"pred": sha256_of(pair.pred), "truth": sha256_of(pair.truth), "which": sorted(which),
             "weights": work.available.sha256}  # fmt: skip
    if work.figures is None and (kept := load_scores(ClipScores, pair.name, about)) is not None:
        return kept, None
    figures = None if work.figures is None else FigureFolder(work.figures)
    done = "frames compared" if figures is None else "frames compared and drawn"
    scores = score_videos(
        Lockstep(pair), pair.name, which, load_judges(parts, work.files), work.threads, figures,
        lambda frames, expected: progress(frames, expected, done),
    )  # fmt: skip
    save_scores(scores, about)
    return scores, figures


def _shown(pair: VideoPair, scores: ClipScores) -> Shown:
    sounds = (path if scores.counts[f"sound_{side}"] else None
              for side, path in (("pred", pair.pred), ("truth", pair.truth)))  # fmt: skip
    return shown_of(scores, np.stack(scores.windows), lambda: Lockstep(pair).frames(), *sounds)
