"""`spear metrics`: a split of clips/ through the trained models, and what it shares with the scores of two videos.

The protocol is stated beside the numbers.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from spear.clip import CROP, FPS, Clip
from spear.controls import Controls, controls
from spear.errors import SpearError
from spear.face import CROP_WIDTHS, DETECTOR
from spear.figures import FigureFolder
from spear.files import sha256_of
from spear.pretrained.inception import WEIGHTS_SHA256_PREFIX, find_inception_weights, load_inception
from spear.progress import Progress, Report, no_progress
from spear.scores.compare import METRICS, FrechetScore, Scores
from spear.scores.image import PSNR_CAP
from spear.scores.landmark import REACH
from spear.scores.split import split_total
from spear.stages.metrics_split import (
    ALL_SPLITS,
    GROUPS,
    LANDMARK_SCORES,
    Nets,
    Scored,
    clips_to_score,
    draw_clip,
    group_totals,
    load_nets,
    score_clip,
    split_protocol,
)


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
) -> Scores:
    """Score the trained models on a split of clips/: stage 1 against the detected points, stage 2 against the frames.

    which, inception_weights, figures: as in `compare_videos`, but figures of every scored clip, named by its id; vae:
    as in `render`; by: also the totals of each emotion or speaker. Every clip speaks its own audio; beside LD stand
    that of a face that does not speak and the controls. Clips that cannot be used are in the notes. Raises SpearError
    for an unknown score, split or group, where models, clips, landmarks or features are absent, where no clip could be
    scored, or figures cannot be written.
    """
    which = checked_metrics(which, figures)
    if by is not None and by not in GROUPS:
        raise SpearError(f"--by {by} is not one of {', '.join(GROUPS)}")
    frechet, weights = frechet_score(inception_weights) if "fid" in which else (None, None)
    nets, report = load_nets(models, which, vae), Report()
    chosen = clips_to_score(clips, split, nets.a2lm, report)
    folder = None if figures is None else FigureFolder(figures)
    scored = _score(chosen, nets, which, frechet, folder, report, progress)
    used, of_clips = [clip for clip, _ in scored], [scores for _, scores in scored]
    found = controls(nets.a2lm, used) if which & LANDMARK_SCORES else Controls()
    values = split_total(of_clips) | found.values
    notes = [f"left out: {name}: {reason}" for name, reason in report.skipped]
    notes += [*(note for scores in of_clips for note in scores.notes()), *found.notes, *_split_notes(split, used)]
    if frechet is not None:
        values["fid"] = frechet.value()
        notes += [*frechet.notes(), *weights_notes(weights)]
    if folder is not None:
        notes += folder.notes()
    of_split = split_protocol(nets, which, split, scored, len(found.pairs), by)
    # twice: for its place in front, and because its sentences stand over those for two videos
    protocol = of_split | pair_protocol(which, weights, "the true crop and the blended one") | of_split
    rows = [scores.row() | {name: getattr(clip.info, name) for name in GROUPS} for clip, scores in scored]
    return Scores(protocol, values, rows, notes, group_totals(scored, by) if by else {}, found.pairs)


def _score(
    clips: list[Clip], nets: Nets, which: frozenset[str], frechet: FrechetScore | None, figures: FigureFolder | None,
    report: Report, progress: Progress,
) -> Scored:  # fmt: skip
    """The clips that could be scored; why others could not stands in the report. Raises SpearError where none could,
    and where figures cannot be written: that is no fault of a clip."""
    scored, before = [], 0
    passes = 1 if figures is None else 2
    total = passes * sum(clip.info.frames for clip in clips)
    for clip in clips:
        frames = clip.info.frames
        try:
            scores, pred = score_clip(clip, nets, which, frechet, partial(_tick, progress, before, total, clip.id))
        except SpearError as error:
            report.skipped.append((clip.id, str(error)))
        else:
            scored.append((clip, scores))
            if figures is not None:
                draw_clip(clip, pred, figures, partial(_tick, progress, before + frames, total, f"{clip.id}, figures"))
        before += passes * frames
    if not scored:
        raise SpearError(report.skipped[-1][1])
    return scored


def _tick(progress: Progress, before: int, frames: int, clip: str, done: int) -> None:
    progress(before + done, frames, clip)


def _split_notes(split: str, clips: list[Clip]) -> list[str]:
    """What to keep in mind where it is not the test split alone that was scored."""
    if split == "test":
        return []
    if split != ALL_SPLITS:
        return [f"the models were made with the {split} split; only the test split tells how they do on new clips"]
    seen = sum(clip.info.split == "train" for clip in clips)
    among = f" ({seen} of the {len(clips)} clips are of the train split)" if seen else ""
    return [f"all splits together{among}; only clips that the training did not see tell how the models do on new clips"]


def checked_metrics(which: frozenset[str], figures: Path | None) -> frozenset[str]:
    """The scores to compute: figures bring those of landmarks. Raises SpearError for no score or an unknown one."""
    if figures is not None and not which & LANDMARK_SCORES:
        which |= {"ld"}
    unknown = sorted(which - set(METRICS))
    if unknown or not which:
        problem = f"unknown score {', '.join(unknown)}" if unknown else "no score was chosen"
        raise SpearError(f"{problem}; give some of {', '.join('--' + name for name in METRICS)}")
    return which


def frechet_score(path: Path | None) -> tuple[FrechetScore, str]:
    """An empty FID over face crops, and the SHA-256 of its weights. Raises SpearError where they are absent."""
    net = load_inception(path)
    return FrechetScore(net.embed), sha256_of(find_inception_weights(path))


def weights_notes(sha256: str | None) -> list[str]:
    """A warning where the Inception weights are not the file that everybody's FID is computed with."""
    if sha256 is None or sha256.startswith(WEIGHTS_SHA256_PREFIX):
        return []
    return [f"fid is not comparable: the Inception weights have SHA-256 {sha256[:8]}, not {WEIGHTS_SHA256_PREFIX}"]


def pair_protocol(which: frozenset[str], weights: str | None, crop: str) -> dict[str, Any]:
    """How the numbers were measured, in words that stand in every output; crop: what the face crops are."""
    protocol: dict[str, Any] = {
        "scores": sorted(which),
        "fps": FPS,
        "detector": DETECTOR,
        "mean": "over frames; over several clips weighted by frames",
    }
    if which & LANDMARK_SCORES:
        protocol |= {
            "ld": "eq. 9, lower 57 points, full-frame px of each video over the truth's face width of that frame; "
            "no alignment; frames where both faces were found",
            "lvd": "eq. 6 (lvd_squared) and without the square (lvd), as ld; steps between neighbouring such frames",
            "units": f"ratio of the face width, percent of it, px256 = ratio * {CROP} / {CROP_WIDTHS}; "
            "each factor squared for lvd_squared",
            "lips": "distance of the inner lips' middles over the truth's face width: Pearson r (0 for a still mouth), "
            f"standard deviation over the truth's, best r within {REACH} frames (lag above 0: the prediction is late)",
        }
    if which & {"psnr", "ssim"}:
        protocol["pictures"] = f"RGB, full frame and {crop}; mean of the frames' scores"
        protocol["psnr"] = f"dB, at most {PSNR_CAP:g}, which identical frames get"
        protocol["ssim"] = "Gaussian window, sigma 1.5, population covariance, mean of three channels"
    if "fid" in which:
        protocol["fid"] = f"pytorch-fid's InceptionV3, 2048 features, bilinear to 299x299; {crop}"
        protocol["inception_sha256"] = weights
    return protocol
