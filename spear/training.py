"""The one training loop: epochs, validation, best and last checkpoints, stop on time or signal."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from spear.average import WeightAverage
from spear.clip_index import ClipRows, indexed_clips
from spear.errors import SpearError
from spear.files import make_folder, require_room
from spear.progress import Progress
from spear.temporary import remove_left
from spear.training_loader import Batches
from spear.training_signals import Signals, Stopped
from spear.training_state import NoLog, Place, Sheet, TrainingLog, TrainingState, training_log
from spear.training_task import Part, Schedule, Task, Trained

AUTOSAVE_SECONDS = 120.0


class InterruptedTraining(SpearError):
    """A signal stopped the training after its state was saved; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fit(task: Task, schedule: Schedule, models: Path, accelerator: Accelerator, progress: Progress) -> Trained:
    """Train until the epochs or the minutes are over; the same command goes on where a stopped run was.

    Writes models/<name>.safetensors (best), <name>.last.safetensors, <name>.log.jsonl, <name>.state/, samples where the
    task shows some, and a TensorBoard log in models/tensorboard/<name>. The weights do not depend on how many processes
    share the batches, but for the order of sums. Raises SpearError for losses or weights that are not finite and for a
    state of other settings, InterruptedTraining after a signal.
    """
    settings = {**task.settings, "batch_size": schedule.batch_size, "seed": schedule.seed}
    average = WeightAverage(_averaged(task).parameters())
    path = models / f"{task.name}.state" / "state.safetensors"
    for folder in (models, path.parent):  # of a run that was killed after its last step nothing else is to be done
        remove_left(folder)
    state = TrainingState(path, settings, task.modules, task.optimisers, average)
    state.resume()
    _require_best(state.place, models / f"{task.name}.safetensors")
    run, trained = _Run(task, schedule, models, accelerator, state), Trained(state.place.figures)
    if run.is_over() and not run.is_due():
        return trained
    make_folder(models)
    require_room(path, state.size())
    signals = Signals(alone=accelerator.num_processes == 1)
    try:
        with signals.caught(), run.log() as log:
            run.go(log, signals, progress, trained)
    except Stopped:
        raise run.interrupted(signals.number) from None
    trained.figures = state.place.figures
    return trained


def _require_best(place: Place, path: Path) -> None:
    """Raises SpearError where the best checkpoint of a training that goes on is gone; it would not be made again."""
    if not math.isinf(place.best) and not path.is_file():
        raise SpearError(f"{path} is gone, which this training made; restore a copy, or use --restart to begin anew")


def begin_anew(models: Path, name: str) -> None:
    """Forget an earlier run. Where torchrun starts the processes of a run again, that run is no earlier one."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        shutil.rmtree(models / f"{name}.state", ignore_errors=True)


def clips_of(accelerator: Accelerator, clips: Path, progress: Progress) -> tuple[ClipRows, ClipRows]:
    """The train and the val split. One process lists the clips where they are not listed yet; the others wait."""
    with accelerator.main_process_first():
        rows = indexed_clips(clips, progress)
    return rows.of_split("train"), rows.of_split("val")


def _averaged(task: Task) -> nn.Module:
    return next(iter(task.modules.values()))


@dataclass
class _Run:
    task: Task
    schedule: Schedule
    models: Path
    accelerator: Accelerator
    state: TrainingState
    in_step: bool = False
    """Whether nets and optimisers are just being changed."""

    def __post_init__(self) -> None:
        if len(self.task.data) == 0:
            raise SpearError(f"nothing to train {self.task.name} on: the train split is empty; preprocess more videos")
        ranks = self.accelerator.num_processes
        size = min(self.schedule.batch_size, len(self.task.data))
        if size < ranks:
            raise SpearError(f"{self.task.name} has a batch of less than {ranks} samples; start fewer processes")
        self.part = Part(size, self.accelerator.process_index, ranks)
        self.steps_per_epoch = len(self.task.data) // size
        self.total = self.schedule.epochs * self.steps_per_epoch
        self.saved = self.place.step

    @property
    def place(self) -> Place:
        """How far the training is."""
        return self.state.place

    def share(self) -> float:
        """How much of the training is done, by steps or by time, whichever ends first."""
        by_steps = self.place.step / self.total
        if self.schedule.max_minutes is None:
            return by_steps
        return max(by_steps, self.place.seconds / 60 / self.schedule.max_minutes)

    def is_over(self) -> bool:
        """Whether all epochs, or all minutes, are done."""
        return self.share() >= 1

    def is_due(self) -> bool:
        """Whether the net of this step is to be validated; a run that was stopped before that does it later."""
        place = self.place
        return place.step > place.validated and (self.is_over() or place.step % self.schedule.validate_every == 0)

    def shown(self) -> tuple[int, int]:
        """Progress in seconds where time is what ends the run, else in steps."""
        if self.schedule.max_minutes is not None and self.place.step / self.total < self.share():
            return round(self.place.seconds), round(self.schedule.max_minutes * 60)
        return self.place.step, self.total

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """This process's part of every batch from the current step on: a pure function of seed, epoch and position."""
        size, start = self.part.size, self.place.step
        for step in range(start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == start:
                order = np.random.default_rng([self.schedule.seed, epoch]).permutation(len(self.task.data))
            chosen = order[position * size : (position + 1) * size]
            yield [(epoch, int(index)) for index in self.part.of(chosen)]

    def go(self, log: TrainingLog, signals: Signals, progress: Progress, trained: Trained) -> None:
        """Step after step, from where the state is. Raises Stopped after a signal."""
        if self.is_due():
            with signals.stops_at_once():
                self.validate(log)
        batches = Batches(self.task.data, self.batches(), self.task.workers)
        try:
            self._go_through(batches, log, signals, progress, trained)
        except Stopped:
            batches.stop()
            raise
        self.save()

    def _go_through(
        self, batches: Batches, log: TrainingLog, signals: Signals, progress: Progress, trained: Trained
    ) -> None:
        place, ahead = self.place, iter(batches)
        began = last_saved = time.monotonic()
        started = began - place.seconds
        while not self.is_over():
            with signals.stops_at_once():
                batch = next(ahead)
            losses = self.step(batch)
            signals.step_is_done()
            self.in_step = False
            losses, place.seconds, stop = self.agree(losses, time.monotonic() - started, signals.number)
            log.write({"step": place.step, "seconds": round(place.seconds, 2), **losses})
            progress(*self.shown(), " ".join(f"{name} {value:.4g}" for name, value in losses.items()))
            if stop:
                signals.number = stop
                raise Stopped
            if self.is_due():
                with signals.stops_at_once():
                    self.validate(log)
            trained.steps += 1
            if time.monotonic() - last_saved > AUTOSAVE_SECONDS:
                self.save()
                last_saved = time.monotonic()
        trained.seconds, trained.waited = time.monotonic() - began, batches.waited

    def interrupted(self, number: int) -> InterruptedTraining:
        """Save the state where it is whole, and tell how to go on."""
        if self.in_step:
            return InterruptedTraining(
                f"stopped within a long step; run the same command again to go on from step {self.saved}", 128 + number
            )
        self.save()
        return InterruptedTraining(
            f"stopped after step {self.place.step}; run the same command again to go on", 128 + number
        )

    def step(self, batch: Any) -> dict[str, float]:
        """One step on a batch. Returns its losses, of this process's part."""
        place = self.place
        rate = self.schedule.learning_rate * self.schedule.final_rate ** self.share()
        # what a net draws at random in a resumed run is what it draws in an unbroken one
        torch.manual_seed(self.schedule.seed * 1_000_003 + place.step)
        self.in_step = True
        for optimiser in self.task.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        for module in self.task.modules.values():
            module.train()
        batch = _to(batch, self.accelerator.device)
        losses = {name: value.detach() for name, value in self.task.step(batch, self.share(), self.part).items()}
        self.state.average.step(_averaged(self.task).parameters())
        place.step += 1
        return {name: float(value) for name, value in losses.items()}

    def agree(self, losses: dict[str, float], seconds: float, number: int) -> tuple[dict[str, float], float, int]:
        """What all processes go by: the losses of the batch, the longest time, the signal (0: none) that one got.

        Clocks and signals differ between them, and one that stopped alone would leave the others waiting for it.
        Raises SpearError for a loss that is not finite.
        """
        mine = [*losses.values(), seconds, float(number)]
        rows = self.accelerator.gather(torch.tensor([mine], dtype=torch.float64, device=self.accelerator.device))
        losses = dict(zip(losses, rows[:, :-2].mean(0).tolist(), strict=True))
        for name, value in losses.items():
            self.require_finite(name, "is", math.isfinite(value))
        return losses, float(rows[:, -2].max()), int(rows[:, -1].max())

    def require_finite(self, what: str, verb: str, finite: bool) -> None:
        """Raises SpearError, which says what is left, unless it is finite."""
        if not finite:
            best = self.models / f"{self.task.name}.safetensors"
            kept = "" if math.isinf(self.place.best) else f"; {best} is the best until then"
            raise SpearError(
                f"{self.task.name}: {what} {verb} not finite at step {self.place.step}; "
                f"begin anew with --restart and a lower --learning-rate{kept}"
            )

    def require_finite_weights(self) -> None:
        """A gradient that is not finite spoils them before any loss shows it."""
        weights = (value for module in self.task.modules.values() for value in module.state_dict().values())
        self.require_finite("the weights", "are", all(bool(value.isfinite().all()) for value in weights))

    def validate(self, log: TrainingLog) -> None:
        """Score the averaged net, log it, show samples; write it as the last one and, where it is the best, as that."""
        net, place = _averaged(self.task), self.place
        sheets: list[Sheet] = []
        with self.state.average.in_place_of(net.parameters()):
            self.require_finite_weights()
            for module in self.task.modules.values():
                module.eval()
            with torch.no_grad():
                figures = self.task.validate(sheets.append)
            about = {"step": place.step, "figures": figures}  # no time in it: equal trainings give equal bytes
            if self.accelerator.is_main_process:
                self.task.export(self.models / f"{self.task.name}.last.safetensors", about)
                if figures["score"] < place.best:
                    self.task.export(self.models / f"{self.task.name}.safetensors", about)
        for sheet in sheets:
            log.show(place.step, sheet)
        log.write({"step": place.step, **{f"val_{name}": value for name, value in figures.items()}})
        place.validated = place.step
        if figures["score"] < place.best:
            place.best, place.figures = figures["score"], figures

    def save(self) -> None:
        """Write the state that a stopped run goes on from. Raises SpearError for weights that are not finite."""
        self.require_finite_weights()
        if self.accelerator.is_main_process:
            self.state.save()
        self.saved = self.place.step

    def log(self) -> AbstractContextManager[TrainingLog]:
        """The log; what other processes than the first say goes nowhere."""
        if self.accelerator.is_main_process:
            return training_log(self.models, self.task.name, self.place.step)
        return nullcontext(NoLog())


def _to(batch: Any, device: torch.device) -> Any:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
