"""What the fast way of painting costs in pixels: python scripts/bench/pixels.py [--json FILE].

The plain way is all of the net, in fp32, for one frame after the other, references encoded anew each time. Beside it:
what `spear render` does (references' features once, only the columns that the blend can show), in fp32, in bf16 and, on
CPUs that have it, in int8.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import typer
from accelerate import PartialState
from numpy.typing import NDArray

from spear.crop import blend
from spear.files import write_json
from spear.nets.blending import blend_columns, blend_mask
from spear.nets.int8 import has_int8
from spear.nets.lm2face import Lm2Face, image_tensor, sketch_tensor
from spear.painter import Painter, load_lm2face
from spear.points import Array, nearest_mouths, spread_over_opening
from spear.ref_face import RefFace
from spear.scores.image import psnr
from spear.stages.render import PACKAGED
from spear.video import Footage

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev"
LATER = 10
"""Each frame is driven by the lower face of so many frames later."""


def plain(net: Lm2Face, found: RefFace, crops: NDArray[np.uint8], driven: Array) -> NDArray[np.uint8]:
    """Painted crops (N, 256, 256, 3) by the whole net in fp32, one after the other."""
    chosen = spread_over_opening(found.points, min(net.config.bank, len(found.points)))
    faces, pictures, painted = found.points[chosen], found.crops(chosen), crops.copy()
    which, nearness = nearest_mouths(faces, driven, net.config.references)
    for i, lines in enumerate(driven):
        own, near = which[i], torch.from_numpy(nearness[i : i + 1])
        given = (image_tensor(pictures[own]), torch.from_numpy(faces[own]), sketch_tensor(faces[own]))
        with torch.inference_mode():
            references = net.make_references(*(value[None] for value in given), near)
            masked, sketch = (
                net.encode_masked(image_tensor(crops[i : i + 1])),
                net.encode_sketch(sketch_tensor(lines[None])),
            )
            lower = net(net.make_target(masked, sketch, torch.from_numpy(lines[None])), references).picture
        pixels = ((lower[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        painted[i, net.config.shown_row :] = pixels
    return painted


def compared(video: Path, frames: int) -> dict[str, dict[str, float]]:
    """PSNR, dB, of the blended crops and of their hull, and the largest difference, grey levels; of each fast way."""
    found = RefFace(Footage(video), "largest", frames + LATER)
    count = min(frames, len(found.points) - LATER)
    own, driven = found.points[:count], np.roll(found.points, -LATER, 0)[:count]
    driven = np.concatenate([own[:, :74], driven[:, 74:]], axis=1)
    crops = np.stack(list(found.crops(list(range(count)))))
    masks = [blend_mask([a, b]) for a, b in zip(driven, own, strict=True)]

    def blended(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([blend(crop, face, mask) for crop, face, mask in zip(crops, faces, masks, strict=True)])

    truth = blended(plain(load_lm2face(PACKAGED / "lm2face.safetensors"), found, crops, driven))
    hull, rows = np.stack(masks) > 0, {}
    columns = blend_columns(np.concatenate([found.points, driven]))
    for precision in ("fp32", "bf16", "int8")[: 3 if has_int8(PartialState().device) else 2]:
        net = load_lm2face(PACKAGED / "lm2face.safetensors")
        painter = Painter(net, found.points, found.crops, precision, columns)
        faces = [
            face
            for i in range(0, count, 4)
            for face, _ in painter.paint(list(crops[i : i + 4]), driven[i : i + 4], own[i : i + 4])
        ]
        seen = blended(np.stack(faces))
        off = np.abs(seen.astype(int) - truth)
        rows[precision] = {
            "crop": float(np.mean([psnr(a, b) for a, b in zip(truth, seen, strict=True)])),
            "hull": float(10 * np.log10(255**2 / max((off[hull] ** 2).mean(), 1e-10))),
            "largest": float(off.max()),
        }
    return rows


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    frames: Annotated[int, typer.Option(help="Of each video.")] = 24,
    videos: Annotated[list[Path] | None, typer.Argument(help="Faces; without: shared/data/dev.")] = None,
) -> None:
    """Compare, print a table, write JSON."""
    table = {video.name: compared(video, frames) for video in videos or sorted(DATA.iterdir())}
    print(f"{'PSNR against the plain fp32 way, dB':48}crop   hull   largest")
    for name, rows in table.items():
        for precision, row in rows.items():
            print(f"{name[:38]:40}{precision:6}{row['crop']:6.1f} {row['hull']:6.1f} {row['largest']:6.0f}")
    if json_file is not None:
        write_json(json_file, table)


if __name__ == "__main__":
    typer.run(main)
