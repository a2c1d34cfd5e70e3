"""`spear preprocess`: videos of any kind -> clips/<id>/ with a 256x256 face at 25 fps and 16 kHz sound."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear.audio import Samples, load_for_frames, write_wav
from spear.clip import Clip, ClipInfo
from spear.clip_work import KEPT, shard_note, work_through
from spear.crop import CROP_WIDTHS, NOSE_ROW, crop_transform, warp_crop
from spear.errors import SpearError, UnusableClip
from spear.face import DETECTOR, FaceTracker, find_face, steady_face
from spear.files import make_folder, sha256_of, whole
from spear.left_out import LIST, LeftOut, unfinished
from spear.points import Array, lip_opening
from spear.progress import Progress, Report, no_progress
from spear.remarks import on_faces, on_sound
from spear.sources import SPLIT_BY, Source, assign_splits, find_sources, marked
from spear.sync import AvOffset, estimate_offset
from spear.video import Footage, VideoWriter
from spear.workers import HERE, Workers

ON_MISSING_FACE = ("hold", "skip", "fail")
_MOST_NOTES = 10
"""Clips with late or early sound that are named one by one; of more, the count is told."""


class _Job(NamedTuple):
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
    workers: Workers = HERE,
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
    settings = {"detector": DETECTOR, "face": face, "on_missing_face": on_missing_face, "crop_widths": CROP_WIDTHS,
                "nose_row": NOSE_ROW}  # fmt: skip
    rules = {}
    """Of each clip that stands as asked, the rule that its split is of."""
    for number, source in enumerate(sources):
        sources[number], rule = _compare(clips, source, settings)
        if rule is not None:
            rules[sources[number].id] = rule
    rule = f"by {split_by}, seed {seed}"
    splits = assign_splits(sources, split_by, seed)
    make_folder(clips)
    if split_by not in SPLIT_BY:  # a file, which may change
        rule = f"by {split_by}, sha256 {sha256_of(Path(split_by))}"
    if split_by == "speaker":
        splits = _speakers_together(clips, sources, splits, rule)
    mine = [source for source in sources if source.id in workers.shard]
    report = Report(notes=[*notes, *shard_note(workers.shard, len(mine), len(sources))])
    left_out, work = LeftOut("preprocess", clips / LIST), []
    for source in mine:
        job = _Job(source, splits[source.id], rule)
        if source.id not in rules:
            work.append(job)
            continue
        if rules[source.id] != rule:
            _move_split(Clip(clips / source.id), job)
        left_out.forget(source.id)
        report.kept += 1
    work.sort(key=lambda job: -_size(job.source.path))  # the longest first, so that none is left alone at the end
    with unfinished(clips, "preprocess", len(sources), workers.shard, bool(work)):
        done = work_through(
            partial(_preprocess_one, clips=clips, settings=settings), work, workers, report, left_out, progress,
            name=lambda job: job.source.id, where=partial(_folder, clips),
            told=lambda job: {"source": str(job.source.path)}, strict=on_missing_face == "fail",
        )  # fmt: skip
        special = {job.source.id: result for job, result in done if any(result)}
    report.notes += _offset_notes({name: found for name, (found, _) in special.items() if found and found.correction})
    report.notes += _most([f"{name}: {remark}" for name in sorted(special) for remark in special[name][1]])
    left_out.publish()
    if mine and report.done + report.kept == 0:
        first = report.skipped[0][1]
        many = f"none of {len(mine)} videos is usable; {clips / LIST} says why, the first: {first}"
        raise SpearError(first if len(mine) == 1 else many)
    return report


def _compare(clips: Path, source: Source, settings: dict[str, Any]) -> tuple[Source, str | None]:
    """The source, with another id where the clip of that id is of another video that still exists, for it must not be
    replaced; and the split rule of its clip, where that stands as asked."""
    clip = Clip(clips / source.id)
    try:
        info = clip.brief()
        other = info.source != str(source.path) and not Path(info.source).samefile(source.path)
        if other and not _same_source(clip, info, source.path):
            return _compare(clips, marked(source), settings)
    except FileNotFoundError:  # the other video is gone
        pass
    except (SpearError, OSError):
        return source, None
    return source, info.split_rule if _is_done(clip, info, source, settings) else None


def _is_done(clip: Clip, info: ClipInfo, source: Source, settings: dict[str, Any]) -> bool:
    """Whether the clip stands as asked, whatever its split."""
    if info.settings != settings or not (_same_source(clip, info, source.path) and _same_sound(clip, info, source)):
        return False
    if not clip.face_path.exists() or (info.has_audio and not clip.audio_path.exists()):
        return False
    if not info.files_sha256:  # a clip of an older version: from now on `spear check` can tell
        clip.write_info(clip.info)
    return True


def _move_split(clip: Clip, job: _Job) -> None:
    """A changed split rule alone is written without touching the pictures."""
    clip.write_info(replace(clip.info, split=job.split, split_rule=job.split_rule))


def _folder(clips: Path, job: _Job) -> Path:
    return clips / job.source.id


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # which its turn will tell


def _speakers_together(clips: Path, sources: list[Source], splits: dict[str, str], rule: str) -> dict[str, str]:
    """More videos change how speakers are dealt out: one who has a split by this rule already stays in it."""
    known: dict[str, str] = {}
    for path in sorted(clips.glob("*/clip.json")):
        with suppress(SpearError):  # damaged: it will be made again
            info = Clip(path.parent).brief()
            if info.split_rule == rule:
                known.setdefault(info.speaker, info.split)
    return {source.id: known.get(source.speaker, splits[source.id]) for source in sources}


def _same_source(clip: Clip, info: ClipInfo, path: Path) -> bool:
    return _same_file(clip, path, info.source_sha256, info.source_size, info.source_mtime_ns)


def _same_sound(clip: Clip, info: ClipInfo, source: Source) -> bool:
    """Of the file beside the video, where the sound is from there; clips of older versions do not say so."""
    if info.sound is None or source.sound is None:
        return info.sound is None and (info.has_audio or source.sound is None)
    return _same_file(clip, source.sound, **info.sound)


def _same_file(clip: Clip, path: Path, sha256: str, size: int, mtime_ns: int) -> bool:
    """Whether a file is what it was, by its size and times, or else by its hash: one that was touched after the clip
    was made may be another, with the size and the date of the old one."""
    status, made = path.stat(), clip.info_path.stat().st_mtime_ns
    if status.st_size != size:
        return False
    if status.st_mtime_ns == mtime_ns and status.st_ctime_ns < made:
        return True
    if sha256_of(path) != sha256:
        return False
    if status.st_mtime_ns == mtime_ns:
        os.utime(clip.info_path)  # the next time that need not be found out again
    return True


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes with the file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _seen(path: Path) -> dict[str, Any]:
    """What _same_file wants to know of a file."""
    status = path.stat()
    return {"sha256": sha256_of(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _preprocess_one(job: _Job, clips: Path, settings: dict[str, Any]) -> tuple[AvOffset | None, list[str]] | str:
    source, clip = job.source, Clip(clips / job.source.id)
    if _compare(clips, source, settings) == (source, job.split_rule):
        return KEPT
    clip.remove_info()  # an older clip that no longer fits must not stand in for one left out
    given = [path for path in (source.path, source.sound) if path]
    before, seen = [_stamp(path) for path in given], [_seen(path) for path in given]
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
    if before != [_stamp(path) for path in given]:
        raise UnusableClip(f"{source.path} changed while it was read; leave it alone and run again")
    known: dict[str, Any] = {name: getattr(source, name) for name in ("speaker", "view", "emotion", "level")}
    known |= {f"source_{name}": value for name, value in seen[0].items()}
    info = ClipInfo(
        source=str(source.path), sound=None if footage.has_audio or not source.sound else seen[1],
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
        samples, heard = load_for_frames(source.path, frames, footage.start)
    elif source.sound is not None:
        samples, heard = load_for_frames(source.sound, frames)
    else:
        clip.audio_path.unlink(missing_ok=True)
        return None
    remarks += on_sound(heard, frames)
    with whole(clip.audio_path) as temporary:
        write_wav(temporary, samples)
    return samples
