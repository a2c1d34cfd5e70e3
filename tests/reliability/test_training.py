"""Trainings that are killed, stopped, fed with what is no number, or given the wrong file: nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ranked_training
import torch
from command_line import FORKS, complaint, fork_plainly, forked_spear, mind_signals
from made_up import make_clip
from torch import Tensor

from spear import training, training_signals
from spear.checkpoint import read_about, read_tensors, save_tensors
from spear.clip import Clip
from spear.stages import train_a2lm, train_lm2face

pytestmark = pytest.mark.reliability

TRAININGS = {"a2lm": ["train-a2lm"], "lm2face": ["train-lm2face", "--frames-per-clip", "1"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clips/: 8 for training, 2 for validation."""
    root = tmp_path_factory.mktemp("trainings")
    for i in range(10):
        make_clip(root / "clips" / f"c{i}", frames=40, seed=i, split="train" if i < 8 else "val")
    return root


# --- kill -9 while a checkpoint of 100 MB is saved ---

KILLS = 20


def _save_again_and_again(path: Path, told: Connection) -> None:
    """25 million numbers, all the number of the checkpoint, which is told when it is saved."""
    number = int(read_about(path)["number"]) if path.exists() else 0
    while True:
        number += 1
        save_tensors(path, {"weights": torch.full((25_000_000,), float(number))}, {"number": number})
        told.send(number)


def test_kill_9_while_a_checkpoint_of_100_mb_is_saved(tmp_path: Path, tally: Any) -> None:
    path, chance, committed = tmp_path / "net.safetensors", random.Random(0), 0
    for _ in range(KILLS):
        told, tells = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_save_again_and_again, args=(path, tells))
        process.start()
        committed = told.recv()
        time.sleep(chance.uniform(0, 1.0))
        process.kill()
        process.join(30)
        while told.poll():
            committed = told.recv()
        tensors, about = read_tensors(path)
        assert committed <= about["number"] <= committed + 1  # the last one may be there but not yet told
        assert tensors["weights"].min() == tensors["weights"].max() == about["number"]
    tally.add(tried=KILLS, coped=KILLS)
    save_tensors(path, {"weights": torch.zeros(1)}, {"number": 0})
    assert [child.name for child in tmp_path.iterdir()] == [path.name]  # what the killed ones left is gone


# --- stopped and gone on with ---

POINTS = [("a2lm", step) for step in (1, 2, 3, 4, 7)] + [("lm2face", step) for step in (1, 2, 3, 4, 7)]
"""Of eight steps, two an epoch, a validation after every fourth."""


def _train(cwd: Path, models: str, name: str, stop: int | None) -> None:
    """In a process of its own: a whole training, or one that gets SIGTERM within a step."""
    os.chdir(cwd)
    mind_signals()
    fork_plainly()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    ranked_training._set_up()
    training_signals.PATIENCE[int(signal.SIGTERM)] = 600.0  # however busy the machine, the step ends
    compute = training._Run.step

    def stopping(run: Any, batch: Any) -> dict[str, float]:
        if run.place.step + 1 == stop:
            signal.raise_signal(signal.SIGTERM)
        return compute(run, batch)

    training._Run.step = stopping  # type: ignore[method-assign]
    try:
        if name == "a2lm":
            train_a2lm.train_a2lm(Path("clips"), Path(models), epochs=4)
        else:
            train_lm2face.train_lm2face(Path("clips"), Path(models), frames_per_clip=1, epochs=4)
    except training.InterruptedTraining as error:
        sys.exit(error.code)


def _run(*args: Any) -> int:
    process = FORKS.Process(target=_train, args=args)
    process.start()
    process.join(300)
    assert process.exitcode is not None, "the training does not end"
    return int(process.exitcode)


@pytest.fixture(scope="module")
def unbroken(root: Path) -> Path:
    assert [_run(root, "unbroken", name, None) for name in TRAININGS] == [0, 0]
    return root / "unbroken"


def _state(models: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = read_tensors(models / f"{name}.state" / "state.safetensors")
    return tensors, {key: value for key, value in about.items() if key not in ("seconds", "sha256")}


@pytest.mark.parametrize(("name", "step"), POINTS)
def test_resumed_from_any_point_weights_and_optimisers_are_the_same(
    root: Path, unbroken: Path, name: str, step: int
) -> None:
    models = f"{name} {step}"
    assert _run(root, models, name, step) == 143
    assert _state(root / models, name)[1]["step"] == step
    assert _run(root, models, name, None) == 0
    (tensors, about), (others, about_other) = (_state(folder, name) for folder in (root / models, unbroken))
    assert about == about_other
    assert [key for key, value in others.items() if not torch.equal(value, tensors[key])] == []
    for file in (f"{name}.safetensors", f"{name}.last.safetensors"):
        assert (root / models / file).read_bytes() == (unbroken / file).read_bytes()


# --- signals ---


@pytest.mark.parametrize(
    ("number", "code", "limit"), [(signal.SIGINT, 130, 2.0), (signal.SIGTERM, 143, 10.0)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("name", TRAININGS)
def test_a_signal_stops_a_training_soon(root: Path, name: str, number: int, code: int, limit: float) -> None:
    """The small preset as it is; the signal goes to the whole group, as from a keyboard or a cluster."""
    models = root / f"{name} {code}"
    with subprocess.Popen(
        [sys.executable, "-m", "spear_cli", *TRAININGS[name], "--models", models], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=mind_signals,
    ) as process:  # fmt: skip
        log, until = models / f"{name}.log.jsonl", time.monotonic() + 200
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        sent = time.monotonic()
        out, errors = process.communicate(timeout=60)
        took = time.monotonic() - sent
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # the limits are of a machine with nothing else to do
    assert (process.returncode, out) == (code, ""), errors
    assert errors.startswith("error: stopped ")
    assert "; run the same command again to go on" in errors
    assert errors.count("\n") == 1
    assert children
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert took < limit * crowd
    if "after step" in errors:
        step = int(errors.split("after step ")[1].split(";")[0])
        assert read_about(models / f"{name}.state" / "state.safetensors")["step"] == step


# --- numbers that are none ---


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy of the clips that a test may spoil."""
    shutil.copytree(root / "clips", tmp_path / "clips")
    return tmp_path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    ("what", "name"), [("features", "a2lm"), ("landmarks", "a2lm"), ("landmarks", "lm2face")], ids=str
)
def test_data_that_are_no_numbers(broken: Path, tally: Any, what: str, name: str, value: float) -> None:
    """The file and its first bad frame are named; there is no checkpoint that is not finite."""
    clip = Clip(broken / "clips" / "c3")
    if what == "features":
        features = clip.features("mfcc")
        features[7:] = value
        clip.write_features("mfcc", features, clip.require_features("mfcc"))
    else:
        points, confidence = clip.landmarks()
        points[7] = value
        clip.write_landmarks(points, confidence, {"detector": "made up"})
    run = forked_spear(*TRAININGS[name], "--epochs", "2", cwd=broken)
    path = Path("clips", "c3", "mfcc.safetensors" if what == "features" else "landmarks.safetensors")
    said = complaint(run)
    assert said.startswith(f"{path} has numbers that are not finite in frame ")
    assert said.endswith("; delete it and make it again")
    for file in (broken / "models").rglob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in read_tensors(file)[0].values())
    tally.add(tried=1, clear=1)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_learning_rate_that_blows_up(broken: Path, tally: Any, name: str) -> None:
    run = forked_spear(*TRAININGS[name], "--epochs", "60", "--learning-rate", "1e30", cwd=broken)
    said = complaint(run)
    assert said.startswith(f"{name}: ")
    assert " not finite at step " in said
    assert "begin anew with --restart and a lower --learning-rate" in said
    for file in (broken / "models").rglob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in read_tensors(file)[0].values())
    tally.add(tried=1, clear=1)


# --- checkpoints of another stage, size, format or version ---


def _of_format(source: Path, path: Path, number: int) -> None:
    """The same file, said to be of that format."""
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'\\"format\\": 1', b'\\"format\\": %d' % number)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def test_states_and_checkpoints_of_something_else(root: Path, unbroken: Path, tmp_path: Path, tally: Any) -> None:
    shutil.copytree(root / "clips", tmp_path / "clips")
    models = tmp_path / "models"
    (models / "a2lm.state").mkdir(parents=True)
    state, source = models / "a2lm.state" / "state.safetensors", unbroken / "a2lm.state" / "state.safetensors"
    short = "models/a2lm.state/state.safetensors"
    for number, then in ((9, "install the spear that wrote it, or make it again"), (0, "make it again")):
        _of_format(source, state, number)
        said = complaint(forked_spear("train-a2lm", "--epochs", "1", cwd=tmp_path))
        assert said == f"{short} has format {number}, this spear 0.1.0 reads format 1; {then}"
    shutil.copy(unbroken / "lm2face.state" / "state.safetensors", state)
    said = complaint(forked_spear("train-a2lm", "--epochs", "1", cwd=tmp_path))
    assert said.startswith("models/a2lm.state was trained with other settings (")
    for file, message in (
        ("a2lm", "holds a checkpoint of kind 'a2lm', 'lm2face' is needed here; give that one"),
        ("lm2face", "is of another version of spear, its net is built in another way"),
    ):
        path = tmp_path / f"{file}.safetensors"
        shutil.copy(unbroken / path.name, path)
        if file == "lm2face":  # one tensor is missing
            tensors, about = read_tensors(path)
            tensors.pop(sorted(tensors)[0])
            save_tensors(path, tensors, about)
        said = complaint(forked_spear("train-lm2face", "--epochs", "1", "--init", path.name, cwd=tmp_path))
        assert said.startswith(f"{path.name} {message}")
    tally.add(tried=5, clear=5)
