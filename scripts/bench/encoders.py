"""How fast the speech encoders are on this machine: python scripts/bench/encoders.py [NAME ...] [--json FILE].

mfcc and whisper are those that ship. hubert, wav2vec2-conformer and unispeech are nets of the large size with random
weights, which take the same time as the real ones.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import stage1  # before torch, which reads what it sets

# isort: split
import torch
import typer
from accelerate import PartialState
from machine import Worked, worked
from stage1 import SECONDS, Line

from spear.files import write_json
from spear.pretrained.audio_encoders import load_encoder

LARGE: dict[str, Any] = dict(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True,
)  # fmt: skip
NETS = {"hubert": "Hubert", "wav2vec2-conformer": "Wav2Vec2Conformer", "unispeech": "UniSpeech"}


def write_large(name: str, folder: Path) -> Path:
    """A folder with a net of the real size and random weights."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{NETS[name]}Config")(**LARGE)
    getattr(transformers, f"{NETS[name]}Model")(config).save_pretrained(folder)
    return folder


def rows_of(name: str, found: list[Worked]) -> list[Line]:
    """Real-time factor and share of the fp32 peak, with one thread and, where the encoder takes them, with all."""
    lines = []
    for row in found if name == "whisper" else found[:1]:
        gflop, peak = row.operations / 1e9 / SECONDS, max(row.highest["fp32"])
        note = f"{gflop:.3g} GFLOP per s of speech, {100 * row.speed / peak:.0f} % of the fp32 peak {peak / 1e9:.0f}"
        lines.append(Line(f"{name}, threads {row.threads}", row.clock.wall / SECONDS, "s per s", note=note))
    return lines


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Encoders; without: all five.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
) -> None:
    """Measure, print a table, write JSON."""
    device, lines = PartialState().device, list[Line]()
    samples = stage1.speech().to(device)
    for name in names or ("mfcc", "whisper", *NETS):
        with tempfile.TemporaryDirectory() as folder:
            encoder = load_encoder(name, str(write_large(name, Path(folder))) if name in NETS else None)
            lines += rows_of(name, worked(lambda encoder=encoder: encoder(samples), device, repeats=2))  # type: ignore[misc]
    print(stage1.shown(lines))
    if json_file is not None:
        write_json(json_file, {"machine": stage1.machine(), "lines": [asdict(line) for line in lines]})


if __name__ == "__main__":
    typer.run(main)
