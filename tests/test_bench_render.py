"""scripts/bench/render.py: what can be checked of it without waiting for a measurement."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spear.audio import load_audio
from spear.video import Footage


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    folder = Path(__file__).resolve().parents[1] / "scripts/bench"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))  # as where it is started
        yield runpy.run_path(str(folder / "render.py"))


def test_the_table_shows_work_and_share_of_nets_only(bench: dict[str, Any]) -> None:
    line = bench["Line"]
    rows = bench["shown"]([line("paste", 0.5, "ms"), line("decoder", 8.0, "ms", "1 / 2", 1.6, 0.8, "a note")]).split(
        "\n"
    )
    assert [row.split() for row in rows] == [
        ["what", "value", "unit", "bar", "GFLOP", "of", "peak", "note"],
        ["paste", "0.5", "ms"],
        ["decoder", "8", "ms", "1", "/", "2", "1.60", "80", "%", "a", "note"],
    ]


def test_work_is_counted_of_a_frame(bench: dict[str, Any]) -> None:
    parts = bench["Parts"](peak=100.0)
    one = torch.ones(50, 50)
    assert parts("product", lambda: one @ one, net=True, per=2).shape == (50, 50)
    (row,) = parts.lines
    assert row.gflop == pytest.approx(2 * 50**3 / 1e9 / 2)
    assert row.share == pytest.approx(row.gflop / (row.value / 1e3) / 100)


def test_speech_and_refs_are_made_where_there_is_no_footage(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_audio(bench["speech_of"](0.5, tmp_path)).shape == (8000,)
    monkeypatch.setitem(bench["made_ref"].__globals__, "DATA", tmp_path / "nowhere")
    footage = Footage(bench["made_ref"]("512x512", tmp_path))
    assert (footage.width, footage.height, footage.expected) == (512, 512, 100)
    assert 0 <= bench["idle"](0.05) <= 1
