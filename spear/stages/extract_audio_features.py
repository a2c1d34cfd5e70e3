"""`spear extract-audio-features`: the speech of every clip through one audio encoder, one feature per video frame."""

from __future__ import annotations

import hashlib
from collections import deque
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spear.audio import load_for_frames
from spear.augment import change_speech, near_silence
from spear.clip import FPS, SAMPLE_RATE, Clip, ClipInfo, find_clips
from spear.clip_work import KEPT, leave_out, shard_note, work_through
from spear.errors import SpearError
from spear.left_out import LIST, LeftOut
from spear.pretrained.audio_encoders import AudioEncoder, load_encoder
from spear.progress import Progress, Report, no_progress
from spear.workers import HERE, Workers

Changed = tuple[Tensor, float]
"""Features of a changed copy, (F', L, W), and how many times faster it is."""
CHANGED_COPIES = 4
"""Of a training clip's speech. Without them the landmarks of strangers are worse (skill .14 for .16)."""

SILENT_SECONDS = 3


def extract_audio_features(
    clips: Path,
    encoder: str = "whisper",
    weights: str | None = None,
    changed: int | None = None,
    workers: Workers = HERE,
    progress: Progress = no_progress,
) -> Report:
    """Write clips/<id>/<encoder>.safetensors, features (F, L, W), for every clip with sound (paper 3.1.1).

    changed: for clips of the train split, also the features of so many changed copies of the speech (see `augment`),
    for stage 1's small preset; left out: CHANGED_COPIES for the small encoders mfcc and whisper, else none.
    Clips whose features are there and still fit are kept; clips without sound stand in clips/skipped.jsonl. Speech that
    several clips share (one take, several cameras) is computed once by each process. Raises SpearError where there are
    no clips, none of them has sound, or the encoder's weights are absent.
    """
    if changed is None:
        changed = CHANGED_COPIES if encoder in ("mfcc", "whisper") else 0
    found, heard = find_clips(clips), False
    net = _load_anew(encoder, weights)
    report = Report()
    left_out, work = LeftOut(f"extract-audio-features --encoder {encoder}", clips / LIST), list[_Take]()
    for clip in found:
        info = clip.brief()
        heard = heard or info.has_audio
        if clip.id not in workers.shard:
            continue
        if not info.has_audio:
            leave_out(report, left_out, clip.id, "no audio track", {})
        elif _fits(clip, net, changed):
            report.kept += 1
            left_out.forget(clip.id)
        else:
            work.append(_take_of(clip.id, info))
    if not heard:
        raise SpearError(f"no clip in {clips} has an audio track; run `spear preprocess` on videos with sound")
    report.notes += shard_note(workers.shard, report.kept + len(report.skipped) + len(work), len(found))
    function = partial(_extract, clips=clips, encoder=encoder, weights=weights, copies=changed)
    done = work_through(
        function, sorted(work), workers, report, left_out, progress,
        name=attrgetter("id"), where=partial(_folder, clips),
    )  # fmt: skip
    deque(done, maxlen=0)
    left_out.publish()
    return report


class _Take(NamedTuple):
    """A clip to be listened to. Sorted, the longest come first, and views of one take follow each other."""

    length: int
    """Seconds, negative."""
    take: tuple[str, ...]
    id: str


def _take_of(identity: str, info: ClipInfo) -> _Take:
    known = (info.speaker, info.emotion or "", str(info.level), Path(info.source).stem)
    return _Take(-(info.frames // FPS), known if info.emotion else (), identity)


def _folder(clips: Path, take: _Take) -> Path:
    return clips / take.id


_NETS: dict[tuple[str, str | None], AudioEncoder] = {}
"""The encoder that this process has loaded."""
_COMPUTED: dict[Any, Clip] = {}
"""What this process has computed: encoder's settings, digest of the samples, copies -> a clip whose file holds it."""
_MOST_COMPUTED = 1000


def _load_anew(encoder: str, weights: str | None) -> AudioEncoder:
    _NETS.clear()
    _COMPUTED.clear()
    return _NETS.setdefault((encoder, weights), load_encoder(encoder, weights))


def _fits(clip: Clip, net: AudioEncoder, changed: int) -> bool:
    """Whether the features are there, of this encoder, and with as many changed copies as the clip's split wants."""
    if not clip.fits(clip.features_path(net.name), net.settings):
        return False
    return len(clip.speeds(net.name)) == (changed if clip.brief().split == "train" else 0)


def _extract(take: _Take, clips: Path, encoder: str, weights: str | None, copies: int) -> str | None:
    net = _NETS.get((encoder, weights)) or _load_anew(encoder, weights)
    clip = Clip(clips / take.id)
    if _fits(clip, net, copies):
        return KEPT
    clip.write_features(net.name, *_features(clip, net, copies if clip.info.split == "train" else 0))
    return None


def _features(
    clip: Clip, net: AudioEncoder, copies: int
) -> tuple[Tensor, dict[str, Any], list[Changed], Tensor | None]:
    """(F, L, W) of one clip, the encoder's settings, changed copies, and three seconds of silence beside copies."""
    from accelerate import PartialState

    samples, _ = load_for_frames(clip.audio_path, clip.info.frames)
    digest = hashlib.sha256(samples.tobytes())
    key = (repr(net.settings), digest.hexdigest(), copies)
    same = _COMPUTED.get(key)
    if same is not None and _fits(same, net, copies):
        changed = [(same.features(net.name, name=f"changed{i}"), s) for i, s in enumerate(same.speeds(net.name))]
        silence = same.features(net.name, name="silence") if copies else None
        return same.features(net.name), net.settings, changed, silence
    device = PartialState().device
    features = net(torch.from_numpy(samples).to(device))
    assert features.shape == (clip.info.frames, *net.shape), (features.shape, clip.info.frames, net.shape)
    changed, random = [], np.random.default_rng(list(digest.digest()))
    for _ in range(copies):
        other, speed = change_speech(samples, random)
        changed.append((net(torch.from_numpy(other).to(device)), speed))
    silence = None
    if copies:
        silence = net(torch.from_numpy(near_silence(SILENT_SECONDS * SAMPLE_RATE, random)).to(device))
    made = [features, *(copy for copy, _ in changed), *([] if silence is None else [silence])]
    if not all(part.half().isfinite().all() for part in made):
        raise SpearError(
            f"{net.name} gives numbers beyond float16 for {clip.audio_path}; its weights look damaged, "
            "give others with --weights FOLDER"
        )
    if len(_COMPUTED) >= _MOST_COMPUTED:
        _COMPUTED.clear()
    _COMPUTED[key] = clip
    return features, net.settings, changed, silence
