"""`spear render`: speech and a reference video (or picture) in, a talking-face video out.

The face is looked for while the nets are loaded and the speech is heard. Then this thread decodes the ref and encodes
the video, and faces are painted by one thread for each core.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from spear.audio import fit_to_frames, frames_of, load_audio
from spear.clip import CROP, SAMPLES_PER_FRAME
from spear.crop import blend, cut
from spear.errors import SpearError
from spear.files import check_picture, whole, write_picture
from spear.marking import PLAIN, Marking
from spear.nets.blending import blend_columns
from spear.nets.lm2face import Lm2Face
from spear.painter import Painter, check_precision, load_lm2face, with_lower_face
from spear.picture import Picture
from spear.pipeline import Meanwhile, in_order, one_thread
from spear.points import Array, draw_sketch, spread_over_opening
from spear.pretrained.audio_encoders import load_encoder
from spear.progress import Progress, no_progress
from spear.provenance import remove_sidecar, write_sidecar
from spear.ref_face import RefFace
from spear.talker import load_a2lm, speak
from spear.video import Footage, Frame, ping_pong_index
from spear.video_writer import Patch, VideoWriter

MODELS = ("a2lm.safetensors", "lm2face.safetensors")
PACKAGED = Path(__file__).parent.parent / "weights"
CONTAINERS = (".mp4", ".mov", ".mkv")
"""Stands in the metadata of every rendered file."""
_MOMENTS = 8
_LEAST_ANALYSED = 250
"""Frames of a long ref that are looked at even for short speech: references want an open mouth."""
_BATCH = 4
"""Frames painted together: with more of them memory grows, and the time of a frame does not fall."""
_MOST_HELD = 300_000_000
"""Bytes of frames that are decoded and not yet encoded; three batches are held in any case."""
_MOST_WORKERS = 8
"""Threads that paint: each takes 50 MB. Where there are more cores, several share the work of a thread."""

Item = TypeVar("Item")


@dataclass
class Rendered:
    """What was made: frames at 25 fps, picture size, seconds spent, and what the user should know."""

    frames: int
    width: int
    height: int
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Shown(NamedTuple):
    """A frame to show: that of the ref, what is pasted into it; its crop, the points that drive it, the painted crop
    and its mask."""

    picture: Picture
    patch: Patch
    crop: Frame
    points: Array
    face: Frame
    mask: Array

    def whole(self) -> Frame:
        """The frame with the patch in its place."""
        height, width, _ = self.picture.shape
        frame = self.picture.part((slice(0, height), slice(0, width))).copy()
        frame[self.patch.area] = self.patch.pixels
        return frame


def render(
    audio: Path,
    ref: Path,
    out: Path | BinaryIO,
    models: Path | None = None,
    face: str = "largest",
    encoder_weights: str | None = None,
    vae: str | None = None,
    sheet: Path | None = None,
    adapt: int = 0,
    progress: Progress = no_progress,
    precision: str = "auto",
    marking: Marking = PLAIN,
) -> Rendered:
    """Write a video in which the face of `ref` speaks `audio`: size and colours of the ref, 25 fps, the audio muxed.

    ref: a video, run forward and backward where the speech is longer, or a still picture. out: a name, or a file open
    for writing bytes, which gets a fragmented MP4 as that is made. models: a folder with a2lm.safetensors and
    lm2face.safetensors; without it those that ship. encoder_weights, vae: folder or hub id of what the models were
    trained with, where it does not ship. sheet: a PNG to write: crop, sketch, face and full frame of eight moments.
    adapt: stage 2 first goes on training on the ref for so many steps. precision of stage 2: as for `Painter`.
    marking: how the video says that it is synthetic; beside a file its sidecar is written, `<out>.json`. What depends
    on the ref alone is kept for the next time. Memory does not grow with the length.
    Raises SpearError for input that cannot be used; then nothing stands under the name `out`.
    """
    _check(audio, ref, out, sheet, precision)
    clock, notes, folder = _Clock(), [], models or PACKAGED
    with _destination(out) as path:  # first, since a folder that cannot be written should not cost a minute
        footage = Footage(ref)
        found, driven, order, lm2face = _learn(
            footage, face, audio, folder, vae, precision, encoder_weights, clock, progress
        )
        if adapt:
            from spear.adapt import LEAST_FRAMES, adapted_lm2face  # what training needs takes 3 s to import

            if len(found.points) < LEAST_FRAMES:
                count = "1 frame" if len(found.points) == 1 else f"{len(found.points)} frames"
                notes.append(f"the ref has only {count}, nothing to adapt to; rendered without --adapt")
            else:
                checkpoint = folder / "lm2face.safetensors"
                lm2face = adapted_lm2face(checkpoint, vae, ref, face, found.points, found.crops, adapt, progress)
        clock.lap("adaptation")
        columns = blend_columns(np.concatenate([found.points, driven]))
        painter = Painter(lm2face, found.points, found.references, precision, columns)
        writer = VideoWriter(
            path, footage.width, footage.height, audio, pixel_aspect=footage.pixel_aspect, comment=marking.comment,
            stream=None if isinstance(out, Path) else out, colours=footage.colours,
        )  # fmt: skip
        with writer as write, _painted(painter, footage, found, order, driven) as shown:
            rows = _write_all(shown, len(order), write, marking, sheet is not None, clock, progress)
        if sheet is not None:
            write_picture(sheet, np.vstack(rows))
        clock.lap("faces")
        if isinstance(out, Path):
            given = [Path(name) for name in (encoder_weights, vae) if name and Path(name).exists()]
            record = marking.finish(path, out, audio, ref, [folder / name for name in MODELS] + given)
            remove_sidecar(out)  # of a former render: beside the new video it would look like tampering
    if isinstance(out, Path):
        write_sidecar(out, record)
    notes += [f"the ref: {remark}" for remark in (*footage.doubts, *found.remarks)]
    if footage.width % 2 or footage.height % 2:
        notes.append("the ref has an odd size; H.264 wants even ones, so the edge was repeated by one pixel")
    return Rendered(len(order), footage.width, footage.height, clock.seconds, notes)


def _check(audio: Path, ref: Path, out: Path | BinaryIO, sheet: Path | None, precision: str) -> None:
    """Raises SpearError for what can be told before any work."""
    if isinstance(out, Path):
        if out.suffix.lower() not in CONTAINERS:
            raise SpearError(f"{out} does not end in {', '.join(CONTAINERS)}; give the video a name that does")
        if out.exists() and any(out.samefile(path) for path in (audio, ref) if path.exists()):
            raise SpearError(f"{out} is the audio or the ref itself; give another -o")
    if sheet is not None:
        check_picture(sheet)
    check_precision(precision)


@contextmanager
def _destination(out: Path | BinaryIO) -> Iterator[Path]:
    """The name to write under; of an open file only what errors call it."""
    if isinstance(out, Path):
        with whole(out) as temporary:
            yield temporary
    else:
        yield Path(str(getattr(out, "name", "the stream")))


def _learn(
    footage: Footage, face: str, audio: Path, folder: Path, vae: str | None, precision: str, weights: str | None,
    clock: _Clock, progress: Progress,
) -> tuple[RefFace, Array, NDArray[np.int64], Lm2Face]:  # fmt: skip
    """The face of the ref, which is looked for while the nets are loaded and the speech is heard; for every output
    frame the points that drive it (F, 131, 2) crop px and the frame of the ref that it shows (F,); stage 2."""
    samples = load_audio(audio)
    samples = fit_to_frames(samples, frames_of(samples))
    frames, device = len(samples) // SAMPLES_PER_FRAME, PartialState().device
    with Meanwhile(partial(RefFace, footage, face, max(frames, _LEAST_ANALYSED))) as looking:
        a2lm, lm2face = load_a2lm(folder / "a2lm.safetensors"), load_lm2face(folder / "lm2face.safetensors", vae)
        check_precision(precision, lm2face.config.light)
        encoder = load_encoder(a2lm.config.encoder, weights)
        if encoder.settings != a2lm.config.encoder_settings:
            raise SpearError(
                f"the model was trained on {a2lm.config.encoder} features of other weights than these; "
                "give the same ones with --encoder-weights"
            )
        features = encoder(torch.from_numpy(samples).to(device))
        found = looking.result(lambda done: progress(done, 0, "finding the face"))
    clock.lap("ref")
    order = ping_pong_index(frames, len(found.points))
    shown = found.points[order]
    references = found.points[spread_over_opening(found.points, a2lm.config.references)]
    with one_thread():
        lower = speak(a2lm.to(device), features, shown, references)
    clock.lap("landmarks")
    return found, with_lower_face(shown, lower.numpy()), order, lm2face


@contextmanager
def _painted(
    painter: Painter, footage: Footage, found: RefFace, order: NDArray[np.int64], driven: Array
) -> Iterator[Iterator[Shown]]:
    """All frames to show, in order. On a CPU each core paints a batch of its own: cores that share the work of one net
    wait for each other hundreds of times in every batch, and for whoever else wants a core."""

    def work(batch: list[tuple[Picture, np.int64, Array]]) -> list[Shown]:
        """On a thread of its own: frames of the ref, their numbers, the points that drive them."""
        pictures, numbers, points = (list(column) for column in zip(*batch, strict=True))
        cuts = [cut(picture, found.transforms[i]) for picture, i in zip(pictures, numbers, strict=True)]
        painted = painter.paint([one.crop for one in cuts], np.stack(points), found.points[numbers])
        return [
            Shown(picture, one.pasted(face, mask), one.crop, lines, face, mask)
            for picture, one, lines, (face, mask) in zip(pictures, cuts, points, painted, strict=True)
        ]

    cores = torch.get_num_threads()
    held = _MOST_HELD // (_BATCH * 3 * footage.width * footage.height)
    most = _MOST_WORKERS if PartialState().device.type == "cpu" else 2  # a GPU only wants to be fed
    workers = max(min(cores, held - 2, most), 1)
    batches = _batched(zip(footage.ping_pong(len(order)), order, driven, strict=True), _BATCH)
    torch.set_num_threads(cores // workers)
    try:
        with in_order(work, batches, workers, ahead=workers + 1) as made:
            yield itertools.chain.from_iterable(made)
    finally:
        torch.set_num_threads(cores)


def _write_all(
    shown: Iterable[Shown], frames: int, writer: VideoWriter, marking: Marking, sheet: bool, clock: _Clock,
    progress: Progress,
) -> list[Frame]:  # fmt: skip
    """Write the frames; rows of the sheet, where there is to be one."""
    moments, rows = set(np.linspace(0, frames - 1, _MOMENTS).astype(int).tolist()), []
    for number, one in enumerate(shown):
        if marking.watermark:
            writer.write(marking.mark(one.whole()))
        else:
            writer.write(one.picture, one.patch)
        if number == 0:
            clock.seconds["first frame"] = clock.now()
        if sheet and number in moments:
            rows.append(_sheet_row(one))
        progress(number + 1, frames, "rendering")
    return rows


def _sheet_row(shown: Shown) -> Frame:
    """Crop, sketch, face, and the full frame at the height of the crop, side by side."""
    frame = shown.whole()
    sketch = np.repeat(draw_sketch(shown.points, CROP)[..., None], 3, axis=2)
    small = cv2.resize(frame, (round(frame.shape[1] * CROP / frame.shape[0]), CROP), interpolation=cv2.INTER_AREA)
    return np.hstack([shown.crop, sketch, blend(shown.crop, shown.face, shown.mask), small])


def _batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


class _Clock:
    """Seconds since it was made, and of each part since the one before."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    def lap(self, part: str) -> None:
        """A part ends here, and the next one begins."""
        self.seconds[part], self._last = time.monotonic() - self._last, time.monotonic()
