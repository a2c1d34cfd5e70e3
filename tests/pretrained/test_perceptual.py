"""Frozen feature nets of the perceptual loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spear.errors import SpearError
from spear.nets.autoencoder import load_autoencoder
from spear.pretrained.perceptual import (
    PerceptualLoss,
    _mobilenet_v2,
    _vgg19,
    autoencoder_perceptual,
    find_vgg19,
    load_perceptual,
)


@pytest.fixture(scope="module")
def mobilenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under torchvision's names, with what torchvision's file has beyond them."""
    torch.manual_seed(0)
    weights = {f"features.{name}": value for name, value in _mobilenet_v2().state_dict().items()}
    path = tmp_path_factory.mktemp("mobilenet") / "mobilenet.pth"
    torch.save({**weights, "classifier.1.bias": torch.zeros(1000)}, path)
    return path


def test_by_hand() -> None:
    # stages x -> x and x -> 3 x on pictures in -1..1, mean 0.5 and deviation 0.5, so that they stay in -1..1:
    # generated 0.5, truth -0.25: |0.75| / 0.25 = 3 in both stages, since each is scaled by its own size
    triple = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        triple.weight.copy_(3 * torch.eye(3)[..., None, None])
    loss = PerceptualLoss([nn.Identity(), triple], mean=(0.5,) * 3, std=(0.5,) * 3)
    generated, truth = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.25)
    assert loss(generated, truth).item() == pytest.approx(3)
    assert loss(truth, truth).item() == 0


def test_pictures_are_scaled_as_imagenet_nets_want_them(mobilenet_file: Path) -> None:
    # white is 1 in -1..1 and 1 in 0..1: (1 - 0.485) / 0.229 in the red channel
    loss = load_perceptual(mobilenet_file)
    seen: list[torch.Tensor] = []
    loss.stages[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss(torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    assert seen[0][0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)


def test_frozen_means_frozen(mobilenet_file: Path) -> None:
    loss = load_perceptual(mobilenet_file)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.train()
    generated = torch.rand(2, 3, 64, 64, requires_grad=True)
    loss(generated, torch.rand(2, 3, 64, 64)).backward()
    assert generated.grad is not None
    assert generated.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())  # batch norm, too


def test_mobilenet_taps(mobilenet_file: Path) -> None:
    shapes, x = [], torch.rand(1, 3, 64, 64)
    for stage in load_perceptual(mobilenet_file).stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (24, 16, 16), (32, 8, 8), (64, 4, 4), (96, 4, 4)]


def test_vgg19_taps_and_torchvision_names(tmp_path: Path) -> None:
    """relu1_1 .. relu5_1; torchvision numbers the convolutions 0 2 | 5 7 | 10 12 14 16 | 19 21 23 25 | 28 ..."""
    weights = {f"features.{name}": value for name, value in _vgg19().state_dict().items()}
    numbers = sorted({int(name.split(".")[1]) for name in weights})
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28]
    torch.save(weights, tmp_path / "vgg19.pth")
    shapes, x = [], torch.rand(1, 3, 32, 32)
    for stage in load_perceptual(tmp_path / "vgg19.pth").stages:
        x = stage(x)
        assert isinstance(stage[-1], nn.ReLU)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]


def test_real_mobilenet_tells_a_blur_from_a_shift_of_brightness(footage_dir: Path, portrait_png: Path) -> None:
    file = footage_dir.parent / "weights" / "mobilenet_v2-b0353104.pth"
    if not file.exists():
        pytest.skip(f"no {file}")
    import cv2

    from spear.nets.lm2face import image_tensor

    picture = cv2.imread(str(portrait_png))[..., ::-1]
    truth, blurred = (image_tensor(p[None]) for p in (picture, cv2.GaussianBlur(picture, (0, 0), 3)))
    brighter = truth + (blurred - truth).square().mean().sqrt()  # as far away in squared error
    loss = load_perceptual(file)
    assert loss(blurred, truth) > 1.5 * loss(brighter, truth)


def test_the_autoencoder_that_ships_needs_no_file() -> None:
    loss = autoencoder_perceptual(load_autoencoder())
    a, b = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    assert loss(a, a).item() == 0
    assert loss(a, b) > loss(b + 0.1 * (a - b), b) > 0


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        load_perceptual(tmp_path / "vgg19.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'vgg19.pth'} is absent; "
        "give torchvision's vgg19-dcbb9e9d.pth or mobilenet_v2-b0353104.pth with --perceptual"
    )
    assert find_vgg19().name == "vgg19-dcbb9e9d.pth"


@pytest.mark.parametrize("content", [{"features.0.bias": torch.zeros(64)}, {"a": torch.zeros(1)}, torch.zeros(3), 7])
def test_other_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(SpearError, match="holds neither torchvision's VGG19 nor its MobileNetV2"):
        load_perceptual(tmp_path / "net.pth")


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_pickled_code_is_refused_and_garbage_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"features.0.bias": _Harmful()}, tmp_path / "net.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("net.pth", "text.pth"):
        with pytest.raises(SpearError, match=r"is not a plain state dict \(UnpicklingError\); give torchvision's file"):
            load_perceptual(tmp_path / name)
    assert "never" not in capsys.readouterr().out
