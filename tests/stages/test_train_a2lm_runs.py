"""`spear train-a2lm` shared between processes, killed, begun again: always the run to which nothing happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import complaint, done, fork_plainly, forked_spear
from made_up import make_clip, track
from torch import Tensor

import spear.files
from spear import training
from spear.checkpoint import load_checkpoint, read_about, read_tensors
from spear.clip import Clip
from spear.points import lip_opening
from spear.pretrained.mfcc import Mfcc
from spear.stages import train_a2lm as stage
from spear.talker import load_a2lm

EPOCHS, BATCH, VALIDATE_EVERY = 6, 4, 3
"""Of the runs that are killed: 8 windows make 2 steps an epoch, 12 in all, with 4 validations."""
STEPS = 12


def _features(points: np.ndarray, seed: int) -> Tensor:
    """Speech features (F, 4, 39) that tell how far the lips are open, and noise."""
    heard = torch.from_numpy(lip_opening(points)).view(-1, 1, 1)
    return heard + 0.1 * torch.randn(len(points), 4, 39, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips/: 8 for training, 2 for validation, of 25 to 70 frames, with changed copies and silence."""
    root = tmp_path_factory.mktemp("runs")
    for i, split in enumerate(["train"] * 8 + ["val"] * 2):
        points = track(25 + 5 * i, seed=i)
        clip = make_clip(root / "clips" / f"c{i}", split=split, seed=i, points=points)
        changed = [(_features(points, seed=20 + i)[:-3], 1.1)]
        clip.write_features("mfcc", _features(points, seed=i), Mfcc().settings, changed, torch.zeros(75, 4, 39))
    return root


@pytest.fixture(scope="module")
def one(root: Path) -> Path:
    """The models of a run in one process, 10 steps."""
    done(forked_spear("train-a2lm", "--epochs", "10", "--models", "one", cwd=root))
    return root / "one"


def _log(models: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (models / "a2lm.log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _state(models: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = read_tensors(models / "a2lm.state" / "state.safetensors")
    return tensors, {name: value for name, value in about.items() if name not in ("seconds", "sha256")}


def _assert_equal_runs(models: Path, others: Path) -> None:
    """Bit for bit: both checkpoints, weights, averages and optimiser; every row of the log."""
    for name in ("a2lm.safetensors", "a2lm.last.safetensors"):
        assert (models / name).read_bytes() == (others / name).read_bytes()
    (tensors, about), (tensors_other, about_other) = _state(models), _state(others)
    assert about == about_other
    assert tensors.keys() == tensors_other.keys()
    assert [name for name, value in tensors.items() if not torch.equal(value, tensors_other[name])] == []
    assert _log(models) == _log(others)


def test_two_processes_give_the_curve_of_one(root: Path, one: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "spear_cli"]
    run = subprocess.run(
        [sys.executable, *launcher, "train-a2lm", "--epochs", "10", "--models", "two"], cwd=root, capture_output=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("two/a2lm.safetensors: ") == 1  # one of them speaks
    log, log_two = _log(one), _log(root / "two")
    assert [row["step"] for row in log_two] == [*range(1, 11), 10]  # and one writes
    for row, row_two in zip(log, log_two, strict=True):
        assert row_two == pytest.approx(row, rel=1e-4)
    for name in ("a2lm.safetensors", "a2lm.last.safetensors"):
        weights, weights_two = (load_checkpoint(models / name, "a2lm")[0] for models in (one, root / "two"))
        for key, value in weights.items():
            # Adam steps by 1e-3 whatever a gradient's size: where it is nearly 0, sums in another order may turn it
            torch.testing.assert_close(weights_two[key], value, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


def test_equal_seeds_give_equal_bytes(root: Path, one: Path) -> None:
    for models, seed in (("again", "0"), ("other", "1")):
        done(forked_spear("train-a2lm", "--epochs", "10", "--models", models, "--seed", seed, cwd=root))
    _assert_equal_runs(root / "again", one)
    assert _log(root / "other")[0]["loss"] != _log(one)[0]["loss"]
    weights, weights_other = (
        load_checkpoint(models / "a2lm.safetensors", "a2lm")[0] for models in (one, root / "other")
    )
    assert not torch.equal(weights["decoder.outward.weight"], weights_other["decoder.outward.weight"])


# --- kill -9 ---

_FORKS = multiprocessing.get_context("forkserver")  # command_line has preloaded it


def _dies(owner: Any, name: str, call: int) -> None:
    """Replace a function by one whose call of this number, from 1, is kill -9 to the process that makes it."""
    function, calls = getattr(owner, name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    setattr(owner, name, counted)


def _saves(until: int) -> None:
    """Save the state after every step up to this one, then no more before the end."""
    step = training._Run.step

    def counted(run: Any, batch: Any) -> dict[str, float]:
        losses = step(run, batch)
        training.AUTOSAVE_SECONDS = -1.0 if run.place.step <= until else 1e9
        return losses

    training._Run.step = counted  # type: ignore[method-assign]


MOMENTS: dict[str, tuple[int, Callable[[], None]]] = {
    "before the first state": (0, lambda: _dies(stage, "landmark_mse", 5)),
    "three steps, with a validation, after a saved one": (5, lambda: _dies(stage, "landmark_mse", 9)),
    "in the second validation": (STEPS, lambda: _dies(stage, "predict_clip", 4)),
    "between the checkpoints of the first validation": (STEPS, lambda: _dies(stage, "save_checkpoint", 2)),
    "with the eighth file written but not named": (STEPS, lambda: _dies(spear.files, "_sync", 8)),
}
"""When: the last step after which the state is saved, and what kills."""


def _train(cwd: Path, models: str, moment: str | None, saved_until: int) -> None:
    """In a process of its own: the command, with batches, validations and saved states for a run of seconds."""
    from spear_cli.app import main

    fork_plainly()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.chdir(cwd)
    stage.SCHEDULES["small"] = replace(stage.SCHEDULES["small"], batch_size=BATCH, validate_every=VALIDATE_EVERY)
    _saves(saved_until)
    if moment is not None:
        MOMENTS[moment][1]()
    sys.argv = ["spear", "train-a2lm", "--epochs", str(EPOCHS), "--models", models]
    main()


def _start(root: Path, models: str, moment: str | None = None, saved_until: int = 0) -> Any:
    process = _FORKS.Process(target=_train, args=(root, models, moment, saved_until))
    process.start()
    return process


def _ends(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None, "the training does not end"
    return int(process.exitcode)


@pytest.fixture(scope="module")
def unbroken(root: Path) -> Path:
    assert _ends(_start(root, "unbroken")) == 0
    assert [row["step"] for row in _log(root / "unbroken") if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in _log(root / "unbroken") if "val_ld" in row] == [3, 6, 9, 12]
    return root / "unbroken"


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_at_a_moment_of_choice(root: Path, unbroken: Path, moment: str) -> None:
    models = moment.replace(" ", "_")
    saved_until = MOMENTS[moment][0]
    assert _ends(_start(root, models, moment, saved_until)) == -signal.SIGKILL
    assert (root / models / "a2lm.state" / "state.safetensors").exists() == (saved_until > 0)
    assert _ends(_start(root, models)) == 0
    _assert_equal_runs(root / models, unbroken)


def test_kill_9_at_any_time_again_and_again(root: Path, unbroken: Path) -> None:
    """From outside, whatever the training is just doing; a run that ends before it is killed is no harm."""
    log = root / "any" / "a2lm.log.jsonl"
    for rows in (1, 8):
        process = _start(root, "any", saved_until=STEPS)
        until = time.monotonic() + 120
        while process.is_alive() and (not log.exists() or len(log.read_text().splitlines()) < rows):
            assert time.monotonic() < until, "no step in 120 s"
            time.sleep(0.005)
        process.kill()
        assert _ends(process) in (-signal.SIGKILL, 0)
    assert _ends(_start(root, "any")) == 0
    _assert_equal_runs(root / "any", unbroken)


# --- numbers that are none ---


@pytest.fixture
def broken(root: Path, one: Path, tmp_path: Path) -> Callable[[str, str, float], Path]:
    """Make a folder with the trained models and the clips, one of which has a number that is none."""

    def make(clip_id: str, what: str, value: float) -> Path:
        shutil.copytree(root / "clips", tmp_path / "clips")
        shutil.copytree(one, tmp_path / "models")
        clip = Clip(tmp_path / "clips" / clip_id)
        if what == "features":
            nothing = torch.full((clip.info.frames, 4, 39), value)
            clip.write_features("mfcc", nothing, Mfcc().settings, [(nothing, 1.0)], nothing)
        else:
            points, confidence = clip.landmarks()
            points[10] = value
            clip.write_landmarks(points, confidence, {"detector": "made up"})
        return tmp_path

    return make


@pytest.mark.parametrize(("what", "value", "named"), [("features", np.nan, "mfcc"), ("landmarks", np.inf, "landmarks")])
def test_data_that_is_not_finite(broken: Callable[..., Path], what: str, value: float, named: str) -> None:
    """The state of step 10 and its checkpoint stay as they were; the damaged clip is in the first batch after it."""
    folder = broken("c3", what, value)
    kept = ("a2lm.safetensors", "a2lm.last.safetensors", "a2lm.state/state.safetensors")
    before = {name: (folder / "models" / name).read_bytes() for name in kept}
    run = forked_spear("train-a2lm", "--epochs", "12", cwd=folder)
    said = re.escape(f"clips/c3/{named}.safetensors has numbers that are not finite in frame ")
    assert re.fullmatch(rf"{said}\d+( of \w+)?; delete it and make it again", complaint(run))
    assert {name: (folder / "models" / name).read_bytes() for name in kept} == before
    assert load_a2lm(folder / "models" / "a2lm.safetensors").config.encoder == "mfcc"
    assert read_about(folder / "models" / "a2lm.safetensors")["training"]["step"] == 10


def test_validation_that_is_not_finite(broken: Callable[..., Path]) -> None:
    folder = broken("c9", "features", np.nan)
    before = (folder / "models" / "a2lm.safetensors").read_bytes()
    assert complaint(forked_spear("train-a2lm", "--epochs", "12", cwd=folder)) == (
        "clips/c9/mfcc.safetensors has numbers that are not finite in frame 0; delete it and make it again"
    )
    assert (folder / "models" / "a2lm.safetensors").read_bytes() == before
