"""The tables of scripts/ablation.sh from its JSON files: python scripts/ablation_table.py OUT writes OUT/table3.md."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

COLUMNS = {
    "ld_percent": "LD %",
    "lvd_percent": "LVD %",
    "ld_skill": "skill",
    "lip_opening_r": "lip r",
    "lip_opening_amplitude": "amplitude",
    "lvd_over_baseline": "LVD / baseline",
    "swap_r_audio": "swap r, audio's owner",
    "swap_r_pose": "swap r, pose's owner",
    "swap_r_truths": "swap r, the two truths",
    "wrong_audio_effect": "wrong-audio effect",
}
"""Keys of `values` in the JSON of `spear metrics` -> headings."""
PUBLISHED = {
    "hubert": (1.8394, 1.2813),
    "mfcc": (1.9684, 1.5855),
    "wav2vec2-conformer": (2.1627, 1.5911),
    "unispeech": (2.3756, 1.8629),
}
"""LD and LVD of the paper's Table 3, which has the 74 pose points as they are and names no unit."""
TITLES = {"seen": "Seen speakers: clips of the test split", "unseen": "Unseen people: nobody in the training"}
ENCODERS = ("hubert", "wav2vec2-conformer", "unispeech", "mfcc", "whisper", "none")

Row = tuple[str, str]
"""Encoder and pose."""
Runs = list[dict[str, float | None]]
"""The values of one row's runs, one for each seed."""


def read_runs(out: Path, table: str) -> dict[Row, Runs]:
    """What OUT/<encoder>.<pose>.<seed>.<table>.json hold, by row, in the order of the paper's table."""
    runs: dict[Row, Runs] = {}
    for path in sorted(out.glob(f"*.*.*.{table}.json"), key=_place):
        encoder, pose = path.name.split(".")[:2]
        runs.setdefault((encoder, pose), []).append(json.loads(path.read_text())["values"])
    return runs


def _place(path: Path) -> tuple[Any, ...]:
    encoder, pose, seed = path.name.split(".")[:3]
    return _rank(encoder), pose != "rigid", seed


def _rank(encoder: str) -> int:
    return ENCODERS.index(encoder) if encoder in ENCODERS else len(ENCODERS)


def read_missing(out: Path) -> dict[str, str]:
    """Encoders whose weights are missing, and the line that `spear` said, from OUT/<encoder>.missing."""
    found = sorted(out.glob("*.missing"), key=lambda path: _rank(path.stem))
    return {path.stem: path.read_text().strip().removeprefix("error: ") for path in found}


def mean_and_spread(values: list[float | None]) -> str:
    """Mean and sample standard deviation (n - 1) of what is there, `-` for nothing; says so where some are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    part = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{statistics.fmean(known):.3f}{spread}{part}"


def markdown_table(runs: dict[Row, Runs], missing: list[str]) -> list[str]:
    """One line for each row; encoders that could not run get one too, for the published figures beside it."""
    rows = runs | {(encoder, "raw"): [] for encoder in missing if (encoder, "raw") not in runs}
    headings = ["encoder", "pose", "seeds", *COLUMNS.values()]
    headings[5:5] = ["LD / LVD published, own protocol, MEAD"]
    lines = [_line(headings), _line(["---"] * 2 + ["---:"] * (len(headings) - 2))]
    for (encoder, pose), values in sorted(rows.items(), key=lambda item: (_rank(item[0][0]), item[0][1] != "rigid")):
        cells = [mean_and_spread([value.get(key) for value in values]) for key in COLUMNS]
        published = PUBLISHED.get(encoder) if pose == "raw" else None
        cells[2:2] = ["{:.4f} / {:.4f}".format(*published) if published else "-"]
        lines.append(_line([encoder, pose, str(len(values) or "-"), *cells]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def report(out: Path) -> str:
    """The whole of table3.md. Raises FileNotFoundError where the folder has neither scores nor missing weights."""
    missing = read_missing(out)
    tables = {table: runs for table in TITLES if (runs := read_runs(out, table))}
    if not tables and not missing:
        raise FileNotFoundError(f"no scores in {out}; run `bash scripts/ablation.sh VIDEOS` first")
    made_from = out / "made-from"
    about = f" Every training: {made_from.read_text().strip()}." if made_from.exists() else ""
    lines = [
        "# Stage 1 by speech encoder (section 5.5, Table 3)",
        "",
        f"Mean ± sample standard deviation over the seeds.{about}",
        "",
        "`none` hears nothing: what an encoder does better than `none` with the same pose comes from the sound.",
        "`raw` pose is the paper's, `rigid` the head's motion alone. LD and LVD are in % of the face width; what was",
        "published (raw pose) has another protocol, other footage and no unit: compare the order, not the size.",
    ]
    for table, runs in tables.items():
        lines += ["", f"## {TITLES[table]}", "", *markdown_table(runs, list(missing))]
    if missing:
        lines += ["", "## Not measured: weights that are missing", ""]
        lines += [f"- {encoder}: {line}" for encoder, line in missing.items()]
    return "\n".join(lines) + "\n"


def main(out: Annotated[Path, typer.Argument(help="The folder that scripts/ablation.sh wrote.")]) -> None:
    """Write OUT/table3.md and print it."""
    try:
        text = report(out)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    (out / "table3.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    typer.run(main)
