"""Whisper's encoder, with the weights of transformers. Its class there takes seconds to import, and a render waits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from spear.files import read_json
from spear.pretrained.speech_models import check_folder, lacks, unreadable

_PREFIXES = ("model.encoder.", "encoder.")
"""Of files that hold the whole model; those of the encoder alone, as the packaged one, have none."""
_BINS, _NYQUIST = 201, 8000.0
_BEND, _STEP, _LOG_STEP = 1000.0, 200 / 3, math.log(6.4) / 27
"""The mel scale of Slaney's toolbox: linear up to 1 kHz, 27 bands for a factor of 6.4 above."""


class _Layer(nn.Module):
    """Self-attention and two linear layers, each with a norm before it and around it what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.self_attn = nn.ModuleDict(
            {
                name: nn.Linear(width, width, bias=name != "k_proj")
                for name in ("q_proj", "k_proj", "v_proj", "out_proj")
            }
        )
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, W) -> the same."""
        normed = self.self_attn_layer_norm(x)
        names = ("q_proj", "k_proj", "v_proj")
        parts = [self.self_attn[name](normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in names]
        heard = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.self_attn["out_proj"](heard)
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperEncoder(nn.Module):
    """Log-mel spectra in, the states between and after its layers out; names of weights are those of transformers."""

    def __init__(self, config: dict[str, Any], positions: int) -> None:
        """config: of transformers, as config.json has it. positions: states of a window, 50 a second."""
        super().__init__()
        self.bands, self.width, self.depth = config["num_mel_bins"], config["d_model"], config["encoder_layers"]
        self.conv1 = nn.Conv1d(self.bands, self.width, 3, padding=1)
        self.conv2 = nn.Conv1d(self.width, self.width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(positions, self.width)
        shape = (self.width, config["encoder_attention_heads"], config["encoder_ffn_dim"])
        self.layers = nn.ModuleList(_Layer(*shape) for _ in range(self.depth))
        self.layer_norm = nn.LayerNorm(self.width)

    def forward(self, spectra: Tensor) -> list[Tensor]:
        """(n, bands, 2 T) -> what goes into the first layer, and what comes out of each, after the last one's norm:
        (n, T, W) each."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(spectra)))).transpose(1, 2)
        states = [x + self.embed_positions.weight]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [*states[:-1], self.layer_norm(states[-1])]


def load_whisper(folder: Path, positions: int) -> WhisperEncoder:
    """From a folder as transformers writes it, with the first positions only. Raises SpearError where it holds another
    model or not all of it."""
    check_folder("whisper", folder)
    net, weights = WhisperEncoder(read_json(folder / "config.json"), positions), dict[str, Tensor]()
    try:
        for file in sorted(folder.glob("model*.safetensors")):
            weights |= {_plain(name): value.float() for name, value in load_file(file).items() if _plain(name)}
        missing = sorted(set(net.state_dict()) - set(weights))
        if missing:
            raise lacks(folder, missing)
        weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
        net.load_state_dict(weights, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    return net.eval().requires_grad_(False)


def _plain(name: str) -> str:
    """The encoder's own name of a weight; nothing for one of the decoder."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return "" if name.startswith(("model.", "decoder.", "proj_out.")) else name


def mel_filters(bands: int) -> Tensor:
    """Triangles of equal area over 201 bins up to 8 kHz, as Whisper was trained with: (201, bands) float32."""
    edges = _hertz(torch.linspace(0, _mel(_NYQUIST), bands + 2, dtype=torch.float64))
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.linspace(0, _NYQUIST, _BINS, dtype=torch.float64)[:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return (rising.minimum(falling).clamp(min=0) * 2 / (right - left)).float()


def _mel(hertz: float) -> float:
    """Of a frequency above the bend."""
    return _BEND / _STEP + math.log(hertz / _BEND) / _LOG_STEP


def _hertz(mel: Tensor) -> Tensor:
    bend = _BEND / _STEP
    return torch.where(mel < bend, mel * _STEP, _BEND * ((mel - bend) * _LOG_STEP).exp())
