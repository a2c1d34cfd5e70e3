"""The one training loop: epochs, log, validation, best and last checkpoints, exact resume, stop on time or signal."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spear.checkpoint import read_tensors, save_tensors
from spear.errors import SpearError
from spear.files import write_text
from spear.progress import Progress

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


class TrainingSet(Protocol):
    """Samples that depend on (epoch, index) and nothing else, so that a resumed run sees the same ones."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: tuple[int, int]) -> Any: ...


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
    validate: Callable[[int], dict[str, float]]
    """Figures of the averaged net after this many steps; `score` decides which is best, lower is better."""
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


@dataclass
class _Place:
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    figures: dict[str, float] = field(default_factory=dict)


def fit(task: Task, schedule: Schedule, models: Path, accelerator: Accelerator, progress: Progress) -> Trained:
    """Train until the epochs or the minutes are over; the same command goes on where a stopped run was.

    Writes models/<name>.safetensors (best), <name>.last.safetensors, <name>.log.jsonl, <name>.state/, and a TensorBoard
    log in models/tensorboard/<name>. Raises SpearError for a loss that is not finite, for a state of other settings,
    InterruptedTraining after a signal.
    """
    state = models / f"{task.name}.state" / "state.safetensors"
    settings = {**task.settings, "batch_size": schedule.batch_size, "seed": schedule.seed}
    average = EMAModel(_averaged(task).parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    place = _resume(state, task, settings, average)
    run = _Run(task, schedule, models, accelerator, average, place, settings, state)
    if run.is_over():
        return Trained(place.figures)
    loader: DataLoader[Any] = DataLoader(
        task.data, batch_sampler=run.batches(), num_workers=task.workers,  # type: ignore[arg-type]
        prefetch_factor=4 if task.workers else None, worker_init_fn=_own_group,
    )  # fmt: skip
    batches, trained = _Waiting(_told_plainly(loader)), Trained(place.figures)
    began = last_saved = time.monotonic()
    started = began - place.seconds
    with _signals() as signals, run.log():
        for batch in batches:
            losses = run.step(batch)
            losses, place.seconds, stop = run.agree(losses, time.monotonic() - started, signals)
            run.write({"step": place.step, "seconds": round(place.seconds, 2), **losses})
            progress(*run.shown(), " ".join(f"{name} {value:.4g}" for name, value in losses.items()))
            over = run.is_over()
            if over or place.step % schedule.validate_every == 0:
                run.validate()
            if over or stop or time.monotonic() - last_saved > AUTOSAVE_SECONDS:
                run.save_state()
                last_saved = time.monotonic()
            if stop:
                raise InterruptedTraining(
                    f"stopped after step {place.step}; run the same command again to go on", 128 + stop
                )
            trained.steps += 1
            if over:
                break
    trained.figures, trained.seconds, trained.waited = place.figures, time.monotonic() - began, batches.seconds
    return trained


class _Waiting:
    """Passes batches on and adds up the seconds that each but the first, which starts the loader, is waited for."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.seconds = 0.0
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        first = True
        while True:
            asked = time.monotonic()
            batch = next(self._batches, None)
            if batch is None:
                return
            self.seconds += 0.0 if first else time.monotonic() - asked
            first = False
            yield batch


def _averaged(task: Task) -> nn.Module:
    return next(iter(task.modules.values()))


@dataclass
class _Run:
    task: Task
    schedule: Schedule
    models: Path
    accelerator: Accelerator
    average: EMAModel
    place: _Place
    settings: dict[str, Any]
    state: Path

    def __post_init__(self) -> None:
        if len(self.task.data) == 0:
            raise SpearError(f"nothing to train {self.task.name} on: the train split is empty; preprocess more videos")
        ranks = self.accelerator.num_processes
        self.batch = min(self.schedule.batch_size, len(self.task.data)) // ranks * ranks
        if self.batch == 0:
            raise SpearError(f"{self.task.name} has a batch of less than {ranks} samples; start fewer processes")
        self.steps_per_epoch = len(self.task.data) // self.batch
        self.total = self.schedule.epochs * self.steps_per_epoch

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
        self.average.step(_averaged(self.task).parameters())
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

    def validate(self) -> None:
        net, place = _averaged(self.task), self.place
        self.average.store(net.parameters())
        self.average.copy_to(net.parameters())
        for module in self.task.modules.values():
            module.eval()
        try:
            with torch.no_grad():
                figures = self.task.validate(place.step)
            about = {"step": place.step, "figures": figures}  # no time in it: equal trainings give equal bytes
            if self.accelerator.is_main_process:
                self.write({"step": place.step, **{f"val_{name}": value for name, value in figures.items()}})
                self.task.export(self.models / f"{self.task.name}.last.safetensors", about)
                if figures["score"] < place.best:
                    self.task.export(self.models / f"{self.task.name}.safetensors", about)
            if figures["score"] < place.best:
                place.best, place.figures = figures["score"], figures
        finally:
            self.average.restore(net.parameters())

    def save_state(self) -> None:
        """All that a resumed run needs, in one whole-or-absent file without pickle."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"average.{i}": value for i, value in enumerate(self.average.shadow_params)}
        for name, module in self.task.modules.items():
            tensors |= {f"net.{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimiser in self.task.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{slot}": value for slot, value in slots.items()}
        place = self.place
        about = {
            "settings": self.settings,
            "step": place.step,
            "seconds": place.seconds,
            "best": None if math.isinf(place.best) else place.best,
            "figures": place.figures,
            "average_steps": self.average.optimization_step,
        }
        save_tensors(self.state, tensors, about)

    @contextmanager
    def log(self) -> Iterator[None]:
        """Open the logs; lines that a killed run wrote after its last saved state are dropped."""
        if not self.accelerator.is_main_process:
            self._lines = self._board = None
            yield
            return
        from torch.utils.tensorboard import SummaryWriter

        self.models.mkdir(parents=True, exist_ok=True)
        path = self.models / f"{self.task.name}.log.jsonl"
        old = path.read_text().splitlines() if path.exists() and self.place.step else []
        kept = [line for line in old if line.endswith("}") and json.loads(line)["step"] <= self.place.step]
        write_text(path, "".join(line + "\n" for line in kept))
        board = SummaryWriter(str(self.models / "tensorboard" / self.task.name), purge_step=self.place.step + 1)
        with path.open("a") as self._lines, board as self._board:
            yield

    def write(self, row: dict[str, float]) -> None:
        if self._lines is None or self._board is None:
            return
        self._lines.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
        self._lines.flush()
        for name, value in row.items():
            if name not in ("step", "seconds"):
                self._board.add_scalar(name, value, row["step"])


def _resume(state: Path, task: Task, settings: dict[str, Any], average: EMAModel) -> _Place:
    if not state.exists():
        return _Place()
    tensors, about = read_tensors(state)
    if about["settings"] != settings:
        before = about["settings"]
        changed = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        raise SpearError(
            f"{state.parent} was trained with other settings ({', '.join(changed)}); "
            "use --restart to begin anew, or another --models"
        )
    for name, module in task.modules.items():
        module.load_state_dict(_part(tensors, f"net.{name}."))
    for name, optimiser in task.optimisers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, f"optimiser.{name}.").items():
            index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    for i, shadow in enumerate(average.shadow_params):
        shadow.copy_(tensors[f"average.{i}"])
    average.optimization_step = about["average_steps"]
    best = math.inf if about["best"] is None else about["best"]
    return _Place(about["step"], about["seconds"], best, about["figures"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _to(batch: Any, device: torch.device) -> Any:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _told_plainly(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches; an error from a worker process comes with its traceback as text, of which the user gets the end."""
    try:
        yield from loader
    except SpearError as error:
        raise SpearError(str(error).strip().splitlines()[-1].partition("Error: ")[2] or str(error)) from error


def _own_group(worker: int) -> None:
    """A signal to the trainer's process group (Ctrl-C, a cluster's) must not kill its loader processes in mid-step."""
    os.setpgid(0, 0)


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
