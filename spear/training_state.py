"""What a stopped training goes on from: its exact state in one file, and a log without the steps that were lost."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spear.average import WeightAverage
from spear.checkpoint import read_tensors, save_tensors
from spear.errors import SpearError
from spear.files import write_picture, write_text

Sheet = NDArray[np.uint8]
"""Pictures side by side, (H, W, 3) RGB."""


class TrainingLog(Protocol):
    """Where a training says how it goes."""

    def write(self, row: dict[str, float]) -> None:
        """Add a row; `step` is one of its figures."""

    def show(self, step: int, sheet: Sheet) -> None:
        """Add samples to look at."""


class NoLog:
    """What other processes than the first say goes nowhere."""

    def write(self, row: dict[str, float]) -> None:
        """Nothing."""

    def show(self, step: int, sheet: Sheet) -> None:
        """Nothing."""


@dataclass
class Place:
    """How far a training is."""

    step: int = 0
    """Steps that are done, over all resumes."""
    seconds: float = 0.0
    """What they took, over all resumes."""
    best: float = math.inf
    """The least score of a validation."""
    figures: dict[str, float] = field(default_factory=dict)
    """All figures of that validation."""
    validated: int = 0
    """The step after which the last validation was."""


@dataclass
class TrainingState:
    """Nets, optimisers, the averaged net and the place of one training, and the file that keeps them.

    Chance is no part of it: samples and random numbers of a step depend on the seed and the step alone.
    """

    path: Path
    settings: dict[str, Any]
    """JSON values that must be the same for the training to go on."""
    modules: dict[str, nn.Module]
    """All trained nets; the first one is averaged over time (EMA)."""
    optimisers: dict[str, torch.optim.Optimizer]
    average: WeightAverage
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        self.settings = json.loads(json.dumps(self.settings))  # as the file gives them back: JSON has no tuples

    def size(self) -> int:
        """Bytes of the file, about, and of the two checkpoints beside it: what a training will write."""
        nets = [sum(p.numel() * p.element_size() for p in module.parameters()) for module in self.modules.values()]
        return 3 * sum(nets) + 3 * nets[0]  # Adam keeps two numbers for each weight; the first net is averaged

    def save(self) -> None:
        """Write all of it, whole or absent, without pickle."""
        tensors = {f"average.{i}": value for i, value in enumerate(self.average.weights)}
        for name, module in self.modules.items():
            tensors |= {f"net.{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{slot}": value for slot, value in slots.items()}
        place = self.place
        about = {
            "settings": self.settings,
            "step": place.step,
            "seconds": place.seconds,
            "best": None if math.isinf(place.best) else place.best,  # JSON has no infinity
            "figures": place.figures,
            "validated": place.validated,
            "average_steps": self.average.steps,
        }
        save_tensors(self.path, tensors, about)

    def resume(self) -> None:
        """Take over what the file keeps, in place; nothing where there is none.

        Raises SpearError where it was trained with other settings, naming them, with other nets, or is damaged.
        """
        if not self.path.exists():
            return
        tensors, about = read_tensors(self.path)
        self._require_settings(about["settings"])
        try:
            self._take(tensors, about)
        except (KeyError, IndexError, RuntimeError) as error:
            raise SpearError(
                f"{self.path} is of another version of spear, its nets are built in another way; "
                "use --restart to begin anew, or the version that it was trained with"
            ) from error

    def _take(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(_part(tensors, f"net.{name}."))
        for name, optimiser in self.optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _part(tensors, f"optimiser.{name}.").items():
                index, slot = key.split(".")
                slots.setdefault(int(index), {})[slot] = value
            optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
        for i, mean in enumerate(self.average.weights):
            mean.copy_(tensors[f"average.{i}"])
        self.average.steps = about["average_steps"]
        best = math.inf if about["best"] is None else about["best"]
        validated = about.get("validated", about["step"])  # states of earlier versions were saved after it
        self.place = Place(about["step"], about["seconds"], best, about["figures"], validated)

    def _require_settings(self, before: dict[str, Any]) -> None:
        if before == self.settings:
            return
        names = before.keys() | self.settings.keys()
        changed = sorted(name for name in names if before.get(name) != self.settings.get(name))
        raise SpearError(
            f"{self.path.parent} was trained with other settings ({', '.join(changed)}); "
            "use --restart to begin anew, or another --models"
        )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@contextmanager
def training_log(models: Path, name: str, step: int) -> Iterator[TrainingLog]:
    """Open models/<name>.log.jsonl and the TensorBoard log in models/tensorboard/<name>.

    step: where the training goes on; rows that a killed run wrote after it are dropped from both. Rows get six decimals
    and are in the first at once; `step` and `seconds` (s) are no curves in the second. Sheets are in the second and in
    models/<name>.samples/.
    """
    from torch.utils.tensorboard import SummaryWriter

    models.mkdir(parents=True, exist_ok=True)
    if step == 0:  # sheets of an earlier training would stand among those of this one
        shutil.rmtree(models / f"{name}.samples", ignore_errors=True)
    path = models / f"{name}.log.jsonl"
    old = path.read_text().splitlines() if path.exists() and step else []
    kept = [line for line in old if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text(path, "".join(line + "\n" for line in kept))
    with path.open("a") as lines, SummaryWriter(str(models / "tensorboard" / name), purge_step=step + 1) as board:
        yield _Files(models / f"{name}.samples", lines, board)


@dataclass(frozen=True)
class _Files:
    samples: Path
    lines: TextIO
    board: Any

    def write(self, row: dict[str, float]) -> None:
        """See TrainingLog."""
        self.lines.write(json.dumps({key: round(value, 6) for key, value in row.items()}) + "\n")
        self.lines.flush()
        for key, value in row.items():
            if key not in ("step", "seconds"):
                self.board.add_scalar(key, value, row["step"])

    def show(self, step: int, sheet: Sheet) -> None:
        """See TrainingLog."""
        write_picture(self.samples / f"step_{step:06d}.png", sheet)
        self.board.add_image("samples", sheet, step, dataformats="HWC")
