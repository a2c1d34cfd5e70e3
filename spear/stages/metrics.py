"""`spear metrics` without paths: a split of clips/ through the trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from spear.clip import Clip
from spear.clip_work import shard_note
from spear.controls import Controls, controls
from spear.errors import SpearError
from spear.figures import FigureFolder
from spear.jobs import run_each
from spear.judges import Available, WeightFiles, check_weights, load_judges
from spear.metrics_common import Pictures, checked_metrics, in_part, scores_of, shown_of, told
from spear.progress import Progress, Report, no_progress
from spear.published import PAPER, beside, check_source
from spear.report.page import Shown, check_report, write_report
from spear.score_cache import load_scores, save_scores
from spear.scores.bootstrap import intervals, resampled_means
from spear.scores.compare import LANDMARK_SCORES, Scores
from spear.scores.protocol import protocol_of
from spear.scores.split import SplitClipScores, resampled_against_baseline, split_total
from spear.stages.metrics_split import (
    ALL_SPLITS,
    GROUPS,
    Nets,
    Scored,
    clip_digest,
    clips_to_score,
    draw_clip,
    group_totals,
    load_nets,
    score_clip,
    shown_frames,
    split_protocol,
)
from spear.talker import predict_clip
from spear.workers import HERE, Workers


def metrics(
    clips: Path,
    models: Path,
    which: frozenset[str],
    split: str = "test",
    by: str | None = None,
    inception_weights: Path | None = None,
    vae: str | None = None,
    figures: Path | None = None,
    progress: Progress = no_progress,
    *,
    report: Path | None = None,
    against: str | None = None,
    workers: Workers = HERE,
) -> Scores:
    """Score the trained models on a split of clips/: stage 1 against the detected points, stage 2 against the frames.

    which, inception_weights, figures, report, workers: as in `compare_videos`, but figures of every scored clip, named
    by its id; vae: as in `render`; by: also the totals of each emotion or speaker. Every clip speaks its own audio;
    beside LD stand that of a face that does not speak and the controls. Clips that cannot be used are in the notes.
    Raises SpearError for an unknown score, split or group, where models, clips, landmarks or features are absent, where
    no clip could be scored, or files cannot be written.
    """
    which = checked_metrics(which, figures)
    if by is not None and by not in GROUPS:
        raise SpearError(f"--by {by} is not one of {', '.join(GROUPS)}")
    files = WeightFiles(inception=inception_weights)
    available = check_weights(which, files, videos=False)
    which = available.which
    nets, skipped = load_nets(models, which, vae), Report()
    usable = clips_to_score(clips, split, nets.a2lm, skipped)
    chosen = in_part(usable, lambda clip: clip.id, workers.shard)
    folder = None if figures is None else FigureFolder(figures)
    if report is not None:
        check_report(report)
    if against is not None:
        check_source(against)
    load_judges(available.parts, files)  # a damaged weight file is no fault of the first clip
    work = _Work(available, files, models, vae, tuple(nets.sha256), figures)
    pictures = Pictures([clip.id for clip in chosen])
    scored = _score(work, chosen, nets, folder, pictures, workers, skipped, progress)
    used, of_clips = [clip for clip, _ in scored], [scores for _, scores in scored]
    found = controls(nets.a2lm, used) if which & LANDMARK_SCORES else Controls()
    notes = [*shard_note(workers.shard, len(chosen), len(usable)), *available.absent]
    notes += [*(f"left out: {name}: {reason}" for name, reason in skipped.skipped)]
    notes += [*(note for scores in of_clips for note in scores.notes()), *found.notes, *_split_notes(split, used)]
    of_split = split_protocol(nets, which, split, scored, len(found.pairs), by)
    # twice: for its place in front, and because its sentences stand over those for two videos
    protocol = of_split | protocol_of(which, available.sha256, "the true crop and the blended one") | of_split
    values = {**split_total(of_clips), **found.values}
    scores = scores_of(of_clips, protocol, values, notes, available, pictures.frechet)
    scores.intervals = intervals(resampled_against_baseline(resampled_means(of_clips)))
    for row, clip in zip(scores.per_clip, used, strict=True):
        row |= {name: getattr(clip.info, name) for name in GROUPS}
    scores.groups, scores.pairs = group_totals(scored, by) if by else {}, found.pairs
    scores.left_out = len(skipped.skipped)
    if folder is not None:
        scores.notes += folder.notes()
    if against is not None:
        scores.against = beside(against, scores.values)
        scores.protocol["against"] = PAPER
    if report is not None:
        write_report(report, scores, [_shown(clip, of_clip, nets) for clip, of_clip in scored], progress)
    return scores


@dataclass(frozen=True)
class _Work:
    """What a worker process needs to know beside the clip."""

    available: Available
    files: WeightFiles
    models: Path
    vae: str | None
    nets: tuple[str, ...]
    """Hashes of the models: a worker keeps its nets as long as these are equal."""
    figures: Path | None


@dataclass(frozen=True)
class _Outcome:
    scores: SplitClipScores
    figures: FigureFolder | None = None
    unwritable: str | None = None
    """Why its figures could not be written, which is no fault of the clip: the command ends."""


def _score(
    work: _Work, clips: list[Clip], nets: Nets, folder: FigureFolder | None, pictures: Pictures, workers: Workers,
    report: Report, progress: Progress,
) -> Scored:  # fmt: skip
    """The clips that could be scored; why others could not stands in the report. Raises SpearError where none could,
    and where figures cannot be written."""
    scored: dict[str, tuple[Clip, SplitClipScores]] = {}
    apart = workers.apart and len(clips) > 1
    for clip, outcome in _at_once(work, clips, workers, progress) if apart else _in_turn(work, clips, nets, progress):
        pictures.take(clip.id, outcome.scores if isinstance(outcome, _Outcome) else None)
        if isinstance(outcome, Exception):
            report.skipped.append((clip.id, told(outcome)))
            continue
        if outcome.unwritable is not None:
            raise SpearError(outcome.unwritable)
        scored[clip.id] = (clip, outcome.scores)
        if folder is not None and outcome.figures is not None:
            folder.take_in(outcome.figures)
    if not scored:
        raise SpearError(report.skipped[-1][1])
    return [scored[clip.id] for clip in clips if clip.id in scored]


def _in_turn(
    work: _Work, clips: list[Clip], nets: Nets, progress: Progress
) -> Iterator[tuple[Clip, _Outcome | SpearError]]:
    before, passes = 0, 1 if work.figures is None else 2
    total = passes * sum(clip.info.frames for clip in clips)
    for clip in clips:
        try:
            yield clip, _score_clip(work, nets, partial(_tick, progress, before, total), clip)
        except SpearError as error:
            yield clip, error
        before += passes * clip.info.frames


def _at_once(
    work: _Work, clips: list[Clip], workers: Workers, progress: Progress
) -> Iterator[tuple[Clip, _Outcome | Exception]]:
    for done, (clip, outcome) in enumerate(run_each(partial(_score_apart, work), clips, workers), start=1):
        progress(done, len(clips), clip.id)
        yield clip, outcome


def _score_apart(work: _Work, clip: Clip) -> _Outcome:
    """In a worker process, which loads the nets once."""
    nets = _nets_of(work.models, work.available.which, work.vae, work.nets)
    return _score_clip(work, nets, lambda what, done: None, clip)


@lru_cache(maxsize=1)
def _nets_of(models: Path, which: frozenset[str], vae: str | None, hashes: tuple[str, ...]) -> Nets:
    return load_nets(models, which, vae)


def _score_clip(work: _Work, nets: Nets, tick: Callable[[str, int], None], clip: Clip) -> _Outcome:
    """Scores of one clip, from the cache where they are there, and its figures. Raises SpearError where it is damaged.

    tick: told what is done, and how many frames of it: of the scores, then of the figures.
    """
    which, frames = work.available.which, clip.info.frames
    about = {"clip": clip_digest(clip, nets, which), "nets": list(work.nets), "which": sorted(which),
             "weights": work.available.sha256}  # fmt: skip
    scores = load_scores(SplitClipScores, clip.id, about)
    if scores is None:
        judges = load_judges(work.available.parts, work.files)
        scores = score_clip(clip, nets, which, judges, lambda done: tick(clip.id, done))
        save_scores(scores, about)
    tick(clip.id, frames)
    if work.figures is None:
        return _Outcome(scores)
    pred, drawn = predict_clip(nets.a2lm, clip)[0].cpu().numpy(), FigureFolder(work.figures)
    try:
        draw_clip(clip, pred, drawn, lambda done: tick(f"{clip.id}, figures", frames + done))
    except SpearError as error:
        return _Outcome(scores, None, str(error))
    return _Outcome(scores, drawn)


def _tick(progress: Progress, before: int, total: int, what: str, done: int) -> None:
    progress(before + done, total, what)


def _split_notes(split: str, clips: list[Clip]) -> list[str]:
    """What to keep in mind where it is not the test split alone that was scored."""
    if split == "test":
        return []
    if split != ALL_SPLITS:
        return [f"the models were made with the {split} split; only the test split tells how they do on new clips"]
    seen = sum(clip.info.split == "train" for clip in clips)
    among = f" ({seen} of the {len(clips)} clips are of the train split)" if seen else ""
    return [f"all splits together{among}; only clips that the training did not see tell how the models do on new clips"]


def _shown(clip: Clip, scores: SplitClipScores, nets: Nets) -> Shown:
    sound = clip.audio_path if clip.info.has_audio else None
    window = np.tile(np.array([1.0, 0.0, 0.0, 0.0]), (scores.frames, 1))  # its frames are face crops already
    return shown_of(scores, window, partial(shown_frames, clip, nets), sound, sound)
