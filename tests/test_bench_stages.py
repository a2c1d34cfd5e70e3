"""The benchmark of the stages before rendering: what it counts and shows, never how fast something is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import nn

from spear.face import FaceTracker
from spear.nets.int8 import Int8Conv, has_int8
from spear.pretrained.audio_encoders import load_encoder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/bench/machine.py, found as its neighbours find it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts/bench"))
    import machine

    return machine


@pytest.fixture
def stages(bench: ModuleType) -> ModuleType:
    """scripts/bench/stages.py."""
    import stages

    return stages


def test_float_operations_of_a_product_by_hand(bench: ModuleType) -> None:
    """(3, 4) @ (4, 5): 15 sums of 4 products: 2 * 60. Backward for the weights alone as much again."""
    a, b = torch.ones(3, 4), torch.ones(4, 5, requires_grad=True)
    assert bench.flops_of(lambda: a @ b) == 120
    assert bench.flops_of(lambda: (a @ b).sum().backward()) == 240


def test_float_operations_of_a_convolution_and_of_attention_by_hand(bench: ModuleType) -> None:
    """6 x 6 places of 4 channels, each 3 x 3 x 2 products: 2 * 36 * 4 * 18. Attention: queries by keys and weights by
    values, 2 * 7 * 7 * 8 each, in 3 heads."""
    layer = nn.Conv2d(2, 4, 3, padding=1)
    assert bench.flops_of(lambda: layer(torch.ones(1, 2, 6, 6))) == 2 * 36 * 4 * 18
    x = torch.ones(1, 3, 7, 8)
    assert bench.flops_of(lambda: nn.functional.scaled_dot_product_attention(x, x, x)) == 3 * 2 * (2 * 7 * 7 * 8)


def test_a_command_is_charged_with_its_own_memory(bench: ModuleType) -> None:
    """300 MB that are written to; this test's process, torch and all, is larger than the small one."""
    small = bench.peak_memory([sys.executable, "-S", "-c", "pass"])
    large = bench.peak_memory([sys.executable, "-S", "-c", "b'x' * 300_000_000"])
    assert small.gigabytes < 0.05
    assert large.gigabytes - small.gigabytes == pytest.approx(0.3, abs=0.01)
    assert 0 < large.processor < large.seconds * 1.5 + 0.1


def test_the_memory_of_children_is_added_up(bench: ModuleType) -> None:
    child = "import time; x = b'x' * 100_000_000; time.sleep(1)"
    parent = f"import subprocess, sys; two = [subprocess.Popen([sys.executable, '-S', '-c', {child!r}]) for _ in '12']"
    parent += "; [one.wait() for one in two]"
    assert 0.2 < bench.peak_memory([sys.executable, "-S", "-c", parent]).gigabytes < 0.3


def test_a_command_keeps_to_its_cores_and_a_failure_is_told(bench: ModuleType) -> None:
    says = "import os, sys; sys.exit(f'on {sorted(os.sched_getaffinity(0))}')"
    with pytest.raises(subprocess.CalledProcessError) as error:
        bench.peak_memory([sys.executable, "-c", says], cores=[0])
    assert error.value.stderr.strip() == "on [0]"
    assert error.value.cmd[0] == sys.executable


def test_the_better_of_two_peaks(bench: ModuleType) -> None:
    one, other = {"fp32": bench.Peak(1.0, 4.0)}, {"fp32": bench.Peak(2.0, 3.0)}
    assert bench.higher(one, other) == {"fp32": bench.Peak(2.0, 4.0)}


def test_work_is_measured_with_one_thread_and_with_all(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "peaks", lambda device: {"fp32": bench.Peak(1.0, 1.0)})
    threads, a = torch.get_num_threads(), torch.ones(8, 8)
    rows = bench.worked(lambda: a @ a, torch.device("cpu"), repeats=1)
    assert [row.threads for row in rows] == sorted({1, threads})
    assert {row.operations for row in rows} == {2 * 8**3}
    assert rows[0].speed == pytest.approx(1024 / rows[0].clock.wall)
    assert torch.get_num_threads() == threads


def test_the_work_of_nets_that_run_on_several_threads_is_counted(bench: ModuleType) -> None:
    """Ten seconds are two batches of windows: about a GFLOP each for a second of speech."""
    whisper, threads = load_encoder("whisper"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert 5e9 < bench.flops_of(lambda: whisper(torch.zeros(160_000))) < 1e11
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_without_a_gpu_work_takes_what_is_assumed(bench: ModuleType) -> None:
    """Two frames of 1024 operations together, at 35 % of 989 TFLOP/s."""
    import paper

    machine, a = paper.Machine(), torch.ones(8, 8)
    assert machine("nets", lambda: a @ a, 2, "frame", "bf16") == pytest.approx(512 / (0.35 * 989e12))
    assert [(line.what, line.value) for line in machine.lines] == [("nets: work of a frame", pytest.approx(512e-9))]


def test_rates_and_shares_by_hand(bench: ModuleType, stages: ModuleType) -> None:
    """100 frames in 2 s; 3 GFLOP in half a second are 6 GFLOP/s, a quarter of a peak of 24, a third where
    a quarter of the two cores was not to be had."""
    line = stages.per_second("x", 100, bench.Clock(2.0, 1.0), note="so")
    assert (line.value, line.unit, line.note) == (50.0, "frames/s", "10.00 ms of processor a frame; so")
    row = bench.Worked(2, bench.Clock(0.5, 0.75), 3_000_000_000, {})
    rate, achieved = stages._step_lines("y", row, "bf16", bench.Peak(10e9, 24e9))
    assert (rate.value, rate.unit, rate.note) == (2.0, "steps/s", "1.50 cores busy")
    assert (achieved.value, achieved.unit, achieved.note) == (
        6.0,
        "GFLOP/s",
        "25 % of the bf16 peak, by processor time 33 %",
    )
    peak = stages._peak_line(1, "fp32", bench.Peak(10e9, 24e9))
    assert (peak.what, peak.value) == ("peak, fp32, threads 1", 24.0)


def test_the_table_and_the_json_hold_every_line(
    stages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str) -> Any:
        return lambda *_: [stages.Line(name, 1.5, "s", note="by hand")]

    sections = ("start_up", "parts", "end_to_end", "features", "training", "memory")
    for name in sections:
        monkeypatch.setattr(stages, name, made(name))
    stages.main(None, tmp_path / "out.json", False)
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"machine", "lines"}
    assert {"device", "cores", "threads", "torch", "footage"} <= set(found["machine"])
    assert [line["what"] for line in found["lines"]] == list(sections)
    assert found["lines"][0] == {"what": "start_up", "value": 1.5, "unit": "s", "bar": "", "note": "by hand"}
    shown = capsys.readouterr().out.splitlines()
    assert "footage astronaut, 640x480" in shown[0]
    assert shown[1].split() == ["what", "median", "unit", "bar", "note"]
    assert len(shown) == 2 + len(sections)


def test_the_made_footage_is_vga_with_a_voice(stages: ModuleType, tmp_path: Path) -> None:
    video = stages.Footage(stages.write_footage(tmp_path / "a" / "b.mp4", 0.2, None))
    assert (video.width, video.height, len(list(video.frames())), video.has_audio) == (640, 480, 5, True)
    again = stages.Footage(stages.write_footage(tmp_path / "c.mp4", 0.4, video))
    assert (again.width, len(list(again.frames()))) == (640, 10)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b.mp4", "c.mp4"]


@pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="this CPU has no AVX-512 VNNI")
def test_operations_of_integers_are_counted_as_those_of_floats(bench: ModuleType) -> None:
    layer, x = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1), torch.randn(2, 4, 6, 8)
    with torch.no_grad():
        assert bench.flops_of(lambda: Int8Conv(layer)(x)) == bench.flops_of(lambda: layer(x)) == 2 * 9 * 4 * 8 * 12 * 2


def test_the_points_that_are_kept_are_those_that_are_found(stages: ModuleType) -> None:
    """In the astronaut, and in the picture of her that made clips have."""
    points = stages.stage1.astronaut_points()
    for picture, expected in (
        (np.ascontiguousarray(astronaut()), points),
        (next(stages.stage1._swaying_astronaut(1)), points * 1.25 + [0, 4]),
    ):
        with FaceTracker() as tracker:
            found = tracker(picture)
        assert found is not None
        assert np.abs(found - expected).mean() < 1
