"""The report of `spear metrics --report`: one page that opens in any browser and needs nothing beside it, and tables.

Letters: F frames.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear.clip import FPS
from spear.errors import SpearError
from spear.files import make_folder, whole
from spear.points import N_LOWER, Array
from spear.progress import Progress, no_progress
from spear.report.choice import BEST, WORST, Moment, chosen_by, clips_to_show, moments_to_show
from spear.report.media import PREVIEW_SECONDS, Film, Preview, film, frames_needed
from spear.report.plots import curves
from spear.report.tables import (
    clip_facts,
    clip_grid,
    distances,
    ends,
    group_grid,
    headlines,
    lead,
    other_scores,
    published,
    spreads,
    told_value,
    words,
)
from spear.scores.compare import Scores
from spear.scores.labels import UNITS
from spear.temporary import temporary_folder
from spear.video import Frame

PAGE, JSON, CSV = "index.html", "scores.json", "scores.csv"
_MARK = '<meta name="generator" content="spear metrics">'
"""Stands in the head of every report: a page without it is somebody's own and is not overwritten."""
_HEAD = 1000
"""Bytes of a page in which the mark is looked for."""


@dataclass(frozen=True)
class Shown:
    """One scored pair of videos as the report shows it. Letters: F frames."""

    name: str
    row: dict[str, Any]
    """Its line of the per-clip table: values, None where not defined."""
    series: dict[str, NDArray[np.float64]]
    """Name -> (F,), NaN: not measured there. ld, lvd and openings in true face widths."""
    pred_points: Array
    """(F, 57, 2) px of the frames; NaN where there are none."""
    truth_points: Array
    """(F, 57, 2), as pred_points."""
    windows: NDArray[np.float64]
    """(F, 4), the face crop's transform of each frame; NaN without a face."""
    frames: Callable[[], Iterator[tuple[Frame | None, Frame]]]
    """Begins anew with each call: predicted and true frame (H, W, 3) uint8 RGB, in order; None: not painted."""
    pred_sound: Path | None
    truth_sound: Path | None

    def __post_init__(self) -> None:
        """Raises ValueError where the shapes do not fit each other."""
        frames = len(self.windows)
        points = [("pred_points", self.pred_points), ("truth_points", self.truth_points)]
        wanted: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [("windows", self.windows, (frames, 4))]
        wanted += [(name, values, (frames, N_LOWER, 2)) for name, values in points]
        wanted += [(name, values, (frames,)) for name, values in self.series.items()]
        for name, values, shape in wanted:
            if values.shape != shape:
                raise ValueError(f"{name} of {self.name} must be of shape {shape}, not {values.shape}")


def check_report(folder: Path) -> None:
    """Make the folder; a report that is there already may be overwritten.

    Raises SpearError, before the work, where it cannot be written in or a file there is no report's.
    """
    folder = Path(folder)
    make_folder(folder)
    page = folder / PAGE
    for path in (page, folder / JSON, folder / CSV):
        if path.is_dir():
            raise SpearError(f"cannot write {path}: it is a folder; choose another folder for the report")
    if page.is_file():
        with open(page, "rb") as file:
            if _MARK.encode() not in file.read(_HEAD):
                raise SpearError(f"{page} is there already and is no report; give another folder")
        return
    for path in (folder / JSON, folder / CSV):
        if path.exists():
            raise SpearError(f"{path} is there already and belongs to no report; give another folder")


def write_report(folder: Path, scores: Scores, shown: Sequence[Shown], progress: Progress = no_progress) -> Path:
    """Write index.html, scores.json and scores.csv into the folder, each whole or not at all; returns the page's path.

    The page holds its pictures and videos itself. Equal inputs give equal bytes on one machine. Memory is flat with the
    length of the videos and grows with what is shown: 12 clips of at most 60 s. Raises SpearError as `check_report`,
    where the disk is full, or where a clip has fewer frames than were scored.
    """
    folder = Path(folder)
    check_report(folder)
    with ExitStack() as stack:
        # the page takes its name first: a page with the mark says that the others may be overwritten too
        as_json, as_csv, page = (stack.enter_context(whole(folder / name)) for name in (JSON, CSV, PAGE))
        _write(as_json, [scores.to_json(), "\n"])
        _write(as_csv, [scores.to_csv()])
        previews = stack.enter_context(temporary_folder(folder))
        _write(page, _page(scores, shown, previews, progress))
    return folder / PAGE


def _write(path: Path, pieces: Iterator[str] | list[str]) -> None:
    try:
        # names of files may hold bytes that are no text; they are shown as \udcxx
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.writelines(pieces)
    except OSError as error:
        raise SpearError(
            f"cannot write in {path.parent}: {error.strerror or error}; free disk space or choose another folder"
        ) from error


def _page(scores: Scores, shown: Sequence[Shown], previews: Path, progress: Progress) -> Iterator[str]:
    """The page in pieces: a video is read from its file when its turn has come."""
    import jinja2

    chosen, (worst, best) = clips_to_show(shown), moments_to_show(shown)
    films = _films(shown, chosen, [*worst, *best], previews, progress)
    series = chosen_by(shown)
    anchors = {shown[i].name: f"clip-{place}" for place, i in reversed(list(enumerate(chosen, 1)))}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html").generate(
        mark=_MARK,
        data_uri=_data_uri,
        lead=lead(scores),
        notes=[*scores.notes, *(note for made in films.values() for note in made.notes)],
        headlines=headlines(scores),
        unit_names=list(UNITS.values()),
        distances=distances(scores),
        others=other_scores(scores),
        has_intervals=bool(scores.intervals),
        groups=group_grid(scores),
        clips=clip_grid(scores.per_clip, anchors),
        spreads=spreads(scores, shown),
        spread_over="clips" if len(scores.per_clip) != 1 else "frames",
        published=published(scores),
        shown=[_section(shown[i], films[i], f"clip-{place}") for place, i in enumerate(chosen, 1)],
        choice=_choice(series, len(chosen), len(shown)),
        moments=[
            (title, [_moment(shown[m.clip], m, films[m.clip], series or "", anchors) for m in moments])
            for title, moments in zip(ends(series), (worst, best), strict=True)
        ],
        has_points=any(np.isfinite(points).any() for clip in shown for points in (clip.pred_points, clip.truth_points)),
        protocol=[(name.replace("_", " "), words(value)) for name, value in scores.protocol.items()],
    )


def _films(
    shown: Sequence[Shown], players: list[int], moments: list[Moment], previews: Path, progress: Progress
) -> dict[int, Film]:
    """The pictures of every clip that gets some, by its position."""
    frames: dict[int, set[int]] = {i: set() for i in players}
    for moment in moments:
        frames.setdefault(moment.clip, set()).add(moment.frame)
    total, done, films = sum(frames_needed(shown[i], i in players, at) for i, at in frames.items()), 0, {}
    for i, at in frames.items():
        folder = previews / str(i)
        folder.mkdir()
        before, clip = done, shown[i]

        def tick(count: int, before: int = before, name: str = clip.name) -> None:
            """So many frames of this clip are done."""
            progress(before + count, total, f"{name}, report")

        films[i] = film(clip, folder, i in players, at, tick)
        done += frames_needed(clip, i in players, at)
    return films


def _section(clip: Shown, made: Film, anchor: str) -> dict[str, Any]:
    """What the template says of one shown clip."""
    previewed = min(len(clip.windows), PREVIEW_SECONDS * FPS)
    remarks = []
    if made.previews and previewed < len(clip.windows):
        remarks.append(f"The players show the first {PREVIEW_SECONDS} s of {len(clip.windows) / FPS:.0f} s.")
    if made.unpainted:
        remarks.append(
            f"{made.unpainted} of {previewed} frames were not painted: there the players show the true frame, grey, "
            "with the predicted points in red."
        )
    players = zip(("Prediction", "Truth"), made.previews, strict=bool(made.previews))
    return {
        "anchor": anchor,
        "name": clip.name,
        "facts": clip_facts(clip.row),
        "players": [(side, preview) for side, preview in players],
        "remarks": remarks,
        "curves": curves(clip, anchor),
    }


def _moment(clip: Shown, moment: Moment, made: Film, series: str, anchors: dict[str, str]) -> dict[str, Any]:
    faces = made.faces.get(moment.frame)
    return {
        "clip": clip.name,
        "anchor": anchors.get(clip.name, ""),
        "time": f"{moment.frame / FPS:.2f} s",
        "value": told_value(series, moment.value),
        "pictures": [] if faces is None else [_as_uri("image/jpeg", face) for face in (faces.pred, faces.truth)],
        "painted": faces is None or faces.painted,
    }


def _choice(series: str | None, chosen: int, clips: int) -> str:
    """Which clips have players and how many have not, in a sentence; empty where all have."""
    if chosen == clips:
        return ""
    high, low = ends(series)
    which = f"the {WORST} with the {high} and the {BEST} with the {low}" if series else f"the first {chosen}"
    left_out = f"{clips - chosen} were left out to keep the page light"
    return f"{chosen} of {clips} clips have players and curves, {which}; {left_out}."


def _data_uri(preview: Preview) -> str:
    return _as_uri("video/mp4", preview.path.read_bytes())


def _as_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
