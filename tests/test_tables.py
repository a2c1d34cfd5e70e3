"""What `spear metrics` shows to people and to programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from spear.scores.compare import Scores
from spear_cli.tables import show_scores

VALUES: dict[str, float | None] = {
    "ld_ratio": 0.0195, "ld_percent": 1.9547, "ld_px256": 3.336,
    "ld_baseline_ratio": 0.0203, "ld_baseline_percent": 2.0314, "ld_baseline_px256": 3.467, "ld_skill": 0.0378,
    "lvd_ratio": 0.0069, "lvd_percent": 0.6892, "lvd_px256": 1.1763,
    "lvd_squared_ratio": 0.000117, "lvd_squared_percent": 1.169, "lvd_squared_px256": 3.4049,
    "lip_opening_r": 0.3052, "lip_opening_amplitude": None, "psnr_crop": 34.7012, "psnr_hull": 28.0,
    "ssim_crop": 0.9652,
}  # fmt: skip


def row(number: int) -> dict[str, Any]:
    scores = {"ld_percent": 12.5 + number, "ld_skill": -0.1113, "lip_opening_r": 0.6466, "psnr_crop": 30.26}
    name = f"a_speaker_with_a_long_name_{number:02d}"
    return {"clip": name, "frames": 100 + number, **scores, "psnr_hull": 23.5, "ssim_crop": 0.9469}


def scores(clips: int, **changes: Any) -> Scores:
    protocol = {"split": "test", "ld": "eq. 9, over the face width; " + "a long sentence " * 8, "scores": ["ld", "lvd"]}
    known = {"protocol": protocol, "values": VALUES, "per_clip": [row(i) for i in range(clips)], "notes": []}
    return Scores(**{**known, **changes})


def shown(capsys: pytest.CaptureFixture[str], found: Scores) -> str:
    show_scores(found, "tables")
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def cells(text: str) -> list[list[str]]:
    """Rows of the tables, cells apart by two blanks or more."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_totals_with_their_units(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cells(shown(capsys, scores(1)))
    assert ["distance", "ratio", "% of face width", "px at 256"] in rows
    assert ["LD", "0.0195", "1.9547", "3.3360"] in rows
    assert ["LD of the baseline", "0.0203", "2.0314", "3.4670"] in rows
    assert ["LVD squared (units too)", "1.17e-04", "1.1690", "3.4049"] in rows
    assert ["lip opening: amplitude / true", "-"] in rows
    assert ["PSNR, blended hull", "28.00", "dB"] in rows
    assert not any(line[0].startswith("a_speaker") for line in rows)  # of one clip the totals say it all


def test_controls_and_what_stands_against_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, float | None] = {
        "lvd_baseline_ratio": 0.0061, "lvd_baseline_percent": 0.6123, "lvd_baseline_px256": 1.045,
        "lvd_over_baseline": 1.125, "lip_opening_r_mean": 0.85, "lip_opening_r_min": 0.34,
        "swap_r_audio": 0.9, "swap_r_pose": 0.4, "swap_r_truths": 0.3, "wrong_audio_effect": 0.75,
    }  # fmt: skip
    rows = cells(shown(capsys, scores(1, values=values)))
    assert ["LVD of the baseline", "0.0061", "0.6123", "1.0450"] in rows
    assert [line for line in rows if len(line) == 2] == [
        ["LVD / baseline's", "1.1250"],
        ["lip opening: mean r over clips", "0.8500"],
        ["lip opening: lowest r of a clip", "0.3400"],
        ["swap: r with the audio's owner", "0.9000"],
        ["swap: r with the pose's owner (the old mouth)", "0.4000"],
        ["swap: r of the two true mouths", "0.3000"],
        ["wrong audio: skill lost", "0.7500"],
    ]


def test_groups(capsys: pytest.CaptureFixture[str]) -> None:
    group = {"clips": 3, "frames": 225, **VALUES, "lvd_over_baseline": 0.9, "psnr_hull": 28.0}
    found = scores(1, groups={"happy": group, "unknown": group | {"clips": 1}}, protocol={"by": "emotion"})
    rows = cells(shown(capsys, found))
    headings = ["clips", "frames", "LD %", "skill", "lip r", "amplitude", "LVD %", "LVD / base", "hull"]
    assert ["by emotion", *headings] in rows
    numbers = ["225", "1.9547", "0.0378", "0.3052", "-", "0.6892", "0.9000", "28.00"]
    assert ["happy", "3", *numbers] in rows
    assert ["unknown", "1", *numbers] in rows


def test_protocol_and_notes_are_whole_lines_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(1, notes=["left out: [red]clip[/red]: no sound", "[/]"], values={"fid": 3.0, "a_new_score": 1.5})
    text = shown(capsys, found)
    lines = text.splitlines()
    assert f"  ld: {found.protocol['ld']}" in lines
    assert "  scores: ld, lvd" in lines
    assert lines[-2:] == ["  left out: [red]clip[/red]: no sound", "  [/]"]
    assert ["FID", "3.0000"] in cells(text)
    assert ["a_new_score", "1.5000"] in cells(text)
    assert "distance" not in text


@pytest.mark.parametrize(
    ("clips", "lines", "title"), [(2, 2, "clip"), (20, 20, "clip"), (21, 5, "worst 5 of 21 clips")]
)
def test_clips(capsys: pytest.CaptureFixture[str], clips: int, lines: int, title: str) -> None:
    rows = cells(shown(capsys, scores(clips)))
    assert [title, "frames", "LD %", "skill", "lip r", "PSNR", "hull", "SSIM"] in rows
    names = [line[0] for line in rows if line[0].startswith("a_speaker")]
    assert len(names) == lines
    if clips == 21:
        assert names == [f"a_speaker_with_a_long_name_{i:02d}" for i in (20, 19, 18, 17, 16)]


def test_the_worst_clips_by_pictures_alone(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"clip": f"clip_{i:02d}", "frames": 10, "psnr_hull": 20.0 + i} for i in range(30)]
    rows[3]["psnr_hull"] = None
    text = shown(capsys, scores(0, values={"psnr_hull": 34.5}, per_clip=rows))
    assert re.findall(r"clip_\d\d", text) == ["clip_00", "clip_01", "clip_02", "clip_04", "clip_05"]


@pytest.mark.parametrize("width", [80, 60])
def test_narrow_terminals_cut_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("spear_cli.tables._PIPED_WIDTH", width)
    text = shown(capsys, scores(21))
    assert "…" not in text
    tables = text.split("protocol")[0]
    assert max(map(len, tables.splitlines())) <= width
    assert "long_name_20" in "".join(re.findall(r"^ (\S+)", tables, re.MULTILINE))  # folded, not cut
    shown_here = ["120", "32.50", "-0.1113", "0.6466", *(["30.26", "23.50", "0.9469"] if width == 80 else [])]
    for number in shown_here:
        assert re.search(rf"(?<!\S){re.escape(number)}(?!\S)", tables)


def test_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(3)
    show_scores(found, "json")
    output = json.loads(capsys.readouterr().out)
    assert output["values"] == VALUES
    assert len(output["per_clip"]) == 3


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert shown(capsys, scores(1)) == ""


def test_importing_is_free() -> None:
    code = "import sys, spear_cli.tables; print(sorted({'rich', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
