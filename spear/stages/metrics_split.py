"""How the models do on a split of clips/: stage 1 from each clip's own audio, stage 2 on every frame of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from spear.checkpoint import read_about
from spear.clip import SPLITS, Clip, find_clips
from spear.controls import LEAST_FRAMES
from spear.crop import blend
from spear.dataset import usable_clips
from spear.errors import SpearError, UnusableClip
from spear.figures import FigureFolder
from spear.files import sha256_of
from spear.judges import Judges
from spear.nets.a2lm import A2LM
from spear.nets.lm2face import Lm2Face
from spear.painter import BATCH, Painter, load_lm2face, with_lower_face
from spear.pair_scores import add_sync_values, crop_values, lmd_values, load_speech
from spear.points import Array
from spear.pretrained.identity import similarity
from spear.progress import Report
from spear.scores.compare import LANDMARK_SCORES
from spear.scores.frechet import FrechetScore
from spear.scores.split import SplitClipScores, split_total
from spear.talker import load_a2lm, predict_clip
from spear.video import Footage, Frame

PICTURE_SCORES = frozenset({"psnr", "ssim", "fid", "lpips", "csim"})
ALL_SPLITS = "all"
GROUPS = ("emotion", "speaker")
"""What the totals may be split by."""
UNKNOWN = "unknown"
"""The group of clips of which it is not known."""
_SHOWN_DIGITS = 16

Tick = Callable[[int], None]
"""Told how many frames of the clip are done."""
Scored = list[tuple[Clip, SplitClipScores]]


@dataclass(frozen=True)
class Nets:
    """The two stages, frozen, and for each file what it is: path and the beginning of its SHA-256."""

    a2lm: A2LM
    lm2face: Lm2Face | None
    """None where no score of pictures is asked for."""
    files: dict[str, str]
    sha256: tuple[str, ...] = ()


def load_nets(models: Path, which: frozenset[str], vae: str | None = None) -> Nets:
    """The nets that these scores need. Raises SpearError naming the training to run where one is absent."""
    names = ["a2lm", "lm2face"] if which & PICTURE_SCORES else ["a2lm"]
    for name in names:
        if not (models / f"{name}.safetensors").is_file():
            raise SpearError(
                f"no {name}.safetensors in {models}; run `spear train-{name}` first, or give a folder with --models"
            )
    paths = {name: models / f"{name}.safetensors" for name in names}
    a2lm = load_a2lm(paths["a2lm"]).to(PartialState().device)
    lm2face = load_lm2face(paths["lm2face"], vae) if "lm2face" in paths else None
    hashes = {name: sha256_of(path) for name, path in paths.items()}
    words = {name: f"{path} sha256 {hashes[name][:_SHOWN_DIGITS]}" for name, path in paths.items()}
    return Nets(a2lm, lm2face, words, tuple(hashes.values()))


def clips_to_score(clips: Path, split: str, net: A2LM, report: Report) -> list[Clip]:
    """Clips of the split (of every one for `all`) with landmarks and the features that the net was trained on; the
    others are in the report.

    Raises SpearError for an unknown split and where no clip is left, naming the stage to run.
    """
    if split not in (known := (*SPLITS, ALL_SPLITS)):
        raise SpearError(f"--split {split} is not one of {', '.join(known)}")
    encoder, chosen = net.config.encoder, []
    again = f"run `spear extract-audio-features --encoder {encoder}` with the weights of the training"
    for clip in usable_clips(find_clips(clips, None if split == ALL_SPLITS else split), report, encoder):
        if clip.require_features(encoder) == net.config.encoder_settings:
            chosen.append(clip)
        else:
            other = f"{clip.features_path(encoder)} was made with other settings than a2lm was trained on; {again}"
            report.skipped.append((clip.id, other))
    if not chosen:
        raise SpearError(report.skipped[-1][1])
    return chosen


def clip_digest(clip: Clip, nets: Nets, which: frozenset[str]) -> list[str]:
    """Hashes of the clip's files that these scores depend on. Raises SpearError where one is absent."""
    paths = [clip.info_path, clip.landmarks_path, clip.features_path(nets.a2lm.config.encoder)]
    paths += [clip.face_path] if nets.lm2face is not None else []
    paths += [clip.audio_path] if "sync" in which and clip.info.has_audio else []
    try:
        return [sha256_of(path) for path in paths]
    except OSError as error:
        raise SpearError(
            f"cannot read {error.filename}: {error.strerror}; run the stage that makes it again"
        ) from error


def group_totals(scored: Scored, by: str) -> dict[str, dict[str, float | None]]:
    """For each emotion or speaker (by) `split_total` of its clips, and how many clips and frames; in order of names."""
    groups: dict[str, list[SplitClipScores]] = {}
    for clip, scores in scored:
        groups.setdefault(getattr(clip.info, by) or UNKNOWN, []).append(scores)
    return {
        name: {"clips": len(members), "frames": sum(scores.frames for scores in members), **split_total(members)}
        for name, members in sorted(groups.items())
    }


def score_clip(clip: Clip, nets: Nets, which: frozenset[str], judges: Judges, tick: Tick) -> SplitClipScores:
    """Predict and paint one clip and compare it with its truth; pictures stream, so that memory is flat with length.

    Raises SpearError where a file of the clip is damaged.
    """
    scores = SplitClipScores(clip.id)
    points, confidence = clip.landmarks()
    pred, baseline = (value.cpu().numpy() for value in predict_clip(nets.a2lm, clip))
    driven, found = with_lower_face(points, pred), confidence > 0
    if which & LANDMARK_SCORES:
        _add_points(scores, which, driven, baseline, points, found)
    scores.frames = len(points)
    if "sync" in which:
        speech = load_speech(clip.audio_path if clip.info.has_audio else None, scores)
        for name, side in (("sync", "pred"), ("sync_truth", "truth")):
            add_sync_values(scores, name, speech, scores.series[f"opening_{side}"])
    if nets.lm2face is not None:
        scores.frechet = None if judges.embed is None else FrechetScore(judges.embed)
        for number, (blended, truth, mask) in enumerate(painted_crops(clip, nets.lm2face, points, driven, tick)):
            known = bool(found[place := len(points) // 2 + number])
            _add_picture(scores, which, judges, blended, truth, mask, known)
            if judges.identity is not None:
                embed = judges.identity.embed
                near = known and similarity(embed(blended, driven[place]), embed(truth, points[place]))
                scores.add({"csim": near if known else math.nan})
    if scores.frechet is not None:
        scores.frechet.closed()
    return scores


def _add_points(
    scores: SplitClipScores, which: frozenset[str], driven: Array, baseline: Array, points: Array,
    found: NDArray[np.bool_],
) -> None:  # fmt: skip
    for frame, known in enumerate(found):
        truth = points[frame] if known else None
        scores.add_landmarks(driven[frame], truth)
        scores.add_baseline(baseline[frame], truth)
        if "lmd" in which:
            scores.add(lmd_values(driven[frame], truth))


def _add_picture(
    scores: SplitClipScores, which: frozenset[str], judges: Judges, pred: Frame, truth: Frame, mask: Array, known: bool
) -> None:
    scores.add(crop_values(which, judges, (pred, truth) if known else None))
    if "psnr" in which:
        scores.add_hull(pred, truth if known else None, mask)
    if scores.frechet is not None and known:
        scores.frechet.add(pred, truth)


def painted_crops(
    clip: Clip, net: Lm2Face, points: Array, driven: Array, tick: Tick = lambda done: None
) -> Iterator[tuple[Frame, Frame, Array]]:
    """Paint the clip's second half from its true points' upper and the predicted lower ones, driven (F, 131, 2).

    For each frame: the blended crop, the true one, (256, 256, 3) both, and the blend mask (256, 256).
    """
    footage, done = Footage(clip.face_path), len(points) // 2
    # making the references reads the whole file once, so a damaged one is told before any of its frames is scored
    painter = Painter(net, points[: max(done, 1)], partial(_read, footage, len(points)))
    frames = footage.frames(done)
    while crops := list(itertools.islice(frames, BATCH)):
        part = slice(done, done + len(crops))
        for truth, (face, mask) in zip(crops, painter.paint(crops, driven[part], points[part]), strict=True):
            yield blend(truth, face, mask), truth, mask
        done += len(crops)
        tick(done)


def shown_frames(clip: Clip, nets: Nets) -> Iterator[tuple[Frame | None, Frame]]:
    """Predicted and true crop of every frame, for the report: None for those that are not painted."""
    points, _ = clip.landmarks()
    whole = len(points) if nets.lm2face is None else len(points) // 2
    for truth in Footage(clip.face_path).frames(0, whole):
        yield None, truth
    if nets.lm2face is not None:
        pred = predict_clip(nets.a2lm, clip)[0].cpu().numpy()
        for blended, truth, _ in painted_crops(clip, nets.lm2face, points, with_lower_face(points, pred)):
            yield blended, truth


def _read(footage: Footage, count: int, chosen: list[int]) -> NDArray[np.uint8]:
    """The chosen crops, (N, 256, 256, 3), in one pass. Raises UnusableClip where there are not `count` frames."""
    crops = {number: frame for number, frame in enumerate(_all_of(footage, count)) if number in chosen}
    return np.stack([crops[number] for number in chosen])


def _all_of(footage: Footage, count: int) -> Iterator[Frame]:
    """Its frames. Raises UnusableClip at the end where there are not `count` of them."""
    frames = 0
    for frames, frame in enumerate(footage.frames(), start=1):
        if frames <= count:
            yield frame
    if frames != count:
        raise UnusableClip(
            f"{footage.path} has {frames} frames, clip.json says {count}; delete that folder and run `spear preprocess`"
        )


def draw_clip(clip: Clip, pred: Array, figures: FigureFolder, tick: Tick) -> None:
    """Draw the predicted lower face, (F, 57, 2) crop px, over the detected points; nothing on frames without a face.

    A clip whose video or sound is damaged gets no figures but a note: the scores of points do without both. Raises
    SpearError where the figures cannot be written.
    """
    points, confidence = clip.landmarks()
    sound = clip.audio_path if clip.info.has_audio else None
    try:
        with figures.clip(clip.id, len(points), sound) as drawing:
            for number, crop in enumerate(_all_of(Footage(clip.face_path), len(points))):
                known = confidence[number] > 0
                drawing.add(crop, points[number] if known else None, pred[number] if known else None)
                tick(number + 1)
    except UnusableClip as error:
        figures.leave_out(clip.id, str(error))


def split_protocol(
    nets: Nets, which: frozenset[str], split: str, scored: Scored, pairs: int, by: str | None
) -> dict[str, Any]:
    """How the numbers of a split were measured, in words; stands over the sentences that are for two videos."""
    config = nets.a2lm.config
    detectors = sorted({str(read_about(clip.landmarks_path)["settings"]["detector"]) for clip, _ in scored})
    protocol: dict[str, Any] = {
        "split": split,
        "clips": len(scored),
        "frames": sum(scores.frames for _, scores in scored),
        **nets.files,
        "detector": f"{'; '.join(detectors)}; on the 256x256 face crops",
        "stage_1": f"lower 57 points from the clip's own audio ({config.encoder}), its upper points as {config.pose} "
        f"pose, and {config.references} references",
        "references": "frames of the same clip, spread over its lip opening",
    }
    if by is not None:
        protocol["by"] = by
    if which & LANDMARK_SCORES:
        protocol |= _LANDMARK_WORDS
    if pairs:
        protocol |= {"controls": f"{pairs} pairs, {_PAIR_WORDS}", **_CONTROL_WORDS}
    if nets.lm2face is not None:
        protocol |= {
            "stage_2": "each frame of the clip's second half painted from detected upper and predicted lower points "
            f"and {nets.lm2face.config.bank} references of the first half; blended into the true crop inside the lower "
            "face's hull",
            "pictures": "RGB, blended against true 256x256 crop as preprocess wrote it; mean of the frames' scores",
        }
    if "psnr" in which:
        protocol["psnr_hull"] = (
            "from the squared error weighted by the blend mask; the rest of the crop is the truth's own"
        )
    return protocol


_LANDMARK_WORDS = {
    "ld": "eq. 9, predicted against detected lower 57 points, crop px over the detected face width of that frame; "
    "no alignment",
    "ld_baseline": "LD of the references' mean lower face, carried by the same pose",
    "ld_skill": "1 - LD / LD of the baseline: 0 is no better than a face that does not speak",
    "lvd_baseline": "LVD of the same mean lower face",
    "lvd_over_baseline": "LVD / LVD of the baseline: 1 is a mouth that does not move",
    "lips_over_clips": "mean r and lowest r are over the clips, each counted once",
}
_PAIR_WORDS = (
    f"each clip's audio with pose and references of another clip, half the list further on and with another sound; "
    f"the first min(audio, pose) frames, those with both faces, at least {LEAST_FRAMES}"
)
_CONTROL_WORDS = {
    "swap": "lip opening of that prediction, in the face of the pose's owner: Pearson r with the true opening of the "
    "audio's owner (high: the mouth follows the sound) and of the pose's owner (high: it follows the old mouth)",
    "swap_r_truths": "r of these two true openings with each other on the same frames: people who speak in one rhythm "
    "have it, so a mouth that follows one of them alone has about as much with the other",
    "wrong_audio": "skill on the pose's owner with its own audio, less the skill with the other's, on the same frames; "
    "0 is a mouth that does not listen",
}
