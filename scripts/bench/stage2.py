"""How good stage 2's pictures are with true landmarks: python scripts/bench/stage2.py CLIPS [--models DIR].

References come from the first half of a clip, the frames that are scored from its second half: speech that is dubbed
has no neighbour in time among the references, either. The upper half of the face is seen, as in rendering. Crops of
256x256, blended as `render` does; "raw" takes all rows from 128 on from the net.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer

from spear.adapt import adapted_lm2face
from spear.clip import Clip, find_clips
from spear.crop import blend
from spear.face import FaceTracker
from spear.face_pairs import read_faces
from spear.files import write_picture
from spear.nets.blending import blend_mask
from spear.nets.lm2face import MASK_ROW, Lm2Face
from spear.painter import Painter, load_lm2face
from spear.points import LOWER, OUTER_LIPS, Array, face_width, spread_over_opening
from spear.progress import no_progress
from spear.scores.image import psnr, ssim
from spear.scores.landmark import landmark_distance
from spear.scores.split import hull_psnr
from spear.video import Frame

PACKAGED = Path(__file__).parents[2] / "spear" / "weights"


@dataclass
class Figures:
    """Figures of one clip: each a list over its frames."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **row: float) -> None:
        """Add one frame."""
        for name, value in row.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Mean over the frames that have the figure."""
        return {name: float(np.nanmean(column)) for name, column in self.values.items()}


def sharpness(picture: Frame, points: Array) -> float:
    """Variance of the Laplacian of the grey picture inside the outer lips; points (131, 2) px."""
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(points[OUTER_LIPS]).astype(np.int32)], 1)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float(cv2.Laplacian(grey, cv2.CV_64F)[inside > 0].var())


def found_again(picture: Frame, points: Array) -> float:
    """LD, % of the face width, of the lower face that the detector finds in the picture; NaN where it finds none."""
    with FaceTracker() as tracker:
        found = tracker(picture)
    if found is None:
        return float("nan")
    return 100 * landmark_distance(found[None, LOWER], points[None, LOWER], np.array([face_width(points)]))


def adapted(models: Path, clip: Clip, steps: int) -> Lm2Face:
    """The net, after so many steps on the first half of the clip if any; says how long they took."""
    path = models / "lm2face.safetensors"
    if not steps:
        return load_lm2face(path)
    points = clip.landmarks()[0]
    half, started = len(points) // 2, time.monotonic()
    net = adapted_lm2face(
        path, None, clip.face_path, "first half", points[:half], lambda f: read_faces(clip, f), steps, no_progress
    )
    print(f"{clip.id}: {steps} steps on {half} frames, {time.monotonic() - started:.0f} s", flush=True)
    return net


def score_clip(net: Lm2Face, clip: Clip, count: int) -> tuple[Figures, list[Frame]]:
    """Figures of up to `count` frames of a clip, and rows for the sheet: reference, pasted, painted, blended, truth."""
    points, confidence = clip.landmarks()
    half = len(points) // 2
    free = [i for i in range(half, len(points)) if confidence[i] > 0]
    chosen = [free[int(i)] for i in np.linspace(0, len(free) - 1, min(count, len(free)))]
    truths = read_faces(clip, chosen)
    painter = Painter(net, points[:half], lambda frames: read_faces(clip, frames))
    pasted = read_faces(clip, spread_over_opening(points[:half], 3))[1]
    figures, rows = Figures(), []
    for start in range(0, len(chosen), 8):
        part = chosen[start : start + 8]
        painted = painter.paint(list(truths[start : start + 8]), points[part], points[part])
        for i, (face, mask), truth in zip(part, painted, truths[start : start + 8], strict=True):
            seen, floor = blend(truth, face, mask), blend(truth, pasted, blend_mask([points[i]]))
            raw = truth.copy()
            raw[MASK_ROW:] = face[MASK_ROW:]
            figures.add(
                psnr=psnr(seen, truth), ssim=ssim(seen, truth), hull=hull_psnr(seen, truth, mask),
                paste_psnr=psnr(floor, truth), paste_ssim=ssim(floor, truth), paste_hull=hull_psnr(floor, truth, mask),
                raw_psnr=psnr(raw, truth), raw_ssim=ssim(raw, truth),
                again=found_again(seen, points[i]), again_truth=found_again(truth, points[i]),
                sharp=sharpness(seen, points[i]) / max(sharpness(truth, points[i]), 1e-9),
            )  # fmt: skip
            rows.append(np.hstack([pasted, floor, face, seen, truth]))
    return figures, [rows[len(rows) // 4], rows[3 * len(rows) // 4]]


def main(
    clips: Annotated[Path, typer.Argument(help="clips/ with landmarks.")],
    models: Annotated[Path, typer.Option(help="Folder of lm2face.safetensors.")] = PACKAGED,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    frames: Annotated[int, typer.Option(help="At most that many of each clip.")] = 16,
    adapt: Annotated[int, typer.Option(help="Steps of adaptation to the first half of each clip.")] = 0,
    only: Annotated[str, typer.Option(help="Only clips whose id contains this.")] = "",
    sheet: Annotated[Path | None, typer.Option(help="A PNG: reference, pasted, painted, blended, truth.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
) -> None:
    """Measure, print a table; the means count every clip once."""
    table, rows = {}, []
    chosen = [clip for clip in find_clips(clips, None if split == "all" else split) if only in clip.id]
    for clip in chosen:
        net = adapted(models, clip, adapt)
        with torch.no_grad():
            figures, shown = score_clip(net, clip, frames)
        table[clip.id] = figures.means()
        rows += shown
        print(f"{clip.id:44s}" + " ".join(f"{k} {v:.3f}" for k, v in table[clip.id].items()), flush=True)
    names = next(iter(table.values()))
    means = {name: float(np.mean([row[name] for row in table.values()])) for name in names}
    print(f"{'mean':44s}" + " ".join(f"{k} {v:.3f}" for k, v in means.items()))
    if sheet is not None:
        write_picture(sheet, np.vstack(rows))
    if json_file is not None:
        json_file.write_text(json.dumps({"mean": means, "clips": table}, indent=1))


if __name__ == "__main__":
    typer.run(main)
