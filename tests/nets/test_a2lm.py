"""Stage 1: shapes of the paper, the carried lower face and its mixed mouth, long tracks, and that no mouth leaks in."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up import face, track
from torch import Tensor, nn

from spear.crop import crop_transform
from spear.nets.a2lm import (
    A2LMConfig,
    ShapeMixer,
    build_a2lm,
    carried_lower_face,
    mouth_shapes,
    predict_landmarks,
    sinusoids,
)
from spear.points import DEPTH, LOWER, UPPER, pose_input, positions

PAPER = A2LMConfig.paper(encoder="hubert", encoder_settings={}, feature_shape=(3, 1024))
SMALL = A2LMConfig(encoder="mfcc", encoder_settings={}, feature_shape=(4, 39), width=16, layers=1, heads=2)


def _inputs(config: A2LMConfig, batch: int, time: int, references: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    faces = torch.from_numpy(track(max(time, references)))
    return (
        torch.randn(batch, time, *config.feature_shape),
        faces[None, :time, UPPER].expand(batch, -1, -1, -1),
        faces[None, :references].expand(batch, -1, -1, -1),
    )


def test_paper_shapes_from_end_to_end() -> None:
    net = build_a2lm(PAPER).eval()
    features, pose, references = _inputs(PAPER, batch=2, time=5)
    assert features.shape == (2, 5, 3, 1024)
    assert pose.shape == (2, 5, 74, 2)
    assert references.shape == (2, 15, 131, 2)
    tokens = net.audio(features), net.pose(pose.transpose(2, 3)), net.references(references.transpose(2, 3))
    assert [t.shape for t in tokens] == [(2, 5, 512), (2, 5, 512), (2, 15, 512)]
    points, of_frames, of_references = net.decoder(*tokens)
    assert [t.shape for t in (points, of_frames, of_references)] == [(2, 5, 57, 2), (2, 5, 512), (2, 15, 512)]
    assert net(features, pose, references).shape == (2, 5, 57, 2)


def test_shapes_of_the_small_net_from_end_to_end() -> None:
    """A reference shows its 131 points and beside them the 57 of its mouth shape."""
    config = A2LMConfig(encoder="whisper", encoder_settings={}, feature_shape=(3, 384))
    net = build_a2lm(config).eval()
    features, pose, references = _inputs(config, batch=2, time=5)
    shapes = mouth_shapes(references)
    assert shapes.shape == (2, 15, 57, 2)
    tokens = (
        net.audio(features),
        net.pose(pose.transpose(2, 3)),
        net.references(torch.cat([references, shapes], 2).transpose(2, 3)),
    )
    assert [t.shape for t in tokens] == [(2, 5, 160), (2, 5, 160), (2, 15, 160)]
    rest, of_frames, of_references = net.decoder(*tokens)
    assert [t.shape for t in (rest, of_frames, of_references)] == [(2, 5, 57, 2), (2, 5, 160), (2, 15, 160)]
    assert net.mixer(of_frames, of_references, shapes).shape == (2, 5, 57, 2)
    assert net(features, pose, references).shape == (2, 5, 57, 2)


def test_nothing_is_dropped_at_random() -> None:
    """Two processes would draw other masks than one."""
    for config in (SMALL, PAPER):
        net, inputs = build_a2lm(config).train(), _inputs(config, batch=1, time=3)
        assert torch.equal(net(*inputs), net(*inputs))


@pytest.mark.parametrize(("track_name", "channels", "length"), [("audio", 3, 1024), ("pose", 2, 74)])
def test_paper_encoders_shorten_the_frame_and_grow_its_channels(track_name: str, channels: int, length: int) -> None:
    x, sizes = torch.randn(1, channels, length), [(channels, length)]
    for layer in getattr(build_a2lm(PAPER), track_name).layers:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert [c for c, _ in sizes] == [channels, 64, 128, 256, 512]
    assert all(b[1] == -(-a[1] // 2) for a, b in pairwise(sizes))


def test_paper_parameter_count() -> None:
    # Transformer layer, width 512, feed-forward 1024: attention 4 * (512^2 + 512), feed-forward 2 * 512 * 1024 + 1536,
    # two norms of 1024 = 2 102 784; four of them, and the last norm 1024
    net = build_a2lm(PAPER)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert sum(p.numel() for p in net.decoder.transformer.parameters()) == 4 * 2_102_784 + 1024
    # beside it the linear layer 512 * 114 + 114 and three modality embeddings of 512
    assert count["decoder"] == 4 * 2_102_784 + 1024 + 512 * 114 + 114 + 3 * 512
    assert count["pose"] == count["references"]  # convolutions know no length
    assert sum(count.values()) == sum(p.numel() for p in net.parameters()) == 13_686_194


def test_small_preset_has_the_size_of_the_prototype() -> None:
    config = A2LMConfig(encoder="whisper", encoder_settings={}, feature_shape=(4, 384))
    assert 0.9e6 < sum(p.numel() for p in build_a2lm(config).parameters()) < 1.6e6


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["small", "paper"])
@pytest.mark.parametrize("time", [1, 2, 131])
def test_any_number_of_frames_and_references(config: A2LMConfig, time: int) -> None:
    net = build_a2lm(config).eval()
    assert net(*_inputs(config, batch=1, time=time, references=3)).shape == (1, time, 57, 2)


def test_fresh_small_net_predicts_the_carried_lower_face() -> None:
    features, pose, references = _inputs(SMALL, batch=1, time=9)
    pred = build_a2lm(SMALL)(features, pose, references)
    torch.testing.assert_close(pred, carried_lower_face(pose, references), atol=2e-3, rtol=0)


class _Chosen(nn.Module):
    """Stands for the decoder: no rest, frames without a word, and reference r is known by a 1 in place r."""

    def forward(self, audio: Tensor, pose: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = audio.shape[-1]
        return torch.zeros(*audio.shape[:2], 57, 2), audio, torch.eye(width)[None, : references.shape[1]]


def _choosing(mixer: ShapeMixer, weights: dict[int, float]) -> None:
    """Make a mixer of width 16 give each reference its weight, whatever the frame: product of query and key over 4."""
    with torch.no_grad():
        mixer.query.bias.copy_(torch.tensor([4 * weights.get(r, 0.0) for r in range(16)]))
        mixer.key.weight.copy_(torch.eye(16))
        mixer.key.bias.zero_()


def test_a_weight_of_one_gives_the_mouth_shape_of_that_reference() -> None:
    """On that reference's own head it is that reference's lower face; on another, the shape on the carried mean."""
    references = torch.from_numpy(np.stack([face(0, (120.0, 118.0)), face(6), face(20, (131.0, 125.0))]))[None]
    net = build_a2lm(SMALL).eval()
    net.decoder = _Chosen()
    _choosing(net.mixer, {2: 1.0})
    heads = references[:, :, UPPER]  # three frames, the heads of the three references
    mouths = net(torch.zeros(1, 3, 4, 39), heads, references)
    torch.testing.assert_close(mouths[0, 2], references[0, 2, LOWER], atol=1e-3, rtol=0)
    shape = mouth_shapes(references)[:, 2:]
    torch.testing.assert_close(mouths, carried_lower_face(heads, references) + shape, atol=1e-3, rtol=0)


def test_weights_may_be_negative_and_add_up_to_anything() -> None:
    # lips 0, 6 and 18 px open, 8 in the mean: shapes of -8, -2 and 10 px. 1.5 of the last and -0.5 of the first are
    # 15 + 4 = 19 px beside the mean: 27 px, wider than in any reference
    references = torch.from_numpy(np.stack([face(o) for o in (0, 6, 18)]))[None]
    net = build_a2lm(SMALL).eval()
    net.decoder = _Chosen()
    _choosing(net.mixer, {0: -0.5, 2: 1.5})
    mouth = net(torch.zeros(1, 1, 4, 39), references[:, :1, UPPER], references)[0, 0]
    torch.testing.assert_close(mouth, torch.from_numpy(face(27)[LOWER]), atol=1e-3, rtol=0)


def test_mouth_shapes_by_hand() -> None:
    # lips 0 and 20 px open, 10 in the mean. The middle of the lower inner lip is 1 px lower for every 2 px of opening
    references = torch.from_numpy(np.stack([face(0), face(20)]))[None]
    shapes = mouth_shapes(references)[0]
    middle = positions([14])[0] - 74
    torch.testing.assert_close(shapes[:, middle], torch.tensor([[0.0, -5.0], [0.0, 5.0]]), atol=1e-3, rtol=0)
    assert shapes[:, :17].abs().max() < 1e-3  # the jaw of the made-up face is still


def test_equal_references_have_no_mouth_shape_however_their_heads_are_moved() -> None:
    still, turn = torch.from_numpy(face(8)), torch.tensor([[0.98, 0.15], [-0.15, 0.98]])
    assert mouth_shapes(still.expand(1, 4, -1, -1)).abs().max() < 1e-3
    moved = torch.stack([still, still + torch.tensor([9.0, -5.0]), still @ turn, still * 1.2, still @ turn * 0.8 + 7])
    assert mouth_shapes(moved[None]).abs().max() < 5e-3


def test_where_in_the_picture_a_reference_is_does_not_change_its_mouth_shape() -> None:
    references = torch.from_numpy(np.stack([face(o) for o in (0, 6, 18)]))[None]
    moved = references + torch.tensor([[9.0, -5.0], [0.0, 3.0], [-12.0, 4.0]])[None, :, None]
    torch.testing.assert_close(mouth_shapes(moved), mouth_shapes(references), atol=1e-3, rtol=0)


def test_features_are_standardised_by_what_the_net_stores() -> None:
    net = build_a2lm(SMALL).eval()
    nn.init.normal_(net.decoder.outward.weight)
    features, pose, references = _inputs(SMALL, batch=1, time=4)
    plain = net(features, pose, references)
    net.feature_mean.fill_(5.0)
    net.feature_scale.fill_(3.0)
    torch.testing.assert_close(net(features * 3 + 5, pose, references), plain, atol=1e-3, rtol=1e-4)
    assert {"feature_mean", "feature_scale"} <= net.state_dict().keys()


def test_carried_lower_face_follows_a_turned_and_scaled_head_exactly() -> None:
    references = torch.from_numpy(np.stack([face(0), face(20)]))[None]
    turn = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    moved = (references.mean(1) @ turn + torch.tensor([7.0, -3.0]))[:, None]
    carried = carried_lower_face(moved[..., UPPER, :], references)
    torch.testing.assert_close(carried, moved[..., LOWER, :], atol=5e-3, rtol=0)


def test_carried_lower_face_follows_a_head_that_turns_to_the_side() -> None:
    references = torch.from_numpy(np.stack([face(0), face(20)]))[None]
    moved = references.mean(1)[:, None].clone()
    moved[..., 0] += 30 * torch.from_numpy(DEPTH)  # what lies farther back moves farther to the right
    carried = carried_lower_face(moved[..., UPPER, :], references)
    torch.testing.assert_close(carried, moved[..., LOWER, :], atol=5e-3, rtol=0)


def test_brows_and_eyelids_do_not_carry_the_face() -> None:
    references = torch.from_numpy(face()[None, None])
    head = references[..., UPPER, :].clone()
    brows, upper_lid = slice(8, 28), slice(43, 50)  # after 8 points of the cheeks; after the eye's outer corner
    head[..., brows, 1] -= 15
    head[..., upper_lid, 1] += 8
    carried = carried_lower_face(head, references)
    torch.testing.assert_close(carried, references[..., LOWER, :], atol=1e-3, rtol=0)


def test_place_embeddings_tell_frames_apart_at_any_length() -> None:
    # sin and cos alternate, the first pair at one radian a frame
    place = sinusoids(1000, 16, torch.device("cpu"))
    assert place.shape == (1000, 16)
    torch.testing.assert_close(place[7, :2], torch.tensor([np.sin(7.0), np.cos(7.0)]).float())
    assert torch.pdist(place).min() > 0.1


def test_the_head_carries_the_face_and_no_layer_reads_it() -> None:
    """Where the head really is moves the whole prediction along, and changes nothing else in it."""
    net = build_a2lm(SMALL).eval()
    nn.init.normal_(net.decoder.outward.weight)
    features, pose, references = _inputs(SMALL, batch=1, time=6)
    shift = torch.tensor([7.0, -4.0])
    moved = net(features, pose, references, pose + shift)
    torch.testing.assert_close(moved, net(features, pose, references) + shift, atol=2e-2, rtol=0)
    paper = build_a2lm(PAPER).eval()
    inputs = _inputs(PAPER, batch=1, time=2)
    assert torch.equal(paper(*inputs), paper(*inputs, inputs[1] + shift))


class _Stub(nn.Module):
    """Stands for the net; records how long its windows were."""

    config = SimpleNamespace(window=75)

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.somewhere, self.answer, self.lengths = nn.Parameter(torch.zeros(1)), answer, []

    def forward(self, features: Tensor, pose: Tensor, references: Tensor, head: Tensor) -> Tensor:
        self.lengths.append(features.shape[1])
        return self.answer(pose[:, :, :57])


def _predict(answer: Any, frames: int) -> tuple[Tensor, _Stub]:
    pose = torch.arange(float(frames)).view(-1, 1, 1).expand(-1, 74, 2)  # every point of frame t is at (t, t)
    net = _Stub(answer)
    return predict_landmarks(net, torch.zeros(frames, 1, 1), pose, torch.zeros(1, 131, 2)), net


@pytest.mark.parametrize("frames", [1, 3, 74, 75, 76, 124, 125, 126, 1000])
def test_windows_cover_every_frame_of_a_track_of_any_length(frames: int) -> None:
    result, net = _predict(lambda pose: pose, frames)
    torch.testing.assert_close(result, torch.arange(float(frames)).view(-1, 1, 1).expand(-1, 57, 2))
    assert set(net.lengths) == {min(frames, 75)}


def test_windows_shorter_than_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Stub, "config", SimpleNamespace(window=20))
    result, _ = _predict(lambda pose: pose, 50)
    torch.testing.assert_close(result[:, 0, 0], torch.arange(50.0))


def test_windows_that_disagree_are_blended_over_25_frames() -> None:
    # each window answers with the number of its first frame: 0, 50, 100, ...; a hard cut would jump by 50
    result, _ = _predict(lambda pose: pose[:, :1].expand_as(pose), 475)
    steps = result[:, 0, 0].diff()
    assert result[0, 0, 0] == 0
    assert result[-1, 0, 0] == 400
    assert steps.min() >= -1e-4
    assert steps.max() <= 50 / 26 + 1e-4  # weights 25..1 against 1..25


def test_the_number_of_windows_grows_with_the_length_only_linearly() -> None:
    _, net = _predict(lambda pose: pose, 10_000)
    assert len(net.lengths) == 200  # (10 000 - 75) / 50, rounded up, and the last


def test_the_mouth_of_the_target_has_no_influence() -> None:
    """Neither the crop, nor the pose that the net gets, nor what it predicts depends on the 57 points to predict."""
    torch.manual_seed(0)
    truth = track(90, seed=3)
    other = truth.copy()
    other[:, LOWER] += np.random.default_rng(0).normal(0, 30, other[:, LOWER].shape).astype(np.float32)
    assert np.array_equal(crop_transform(truth), crop_transform(other))
    net = build_a2lm(SMALL).eval()
    nn.init.normal_(net.decoder.outward.weight)
    features, references = torch.randn(90, 4, 39), torch.from_numpy(truth[:15])
    for kind in ("rigid", "raw"):
        poses = [torch.from_numpy(pose_input(points, kind)) for points in (truth, other)]
        assert torch.equal(*poses)
        first, second = (predict_landmarks(net, features, pose, references) for pose in poses)
        assert torch.equal(first, second)
