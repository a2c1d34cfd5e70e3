"""Both trainings on few clips with tiny nets in full precision, as a script for torchrun.

ranked_training.py CLIPS MODELS [DIES]: with DIES the second process kills itself in that step, unless torchrun has
started it again; the state is then saved after every step.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from spear import painter, training
from spear.nets.lm2face import Lm2FaceConfig
from spear.stages import train_a2lm, train_lm2face

BATCH = 4
"""Of three processes one has two samples of it and two have one."""
DECODED = 3


def _set_up() -> None:
    painter.computes_half = lambda *_: False  # half precision rounds sums of other parts otherwise
    Lm2FaceConfig.__init__.__defaults__ = (8, 1, 2, 4, True)  # width, blocks, references, bank
    small = train_a2lm.SCHEDULES["small"]
    train_a2lm.SCHEDULES["small"] = replace(small, batch_size=BATCH, validate_every=4)
    schedule, weights = train_lm2face.PRESETS["small"]
    train_lm2face.PRESETS["small"] = (
        replace(schedule, batch_size=BATCH, validate_every=4), replace(weights, critic_from=0.3),
    )  # fmt: skip


def _die_in(step: int) -> None:
    training.AUTOSAVE_SECONDS = -1.0
    if os.environ["RANK"] != "1" or os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        return
    compute = training._Run.step

    def fatal(run: Any, batch: Any) -> dict[str, float]:
        if run.place.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(run, batch)

    training._Run.step = fatal  # type: ignore[method-assign]


if __name__ == "__main__":
    clips, models = Path(sys.argv[1]), Path(sys.argv[2])
    _set_up()
    if len(sys.argv) > 3:
        _die_in(int(sys.argv[3]))
    train_a2lm.train_a2lm(clips, models, epochs=4)
    train_lm2face.train_lm2face(clips, models, frames_per_clip=1, epochs=4, decoded_frames=DECODED)
