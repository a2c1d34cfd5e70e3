"""What stage 2's trainings share: equation 8 worked by hand on tiny tensors, figures, sheets, inputs that are kept."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_up import make_clip
from tiny_nets import tiny_lm2face
from torch import Tensor, nn

from spear.checkpoint import load_checkpoint
from spear.face_pairs import ClipFaces, FacePairs
from spear.latents import keep_latents
from spear.nets.lm2face import Painted
from spear.points import INNER_LIPS, OUTER_LIPS
from spear.pretrained.perceptual import PerceptualLoss
from spear.progress import no_progress
from spear.training_faces import (
    SMALL_WEIGHTS,
    FaceStep,
    FaceValidation,
    Weights,
    face_task,
    fixed_samples,
    inputs_of,
    picture_losses,
)
from spear.training_task import Part

CPU = torch.device("cpu")
SIDE = 16
"""Of the pictures that are worked out by hand, px; their latents have 2x2 cells."""


class _Flat(nn.Module):
    """Paints one value in pictures, latents and warped pixels; it is all that it learns."""

    def __init__(self, value: float, shown_row: int = 0, warps: bool = True) -> None:
        super().__init__()
        self.value, self.warps = nn.Parameter(torch.tensor(value)), warps
        self.config = SimpleNamespace(shown_row=shown_row, first_row=0)

    def forward(self, target: Tensor, references: Any, decoded: int | None = None) -> Painted:
        shown = self.value.expand(len(target[:decoded]), 3, SIDE - self.config.shown_row, SIDE)
        return Painted(self.value.expand(len(target), 4, 2, 2), None, shown, shown if self.warps else None)  # type: ignore[arg-type]

    def encode_picture(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 4, 2, 2), 0.8)

    def encode_masked(self, images: Tensor) -> Tensor:
        return images

    def encode_sketch(self, sketches: Tensor) -> Tensor:
        return sketches

    def make_references(self, *_: Tensor) -> None:
        return None

    def make_target(self, masked: Tensor, *_: Tensor) -> Tensor:
        return masked


class _Share(nn.Module):
    """A critic whose score is a share of the mean of a picture. It remembers what it saw."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.seen: list[Tensor] = []

    def forward(self, pictures: Tensor) -> Tensor:
        self.seen.append(pictures.detach())
        return self.share * pictures.mean((1, 2, 3))


def _plain() -> PerceptualLoss:
    """Pictures are their own features: mean |x - y| over mean |y|."""
    return PerceptualLoss([nn.Identity()], mean=(0.5,) * 3, std=(0.5,) * 3)


def _batch(value: float, count: int = 2) -> dict[str, Tensor]:
    """Pictures of one value; the mask is their left half, the mouth a quarter in it."""
    mask, mouth = torch.zeros(2, count, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    mouth[..., SIDE // 2 :, : SIDE // 2] = 1
    target = torch.full((count, 3, SIDE, SIDE), value)
    sketch = torch.zeros(count, 1, SIDE, SIDE)
    return {
        "target": target, "mask": mask, "mouth": mouth, "sketch": sketch, "points": torch.full((count, 131, 2), 8.0),
        "ref_images": target[:, None], "ref_points": torch.zeros(count, 1, 131, 2), "ref_sketches": sketch[:, None],
        "ref_nearness": torch.ones(count, 1),
    }  # fmt: skip


def _step(net: _Flat, weights: Weights, critic: _Share | None = None, decoded: int | None = None) -> FaceStep:
    """With plain gradient descent by .1."""
    placed: dict[str, Any] = {"lm2face": net} | ({} if critic is None else {"critic": critic})
    optimisers = {name: torch.optim.SGD(module.parameters(), lr=0.1) for name, module in placed.items()}
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    return FaceStep(accelerator, net, placed, _plain(), weights, optimisers, decoded)  # type: ignore[arg-type]


def _values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


LIGHTER = Weights(reconstruction=0.1, perceptual=0.2, gan=0.5, mouth=0.3, warped=0.1)


def test_a_step_by_hand() -> None:
    """.5 is painted, true is 1. In the mask the blend is .5 off, so squares are .25; it is half of the picture, so the
    mean distance is .25, the mean .75, and the critic's scores are .4 * .75 = .3 for it and .4 for the truth."""
    net, critic = _Flat(0.5), _Share(0.4)
    losses = _step(net, LIGHTER, critic)(_batch(1.0), 0.0, Part(2))
    assert list(losses) == ["reconstruction", "perceptual", "mouth", "warped", "gan", "critic"]
    assert _values(losses) == pytest.approx(
        {
            "reconstruction": 0.25, "perceptual": 0.25, "mouth": 0.25, "warped": 0.25, "gan": -0.3,
            "critic": (1 - 0.4) + (1 + 0.3),
        }
    )  # fmt: skip
    # by the painted value: squares fall by 2 * .5, the distance by a half, the critic's score grows by .4 / 2
    slope = 0.1 * -1 + 0.2 * -0.5 + 0.3 * -1 + 0.1 * -1 + 0.5 * -0.2
    assert net.value.item() == pytest.approx(0.5 - 0.1 * slope)  # .57
    # by the critic's share: -1 for the truth, .75 for the blend; nothing comes from the generator's loss
    assert critic.share.item() == pytest.approx(0.4 + 0.1 * (1 - 0.75))


def test_the_papers_weights_by_hand() -> None:
    """1, 4, 1 and 2.5; a gradient is shortened to 1, which Adam hardly notices but one step of descent does."""
    net = _Flat(0.99, warps=False)
    losses = _step(net, Weights(), _Share(0.0))(_batch(1.0), 0.0, Part(2))
    assert list(losses) == ["reconstruction", "perceptual", "mouth", "gan", "critic"]
    slope = 1 * -0.02 + 4 * -0.5 + 2.5 * -0.02  # -2.07
    assert slope < -1
    assert net.value.item() == pytest.approx(0.99 + 0.1 * 1, abs=1e-5)
    gentle = _Flat(0.9, warps=False)  # with the distance's weight alone taken down, the rest stands as it is
    _step(gentle, Weights(perceptual=0.0), _Share(0.2))(_batch(1.0), 0.0, Part(2))
    assert gentle.value.item() == pytest.approx(0.9 + 0.1 * (1 * 0.2 + 2.5 * 0.2 + 1 * 0.1))


@pytest.mark.parametrize("share", [0.29, 0.3])
def test_the_critic_comes_in_at_its_share_of_the_training(share: float) -> None:
    critic = _Share(0.4)
    losses = _step(_Flat(0.5), Weights(critic_from=SMALL_WEIGHTS.critic_from), critic)(_batch(1.0), share, Part(2))
    assert {"gan", "critic"} & {*losses} == (set() if share < 0.3 else {"gan", "critic"})
    assert len(critic.seen) == (0 if share < 0.3 else 3)  # the blend twice, the truth
    assert (critic.share.item() == pytest.approx(0.4)) == (share < 0.3)


def test_without_a_critic_there_is_none() -> None:
    losses = _step(_Flat(0.5), LIGHTER)(_batch(1.0), 1.0, Part(2))
    assert list(losses) == ["reconstruction", "perceptual", "mouth", "warped"]


def test_frames_that_are_not_decoded_are_compared_in_latent_space() -> None:
    """One of three is decoded. The latents of the others are .5 where .8 is true, half of them in the mask."""
    net, critic = _Flat(0.5), _Share(0.4)
    weights = Weights(reconstruction=0.1, perceptual=0.0, gan=0.1, mouth=0.0, latent=0.5)
    losses = _step(net, weights, critic, decoded=1)(_batch(1.0, count=3), 0.0, Part(3))
    assert losses["latent"].item() == pytest.approx(0.09)
    assert losses["reconstruction"].item() == pytest.approx(0.25)
    assert [len(pictures) for pictures in critic.seen] == [1, 1, 1]
    assert net.value.item() == pytest.approx(0.5 - 0.1 * (0.1 * -1 + 0.5 * 2 * -0.3 - 0.1 * 0.2))


def test_the_critic_looks_around_the_lips() -> None:
    """A window 4 px high and 6 wide around (10, 9), in pictures that begin at row 2."""
    batch = _batch(0.0)
    batch["target"] = (torch.arange(SIDE * SIDE).float() / 255).view(1, 1, SIDE, SIDE).expand(2, 3, -1, -1)
    batch["points"] = torch.full((2, 131, 2), -50.0)
    batch["points"][:, [*OUTER_LIPS, *INNER_LIPS]] = torch.tensor([10.0, 9.0])
    critic = _Share(0.1)
    _step(_Flat(0.5, shown_row=2), Weights(critic_window=(4, 6)), critic)(batch, 0.0, Part(len(batch["target"])))
    fake, real, fake_again = critic.seen
    assert torch.equal(real, batch["target"][..., 7:11, 7:13])
    assert torch.equal(fake[..., 0], torch.full((2, 3, 4), 0.5))  # column 7, the last one in the mask
    assert torch.equal(fake[..., 1:], real[..., 1:])
    assert torch.equal(fake, fake_again)


def test_losses_of_pictures_begin_at_the_shown_row() -> None:
    """.2 off in the lower 4 rows, of which the mask and the mouth have the left half."""
    batch = _batch(0.5)
    seen = batch["target"][..., 12:, :].clone()
    seen[..., : SIDE // 2] += 0.2
    found = _values(picture_losses(_plain(), seen, batch, 12))
    assert found == pytest.approx({"reconstruction": 0.04, "perceptual": 0.1 / 0.5, "mouth": 0.04})


# --- validation


def test_figures_by_hand() -> None:
    """.6 is painted: .2 off, a tenth of the range 2, so 20 dB in the mask, 23 in the whole picture, whose other half
    is true; in the second batch .02 off, 40 and 43 dB. There are three samples of the first and one of the second."""
    net = _Flat(0.6)
    validate = FaceValidation(net, _plain(), Weights(), [_batch(0.4, 3), _batch(0.58, 1)])  # type: ignore[arg-type]
    found = validate(lambda sheet: None)
    half = 10 * np.log10(2)
    first = 1 * 0.04 + 4 * (0.1 / 0.4) + 2.5 * 0.04
    second = 1 * 0.0004 + 4 * (0.01 / 0.58) + 2.5 * 0.0004
    assert found == pytest.approx(
        {
            "score": (3 * first + second) / 4,
            "perceptual": (3 * 0.1 / 0.4 + 0.01 / 0.58) / 4,
            "psnr_hull": (3 * 20 + 40) / 4,
            "psnr_crop": (3 * 20 + 40) / 4 + half,
        },
        rel=1e-4,
    )
    assert net.value.grad is None


@pytest.mark.parametrize(("counts", "rows"), [((2, 1), 3), ((5, 5, 2), 8)])
def test_a_sheet_has_up_to_eight_rows_of_seven_pictures(counts: tuple[int, ...], rows: int) -> None:
    net, shown = _Flat(0.6), []
    batches = [_batch(0.2, count) for count in counts]
    with torch.no_grad():
        FaceValidation(net, _plain(), Weights(), batches)(shown.append)  # type: ignore[arg-type]
    (sheet,) = shown
    half = SIDE // 2
    assert sheet.shape == (rows * half, 7 * half, 3)
    assert sheet.dtype == np.uint8
    reference, _, sketch, warped, generated, blended, truth = np.split(sheet[:half], 7, axis=1)
    grey = {name: round((value + 1) * 127.5) for name, value in (("true", 0.2), ("painted", 0.6), ("black", -1))}
    assert {*reference.flat} == {*truth.flat} == {grey["true"]}
    assert {*sketch.flat} == {grey["black"]}
    assert {*warped.flat} == {*generated.flat} == {grey["painted"]}
    assert {*blended[:, : half // 2].flat} == {grey["painted"]}
    assert {*blended[:, half // 2 :].flat} == {grey["true"]}


class _Numbers:
    """So many samples, each its own number in epoch 0."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        assert place[0] == 0
        return {"number": torch.tensor(place[1])}


def test_up_to_32_samples_are_fixed_in_batches_of_8() -> None:
    few, many = (fixed_samples(_Numbers(count), CPU) for count in (11, 100))  # type: ignore[arg-type]
    assert [batch["number"].tolist() for batch in few] == [[*range(8)], [8, 9, 10]]
    assert [len(batch["number"]) for batch in many] == [8] * 4
    assert (many[0]["number"][0], many[-1]["number"][-1]) == (0, 99)


# --- with real nets


@pytest.mark.parametrize("light", [True, False], ids=["small", "paper"])
def test_latents_that_are_kept_stand_for_their_pictures(
    light: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the net takes is the same to 11 bits; and where only pictures were encoded, not sketches."""
    monkeypatch.setattr("spear.latents.half_precision", lambda device: nullcontext())  # bf16 has 8 bits, where there is
    net, clip = tiny_lm2face(light), make_clip(tmp_path / "clip", 8)
    keep_latents([clip], net, CPU, no_progress)
    batches = []
    for kept in (False, True):
        (batch,) = fixed_samples(FacePairs([ClipFaces(clip, kept)], net.config, 2, seed=0, augment=False), CPU)
        batches.append(batch)
    assert "latent_picture" not in batches[0]
    part = {name: value for name, value in batches[1].items() if name != "latent_sketch"}
    target, references = inputs_of(net, batches[0])
    for batch in (batches[1], part):
        other, other_references = inputs_of(net, batch)
        for one, two in zip((*target, *references[:5]), (*other, *other_references[:5]), strict=True):
            assert one.shape == two.shape
            assert torch.allclose(one, two, atol=1e-3 * float(one.abs().max()), rtol=0)


@pytest.mark.parametrize("gan", [0.0, 1.0])
def test_a_task_has_a_critic_where_that_has_a_weight(gan: float, tmp_path: Path) -> None:
    """It is trained beside the net and stays out of the checkpoint, which is in half precision."""
    net, clip = tiny_lm2face(True, bank=4), make_clip(tmp_path / "clip", 8)
    data = FacePairs([ClipFaces(clip)], net.config, 2, seed=0)
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    task = face_task(
        accelerator, net, _plain(), Weights(gan=gan), data, data, 1e-3, {"preset": "small"}, {"seed": 3}, decoded=1
    )
    names = ["lm2face", "critic"] if gan else ["lm2face"]
    assert list(task.modules) == list(task.optimisers) == names
    assert (task.name, task.settings) == ("lm2face", {"preset": "small"})
    batch = {name: torch.stack([data[0, i][name] for i in range(2)]) for name in data[0, 0]}
    losses = task.step(batch, 1.0, Part(len(batch["target"])))
    assert {"gan", "critic"} & {*losses} == ({"gan", "critic"} if gan else set())
    assert "latent" in losses
    task.export(tmp_path / "net.safetensors", {"step": 1})
    weights, about = load_checkpoint(tmp_path / "net.safetensors", "lm2face")
    assert weights.keys() == net.state_dict().keys()
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert (about["seed"], about["training"], about["config"]["bank"]) == (3, {"step": 1}, 4)
