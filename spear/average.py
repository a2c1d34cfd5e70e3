"""The averaged net of a training: a copy of its weights that follows them ever more slowly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_DECAY = 0.999
"""The most that is kept of the average in a step."""
_POWER = 0.75
"""After n steps 1 - n ** -power is kept, until that is the most."""


class WeightAverage:
    """Exponential moving average (EMA) of a net's weights with a warm-up, to the bit as diffusers' EMAModel computes it
    with these numbers, whose import takes three seconds and 200 MB."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.weights: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the weights after one more training step into account."""
        self.steps += 1
        done = self.steps - 1
        taken = 1 - (min(1 - (1 + done) ** -_POWER, _DECAY) if done else 0.0)
        for mean, weight in zip(self.weights, parameters, strict=True):
            mean.sub_(taken * (mean - weight))

    @contextmanager
    def in_place_of(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Put the average where the weights are, for as long as the block lasts."""
        parameters = list(parameters)
        kept = [parameter.detach().clone() for parameter in parameters]
        _copy(self.weights, parameters)
        try:
            yield
        finally:
            _copy(kept, parameters)


@torch.no_grad()
def _copy(values: list[Tensor], parameters: list[nn.Parameter]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
