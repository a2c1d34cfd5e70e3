"""Pictures of a clip's points, predicted over true: the paper's Figure 3, the clip as a video, the lip opening."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from spear.clip import CROP, FPS
from spear.crop import CROP_WIDTHS, crop_transform, to_crop, warp_crop
from spear.errors import SpearError, UnwritableFigures
from spear.files import make_folder, whole, write_picture
from spear.points import EDGES, N_LOWER, N_POINTS, N_UPPER, UPPER, Array, lip_opening
from spear.scores.landmark import opening_amplitude, opening_correlation
from spear.video import Frame, VideoWriter

MOMENTS = 8
GREEN, RED = (0, 210, 0), (225, 0, 0)
"""RGB of the truth, drawn first and thick, and of the prediction: light and dark where the hues look alike."""
_THICK = 2.4
"""Width of the green line, in widths of the red one."""
LOWER_EDGES = [(a - N_UPPER, b - N_UPPER) for a, b in EDGES if min(a, b) >= N_UPPER]
"""The lines of a sketch that lie in the lower face: jaw, outer and inner lips, as pairs of positions among 57."""
_LEAST_SIDE = 512
"""Smaller frames are magnified in the video: in 256 px the lines of two mouths run together."""
_STRIP = 28
"""Height of the strips with the legend and the times, px."""


class ClipFigures:
    """Figure 3 of the paper and the lip opening over time, for one clip; a context manager, memory flat with length.

    Where no exception leaves it, three files stand in the folder: `<name>.png` (eight evenly spaced moments side by
    side), `<name>.mp4` (every frame, 25 fps, with sound) and `<name>.opening.png`. Otherwise none of them is new.
    """

    def __init__(self, folder: Path, name: str, frames: int, audio: Path | None = None) -> None:
        """name: another one for each clip; what cannot stand in a file name is written as %XX. frames: how many there
        will be, which says where the moments are. audio: a file whose audio track becomes the video's sound.
        """
        self._paths = [Path(folder) / f"{file_name(name)}{suffix}" for suffix in (".mp4", ".png", ".opening.png")]
        self._moments = {(2 * k + 1) * frames // (2 * MOMENTS) for k in range(MOMENTS)}
        self._audio = audio
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._scale: int | None = None
        self._window: NDArray[np.float64] | None = None
        self._cells: list[tuple[int, Frame]] = []
        self._openings: list[tuple[float, float]] = []

    def __enter__(self) -> ClipFigures:
        """Raises SpearError where the folder cannot be written, or a file of that name is there that is no figure."""
        *others, opening = self._paths
        # the plot takes its name first: a video without one is the user's own, perhaps the very one that is drawn
        for path in [] if opening.exists() else others:
            if path.is_file():
                raise SpearError(f"{path} is there already and is no figure; give another folder")
        with ExitStack() as stack:
            self._parts = [stack.enter_context(whole(path)) for path in self._paths]
            self._stack = stack.pop_all()
        return self

    def add(self, frame: Frame, truth: Array | None, pred: Array | None) -> None:
        """Add the next frame: (H, W, 3) uint8 RGB; truth (131, 2), pred (131, 2) or its lower half (57, 2), px of the
        frame; None where no face is found.

        Raises ValueError for other shapes or non-finite points, UnusableClip for audio without sound, SpearError where
        the video cannot be written.
        """
        for name, points, counts in (("truth", truth, [N_POINTS]), ("pred", pred, [N_POINTS, N_LOWER])):
            if points is not None and not (points.shape in [(n, 2) for n in counts] and np.isfinite(points).all()):
                raise ValueError(f"{name} must be finite points of shape ({' or '.join(map(str, counts))}, 2)")
        self._write(frame, truth, pred)
        if len(self._openings) in self._moments:
            self._cells.append((len(self._openings), self._cell(frame, truth, pred)))
        self._openings.append(_openings(truth, pred))

    def _write(self, frame: Frame, truth: Array | None, pred: Array | None) -> None:
        height, width = frame.shape[:2]
        times = math.ceil(_LEAST_SIDE / min(height, width))
        if self._writer is None:
            self._writer = VideoWriter(self._parts[0], width * times, height * times, self._audio)
            self._stack.enter_context(self._writer)
        large = cv2.resize(frame, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
        # the middle of the first pixel is 0 before and (times - 1) / 2 after
        truth, pred = (None if points is None else points * times + (times - 1) / 2 for points in (truth, pred))
        shown = pred if truth is None else truth
        if self._scale is None and shown is not None:  # once: lines that change their width would flicker
            self._scale = max(1, round(float(np.ptp(shown[-N_LOWER:, 0])) * CROP_WIDTHS / CROP))
        self._writer.write(overlay(large, truth, pred, self._scale or 1))

    def _cell(self, frame: Frame, truth: Array | None, pred: Array | None) -> Frame:
        """One moment as (256, 256, 3): all of them cut by one transform, until the face has left it."""
        height, width = frame.shape[:2]
        if (height, width) == (CROP, CROP):
            return overlay(frame, truth, pred)
        points = pred if truth is None else truth
        if points is not None and len(points) == N_POINTS:
            seen = None if self._window is None else to_crop(points, self._window)
            if seen is None or seen.min() < 0 or seen.max() >= CROP:
                self._window = crop_transform(points[None], smoothing=0)[0]
        window = self._window
        if window is None:  # no face so far: the middle of the frame
            scale = CROP / min(height, width)
            window = np.array([scale, 0.0, (CROP - scale * width) / 2, (CROP - scale * height) / 2])
        truth, pred = (None if points is None else to_crop(points, window) for points in (truth, pred))
        return overlay(warp_crop(frame, window), truth, pred)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._stack:
                if not self._cells:
                    raise SpearError(f"no frame was given for {self._paths[0]}; give a longer video")
                write_picture(self._parts[1], row_of(self._cells))
                write_picture(self._parts[2], opening_plot(*np.array(self._openings, np.float64).T))
        else:
            self._stack.__exit__(kind, error, trace)


class FigureFolder:
    """A folder with the figures of one clip after the other; it knows how many, and why some have none."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises SpearError where it cannot be written in, or a file has its name."""
        make_folder(Path(folder))
        self._folder, self._made = Path(folder), 0
        self._lacking: list[str] = []

    @contextmanager
    def clip(self, name: str, frames: int, audio: Path | None = None) -> Iterator[ClipFigures]:
        """The figures of one clip, which stand there and are counted where no exception leaves; as `ClipFigures`."""
        figures = ClipFigures(self._folder, name, frames, audio)
        try:
            figures.__enter__()
        except SpearError as error:
            raise UnwritableFigures(str(error)) from error
        with ExitStack() as stack:
            stack.push(figures.__exit__)
            yield figures
        self._made += 1

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the notes why a clip has no figures."""
        self._lacking.append(f"no figures of {name}: {reason}")

    def take_in(self, other: FigureFolder) -> None:
        """Count what another process drew in the same folder."""
        self._made += other._made
        self._lacking += other._lacking

    def notes(self) -> list[str]:
        """Which clips have no figures and why; how many have some, and where."""
        return [*self._lacking, f"figures of {self._made} clip{'s' if self._made != 1 else ''} in {self._folder}"]


def file_name(name: str) -> str:
    """The name without what would leave the folder or cannot be encoded; different names stay different."""
    # "a.opening" is escaped too: its row would be named like the opening plot of "a"
    return re.sub(r"[%/\\\x00-\x1f\ud800-\udfff]|\.(?=opening$)", lambda found: f"%{ord(found[0]):02X}", name)


def overlay(frame: Frame, truth: Array | None, pred: Array | None, scale: int = 1) -> Frame:
    """Draw the lower face on a copy of the frame (H, W, 3): truth (131, 2) green, pred (131, 2) or (57, 2) red, px;
    the lines `scale` times as thick as on a face of a crop's size."""
    picture, reach = frame.copy(), 4 * max(frame.shape)
    for points, colour, width in ((truth, GREEN, round(_THICK * scale)), (pred, RED, scale)):
        if points is None:
            continue
        fixed = np.round(np.clip(points[-N_LOWER:], -reach, reach) * 16).astype(np.int32)  # cv2 draws at 1/16 px
        lines = [fixed[[a, b]] for a, b in LOWER_EDGES]
        cv2.polylines(picture, lines, False, colour, width, cv2.LINE_AA, shift=4)
        for x, y in fixed.tolist():
            cv2.circle(picture, (x, y), 8 * width + 6, colour, cv2.FILLED, cv2.LINE_AA, shift=4)
    return picture


def row_of(cells: list[tuple[int, Frame]]) -> Frame:
    """Put cells, (256, 256, 3) each with its frame number, side by side; a legend above, the times below."""
    row = np.full((CROP + 2 * _STRIP, CROP * len(cells), 3), 255, np.uint8)
    for k, (number, cell) in enumerate(cells):
        row[_STRIP : _STRIP + CROP, k * CROP : (k + 1) * CROP] = cell
        _text(row, f"{number / FPS:.2f} s", k * CROP + 96, _STRIP + CROP + 19)
    for text, x, colour, width in (("truth", 10, GREEN, 5), ("prediction", 112, RED, 2)):
        cv2.line(row, (x, _STRIP // 2), (x + 28, _STRIP // 2), colour, width, cv2.LINE_AA)
        _text(row, text, x + 36, 19)
    return row


def _text(picture: Frame, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)


def _openings(truth: Array | None, pred: Array | None) -> tuple[float, float]:
    """Lip openings, true and predicted, in true face widths as the scores have them; NaN where there is none."""
    if truth is None:
        return math.nan, math.nan
    driven = None if pred is None else np.concatenate([truth[UPPER], pred[-N_LOWER:]])
    return float(lip_opening(truth)), math.nan if driven is None else float(lip_opening(driven))


def opening_plot(truth: NDArray[np.float64], pred: NDArray[np.float64]) -> Frame:
    """Plot lip openings (F,) in face widths, NaN where no face was found, over time: (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds, end = np.arange(len(truth)) / FPS, len(truth) / FPS
    figure = Figure(figsize=(min(max(end / 2, 9), 60), 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for label, values, colour, width in (("truth", truth, GREEN, 3.0), ("prediction", pred, RED, 1.3)):
        found = np.isfinite(values)
        alone = np.flatnonzero(found & ~np.append(False, found[:-1]) & ~np.append(found[1:], False))
        axes.plot(seconds, 100 * values, color=np.divide(colour, 255), linewidth=width, label=label)
        # a line needs two frames; a dot shows those whose neighbours have no face
        axes.plot(seconds[alone], 100 * values[alone], "o", color=np.divide(colour, 255), markersize=2 + width)
    axes.set(xlabel="Time, s", ylabel="Lip opening, % of face width")
    axes.set(xlim=(-0.5 / FPS, end - 0.5 / FPS), ylim=(0, None))
    axes.set_title(opening_title(truth, pred), loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def opening_title(truth: NDArray[np.float64], pred: NDArray[np.float64]) -> str:
    """r and amplitude of lip openings (F,), over the frames in which neither is NaN."""
    both = np.isfinite(truth) & np.isfinite(pred)
    if both.sum() < 2:
        return "no r and amplitude: both faces in fewer than two frames"
    r, amplitude = opening_correlation(pred[both], truth[both]), opening_amplitude(pred[both], truth[both])
    told = f"{amplitude:.2f}" if math.isfinite(amplitude) else "not defined (the true mouth is still)"
    return f"r {r:.2f}, amplitude {told}"
