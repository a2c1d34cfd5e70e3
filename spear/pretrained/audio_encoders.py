"""Speech -> features (F, L, W) at 25 fps: one interface for five encoders (paper 3.1.1, Table 3) and a control."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from spear.clip import FPS, SAMPLES_PER_FRAME
from spear.errors import SpearError
from spear.files import read_json, sha256_of
from spear.pipeline import in_order, one_thread
from spear.pretrained.mfcc import Mfcc, whole_frames
from spear.pretrained.speech_models import HUB_IDS, load_model, weights_folder
from spear.pretrained.whisper_encoder import load_whisper, mel_filters

ENCODERS = ("mfcc", *HUB_IDS, "whisper", "none")
"""hubert is the paper's choice; whisper is the default, since its weights (tiny.en, MIT) come with the package; none is
the control without audio."""


class AudioEncoder(Protocol):
    """What every encoder is. The device of the samples decides where it computes and where the result lies; the number
    of torch's threads how many cores it takes, but no bit of the result."""

    name: str
    settings: dict[str, Any]
    """JSON values that identify what is computed, weights by their SHA-256: equal settings, equal features."""
    shape: tuple[int, int]
    """(L, W): layers and width, the last two dimensions of the result."""

    def __call__(self, samples: Tensor) -> Tensor:
        """samples: (N,) float32, 16 kHz mono in -1..1 -> features (F, L, W) float32, F = round(N / 640), at least 1.

        The samples are padded with silence or cut to F * 640 first, so feature f is for samples 640 f .. 640 f + 639.
        """
        ...


def load_encoder(name: str, weights: str | Path | None = None) -> AudioEncoder:
    """The encoder of this name, with its usual weights or those of a folder or hub id. Never goes to the network.

    A folder holds config.json and model.safetensors as transformers writes them; a hub id is looked up in the local
    Hugging Face cache. Raises SpearError where the name is unknown, or the weights are absent, damaged, incomplete
    or of another kind of model.
    """
    if name not in ENCODERS:
        raise SpearError(f"no audio encoder is called {name}; choose one of {', '.join(ENCODERS)}")
    if name in ("mfcc", "none"):
        if weights is not None:
            raise SpearError(f"{name} is computed without weights; leave --weights out, or choose another --encoder")
        return Mfcc() if name == "mfcc" else NoAudio()
    folder = weights_folder(name, weights)
    return Whisper(folder) if name == "whisper" else Waveform(name, folder)


class NoAudio:
    """Zeros whatever is said: (F, 1, 1), the control of comparisons between encoders (section 5.5).

    A net trained on it shows what can be told from pose and references alone; what another encoder does better than
    that comes from the sound.
    """

    name = "none"
    shape = (1, 1)

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"encoder": self.name, "version": 1}

    def __call__(self, samples: Tensor) -> Tensor:
        """See AudioEncoder."""
        samples = whole_frames(samples)
        return samples.new_zeros(len(samples) // SAMPLES_PER_FRAME, *self.shape)


class Waveform:
    """Hidden states of HuBERT, Wav2Vec2-Conformer or UniSpeech at a quarter, half and all of their depth: (F, 3, W).

    For the 24 layers of the large models that is the paper's 6, 12 and 24. The last one is taken after the final
    LayerNorm. The models give 50 states a second; a video frame gets the mean of its two.

    Up to 24 s are computed whole. Longer audio goes through windows of 24 s, 20 s apart (the last one moved back to
    stay whole), cross-faded over 1.1 s, with 1.4 s at each inner edge thrown away. Against a computation in one go
    the level normalisation (one mean and variance for the whole audio), the convolutions of the front end and the
    position convolution (1.3 s) are exact to rounding; attention sees 24 s instead of everything, and so do the
    convolutions inside the 24 layers of the Conformer (7 s together) and the first GroupNorm of base-size models.
    """

    _WINDOW, _HOP, _MARGIN, _FADE = 24 * FPS, 20 * FPS, 36, 28
    _EDGE = 40
    """Silence at both ends: 400-sample receptive fields every 320 then give exactly 2 F states, each in mid cell."""

    def __init__(self, name: str, folder: Path) -> None:
        import transformers

        classes = {
            "hubert": transformers.HubertModel,
            "wav2vec2-conformer": transformers.Wav2Vec2ConformerModel,
            "unispeech": transformers.UniSpeechModel,
        }
        self._model = load_model(classes[name], name, folder)
        self._layers = _chosen_layers(self._model.config.num_hidden_layers)
        preprocessing = folder / "preprocessor_config.json"
        # without the file: the large models all want it
        self._normalise = not preprocessing.exists() or bool(read_json(preprocessing).get("do_normalize", True))
        self.name = name
        self.shape = (3, int(self._model.config.hidden_size))
        self.settings = _settings(name, folder, self._layers) | {"normalise": self._normalise}

    @one_thread()  # windows on several threads would meet in transformers' hooks
    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """See AudioEncoder."""
        samples = whole_frames(samples)
        frames = len(samples) // SAMPLES_PER_FRAME
        if self._normalise:
            samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        padded = functional.pad(samples, (self._EDGE, self._EDGE))
        self._model.to(samples.device)
        starts = [*range(0, frames - self._WINDOW, self._HOP), max(0, frames - self._WINDOW)]
        pieces = ((start, self._window(padded, start)) for start in starts)
        return _cross_fade(pieces, samples.new_zeros(frames, *self.shape), self._MARGIN, self._FADE)

    def _window(self, padded: Tensor, start: int) -> Tensor:
        """Features of up to 24 s from frame `start`: (n, 3, W)."""
        first, last = start * SAMPLES_PER_FRAME, (start + self._WINDOW) * SAMPLES_PER_FRAME + 2 * self._EDGE
        output = self._model(padded[None, first:last], output_hidden_states=True)
        # hidden_states[-1] is before or after the final LayerNorm, by model and version
        return _per_frame([*(output.hidden_states[layer] for layer in self._layers[:-1]), output.last_hidden_state])[0]


class Whisper:
    """Hidden states of Whisper's encoder at a quarter, half and all of its depth, final LayerNorm included: (F, 3, W).

    Whisper is built for 30 s at absolute positions, and its states change with the position: a net trained on clips of
    3 s goes wrong on long audio (a linear probe for lip opening, trained on single clips, fell from r .91 to .83..88 on
    the same clips in long audio). So every window is 3 s here, 1 s apart and cross-faded with .5 s at each edge thrown
    away, silence beyond both ends: each frame is seen at the same few positions, whatever the length of the audio
    (the same probe: .905 and .90). A frame depends on the 2.5 s around it alone, exactly, so cutting at whole
    seconds changes nothing, and the memory is flat with length.

    The log-mel spectrum is Whisper's but for the floor: fixed at 1e-8 instead of 80 dB below the loudest moment, which
    would let one loud syllable change all others (the probe stays within .015 down to 40 dB quieter speech).
    """

    name = "whisper"

    _WINDOW, _HOP, _MARGIN, _FADE = 3 * FPS, FPS, 13, 24
    _BATCH = 8
    _MOST_WORKERS = 8
    """Threads: each takes 20 MB for the packaged model, 200 for the large one."""
    _FLOOR = 1e-8

    def __init__(self, folder: Path) -> None:
        self._model = load_whisper(folder, positions=2 * self._WINDOW)
        self._mel = mel_filters(self._model.bands)
        self._layers = _chosen_layers(self._model.depth)
        self.shape = (3, self._model.width)
        self.settings = _settings(self.name, folder, self._layers)

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """See AudioEncoder."""
        samples = whole_frames(samples)
        frames, lead = len(samples) // SAMPLES_PER_FRAME, self._WINDOW - self._HOP
        count = math.ceil(frames / self._HOP) + 2
        total = (count - 1) * self._HOP + self._WINDOW
        before, after = lead * SAMPLES_PER_FRAME, (total - lead - frames) * SAMPLES_PER_FRAME
        windows = functional.pad(samples, (before, after)).unfold(
            0, self._WINDOW * SAMPLES_PER_FRAME, self._HOP * SAMPLES_PER_FRAME
        )
        self._model.to(samples.device)
        values = samples.new_zeros(total, *self.shape)
        return _cross_fade(self._pieces(windows), values, self._MARGIN, self._FADE)[lead : lead + frames]

    def _pieces(self, windows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(n, 48000) samples -> n times (first frame, features (75, 3, W))."""
        batches = windows.split(self._BATCH)
        on_cpu = windows.device.type == "cpu"
        workers = min(torch.get_num_threads(), len(batches), self._MOST_WORKERS) if on_cpu else 1
        # a batch to each core; cores that share one would add up in another order than one alone
        several = in_order(self._features, batches, workers, ahead=workers)
        with one_thread(), several if workers > 1 else nullcontext(map(self._features, batches)) as made:
            yield from ((i * self._HOP, piece) for i, piece in enumerate(itertools.chain.from_iterable(made)))

    @torch.no_grad()
    def _features(self, windows: Tensor) -> Tensor:
        """(n, 48000) samples -> features (n, 75, 3, W)."""
        states = self._model(self._spectrum(windows))
        return _per_frame([states[layer] for layer in self._layers])

    def _spectrum(self, windows: Tensor) -> Tensor:
        """(n, 48000) samples -> log-mel spectrum (n, bands, 300), 100 columns a second, scaled as Whisper wants it."""
        window = torch.hann_window(400, device=windows.device)
        power = torch.stft(windows, 400, 160, window=window, return_complex=True)[..., :-1].abs().square()
        return ((self._mel.to(power).T @ power).clamp(min=self._FLOOR).log10() + 4) / 4


def _cross_fade(pieces: Iterable[tuple[int, Tensor]], values: Tensor, margin: int, fade: int) -> Tensor:
    """Lay overlapping pieces (first frame, (n, L, W)) over each other in `values`, zeros (F, L, W); returns the mean.

    At an edge where another piece goes on, `margin` frames have no weight, the next `fade` frames rise to full weight.
    """
    weights = values.new_zeros(len(values), 1, 1)
    for start, piece in pieces:
        middle = torch.arange(len(piece), device=piece.device) + 0.5
        weight = torch.ones_like(middle)
        if start > 0:
            weight = ((middle - margin) / fade).clamp(0, 1)
        if start + len(piece) < len(values):
            weight = weight.minimum(((len(piece) - margin - middle) / fade).clamp(0, 1))
        values[start : start + len(piece)] += piece * weight[:, None, None]
        weights[start : start + len(piece)] += weight[:, None, None]
    return values.div_(weights)


def _chosen_layers(depth: int) -> tuple[int, int, int]:
    """A quarter, half and all of the layers, at least 1; 24 -> 6, 12, 24."""
    return max(1, round(depth / 4)), max(1, round(depth / 2)), depth


def _per_frame(states: list[Tensor]) -> Tensor:
    """L states (B, 2 n, W) at 50 Hz -> (B, n, L, W) at 25 fps."""
    return torch.stack(states, dim=2).unflatten(1, (-1, 2)).mean(dim=2)


def _settings(name: str, folder: Path, layers: tuple[int, int, int]) -> dict[str, Any]:
    """Content, not folder names: the same weights from a copy elsewhere are the same encoder."""
    digests = [sha256_of(path) for path in sorted(folder.glob("model*.safetensors"))]
    return {"encoder": name, "version": 1, "layers": list(layers), "weights": "+".join(digests)}
