"""Stage 1, audio to landmarks (section 3.1). Letters: B batch, T frames, R references, (L, W) a frame's feature."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from spear.clip import CROP
from spear.nets.spade import start_at_zero
from spear.points import DEPTH, FACE_SIDES, LOWER, N_LOWER, N_POINTS, N_UPPER, STEADY, UPPER

_SHAPE_SCALE = 10.0
"""Mouth shapes are some hundredths of the crop; so many times that stands beside coordinates of about 0.5."""
_POSE_SCALE = {"rigid": 1.0, "raw": 10.0}
"""The same for how far the head is from where it is in the references. The rigid pose stays small: at 10 even its slow
motion tells of the old mouth (seen speaker, 20 epochs: swap r with the pose's owner .51 for .46; raw .71)."""
_WINDOW_MARGIN = 25
"""Frames that neighbouring windows share when a long track is predicted; their results are blended."""


@dataclass(frozen=True)
class A2LMConfig:
    """Sizes of the net and what it was trained to read.

    light: the small preset's ways, else the paper's. Light: one linear layer a frame and convolutions over time; speech
    and pose of a frame make one token; what is predicted is how the references' own mouth shapes are mixed, and a rest,
    on top of their mean lower face, carried by the head. Paper: deep convolutions over each frame with global average
    pooling, a token each, coordinates.
    pose: see `points.pose_input`. av_align: whether clips whose sound is late or early are corrected.
    """

    encoder: str
    encoder_settings: dict[str, Any]
    feature_shape: tuple[int, int]
    pose: str = "rigid"
    av_align: bool = True
    width: int = 160
    layers: int = 3
    heads: int = 4
    feedforward: int = 512
    references: int = 15
    window: int = 75
    light: bool = True

    @classmethod
    def paper(cls, **known: Any) -> A2LMConfig:
        """Section 3.1 as it stands: width 512, 4 layers, 4 heads."""
        return cls(**known, width=512, layers=4, feedforward=1024, light=False)


class ResidualConv(nn.Module):
    """A 1D convolution with normalisation beside a (projected) identity: (N, C, W) -> (N, C', ceil(W / stride))."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(channels, width, 3, stride, 1),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, 1, 1),
        )
        self.skip = nn.Conv1d(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, W) -> (N, C', ceil(W / stride))."""
        return torch.relu(self.main(x) + self.skip(x))


class FrameEncoder(nn.Module):
    """The paper's encoders (3.1.1, 3.1.2): each frame (C, W) through stacked residual 1D convolutions, length
    shrinking and channels growing, then global average pooling: (B, T, C, W) -> (B, T, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = [channels, width // 8, width // 4, width // 2, width]
        self.layers = nn.Sequential(*(ResidualConv(a, b, stride=2) for a, b in pairwise(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C, W) -> (B, T, width)."""
        batch, time = x.shape[:2]
        return self.layers(x.flatten(0, 1)).mean(-1).unflatten(0, (batch, time))


class TrackEncoder(nn.Module):
    """Small: each frame through one linear layer, then convolutions over time: (B, T, C, W) -> (B, T, width)."""

    def __init__(self, size: int, width: int, time_layers: int) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.Flatten(2), nn.Linear(size, width), nn.GELU())
        self.over_time = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, width), nn.Conv1d(width, width, 5, padding=2), nn.GELU())
            for _ in range(time_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C, W) -> (B, T, width)."""
        x = self.inward(x).transpose(1, 2)
        for layer in self.over_time:
            x = x + layer(x)
        return x.transpose(1, 2)


class LandmarkDecoder(nn.Module):
    """Section 3.1.3: position and modality embeddings, Transformer encoder, linear layer -> (B, T, 57, 2).

    Without dropout, which the paper does not name: several processes would draw other masks than one.
    """

    def __init__(self, config: A2LMConfig) -> None:
        super().__init__()
        self.modality = nn.Parameter(torch.randn(3, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.outward = nn.Linear(config.width, N_LOWER * 2)
        self._joined = config.light
        if config.light:
            start_at_zero(self.outward)

    def forward(self, audio: Tensor, pose: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, width), (B, T, width), (B, R, width) -> points (B, T, 57, 2), and what the Transformer made of
        the frames (B, T, width) and the references (B, R, width)."""
        time, count = audio.shape[1], references.shape[1]
        place = sinusoids(time, audio.shape[2], audio.device)
        audio, pose = audio + place + self.modality[0], pose + place + self.modality[1]
        # the first tokens carry the answer, one for each frame to be predicted
        frames = [pose + audio] if self._joined else [pose, audio]
        tokens = self.transformer(torch.cat([*frames, references + self.modality[2]], 1))
        return self.outward(tokens[:, :time]).unflatten(-1, (N_LOWER, 2)), tokens[:, :time], tokens[:, -count:]


class ShapeMixer(nn.Module):
    """How much of each reference's mouth shape a frame shows: a stranger's mouth is made of the stranger's own shapes.

    Weights are products of a query of the frame and a key of the reference, without softmax: they may be negative.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        start_at_zero(self.query)

    def forward(self, frames: Tensor, references: Tensor, shapes: Tensor) -> Tensor:
        """frames (B, T, width), references (B, R, width), shapes (B, R, 57, 2) -> (B, T, 57, 2)."""
        weights = self.query(frames) @ self.key(references).mT / frames.shape[-1] ** 0.5
        return torch.einsum("btr,brpc->btpc", weights, shapes)


class A2LM(nn.Module):
    """Audio features, pose and references -> the 57 points of the lower face, in crop px."""

    def __init__(
        self,
        config: A2LMConfig,
        audio: nn.Module,
        pose: nn.Module,
        references: nn.Module,
        decoder: LandmarkDecoder,
        mixer: ShapeMixer | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.audio, self.pose, self.references, self.decoder, self.mixer = audio, pose, references, decoder, mixer
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(config.feature_shape))
        self.register_buffer("feature_scale", torch.ones(config.feature_shape))

    def forward(self, features: Tensor, pose: Tensor, references: Tensor, head: Tensor | None = None) -> Tensor:
        """features (B, T, L, W), pose (B, T, 74, 2), references (B, R, 131, 2) -> (B, T, 57, 2), all in crop px.

        head: (B, T, 74, 2), where the head really is, if pose is smoothed: no layer reads it (it gives the mouth away),
        but it carries the face along, or jaw and mouth would lag behind a quick head. Not used by the paper's net.
        """
        audio = self.audio((features - self.feature_mean) / self.feature_scale)
        heads, faces = _unit(pose), _unit(references)
        if self.mixer is None:
            poses = self.pose(heads.transpose(2, 3))
            points, _, _ = self.decoder(audio, poses, self.references(faces.transpose(2, 3)))
        else:
            moved = heads - faces[:, :, UPPER].mean(1, keepdim=True)
            poses = self.pose((moved * _POSE_SCALE[self.config.pose]).transpose(2, 3))
            shapes = mouth_shapes(faces)
            known = torch.cat([faces, shapes * _SHAPE_SCALE], 2).transpose(2, 3)
            rest, of_frames, of_references = self.decoder(audio, poses, self.references(known))
            mixed = self.mixer(of_frames, of_references, shapes)
            points = carried_lower_face(heads if head is None else _unit(head), faces) + mixed + rest
        return points * CROP + CROP / 2


def build_a2lm(config: A2LMConfig) -> A2LM:
    """The net for a config, with fresh weights."""
    layers, width = config.feature_shape
    if not config.light:
        audio, pose, faces = (FrameEncoder(channels, config.width) for channels in (layers, 2, 2))
        return A2LM(config, audio, pose, faces, LandmarkDecoder(config), None)
    audio_track = TrackEncoder(layers * width, config.width, time_layers=2)
    pose_track = TrackEncoder(N_UPPER * 2, config.width, time_layers=1)
    each_reference = TrackEncoder((N_POINTS + N_LOWER) * 2, config.width, time_layers=0)
    mixer = ShapeMixer(config.width)
    return A2LM(config, audio_track, pose_track, each_reference, LandmarkDecoder(config), mixer)


def _unit(points: Tensor) -> Tensor:
    """Crop px -> about -0.5..0.5; the crop itself comes from the pose alone, so this tells nothing of the mouth."""
    return (points - CROP / 2) / CROP


def mouth_shapes(references: Tensor) -> Tensor:
    """How each reference's lower face differs from their mean, carried to its head: (B, R, 131, 2) -> (B, R, 57, 2)."""
    return references[:, :, LOWER] - carried_lower_face(references[:, :, UPPER], references)


def carried_lower_face(head: Tensor, references: Tensor) -> Tensor:
    """The references' mean lower face, moved as their steady points must move to meet the head's, by least squares over
    shift, turn, size, and what a turn to the side or a nod does to points of different depth.

    head (B, T, 74, 2), references (B, R, 131, 2) -> (B, T, 57, 2). Also the baseline that LD is compared with. Without
    the depth jaw and cheeks part when the head turns: the jaw's ends are then three times as far from the truth.
    """
    mean, depth = references.mean(1), torch.from_numpy(DEPTH).to(references)
    middle, middle_depth = mean[:, STEADY].mean(1, keepdim=True), depth[STEADY].mean()
    width = (mean[:, FACE_SIDES[0]] - mean[:, FACE_SIDES[1]]).norm(dim=-1)[:, None]
    directions = _ways_to_move(mean - middle, (depth - middle_depth) * width)
    seen = head[:, :, STEADY]
    place = seen.mean(2, keepdim=True)
    known = directions[:, STEADY].flatten(1, 2)
    strength = torch.linalg.solve(known.mT @ known, known.mT) @ (seen - place).flatten(2).mT  # (B, 4, T)
    return torch.einsum("bpcd,bdt->btpc", directions[:, LOWER], strength) + place


def _ways_to_move(points: Tensor, depth: Tensor) -> Tensor:
    """How each point moves with size, turn in the picture, turn to the side, nod: (B, P, 2), (B, P) -> (B, P, 2, 4)."""
    x, y = points.unbind(-1)
    zero = torch.zeros_like(depth)
    return torch.stack([torch.stack([x, -y, depth, zero], -1), torch.stack([y, x, zero, depth], -1)], 2)


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Position embeddings for any length: (length, width)."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-torch.log(torch.tensor(10_000.0)) / width))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


@torch.no_grad()
def predict_landmarks(
    net: A2LM, features: Tensor, pose: Tensor, references: Tensor, head: Tensor | None = None
) -> Tensor:
    """A whole track of any length in windows of the training length, blended where they overlap.

    features (F, L, W), pose and head (F, 74, 2), references (R, 131, 2) -> (F, 57, 2) crop px, on the CPU.
    """
    total, window = features.shape[0], net.config.window
    device = next(net.parameters()).device
    result, weight = torch.zeros(total, N_LOWER, 2), torch.zeros(total, 1, 1)
    ramp = (
        torch.minimum(torch.arange(1, window + 1), torch.arange(window, 0, -1)).clamp(max=_WINDOW_MARGIN).view(-1, 1, 1)
    )
    for start in _window_starts(total, window, max(1, window - _WINDOW_MARGIN)):
        part = slice(start, min(start + window, total))
        inputs = (features[part], pose[part], references, pose[part] if head is None else head[part])
        points = net(*(value[None].to(device) for value in inputs))[0].cpu()
        result[part] += points * ramp[: points.shape[0]]
        weight[part] += ramp[: points.shape[0]]
    return result / weight


def _window_starts(total: int, window: int, step: int) -> list[int]:
    last = max(0, total - window)
    return [*range(0, last, step), last]
