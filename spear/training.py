"""The one training loop: epochs, validation, best and last checkpoints, stop on time or signal."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from spear.errors import SpearError
from spear.progress import Progress
from spear.training_loader import Batches, TrainingSet
from spear.training_state import NoLog, Place, Sheet, TrainingLog, TrainingState, training_log

AUTOSAVE_SECONDS = 120.0


class InterruptedTraining(SpearError):
    """A signal stopped the training after its state was saved; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Schedule:
    """How long and how fast (section 4.3: Adam, ExponentialLR). max_minutes: over all resumes.

    final_rate: what is left of the learning rate at the end; it falls exponentially with the epochs, or with the time
    where that ends the run.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    final_rate: float
    validate_every: int
    """Steps between validations."""
    seed: int = 0
    max_minutes: float | None = None


@dataclass
class Task:
    """What one stage trains; the parts are passed in, the loop knows nothing of nets."""

    name: str
    modules: dict[str, nn.Module]
    """All trained nets; the first one is averaged over time (EMA) for validation and export."""
    optimisers: dict[str, torch.optim.Optimizer]
    data: TrainingSet
    step: Callable[[Any, float], dict[str, Tensor]]
    """One optimisation step on a batch, with the share of the training that is done in 0..1; returns what to log."""
    validate: Callable[[Callable[[Sheet], None]], dict[str, float]]
    """Figures of the averaged net; `score` decides which is best, lower is better. It is given what shows samples."""
    export: Callable[[Path, dict[str, Any]], None]
    """Write the averaged net as a checkpoint."""
    settings: dict[str, Any]
    """What must be the same for a run to be resumed."""
    workers: int = 1


@dataclass
class Trained:
    """How a training ended: the figures of its best validation, and how fast this run of it was."""

    figures: dict[str, float]
    steps: int = 0
    """Of this run; 0 where there was nothing left to do."""
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds spent on waiting for the data loader, its start left out."""

    @property
    def steps_per_second(self) -> float:
        return self.steps / max(self.seconds, 1e-9)

    @property
    def busy(self) -> float:
        """The share of the time in which the trainer did not wait for data, 0..1."""
        return 1 - self.waited / max(self.seconds, 1e-9)


def fit(task: Task, schedule: Schedule, models: Path, accelerator: Accelerator, progress: Progress) -> Trained:
    """Train until the epochs or the minutes are over; the same command goes on where a stopped run was.

    Writes models/<name>.safetensors (best), <name>.last.safetensors, <name>.log.jsonl, <name>.state/, samples where the
    task shows some, and a TensorBoard log in models/tensorboard/<name>. Raises SpearError for a loss that is not finite
    and for a state of other settings, InterruptedTraining after a signal.
    """
    settings = {**task.settings, "batch_size": schedule.batch_size, "seed": schedule.seed}
    average = EMAModel(_averaged(task).parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    path = models / f"{task.name}.state" / "state.safetensors"
    state = TrainingState(path, settings, task.modules, task.optimisers, average)
    state.resume()
    run, place = _Run(task, schedule, models, accelerator, state), state.place
    if run.is_over():
        return Trained(place.figures)
    batches, trained = Batches(task.data, run.batches(), task.workers), Trained(place.figures)
    began = last_saved = time.monotonic()
    started = began - place.seconds
    with _signals() as signals, run.log() as log:
        for batch in batches:
            losses = run.step(batch)
            losses, place.seconds, stop = run.agree(losses, time.monotonic() - started, signals)
            log.write({"step": place.step, "seconds": round(place.seconds, 2), **losses})
            progress(*run.shown(), " ".join(f"{name} {value:.4g}" for name, value in losses.items()))
            over = run.is_over()
            if over or place.step % schedule.validate_every == 0:
                run.validate(log)
            if over or stop or time.monotonic() - last_saved > AUTOSAVE_SECONDS:
                run.save()
                last_saved = time.monotonic()
            if stop:
                raise InterruptedTraining(
                    f"stopped after step {place.step}; run the same command again to go on", 128 + stop
                )
            trained.steps += 1
            if over:
                break
    trained.figures, trained.seconds, trained.waited = place.figures, time.monotonic() - began, batches.waited
    return trained


def _averaged(task: Task) -> nn.Module:
    return next(iter(task.modules.values()))


@dataclass
class _Run:
    task: Task
    schedule: Schedule
    models: Path
    accelerator: Accelerator
    state: TrainingState

    def __post_init__(self) -> None:
        if len(self.task.data) == 0:
            raise SpearError(f"nothing to train {self.task.name} on: the train split is empty; preprocess more videos")
        ranks = self.accelerator.num_processes
        self.batch = min(self.schedule.batch_size, len(self.task.data)) // ranks * ranks
        if self.batch == 0:
            raise SpearError(f"{self.task.name} has a batch of less than {ranks} samples; start fewer processes")
        self.steps_per_epoch = len(self.task.data) // self.batch
        self.total = self.schedule.epochs * self.steps_per_epoch

    @property
    def place(self) -> Place:
        return self.state.place

    def share(self) -> float:
        """How much of the training is done, by steps or by time, whichever ends first."""
        by_steps = self.place.step / self.total
        if self.schedule.max_minutes is None:
            return by_steps
        return max(by_steps, self.place.seconds / 60 / self.schedule.max_minutes)

    def is_over(self) -> bool:
        return self.share() >= 1

    def shown(self) -> tuple[int, int]:
        """Progress in seconds where time is what ends the run, else in steps."""
        if self.schedule.max_minutes is not None and self.place.step / self.total < self.share():
            return round(self.place.seconds), round(self.schedule.max_minutes * 60)
        return self.place.step, self.total

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """This process's part of every batch from the current step on: a pure function of seed, epoch and position."""
        rank, ranks, start = self.accelerator.process_index, self.accelerator.num_processes, self.place.step
        for step in range(start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == start:
                order = np.random.default_rng([self.schedule.seed, epoch]).permutation(len(self.task.data))
            chosen = order[position * self.batch : (position + 1) * self.batch]
            yield [(epoch, int(index)) for index in chosen][rank::ranks]

    def step(self, batch: Any) -> dict[str, float]:
        place = self.place
        rate = self.schedule.learning_rate * self.schedule.final_rate ** self.share()
        # dropout of a resumed run is that of an unbroken one
        torch.manual_seed(self.schedule.seed * 1_000_003 + place.step)
        for optimiser in self.task.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        for module in self.task.modules.values():
            module.train()
        batch = _to(batch, self.accelerator.device)
        losses = {name: float(value.detach()) for name, value in self.task.step(batch, self.share()).items()}
        place.step += 1
        self.state.average.step(_averaged(self.task).parameters())
        return losses

    def agree(
        self, losses: dict[str, float], seconds: float, signals: list[int]
    ) -> tuple[dict[str, float], float, int]:
        """What all processes go by: the mean losses, the longest time, the signal (0: none) that one of them got.

        Clocks and signals differ between them, and one that stopped alone would leave the others waiting for it.
        Raises SpearError for a loss that is not finite.
        """
        mine = [*losses.values(), seconds, float(signals[0] if signals else 0)]
        rows = self.accelerator.gather(torch.tensor([mine], device=self.accelerator.device))
        losses = dict(zip(losses, rows[:, :-2].mean(0).tolist(), strict=True))
        for name, value in losses.items():
            if not math.isfinite(value):
                best = self.models / f"{self.task.name}.safetensors"
                kept = "" if math.isinf(self.place.best) else f"; {best} is the best until then"
                raise SpearError(
                    f"{self.task.name}: {name} is not finite at step {self.place.step}; "
                    f"begin anew with --restart and a lower --learning-rate{kept}"
                )
        return losses, float(rows[:, -2].max()), int(rows[:, -1].max())

    def validate(self, log: TrainingLog) -> None:
        net, place, average = _averaged(self.task), self.place, self.state.average
        average.store(net.parameters())
        average.copy_to(net.parameters())
        for module in self.task.modules.values():
            module.eval()
        try:
            with torch.no_grad():
                figures = self.task.validate(lambda sheet: log.show(place.step, sheet))
            about = {"step": place.step, "figures": figures}  # no time in it: equal trainings give equal bytes
            if self.accelerator.is_main_process:
                log.write({"step": place.step, **{f"val_{name}": value for name, value in figures.items()}})
                self.task.export(self.models / f"{self.task.name}.last.safetensors", about)
                if figures["score"] < place.best:
                    self.task.export(self.models / f"{self.task.name}.safetensors", about)
            if figures["score"] < place.best:
                place.best, place.figures = figures["score"], figures
        finally:
            average.restore(net.parameters())

    def save(self) -> None:
        if self.accelerator.is_main_process:
            self.state.save()

    def log(self) -> AbstractContextManager[TrainingLog]:
        """The log; what other processes than the first say goes nowhere."""
        if self.accelerator.is_main_process:
            return training_log(self.models, self.task.name, self.place.step)
        return nullcontext(NoLog())


def _to(batch: Any, device: torch.device) -> Any:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying mid-step; a second one is obeyed at once."""
    seen: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.getsignal(number)
        signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
