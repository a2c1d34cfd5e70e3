"""What a training is made of: its schedule, its task, a process's part of a batch, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spear.training_loader import TrainingSet
from spear.training_state import Sheet


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


@dataclass(frozen=True)
class Part:
    """Which samples of every batch a process takes: every `ranks`-th, from `rank` on.

    Processes average their gradients; where one whose part is smaller counts for less, that is the whole batch's.
    """

    size: int
    """Samples of the whole batch."""
    rank: int = 0
    ranks: int = 1

    def of(self, places: Any) -> Any:
        """Those of a batch's places that are this process's."""
        return places[self.rank :: self.ranks]

    def weight(self, start: int = 0, stop: int | None = None) -> float:
        """What a mean over this process's samples among those start..stop of the batch counts for."""
        places = range(self.size)[start:stop]
        return len([place for place in places if place % self.ranks == self.rank]) * self.ranks / len(places)


@dataclass
class Task:
    """What one stage trains; the parts are passed in, the loop knows nothing of nets."""

    name: str
    modules: dict[str, nn.Module]
    """All trained nets; the first one is averaged over time (EMA) for validation and export."""
    optimisers: dict[str, torch.optim.Optimizer]
    data: TrainingSet
    step: Callable[[Any, float, Part], dict[str, Tensor]]
    """One optimisation step on this process's part of a batch, with the share of the training that is done in 0..1.
    Returns what to log; every process has the same names, and the mean over them is what is logged."""
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
        """How fast it was, validations included."""
        return self.steps / max(self.seconds, 1e-9)

    @property
    def busy(self) -> float:
        """The share of the time in which the trainer did not wait for data, 0..1."""
        return 1 - self.waited / max(self.seconds, 1e-9)
