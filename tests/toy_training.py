"""A training of seconds for tests of the loop: a linear net learns to add up three numbers.

As a script: toy_training.py MODELS EPOCHS [SECONDS PER STEP], also under torchrun.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spear.checkpoint import save_checkpoint
from spear.progress import Progress, no_progress
from spear.training import InterruptedTraining, fit
from spear.training_state import Sheet
from spear.training_task import Part, Schedule, Task

SCHEDULE = Schedule(epochs=3, batch_size=8, learning_rate=0.05, final_rate=0.1, validate_every=4)
STEPS = 3 * 5
"""40 samples in batches of 8, three epochs."""


class Sums:
    """Samples that depend on (epoch, index) alone."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        numbers = torch.from_numpy(np.random.default_rng(place).normal(size=3)).float()
        return {"numbers": numbers, "sum": numbers.sum()}


def sheet_of(sums: Tensor) -> Sheet:
    """What the net makes of 16 samples as a picture, (4, 4, 3) grey."""
    grey = (32 * sums + 128).clamp(0, 255).round().byte().view(4, 4, 1)
    return grey.expand(4, 4, 3).numpy()


def toy(
    accelerator: Accelerator,
    data: Any = None,
    each_step: Callable[[int], None] = lambda step: None,
    dropout: float = 0.0,
    settings: dict[str, Any] | None = None,
    scores: list[float] | None = None,
) -> Task:
    """each_step: called with the number of the step before it is done. scores: of the validations, else the error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))
    side = nn.Linear(1, 1)  # a second net with an optimiser of its own, as a critic has one
    optimisers = {"adam": torch.optim.Adam(net.parameters()), "side": torch.optim.Adam(side.parameters())}
    model, other = accelerator.prepare(net, side)
    optimisers = {name: accelerator.prepare(optimiser) for name, optimiser in optimisers.items()}
    done: list[int] = []

    def step(batch: dict[str, Tensor], share: float, part: Part) -> dict[str, Tensor]:
        done.append(1)
        each_step(len(done))
        pred = model(batch["numbers"])
        losses = {"loss": (pred[:, 0] - batch["sum"]).square().mean()}
        if share >= 0.4:  # the second net comes in late
            losses["side"] = (other(pred.detach()) - batch["sum"][:, None]).square().mean()
        losses = {name: value * part.weight() for name, value in losses.items()}
        for name, optimiser in zip(losses, optimisers.values(), strict=False):
            optimiser.zero_grad()
            accelerator.backward(losses[name])
            optimiser.step()
        return losses

    def validate(show: Callable[[Sheet], None]) -> dict[str, float]:
        numbers = torch.from_numpy(np.random.default_rng(1).normal(size=(16, 3))).float()
        sums = net(numbers)[:, 0]
        error = (sums - numbers.sum(1)).square().mean().item()
        show(sheet_of(sums))
        return {"score": scores.pop(0) if scores else error, "error": error}

    def export(path: Path, about: dict[str, Any]) -> None:
        save_checkpoint(path, "toy", {}, net.state_dict(), training=about)

    nets, data = {"toy": net, "side": side}, Sums() if data is None else data
    return Task("toy", nets, optimisers, data, step, validate, export, settings or {"kind": "toy"}, workers=1)


def train(models: Path, progress: Progress = no_progress, changes: dict[str, Any] | None = None, **parts: Any) -> Any:
    """fit() on the toy, with `changes` to the schedule."""
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    return fit(toy(accelerator, **parts), replace(SCHEDULE, **changes or {}), models, accelerator, progress)


if __name__ == "__main__":
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    try:
        train(Path(sys.argv[1]), changes={"epochs": int(sys.argv[2])}, each_step=lambda step: time.sleep(pause))
    except InterruptedTraining as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
