"""The training loop: equal seeds, exact resume, what it writes, how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import toy_training
from command_line import mind_signals
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from toy_training import STEPS, Sums, train

from spear import training, training_loader, training_signals
from spear.checkpoint import load_checkpoint, read_about, read_tensors
from spear.errors import SpearError
from spear.training import InterruptedTraining
from spear.training_loader import Batches


def _log(models: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (models / "toy.log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _state(models: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = read_tensors(models / "toy.state" / "state.safetensors")
    return tensors, {name: value for name, value in about.items() if name not in ("seconds", "sha256")}


def _sheets(models: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (models / "toy.samples").iterdir()}


def _board(models: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows: (step, value) of every curve, and of `samples` (step, RGB)."""
    for path in (models / "tensorboard" / "toy").iterdir():  # read by name, which ends in a number: .10 before .9
        path.rename(path.with_suffix(f".{int(path.suffix[1:]):06d}"))
    events = EventAccumulator(str(models / "tensorboard" / "toy"), size_guidance={"images": 0, "scalars": 0})
    tags = events.Reload().Tags()
    shown = {name: [(row.step, row.value) for row in events.Scalars(name)] for name in tags["scalars"]}
    for name in tags["images"]:
        pictures = [(row.step, np.frombuffer(row.encoded_image_string, np.uint8)) for row in events.Images(name)]
        shown[name] = [(step, cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1].tolist()) for step, png in pictures]
    return shown


def _assert_equal_runs(one: Path, other: Path) -> None:
    """Bit for bit: weights, averages and optimisers, the log, what is shown of it, both checkpoints."""
    (tensors, about), (others, about_other) = _state(one), _state(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert about == about_other
    assert _log(one) == _log(other)
    assert _sheets(one) == _sheets(other)
    assert _board(one) == _board(other)
    for name in ("toy.safetensors", "toy.last.safetensors"):
        weights, _ = load_checkpoint(one / name, "toy")
        weights_other, _ = load_checkpoint(other / name, "toy")
        assert all(torch.equal(value, weights_other[key]) for key, value in weights.items())


def _at(wanted: int, what: Callable[[], Any]) -> Callable[[int], None]:
    return lambda step: what() if step == wanted else None


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with dropout, so that chance is part of it."""
    models = tmp_path_factory.mktemp("unbroken")
    train(models, dropout=0.3)
    return models


def test_equal_seeds_give_equal_runs(unbroken: Path, tmp_path: Path) -> None:
    train(tmp_path, dropout=0.3)
    _assert_equal_runs(unbroken, tmp_path)


def test_another_seed_gives_another_run(unbroken: Path, tmp_path: Path) -> None:
    train(tmp_path, dropout=0.3, changes={"seed": 1})
    assert _log(tmp_path)[0] != _log(unbroken)[0]


def test_what_a_run_leaves(unbroken: Path) -> None:
    assert sorted(p.name for p in unbroken.iterdir()) == [
        "tensorboard", "toy.last.safetensors", "toy.log.jsonl", "toy.safetensors", "toy.samples", "toy.state",
    ]  # fmt: skip
    rows = _log(unbroken)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "val_score" in row] == [4, 8, 12, 15]  # every 4 steps, and at the end
    assert [row["step"] for row in rows if "side" in row] == list(range(7, STEPS + 1))  # from share 6 / 15 = 0.4 on
    assert list((unbroken / "tensorboard" / "toy").glob("events.*"))
    assert rows[-2]["loss"] < 0.5 * rows[0]["loss"]


def test_what_is_shown_at_a_validation_is_a_picture_and_stands_in_tensorboard(unbroken: Path) -> None:
    """The last one is of the net that was exported last."""
    steps = [4, 8, 12, 15]
    assert sorted(_sheets(unbroken)) == [f"step_{step:06d}.png" for step in steps]
    board = _board(unbroken)
    assert {*board} == {"loss", "side", "val_score", "val_error", "samples"}  # neither step nor seconds
    assert [step for step, _ in board["loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in board["val_score"]] == [step for step, _ in board["samples"]] == steps
    pictures = [cv2.imread(str(unbroken / "toy.samples" / name))[..., ::-1] for name in sorted(_sheets(unbroken))]
    assert [picture for _, picture in board["samples"]] == [picture.tolist() for picture in pictures]
    weights, _ = load_checkpoint(unbroken / "toy.last.safetensors", "toy")
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1)).eval()
    net.load_state_dict(weights)
    numbers = torch.from_numpy(np.random.default_rng(1).normal(size=(16, 3))).float()
    assert np.array_equal(pictures[-1], toy_training.sheet_of(net(numbers)[:, 0].detach()))
    assert pictures[-1].std() > 10


def test_a_training_that_shows_nothing_has_no_samples(tmp_path: Path) -> None:
    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator)
    task.validate = lambda show: {"score": 1.0}
    training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    assert not (tmp_path / "toy.samples").exists()
    assert "samples" not in _board(tmp_path)


def test_every_sample_once_per_epoch_in_another_order(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watched(Sums):
        def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
            return super().__getitem__(place) | {"place": torch.tensor(place)}

    def watch(step: Callable[..., Any]) -> Callable[..., Any]:
        return lambda batch, *rest: (seen.extend(map(tuple, batch["place"].tolist())), step(batch, *rest))[1]

    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator, data=Watched())
    task.step = watch(task.step)
    training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    epochs = [[i for e, i in seen if e == epoch] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("step", [1, 4, 5, 14])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(unbroken: Path, tmp_path: Path, step: int) -> None:
    """Step 4 is one with a validation, 5 the last of an epoch, 14 the last but one of all."""
    with pytest.raises(InterruptedTraining) as caught:
        train(tmp_path, dropout=0.3, each_step=_at(step, lambda: signal.raise_signal(signal.SIGTERM)))
    assert str(caught.value) == f"stopped after step {step}; run the same command again to go on"
    assert caught.value.code == 143
    assert _state(tmp_path)[1]["step"] == step
    train(tmp_path, dropout=0.3)
    _assert_equal_runs(unbroken, tmp_path)


def test_interrupt_from_the_keyboard_has_code_130(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTraining) as caught:
        train(tmp_path, each_step=_at(2, lambda: signal.raise_signal(signal.SIGINT)))
    assert caught.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # everything is as it was


def test_a_signal_stops_a_validation_which_is_done_when_the_run_goes_on(unbroken: Path, tmp_path: Path) -> None:
    def stopping(validate: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []

        def called(show: Callable[..., Any]) -> dict[str, float]:
            calls.append(1)
            figures = validate(show)
            if len(calls) == 2:  # after step 8
                signal.raise_signal(signal.SIGINT)
            return figures

        return called

    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator, dropout=0.3)
    task.validate = stopping(task.validate)
    with pytest.raises(InterruptedTraining) as caught:
        training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    assert str(caught.value) == "stopped after step 8; run the same command again to go on"
    assert [row["step"] for row in _log(tmp_path) if "val_score" in row] == [4]
    train(tmp_path, dropout=0.3)
    _assert_equal_runs(unbroken, tmp_path)


def test_a_step_that_takes_long_is_given_up(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "AUTOSAVE_SECONDS", -1.0)
    monkeypatch.setitem(training_signals.PATIENCE, int(signal.SIGINT), 0.05)

    def slow() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(30)

    started = time.monotonic()
    with pytest.raises(InterruptedTraining) as caught:
        train(tmp_path, dropout=0.3, each_step=_at(3, slow))
    assert time.monotonic() - started < 20
    assert str(caught.value) == "stopped within a long step; run the same command again to go on from step 2"
    assert caught.value.code == 130
    train(tmp_path, dropout=0.3)
    _assert_equal_runs(unbroken, tmp_path)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    """As a gradient that overflows leaves them: no loss has shown it yet."""
    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator)
    step = task.step

    def spoilt(batch: Any, share: float, part: Any) -> dict[str, Tensor]:
        losses = step(batch, share, part)
        if share >= 3 / STEPS:
            torch.nn.init.constant_(next(task.modules["toy"].parameters()), float("inf"))
        return losses

    task.step = spoilt
    with pytest.raises(SpearError) as caught:
        training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    assert str(caught.value) == (
        "toy: the weights are not finite at step 4; begin anew with --restart and a lower --learning-rate"
    )
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_restart_forgets_an_earlier_run_but_not_the_one_that_torchrun_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "toy.state"
    state.mkdir()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    training.begin_anew(tmp_path, "toy")
    assert state.exists()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    training.begin_anew(tmp_path, "toy")
    assert not state.exists()


def test_a_second_interrupt_is_obeyed_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, each_step=_at(2, twice))


def test_a_crash_between_saved_states_loses_only_the_steps_since(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kill -9 would leave it: a state of step 6, a log and a checkpoint that are further on."""

    def crash() -> None:
        raise RuntimeError("crash")

    def no_more_states(step: int) -> None:
        monkeypatch.setattr(training, "AUTOSAVE_SECONDS", -1.0 if step <= 6 else 1e9)
        if step == 11:
            crash()

    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, dropout=0.3, each_step=no_more_states)
    assert _state(tmp_path)[1]["step"] == 6
    assert _log(tmp_path)[-1]["step"] == 10
    with open(tmp_path / "toy.log.jsonl", "a") as file:
        file.write('{"step": 11, "lo')  # a torn line
    train(tmp_path, dropout=0.3)
    _assert_equal_runs(unbroken, tmp_path)


def test_a_second_call_after_the_end_does_nothing(tmp_path: Path) -> None:
    trained = train(tmp_path)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}

    def never(step: int) -> None:
        raise AssertionError("trained again")

    again = train(tmp_path, each_step=never)
    assert again.figures == trained.figures
    assert (again.steps, again.steps_per_second, again.busy) == (0, 0, 1)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_a_killed_run_left_is_removed_even_where_nothing_is_to_be_done(tmp_path: Path) -> None:
    """It may be killed while it saves its last state a second time."""
    train(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", "from spear.temporary import this_process; print(this_process())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    left = [
        folder / f".spear-{child.stdout.strip()}-a4y0a_7a.safetensors" for folder in (tmp_path, tmp_path / "toy.state")
    ]
    for path in left:
        path.touch()
    train(tmp_path)
    assert [path for path in left if path.exists()] == []


def test_equal_runs_give_equal_bytes(unbroken: Path, tmp_path: Path) -> None:
    """No time is in a checkpoint."""
    train(tmp_path, dropout=0.3)
    for name in ("toy.safetensors", "toy.last.safetensors"):
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()
    assert set(read_about(tmp_path / "toy.safetensors")["training"]) == {"step", "figures"}


class _Slow(Sums):
    """Each sample takes a time of a clock that only the test moves."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        self.clock[0] += self.seconds
        return super().__getitem__(place)


@pytest.mark.parametrize(
    ("seconds", "waited"), [(0.0, 0.0), (0.125, 14.0), (1.0, 112.0)], ids=["at once", "quick", "slow"]
)
def test_busy_is_the_share_of_the_time_without_waiting_for_data(
    seconds: float, waited: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 steps of 2 s; a batch is 8 samples. The first one, for which the loader is started, is not waited for."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def work(step: int) -> None:
        clock[0] += 2

    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator, data=_Slow(clock, seconds), each_step=work)
    task.workers = 0
    trained = training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    total = 15 * 2 + 15 * 8 * seconds  # 30, 45, 150 s
    assert (trained.steps, trained.seconds, trained.waited) == (15, total, waited)
    assert trained.steps_per_second == pytest.approx(15 / total)  # 0.5, 0.333, 0.1
    assert trained.busy == pytest.approx(1 - waited / total)  # 1, 0.689, 0.253


def test_a_run_that_goes_on_counts_its_own_steps(tmp_path: Path) -> None:
    train(tmp_path, changes={"epochs": 1})
    trained = train(tmp_path, changes={"epochs": 3})
    assert trained.steps == 10
    assert 0 <= trained.busy <= 1


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    train(tmp_path, changes={"epochs": 1})
    train(tmp_path, changes={"epochs": 2})
    assert [row["step"] for row in _log(tmp_path) if "loss" in row] == list(range(1, 11))


def test_other_settings_are_noticed(tmp_path: Path) -> None:
    train(tmp_path, changes={"epochs": 1}, settings={"kind": "toy", "preset": "small", "gone": 1})
    with pytest.raises(SpearError) as caught:
        train(tmp_path, settings={"kind": "toy", "preset": "paper"}, changes={"batch_size": 4})
    assert str(caught.value) == (
        f"{tmp_path / 'toy.state'} was trained with other settings (batch_size, gone, preset); "
        "use --restart to begin anew, or another --models"
    )


class _Broken(Sums):
    """Sample 0 is not a number; each epoch of 40 samples holds it once."""

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        sample = super().__getitem__(place)
        return {name: value * float("nan") for name, value in sample.items()} if place == (1, 0) else sample


def test_loss_that_is_not_finite_stops_and_keeps_the_good_state(tmp_path: Path) -> None:
    train(tmp_path, changes={"epochs": 1})
    good = (tmp_path / "toy.state" / "state.safetensors").read_bytes()
    with pytest.raises(SpearError) as caught:
        train(tmp_path, data=_Broken())
    assert re.fullmatch(
        r"toy: loss is not finite at step ([6-9]|10); begin anew with --restart and a lower --learning-rate; "
        + re.escape(f"{tmp_path / 'toy.safetensors'} is the best until then"),
        str(caught.value),
    )
    assert (tmp_path / "toy.state" / "state.safetensors").read_bytes() == good


def test_loss_that_is_not_finite_before_there_is_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        train(tmp_path, data=_Broken(), changes={"validate_every": 100})
    assert str(caught.value).endswith("; begin anew with --restart and a lower --learning-rate")


def test_minutes_end_a_run_and_count_over_resumes(tmp_path: Path) -> None:
    shown: list[tuple[int, int, str]] = []
    minutes = {"epochs": 10_000, "max_minutes": 1 / 60}
    with pytest.raises(InterruptedTraining):
        train(tmp_path, changes=minutes, each_step=_at(3, lambda: signal.raise_signal(signal.SIGTERM)))
    spent = read_about(tmp_path / "toy.state" / "state.safetensors")["seconds"]
    started = time.monotonic()
    train(tmp_path, lambda *args: shown.append(args), minutes, each_step=lambda step: time.sleep(0.02))
    assert time.monotonic() - started < 10
    about = read_about(tmp_path / "toy.state" / "state.safetensors")
    assert 1 <= about["seconds"] < 5
    assert about["seconds"] > spent > 0
    assert _log(tmp_path)[-1]["step"] == about["step"] == _log(tmp_path)[-2]["step"]  # a validation at the end
    assert shown[-1][1] == 1  # seconds, since they are what ends it
    train(tmp_path, changes=minutes, each_step=_at(1, lambda: pytest.fail("no time was left")))


def test_a_lost_best_checkpoint_is_noticed(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "toy.safetensors").unlink()
    with pytest.raises(SpearError) as caught:
        train(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'toy.safetensors'} is gone, which this training made; "
        "restore a copy, or use --restart to begin anew"
    )


def test_sheets_of_an_earlier_training_do_not_stand_among_new_ones(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "toy.state/state.safetensors").unlink()
    train(tmp_path, changes={"epochs": 1})  # 5 steps
    assert sorted(_sheets(tmp_path)) == ["step_000004.png", "step_000005.png"]


def test_best_and_last_checkpoint(tmp_path: Path) -> None:
    trained = train(tmp_path, scores=[3.0, 1.0, 2.0, 1.5])  # after steps 4, 8, 12, 15
    assert trained.figures["score"] == 1.0
    for name, step, score in (("toy", 8, 1.0), ("toy.last", 15, 1.5)):
        about = read_about(tmp_path / f"{name}.safetensors")["training"]
        assert (about["step"], about["figures"]["score"]) == (step, score)


def test_validation_and_export_are_of_the_averaged_net(tmp_path: Path) -> None:
    """The average lags behind the trained weights, which themselves go on untouched."""
    train(tmp_path)
    tensors, _ = _state(tmp_path)
    exported, _ = load_checkpoint(tmp_path / "toy.last.safetensors", "toy")
    for i, name in enumerate(("0.weight", "0.bias", "2.weight", "2.bias")):
        assert torch.equal(tensors[f"average.{i}"], exported[name])
    assert not any(torch.equal(tensors[f"net.toy.{name}"], value) for name, value in exported.items())


def test_learning_rate_falls_to_its_share(tmp_path: Path) -> None:
    """0.05 at the start; the step from share s has 0.05 * 0.1 ** s, so the last one (14 / 15) 0.00583."""
    rates: list[float] = []
    accelerator = toy_training.Accelerator(step_scheduler_with_optimizer=False)
    task = toy_training.toy(accelerator)
    step, optimiser = task.step, task.optimisers["adam"]
    task.step = lambda *given: (rates.append(optimiser.param_groups[0]["lr"]), step(*given))[1]
    training.fit(task, toy_training.SCHEDULE, tmp_path, accelerator, lambda *_: None)
    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.05 * 0.1 ** (14 / 15))


def test_an_empty_train_split(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        train(tmp_path, data=type("Empty", (Sums,), {"__len__": lambda self: 0})())
    assert str(caught.value) == "nothing to train toy on: the train split is empty; preprocess more videos"


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    train(tmp_path, data=type("Few", (Sums,), {"__len__": lambda self: 3})())
    assert len([row for row in _log(tmp_path) if "loss" in row]) == 3  # three epochs of one batch of three


class _Unreadable(Sums):
    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        raise SpearError("Error: clips/a is gone; run `spear preprocess` again")


def test_an_error_in_a_loader_process_stays_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        train(tmp_path, data=_Unreadable())
    assert str(caught.value) == "Error: clips/a is gone; run `spear preprocess` again"


def test_loader_processes_are_silent_where_the_trainer_hangs_up(capsys: pytest.CaptureFixture[str]) -> None:
    """They hand over the memory of a batch on a thread, and the trainer may stop in the middle of it."""
    for error in (EOFError(), ConnectionResetError(), BrokenPipeError()):
        training_loader._without_hang_ups(type(error), error, None)
    assert capsys.readouterr().err == ""
    training_loader._without_hang_ups(ValueError, ValueError("something else"), None)
    assert capsys.readouterr().err == "ValueError: something else\n"


class _Threads(Sums):
    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        return {"threads": torch.tensor(cv2.getNumThreads())}


def test_opencv_has_no_threads_where_loader_processes_begin() -> None:
    """A fork has the locks of the threads that it lost: it could wait for them forever."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        batches = Batches(_Threads(), iter([[(0, 0), (0, 1)]] * 3), workers=1)
        assert [batch["threads"].tolist() for batch in batches] == [[1, 1]] * 3
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


SCRIPT = Path(toy_training.__file__)


def _start(*arguments: object, ranks: int = 0) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=mind_signals,
    )  # fmt: skip


def _wait_for_steps(models: Path, count: int) -> None:
    log, until = models / "toy.log.jsonl", time.monotonic() + 90
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < until, "no step in 90 s"
        time.sleep(0.05)


def test_sigterm_to_the_whole_group_saves_the_state_and_exits_with_143(tmp_path: Path) -> None:
    """As a scheduler of a cluster stops a job: trainer and loader process get it alike."""
    process = _start(tmp_path / "a", 3, 0.2)
    _wait_for_steps(tmp_path / "a", 3)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert re.fullmatch(r"stopped after step \d+; run the same command again to go on\n", errors)
    train(tmp_path / "a")
    train(tmp_path / "b")
    _assert_equal_runs(tmp_path / "a", tmp_path / "b")


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """The second one is stopped in the middle, so that signal and resume hold for both processes, too."""
    train(tmp_path / "one", changes={"epochs": 6})
    process = _start(tmp_path / "two", 6, 0.1, ranks=2)
    _wait_for_steps(tmp_path / "two", 5)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    stopped = int(re.findall(r"stopped after step (\d+)", errors)[0])
    assert set(re.findall(r"stopped after step (\d+)", errors)) == {str(stopped)}  # both after the same one
    assert _state(tmp_path / "two")[1]["step"] == stopped < 30
    process = _start(tmp_path / "two", 6, ranks=2)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    one, two = _log(tmp_path / "one"), _log(tmp_path / "two")
    assert [sorted(row) for row in one] == [sorted(row) for row in two]  # one writer: no line twice
    assert _sheets(tmp_path / "one").keys() == _sheets(tmp_path / "two").keys()
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
