"""SyncNet (Chung & Zisserman 2016, "Out of time") for LSE-D and LSE-C, as Prajwal et al. 2020 (Wav2Lip) report them.

One half embeds 5 pictures of a face, the other the 200 ms of sound that go with them; what is in sync lies near.
The protocol is that of the public scripts (joonson/syncnet_python, and evaluation/scores_LSE of Rudrabha/Wav2Lip).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor, nn

from spear.clip import SAMPLE_RATE, SAMPLES_PER_FRAME
from spear.errors import SpearError
from spear.pretrained.state_dict import read_state_dict

WEIGHTS_NAME = "syncnet_v2.model"
WEIGHTS_URL = f"http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/{WEIGHTS_NAME}"
FACE_SIDE = 224
EMBEDDING = 1024
WINDOW = 5
"""Frames that are seen at once."""
REACH = 15
"""Offsets that are tried, frames to either side."""
HOPS_PER_FRAME = 4
"""MFCC hops of 10 ms in a frame of 40 ms."""
_BATCH = 20
"""Windows embedded at once."""
_HOP, _SPAN, _FFT, _BANDS, _KEPT = 160, 400, 512, 26, 13
_PRE_EMPHASIS, _LIFTER = 0.97, 22

Floats = NDArray[np.float32]
Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class SyncErrors:
    """How well mouth and sound go together over one clip. NaN, NaN, 0 for a clip of fewer than 6 frames."""

    distance: float
    """LSE-D: the mean distance of face and sound at the best offset; lower is better."""
    confidence: float
    """LSE-C: the median over the offsets of the mean distance, less the least; higher is better."""
    offset: int
    """The best offset, frames, with the sign of the public scripts: + = the sound is early (AvOffset has + = late)."""


class Embedder(Protocol):
    """What `sync_errors` needs of a net."""

    def embed_faces(self, frames: Frame) -> Floats:
        """(B + 4, 224, 224, 3) uint8 RGB in a row -> (B, C), one for each 5 frames."""

    def embed_speech(self, mfcc: Floats) -> Floats:
        """(4 B + 16, 13) hops in a row -> (B, C), one for each 20 hops, 4 hops apart."""


class SyncNet(nn.Module):
    """The two nets; the four parts are named as in the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_block(nn.Conv2d(1, 64, 3, padding=1)), nn.MaxPool2d(1),
            *_block(nn.Conv2d(64, 192, 3, padding=1)), nn.MaxPool2d(3, (1, 2)),
            *_block(nn.Conv2d(192, 384, 3, padding=1)),
            *_block(nn.Conv2d(384, 256, 3, padding=1)),
            *_block(nn.Conv2d(256, 256, 3, padding=1)), nn.MaxPool2d(3, 2),
            *_block(nn.Conv2d(256, 512, (5, 4))),
        )  # fmt: skip
        self.netcnnlip = nn.Sequential(
            *_block(nn.Conv3d(3, 96, (WINDOW, 7, 7), (1, 2, 2))), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_block(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_block(nn.Conv3d(256, 512, (1, 6, 6))),
        )  # fmt: skip
        self.netfcaud, self.netfclip = _head(), _head()

    @torch.inference_mode()
    def embed_faces(self, frames: Frame) -> Floats:
        """See Embedder. Only the first layer looks along the time, so windows that overlap are computed together."""
        if frames.ndim != 4 or frames.shape[1:] != (FACE_SIDE, FACE_SIDE, 3):
            raise ValueError(f"faces must be (F, {FACE_SIDE}, {FACE_SIDE}, 3), not {frames.shape}")
        bgr = torch.from_numpy(np.ascontiguousarray(frames[..., ::-1])).to(self._device())
        features = self.netcnnlip(bgr.permute(3, 0, 1, 2)[None].float())[0, :, :, 0, 0].T  # 0..255, not scaled
        return self._out(self.netfclip(features))

    @torch.inference_mode()
    def embed_speech(self, mfcc: Floats) -> Floats:
        """See Embedder."""
        hops = torch.from_numpy(np.ascontiguousarray(mfcc, np.float32)).to(self._device())
        windows = hops.unfold(0, WINDOW * HOPS_PER_FRAME, HOPS_PER_FRAME)  # (B, 13, 20)
        return self._out(self.netfcaud(self.netcnnaud(windows[:, None]).flatten(1)))

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _out(self, embeddings: Tensor) -> Floats:
        result: Floats = embeddings.cpu().numpy()
        return result


def _block(conv: nn.Conv2d | nn.Conv3d) -> list[nn.Module]:
    norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
    return [conv, norm(conv.out_channels), nn.ReLU(inplace=True)]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))


def find_syncnet_weights(path: Path | None = None) -> Path:
    """The weight file: `path` if given, else in torch hub's checkpoints. SpearError if absent."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME if path is None else Path(path)
    if not place.is_file():
        raise SpearError(
            f"no SyncNet weights at {place}, LSE-D and LSE-C need them; download {WEIGHTS_URL} and put it there, "
            "or give it with `--syncnet-weights FILE`"
        )
    return place


def load_syncnet(path: Path | None = None) -> SyncNet:
    """The net with its weights, in eval mode and frozen; no pickled code runs.

    Raises SpearError where the file is absent, damaged, or holds other weights; never returns random weights.
    """
    place = find_syncnet_weights(path)
    advice = f"give {WEIGHTS_NAME} of {WEIGHTS_URL} with `--syncnet-weights FILE`"
    weights = read_state_dict(place, advice)
    net = SyncNet()
    # a counter of the training's batches, which files of old torch versions lack and which says nothing here
    counters = {name: tensor for name, tensor in net.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        net.load_state_dict({**counters, **weights}, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise SpearError(f"{place} holds other weights than SyncNet; {advice}") from error
    return net.eval().requires_grad_(False)


def sync_errors(net: Embedder, faces: Iterable[Frame], samples: Floats) -> SyncErrors:
    """LSE-D and LSE-C of faces (224, 224, 3) uint8 RGB at 25 fps and samples (N,) at 16 kHz mono that begin together.

    What is longer of the two is cut. As in the public scripts the last window of 5 frames is left out, and where an
    offset reaches beyond the clip the sound's embedding is zero. Memory does not grow with the length of the clip.
    Raises ValueError for faces of another size.
    """
    offsets, first = _Offsets(), 0
    for frames in _blocks(islice(faces, len(samples) // SAMPLES_PER_FRAME)):
        windows = len(frames) - WINDOW + 1
        mfcc = mfcc13(samples, HOPS_PER_FRAME * first, HOPS_PER_FRAME * (windows + WINDOW - 1))
        offsets.add(net.embed_faces(frames), net.embed_speech(mfcc))
        first += windows
    return offsets.result()


def _blocks(faces: Iterator[Frame]) -> Iterator[Frame]:
    """Runs of B + 4 frames that hold B windows: in all, the windows of the clip but the last one."""
    kept: list[Frame] = []
    for face in faces:
        kept.append(face)
        if len(kept) == _BATCH + WINDOW:
            yield np.stack(kept[:-1])
            del kept[:_BATCH]
    if len(kept) > WINDOW:
        yield np.stack(kept[:-1])


class _Offsets:
    """Sums of distances for each offset -15..15, from embeddings that come in their order; only the last are kept."""

    def __init__(self) -> None:
        self._sums, self._count = np.zeros(2 * REACH + 1), 0
        self._faces: Floats | None = None
        self._sounds: Floats | None = None

    def add(self, faces: Floats, sounds: Floats) -> None:
        """The embeddings of the next windows, (B, C) each."""
        if self._faces is None or self._sounds is None:
            self._faces, self._sounds = faces[:0], np.zeros((REACH, sounds.shape[1]), np.float32)
        self._faces = np.concatenate([self._faces, faces])
        self._sounds = np.concatenate([self._sounds, sounds])
        ready = len(self._sounds) - 2 * REACH
        if ready > 0:
            around = sliding_window_view(self._sounds, 2 * REACH + 1, axis=0)  # (ready, C, 31)
            distances = np.linalg.norm(self._faces[:ready, :, None] - around, axis=1)
            self._sums += distances.sum(0, dtype=np.float64)
            self._count += ready
            self._faces, self._sounds = self._faces[ready:], self._sounds[ready:]

    def result(self) -> SyncErrors:
        """What the best offset is, once all embeddings have come."""
        if self._faces is None:
            return SyncErrors(float("nan"), float("nan"), 0)
        size = self._faces.shape[1]
        self.add(np.zeros((0, size), np.float32), np.zeros((REACH, size), np.float32))
        means = self._sums / self._count
        best = int(means.argmin())
        return SyncErrors(float(means[best]), float(np.median(means) - means[best]), REACH - best)


def mfcc13(samples: Floats, first: int, hops: int) -> Floats:
    """MFCC as SyncNet was trained on, hops `first`.. of 10 ms: samples (N,) in -1..1 -> (hops, 13).

    Of 16-bit numbers: pre-emphasis, 25 ms without a window function, 512-point power spectrum over 512, 26 triangular
    mel bands whose corners lie on FFT bins, log, orthonormal DCT-II, lifter 22, then the log energy in the first place.
    Not spear/pretrained/mfcc.py's: those are of Hann windows in the middle of each hop, 40 bands, without pre-emphasis
    and lifter. The samples must reach to the end of the last window, 15 ms beyond the last hop.
    """
    begin = first * _HOP
    piece = samples[max(begin - 1, 0) : begin + (hops - 1) * _HOP + _SPAN]
    whole = np.clip(np.rint(piece.astype(np.float64) * 32768), -32768, 32767)
    emphasised = whole[1:] - _PRE_EMPHASIS * whole[:-1]
    if begin == 0:  # nothing stands before the first sample
        emphasised = np.concatenate([whole[:1], emphasised])
    windows = sliding_window_view(emphasised, _SPAN)[::_HOP]
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / _FFT
    least = np.finfo(np.float64).eps
    energy, bands = power.sum(1), power @ _mel_bands()
    cepstrum = dct(np.log(np.where(bands == 0, least, bands)), type=2, norm="ortho")[:, :_KEPT]
    cepstrum *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_KEPT) / _LIFTER)
    cepstrum[:, 0] = np.log(np.where(energy == 0, least, energy))
    return cepstrum.astype(np.float32)


@lru_cache(maxsize=1)
def _mel_bands() -> NDArray[np.float64]:
    """26 triangles of height 1, their corners evenly spaced in mel over 0..8 kHz and moved down to a bin: (257, 26)."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), _BANDS + 2)
    corners = np.floor((_FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    bins = np.arange(_FFT // 2 + 1)
    return np.stack([np.interp(bins, corners[b : b + 3], [0, 1, 0], left=0, right=0) for b in range(_BANDS)], axis=1)
