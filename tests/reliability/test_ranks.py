"""Trainings shared between processes and machines: the weights of one process; elastic restarts; rank as a shard."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranked_training
import torch
from made_up import make_clip
from torch import Tensor

from spear.checkpoint import read_tensors
from spear.stages.train_a2lm import train_a2lm
from spear.stages.train_lm2face import train_lm2face

pytestmark = pytest.mark.reliability

OPTIMISERS = {"a2lm": "adam", "lm2face": "lm2face"}
GRADIENTS, WEIGHTS, LOSSES = 1e-3, 1e-4, 1e-2
"""How far the running means of the gradients and the weights may be off, of their length, and losses: sums of single
precision in another order. Pictures and paintings of drawn faces are so alike that the critic's gradient is mostly such
rounding; it is seen by its losses."""


OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Else processes that torch 2.13 has started again look for those that are dead: so does a script of ten lines."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks") / "clips"
    for i in range(10):
        make_clip(root / f"c{i}", frames=40, seed=i, split="train" if i < 8 else "val")
    return root


def _launch(
    clips: Path, models: Path, *more: object, ranks: int, options: tuple[str, ...] = ("--standalone",)
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc_per_node", str(ranks),
               ranked_training.__file__, str(clips), str(models), *map(str, more)]  # fmt: skip
    return subprocess.Popen(
        command, env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **OWN_STORE}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _ends(run: subprocess.Popen[str]) -> None:
    _, errors = run.communicate(timeout=400)
    assert run.returncode == 0, errors


@pytest.fixture(scope="module")
def two(clips: Path) -> Path:
    """The models of two processes."""
    _ends(_launch(clips, clips.parent / "two", ranks=2))
    return clips.parent / "two"


def _state(models: Path, name: str) -> dict[str, Tensor]:
    return read_tensors(models / f"{name}.state" / "state.safetensors")[0]


def _log(models: Path, name: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (models / f"{name}.log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _flat(state: dict[str, Tensor], prefix: str) -> Tensor:
    """Weights, or the first moments of an optimiser: the running means of its gradients."""
    parts = [value for key, value in sorted(state.items()) if key.startswith(prefix)
             and (prefix.startswith("net.") or key.endswith(".exp_avg"))]  # fmt: skip
    return torch.cat([part.double().flatten() for part in parts])


def _same_bytes(models: Path, others: Path) -> None:
    for name in OPTIMISERS:
        state, other = _state(models, name), _state(others, name)
        assert state.keys() == other.keys()
        assert [key for key, value in state.items() if not torch.equal(value, other[key])] == []
        for file in (f"{name}.safetensors", f"{name}.last.safetensors"):
            assert (models / file).read_bytes() == (others / file).read_bytes()


def test_one_two_and_three_processes_give_the_same_weights(clips: Path, two: Path) -> None:
    """Of batches of four samples, three of which are decoded."""
    runs = {ranks: clips.parent / f"of {ranks}" for ranks in (1, 3)}
    for ranks, models in runs.items():
        _ends(_launch(clips, models, ranks=ranks))
    for name in OPTIMISERS:
        one, log = _state(runs[1], name), _log(runs[1], name)
        for models in (two, runs[3]):
            other = _state(models, name)
            for what, tolerance in ((f"optimiser.{OPTIMISERS[name]}.", GRADIENTS), (f"net.{name}.", WEIGHTS)):
                value, same = (_flat(state, what) for state in (one, other))
                assert (same - value).norm() < tolerance * value.norm(), (models, what)
            for row, row_other in zip(log, _log(models, name), strict=True):
                assert row_other == pytest.approx(row, rel=LOSSES, abs=1e-3)


def test_two_machines_give_the_weights_of_one_with_two_processes(clips: Path, two: Path) -> None:
    """On the loopback; the folder of the models is shared, as it is on a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", address, "--rdzv-id", "spear")
    runs = [_launch(clips, clips.parent / "machines", ranks=1, options=options) for _ in range(2)]
    for run in runs:
        _ends(run)
    _same_bytes(clips.parent / "machines", two)


def test_a_process_that_dies_is_started_again_and_nothing_is_lost(clips: Path, two: Path) -> None:
    """In step 5 of 8 of the first training; the others end, torchrun starts all anew, they go on from step 4."""
    models = clips.parent / "elastic"
    _ends(_launch(clips, models, 5, ranks=2, options=("--standalone", "--max-restarts", "3")))
    _same_bytes(models, two)


def _spear(root: Path, ranks: int, *words: str) -> str:
    """What a command prints under torchrun, in the folder `root`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    run = subprocess.run(
        [sys.executable, *launcher, "-m", "spear_cli", *words], cwd=root, text=True, capture_output=True, timeout=300,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(root / "cache")},
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_each_process_does_its_part_of_the_clips(
    talking_videos: Path, tiny_talker: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    """From videos to scores, and renders; where processes have nothing to do, none waits for them."""
    models, made = tmp_path / "models", dict[int, dict[str, bytes]]()
    rows = (f"{tiny_speech},{tiny_talker},{name}.mp4" for name in ("one", "two"))
    (tmp_path / "renders.csv").write_text("\n".join(["audio,ref,out", *rows]))
    for ranks in (1, 2, 3):
        root = tmp_path / str(ranks)
        root.mkdir()
        listed = ["render", "--list", "../renders.csv", "-o", "out"]
        for words in (["preprocess", str(talking_videos)], ["landmarks"], ["extract-audio-features"], listed):
            said = _spear(root, ranks, *words)
            assert len(re.findall("(clips|renders) done", said)) == 1  # one of them speaks
        if ranks == 1:
            train_a2lm(root / "clips", models, epochs=1)
            train_lm2face(root / "clips", models, frames_per_clip=2, epochs=1)
        words = ["metrics", "--split", "all", "--ld", "--psnr", "--json", "--models", str(models)]
        made[ranks] = {"scores": _spear(root, ranks, *words).encode()}
        assert json.loads(made[ranks]["scores"])["protocol"]["clips"] == 4
        assert len(list(root.glob("cache/spear/metrics/*/*.safetensors"))) == 4
        files = [*root.glob("clips/talker_*/*.*"), *root.glob("out/*.mp4")]
        made[ranks] |= {str(path.relative_to(root)): path.read_bytes() for path in files}
    assert len(made[1]) == 1 + 4 * len(("clip.json", "face.mp4", "audio.wav", "landmarks", "features")) + 2
    assert made[1] == made[2] == made[3]
