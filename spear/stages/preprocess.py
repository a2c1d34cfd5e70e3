"""`spear preprocess`: videos of any kind -> clips/<id>/ with a 256x256 face at 25 fps and 16 kHz sound."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spear.audio import Samples, fit_to_frames, load_audio, write_wav
from spear.clip import Clip, ClipInfo
from spear.errors import SpearError, UnusableClip
from spear.face import CROP_WIDTHS, DETECTOR, NOSE_ROW, FaceTracker, crop_transform, find_face, steady_face, warp_crop
from spear.files import make_folder, sha256_of, whole, write_text
from spear.jobs import run_each
from spear.points import Array, lip_opening
from spear.progress import Progress, Report, no_progress
from spear.remarks import on_faces, on_sound
from spear.sources import SPLIT_BY, Source, assign_splits, find_sources, marked
from spear.sync import AvOffset, estimate_offset
from spear.video import Footage, VideoWriter

ON_MISSING_FACE = ("hold", "skip", "fail")
_MOST_NOTES = 10
"""Clips with late or early sound that are named one by one; of more, the count is told."""


@dataclass(frozen=True)
class _Job:
    source: Source
    split: str
    split_rule: str


def preprocess(
    videos: list[Path],
    clips: Path,
    layout: str = "auto",
    face: str = "largest",
    on_missing_face: str = "hold",
    split_by: str = "clip",
    seed: int = 0,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> Report:
    """Cut every video below `videos` to clips/<id>/ (section 4.3: 25 fps, split 80/10/10).

    face: `largest` or the number of the face from the left. on_missing_face: `hold` interpolates over frames without a
    face, `skip` leaves the clip out, `fail` stops. A second run does nothing; changed videos or options are noticed.
    What was left out stands with its reason in clips/skipped.jsonl. Raises SpearError where nothing is usable.
    """
    if on_missing_face not in ON_MISSING_FACE:
        raise SpearError(f"--on-missing-face {on_missing_face} is not one of {', '.join(ON_MISSING_FACE)}")
    with FaceTracker(face):
        pass  # a wrong --face is an error of its own, not of the first clip
    sources, notes = find_sources(videos, layout)
    sources = [_own_id(clips, source) for source in sources]
    report = Report(notes=notes)
    settings = {"detector": DETECTOR, "face": face, "on_missing_face": on_missing_face, "crop_widths": CROP_WIDTHS,
                "nose_row": NOSE_ROW}  # fmt: skip
    splits = assign_splits(sources, split_by, seed)
    make_folder(clips)
    rule = f"by {split_by}, seed {seed}"
    if split_by not in SPLIT_BY:  # a file, which may change
        rule = f"by {split_by}, sha256 {sha256_of(Path(split_by))}"
    if split_by == "speaker":
        splits = _speakers_together(clips, sources, splits, rule)
    work, offsets, said = [], {}, []
    for source in sources:
        job = _Job(source, splits[source.id], rule)
        if _is_done(Clip(clips / source.id), job, settings):
            report.kept += 1
        else:
            work.append(job)
    for job, result in run_each(partial(_preprocess_one, clips=clips, settings=settings), work, jobs):
        if isinstance(result, UnusableClip) and on_missing_face != "fail":
            report.skipped.append((str(job.source.path), str(result)))
        elif isinstance(result, SpearError):
            raise result
        elif isinstance(result, Exception):
            report.skipped.append((str(job.source.path), f"{type(result).__name__}: {result}"))
        else:
            report.done += 1
            offset, remarks = result
            said += [f"{job.source.id}: {remark}" for remark in remarks]
            if offset is not None and offset.correction:
                offsets[job.source.id] = offset
        progress(report.done + len(report.skipped), len(work), job.source.id)
    report.notes += _offset_notes(offsets) + _most(sorted(said))
    report.skipped.sort()  # with several jobs they come in the order of finishing
    _write_skipped(clips, sources, report)
    if report.done + report.kept == 0:
        first = report.skipped[0][1]
        many = f"none of {len(sources)} videos is usable; {clips / 'skipped.jsonl'} says why, the first: {first}"
        raise SpearError(first if len(sources) == 1 else many)
    return report


def _own_id(clips: Path, source: Source) -> Source:
    """With another id where the clip of that id is of another video that still exists: it must not be replaced."""
    try:
        info = Clip(clips / source.id).info
        other = not Path(info.source).samefile(source.path) and not _same_source(info, source.path)
    except (SpearError, OSError):
        return source
    return marked(source) if other else source


def _speakers_together(clips: Path, sources: list[Source], splits: dict[str, str], rule: str) -> dict[str, str]:
    """More videos change how speakers are dealt out: one who has a split by this rule already stays in it."""
    known: dict[str, str] = {}
    for path in sorted(clips.glob("*/clip.json")):
        with contextlib.suppress(SpearError):  # damaged: it will be made again
            info = Clip(path.parent).info
            if info.split_rule == rule:
                known.setdefault(info.speaker, info.split)
    return {source.id: known.get(source.speaker, splits[source.id]) for source in sources}


def _is_done(clip: Clip, job: _Job, settings: dict[str, Any]) -> bool:
    """Whether the clip stands as asked; a changed split rule alone is written without touching the pictures."""
    if not (clip.info_path.exists() and clip.face_path.exists()):
        return False
    try:
        info = clip.info
    except SpearError:
        return False
    if info.settings != settings or not _same_source(info, job.source.path):
        return False
    if info.has_audio and not clip.audio_path.exists():
        return False
    if info.split_rule != job.split_rule:
        clip.write_info(replace(info, split=job.split, split_rule=job.split_rule))
    return True


def _same_source(info: ClipInfo, path: Path) -> bool:
    status = path.stat()
    if info.source_size != status.st_size:
        return False
    return info.source_mtime_ns == status.st_mtime_ns or info.source_sha256 == sha256_of(path)


def _preprocess_one(job: _Job, clips: Path, settings: dict[str, Any]) -> tuple[AvOffset | None, list[str]]:
    source, clip = job.source, Clip(clips / job.source.id)
    clip.info_path.unlink(missing_ok=True)  # an older clip that no longer fits must not stand in for one left out
    status, digest = source.path.stat(), sha256_of(source.path)
    footage = Footage(source.path)
    found = find_face(footage, settings["face"])
    points, missing = steady_face(found, footage, settings["face"], settings["on_missing_face"])
    transforms = crop_transform(points)
    with whole(clip.face_path) as temporary, VideoWriter(temporary, 256, 256, crf=12, random_access=True) as writer:
        for frame, transform in zip(footage.frames(), transforms, strict=True):
            writer.write(warp_crop(frame, transform))
    remarks = footage.doubts + on_faces(found, points, missing)
    samples = _write_sound(clip, source, footage, len(points), remarks)
    offset = None if samples is None else _offset(points, missing, samples)
    known = {name: getattr(source, name) for name in ("speaker", "view", "emotion", "level")}
    info = ClipInfo(
        source=str(source.path), source_sha256=digest, source_size=status.st_size, source_mtime_ns=status.st_mtime_ns,
        width=footage.width, height=footage.height, frames=len(points), crop=transforms.tolist(), missing=missing,
        has_audio=samples is not None, split=job.split, split_rule=job.split_rule, settings=settings, **known,
        av_offset=offset.correction if offset else 0, av_offset_r=round(offset.r, 3) if offset else None,
        remarks=remarks,
    )  # fmt: skip
    clip.write_info(info)
    return offset, remarks


def _most(remarks: list[str]) -> list[str]:
    rest = len(remarks) - _MOST_NOTES
    return remarks[:_MOST_NOTES] + ([f"{rest} more remarks; they stand in each clip.json"] if rest > 0 else [])


def _offset(points: Array, missing: list[int], samples: Samples) -> AvOffset | None:
    found = np.ones(len(points), bool)
    found[missing] = False
    return estimate_offset(lip_opening(points), samples, found)


def _offset_notes(offsets: dict[str, AvOffset]) -> list[str]:
    """One line for each clip whose sound is late or early, sorted by id; one line in all where they are many."""
    then = "training and scores correct it, audio.wav stays as it was"
    if len(offsets) > _MOST_NOTES:
        return [f"in {len(offsets)} clips the sound is late or early (av_offset in clip.json says how much); {then}"]
    lines = []
    for name, offset in sorted(offsets.items()):
        which = "late" if offset.correction > 0 else "early"
        fit = f"r {offset.r:.2f} instead of {offset.r_as_is:.2f}"
        lines.append(f"{name}: the sound is {abs(offset.correction)} frames {which} ({fit}); {then}")
    return lines


def _write_sound(clip: Clip, source: Source, footage: Footage, frames: int, remarks: list[str]) -> Samples | None:
    """Write audio.wav, where there is sound: samples (frames * 640,). remarks: gets more where it does not fit."""
    if footage.has_audio:
        samples = load_audio(source.path, footage.start)
    elif source.sound is not None:
        samples = load_audio(source.sound)
    else:
        clip.audio_path.unlink(missing_ok=True)
        return None
    remarks += on_sound(samples, frames)
    samples = fit_to_frames(samples, frames)
    with whole(clip.audio_path) as temporary:
        write_wav(temporary, samples)
    return samples


def _write_skipped(clips: Path, sources: list[Source], report: Report) -> None:
    """Keep what earlier runs over other videos left out; say anew what this run did."""
    path = clips / "skipped.jsonl"
    tried = {str(source.path) for source in sources}
    old = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    rows = [row for row in old if row.get("source") not in tried]
    rows += [{"source": source, "reason": reason} for source, reason in report.skipped]
    if rows or path.exists():
        write_text(path, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))
