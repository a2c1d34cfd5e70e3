"""`spear render`: speech and a reference video (or picture) in, a talking-face video out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from spear.adapt import LEAST_FRAMES, adapted_lm2face
from spear.audio import fit_to_frames, frames_of, load_audio
from spear.clip import CROP
from spear.errors import SpearError
from spear.face import Frame, blend, crop_transform, follow_face, paste, to_crop, warp_crop
from spear.files import check_picture, whole, write_picture
from spear.nets.a2lm import A2LM
from spear.painter import BATCH, Painter, load_lm2face, with_lower_face
from spear.points import Array, draw_sketch, spread_over_opening
from spear.pretrained.audio_encoders import load_encoder
from spear.progress import Progress, no_progress
from spear.talker import load_a2lm, speak
from spear.version import __version__
from spear.video import Footage, VideoWriter, ping_pong_index

PACKAGED = Path(__file__).parent.parent / "weights"
CONTAINERS = (".mp4", ".mov", ".mkv")
COMMENT = f"Synthetic face: made with SPEAR {__version__}"
"""Stands in the metadata of every rendered file."""
_MOMENTS = 8
_LEAST_ANALYSED = 250
"""Frames of a long ref that are looked at even for short speech: references want an open mouth."""

Item = TypeVar("Item")


@dataclass
class Rendered:
    """What was made: frames at 25 fps, picture size, seconds spent, and what the user should know."""

    frames: int
    width: int
    height: int
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def render(
    audio: Path,
    ref: Path,
    out: Path,
    models: Path | None = None,
    face: str = "largest",
    encoder_weights: str | None = None,
    vae: str | None = None,
    sheet: Path | None = None,
    adapt: int = 0,
    progress: Progress = no_progress,
) -> Rendered:
    """Write a video in which the face of `ref` speaks `audio`: size and colours of the ref, 25 fps, the audio muxed.

    ref: a video, run forward and backward where the speech is longer, or a still picture. models: a folder with
    a2lm.safetensors and lm2face.safetensors; without it those that ship. encoder_weights, vae: folder or hub id of what
    the models were trained with, where it does not ship. sheet: a PNG to write: crop, sketch, face and full frame of
    eight moments. adapt: stage 2 first goes on training on the ref for so many steps; the result is kept for the next
    time. Memory does not grow with the length.
    Raises SpearError for input that cannot be used; then nothing stands under the name `out`.
    """
    if out.suffix.lower() not in CONTAINERS:
        raise SpearError(f"{out} does not end in {', '.join(CONTAINERS)}; give the video a name that does")
    if out.exists() and any(out.samefile(path) for path in (audio, ref) if path.exists()):
        raise SpearError(f"{out} is the audio or the ref itself; give another -o")
    if sheet is not None:
        check_picture(sheet)
    started = time.monotonic()
    with whole(out) as temporary:  # first, since a folder that cannot be written should not cost a minute
        folder = models or PACKAGED
        path = folder / "lm2face.safetensors"
        a2lm, lm2face = load_a2lm(folder / "a2lm.safetensors"), load_lm2face(path, vae)
        samples = load_audio(audio)
        frames = frames_of(samples)
        footage = Footage(ref)
        points, missing = follow_face(
            footage, face, "hold", max(frames, _LEAST_ANALYSED), lambda done: progress(done, 0, "finding the face")
        )
        transforms = crop_transform(points)
        points = to_crop(points, transforms)
        seconds = {"ref": time.monotonic() - started}
        order = ping_pong_index(frames, len(points))
        driven = _speak(a2lm, fit_to_frames(samples, frames), points, order, encoder_weights)
        seconds["landmarks"] = time.monotonic() - started - sum(seconds.values())
        read = partial(_crops, footage, transforms)
        notes = []
        if adapt and len(points) < LEAST_FRAMES:
            count = "1 frame" if len(points) == 1 else f"{len(points)} frames"
            notes.append(f"the ref has only {count}, nothing to adapt to; rendered without --adapt")
        elif adapt:
            lm2face = adapted_lm2face(path, vae, ref, face, points, read, adapt, progress)
        seconds["adaptation"] = time.monotonic() - started - sum(seconds.values())
        painter = Painter(lm2face, points, read)
        size = (footage.width, footage.height)
        with VideoWriter(temporary, *size, audio, pixel_aspect=footage.pixel_aspect, comment=COMMENT) as writer:
            work = _batched(zip(footage.ping_pong(frames), order, driven, strict=True), BATCH)
            painted = (row for batch in work for row in _paint(painter, batch, points, transforms))
            moments, rows = set(np.linspace(0, frames - 1, _MOMENTS).astype(int).tolist()), []
            for number, (crop, lines, face_crop, frame) in enumerate(painted):
                writer.write(frame)
                if sheet is not None and number in moments:
                    rows.append(_sheet_row(crop, lines, face_crop, frame))
                progress(number + 1, frames, "rendering")
        if sheet is not None:
            write_picture(sheet, np.vstack(rows))
        seconds["faces"] = time.monotonic() - started - sum(seconds.values())
    if missing:
        notes.append(f"no face in {len(missing)} of {len(points)} frames of the ref; its place was interpolated there")
    if footage.width % 2 or footage.height % 2:
        notes.append("the ref has an odd size; H.264 wants even ones, so the edge was repeated by one pixel")
    return Rendered(frames, footage.width, footage.height, seconds, notes)


def _speak(
    net: A2LM, samples: NDArray[np.float32], points: Array, order: NDArray[np.int64], weights: str | None
) -> Array:
    """The points of every output frame, (F, 131, 2) crop px: the ref's upper face, the lower face from the speech."""
    encoder = load_encoder(net.config.encoder, weights)
    if encoder.settings != net.config.encoder_settings:
        raise SpearError(
            f"the model was trained on {net.config.encoder} features of other weights than these; "
            "give the same ones with --encoder-weights"
        )
    device = PartialState().device
    features = encoder(torch.from_numpy(samples).to(device))
    shown = points[order]
    lower = speak(net.to(device), features, shown, points[spread_over_opening(points, net.config.references)])
    return with_lower_face(shown, lower.numpy())


def _crops(footage: Footage, transforms: NDArray[np.float64], chosen: list[int]) -> NDArray[np.uint8]:
    """The crops of some frames, in one pass: a jump would first read a long ref to its end."""
    frames = enumerate(footage.frames(0, max(chosen) + 1))
    crops = {i: warp_crop(frame, transforms[i]) for i, frame in frames if i in chosen}
    return np.stack([crops[i] for i in chosen])


def _paint(
    painter: Painter,
    batch: list[tuple[NDArray[np.uint8], np.int64, Array]],
    points: Array,
    transforms: NDArray[np.float64],
) -> Iterator[tuple[Frame, Array, Frame, Frame]]:
    """For each frame: the ref's crop, the points that drive it, the blended face, the full frame with it pasted in."""
    frames, order, driven = (list(column) for column in zip(*batch, strict=True))
    crops = [warp_crop(frame, transforms[i]) for frame, i in zip(frames, order, strict=True)]
    painted = painter.paint(crops, np.stack(driven), points[order])
    for frame, i, crop, lines, (face, mask) in zip(frames, order, crops, driven, painted, strict=True):
        yield crop, lines, blend(crop, face, mask), paste(frame, face, mask, transforms[i])


def _sheet_row(crop: Frame, points: Array, face: Frame, frame: Frame) -> Frame:
    """Crop, sketch, face, and the full frame at the height of the crop, side by side."""
    sketch = np.repeat(draw_sketch(points, CROP)[..., None], 3, axis=2)
    small = cv2.resize(frame, (round(frame.shape[1] * CROP / frame.shape[0]), CROP), interpolation=cv2.INTER_AREA)
    return np.hstack([crop, sketch, face, small])


def _batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
