"""Convolutions in 8-bit integers, for rendering on CPUs: twice as fast as in bf16, several times as fast as in fp32.

A convolution's input is rounded to 256 steps of a range that was watched beforehand, its weights to 255 steps for each
channel that comes out; what comes out is float again, unless the next convolution takes it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spear.nets.autoencoder import Autoencoder, Block
from spear.nets.spade import Spade

_MARGIN = 1.25
"""What was watched is a few pictures; others may go so much farther before values are cut off."""
_STEPS = 255
_WHOLE = 1.5 * 2**23
"""Floats from here on are one apart."""

Ranges = dict[str, tuple[float, float]]
"""The least and greatest input of each convolution, by its name."""


def has_int8(device: torch.device) -> bool:
    """Whether this is a CPU that multiplies 8-bit integers and sums them in one instruction, and torch uses it."""
    known = hasattr(torch.ops.onednn, "qconv2d_pointwise")
    return device.type == "cpu" and known and torch.cpu._is_vnni_supported()


@contextmanager
def watch_ranges(net: nn.Module) -> Iterator[Ranges]:
    """Fill in the ranges of what the convolutions of `net` are given meanwhile; 0 is always in them."""
    ranges: Ranges = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, inputs[0].min().item()), max(high, inputs[0].max().item()))

    with ExitStack() as hooks:
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d):
                hooks.callback(layer.register_forward_pre_hook(partial(note, name)).remove)
        yield ranges


def to_int8(net: nn.Module, ranges: Ranges) -> None:
    """Replace, in place, those convolutions of a frozen net whose ranges are known."""
    for name, (low, high) in ranges.items():
        net.set_submodule(name, Int8Conv(net.get_submodule(name), low * _MARGIN, high * _MARGIN))
    for module in list(net.modules()):
        for first, second in _neighbours(module):
            if isinstance(first, Int8Conv) and isinstance(second, Int8Conv):
                first.hand_to(second)


def _neighbours(module: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions of a module between which there is only a ReLU, or what just moves values."""
    if isinstance(module, Block):
        return [(module.first, module.second)]
    if isinstance(module, Spade):
        return [(module.shared[0], module.gamma_beta)]
    if isinstance(module, Autoencoder):
        layers = [layer for layer in module.decoder if isinstance(layer, nn.Conv2d | Int8Conv)]
        return [(layers[-3], layers[-2]), (layers[-2], layers[-1])]
    return []


class Int8Conv(nn.Module):
    """A convolution of 8-bit integers in place of `conv`, for inputs from `low` <= 0 to `high` >= 0."""

    def __init__(self, conv: nn.Module, low: float, high: float) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        weight = conv.weight.detach().float()
        self._step = max(high - low, 1e-6) / _STEPS
        self._zero = round(-low / self._step)
        self._shift = torch.tensor(_WHOLE + self._zero)
        steps = weight.abs().amax((1, 2, 3)).clamp_min(1e-9) / 127
        whole = (weight / steps[:, None, None, None]).round().to(torch.int8)
        shape = [list(pair) for pair in (conv.stride, conv.padding, conv.dilation)]
        packed = torch.ops.onednn.qconv_prepack(whole, steps, self._step, self._zero, *shape, conv.groups)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._given = (self._step, self._zero, packed, steps, zeros, conv.bias.detach().float(), *shape, conv.groups)
        self._out: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")

    def hand_to(self, following: Int8Conv) -> None:
        """From now on give the ReLU of what comes out, as integers that `following` takes as they are."""
        self._out = (following._step, following._zero, torch.uint8, "relu", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) float, or uint8 from the convolution before -> (B, C', H', W')."""
        whole = x if x.dtype == torch.uint8 else self._rounded(x)
        convolve: Callable[..., Tensor] = torch.ops.onednn.qconv2d_pointwise
        return convolve(whole, *self._given, *self._out)

    def _rounded(self, x: Tensor) -> Tensor:
        # floats of this size are whole numbers, whose last byte is that of the float: rounding costs nothing
        floats = torch.add(self._shift, x.float(), alpha=1 / self._step).clamp_(_WHOLE, _WHOLE + _STEPS)
        return floats.view(torch.int32).to(torch.uint8)
