"""LPIPS: a distance worked by hand, the whole net restated in numpy, the two weight files and their errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from spear.errors import SpearError
from spear.pretrained.lpips import ALEXNET_NAME, HEADS_NAME, Lpips, find_lpips_weights, load_lpips

ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
HEADS_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth"
SHAPES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
"""torchvision's AlexNet: place among the features -> shape of the weight."""
STRIDE_AND_PADDING = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch hub folder with both files, named and shaped as the public ones, classifier included; seeded numbers."""
    random = torch.Generator().manual_seed(0)
    alexnet = {"classifier.1.bias": torch.zeros(2)}
    for place, shape in SHAPES.items():
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        alexnet[f"features.{place}.weight"] = deviation * torch.randn(shape, generator=random)
        alexnet[f"features.{place}.bias"] = 0.1 * torch.randn(shape[0], generator=random)
    heads = {
        f"lin{stage}.model.1.weight": torch.rand(1, shape[0], 1, 1, generator=random)
        for stage, shape in enumerate(SHAPES.values())
    }
    folder = tmp_path_factory.mktemp("hub") / "checkpoints"
    folder.mkdir()
    torch.save(alexnet, folder / ALEXNET_NAME)
    torch.save(heads, folder / HEADS_NAME)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty torch hub folder; the lpips package is not among what the tests install."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def net(files: Path, hub: Path) -> Lpips:
    for name in (ALEXNET_NAME, HEADS_NAME):
        (hub / name).symlink_to(files / name)
    return load_lpips()


def test_by_hand() -> None:
    net = Lpips()
    for tensor in net.parameters():
        torch.nn.init.zeros_(tensor)
    # the first stage sees red and green at one pixel of each place, the others see nothing
    net.features[0].weight.data[0, 0, 5, 5] = net.features[0].weight.data[1, 1, 5, 5] = 1
    net.heads[0].weight.data[0, :2, 0, 0] = torch.tensor([0.5, 0.25])
    red = np.full((1, 40, 40, 3), (255, 0, 0), np.uint8)
    green = np.full((1, 40, 40, 3), (0, 255, 0), np.uint8)
    # red is (1 + .030) / .458 > 0 in red and (-1 + .088) / .448 < 0 in green, which the ReLU cuts: (1, 0) at length 1,
    # green is (0, 1): .5 * (1 - 0)^2 + .25 * (0 - 1)^2 = .75 at every place
    assert net.distance(red, green) == pytest.approx([0.75], abs=1e-6)
    # yellow is (1.030 / .458, 1.088 / .448) = (2.24891, 2.42857), at length 1 (.67945, .73372):
    # .5 * (1 - .67945)^2 + .25 * .73372^2 = .05138 + .13459
    assert net.distance(red, np.maximum(red, green)) == pytest.approx([0.18597], abs=1e-5)


def _conv(x: Floats, weight: Floats, bias: Floats, stride: int, padding: int) -> Floats:
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def _restated(pred: NDArray[np.uint8], truth: NDArray[np.uint8], folder: Path) -> float:
    """Zhang et al. 2018, eq. 1, in numpy, picture by picture: (H, W, 3) each."""
    alexnet = torch.load(folder / ALEXNET_NAME, weights_only=True)
    heads = torch.load(folder / HEADS_NAME, weights_only=True)
    shift, scale = np.array([-0.03, -0.088, -0.188]), np.array([0.458, 0.448, 0.45])
    pair = [((p / 255 * 2 - 1 - shift) / scale).transpose(2, 0, 1) for p in (pred, truth)]
    total = 0.0
    for stage, place in enumerate(SHAPES):
        if stage in (1, 2):
            pair = [sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-2, -1)) for x in pair]
        weight, bias = (alexnet[f"features.{place}.{kind}"].double().numpy() for kind in ("weight", "bias"))
        pair = [np.maximum(_conv(x, weight, bias, *STRIDE_AND_PADDING[place]), 0) for x in pair]
        a, b = (x / (np.linalg.norm(x, axis=0) + 1e-10) for x in pair)
        head = heads[f"lin{stage}.model.1.weight"].double().numpy()[0]
        total += float((head * (a - b) ** 2).sum(0).mean())
    return total


def test_as_restated_in_numpy(net: Lpips, hub: Path) -> None:
    pred, truth = np.random.default_rng(0).integers(0, 256, (2, 2, 70, 51, 3), dtype=np.uint8)
    distances = net.distance(pred, truth)
    assert distances.shape == (2,)
    assert distances.dtype == np.float32
    expected = [_restated(a, b, hub) for a, b in zip(pred, truth, strict=True)]
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


def test_zero_symmetric_and_growing_with_noise(net: Lpips) -> None:
    rng = np.random.default_rng(1)
    picture = np.tile(np.linspace(40, 215, 64).astype(np.uint8)[:, None, None], (1, 1, 64, 3))
    noise = rng.normal(size=picture.shape)
    noisy = [np.clip(picture + size * noise, 0, 255).astype(np.uint8) for size in (2, 8, 32)]
    assert net.distance(picture, picture)[0] == 0
    small, middle, large = (float(net.distance(picture, other)[0]) for other in noisy)
    assert 0 < small < middle < large
    assert float(net.distance(noisy[1], picture)[0]) == pytest.approx(middle, rel=1e-5)


def test_frozen(net: Lpips) -> None:
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert sum(p.numel() for p in net.features.parameters()) == 2_469_696  # AlexNet's features without its classifier


def test_the_heads_of_an_installed_package_come_first(
    net: Lpips, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package was imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    assert find_lpips_weights() == (hub / ALEXNET_NAME, hub / HEADS_NAME)  # a package without the file
    packaged = package / "weights" / "v0.1" / "alex.pth"
    packaged.symlink_to(hub / HEADS_NAME)
    assert find_lpips_weights() == (hub / ALEXNET_NAME, packaged)
    load_lpips()


def test_absent_weights_are_named(hub: Path, files: Path) -> None:
    with pytest.raises(SpearError) as error:
        find_lpips_weights()
    assert str(error.value) == (
        f"LPIPS has no weights; download {ALEXNET_URL} to {hub / ALEXNET_NAME} and {HEADS_URL} to {hub / HEADS_NAME}"
    )
    (hub / ALEXNET_NAME).symlink_to(files / ALEXNET_NAME)
    with pytest.raises(SpearError) as error:
        find_lpips_weights()
    assert str(error.value) == f"LPIPS has no weights; download {HEADS_URL} to {hub / HEADS_NAME}"


class _Spy:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code in the weight file ran')",))


def test_other_files_are_refused_in_one_line(hub: Path, files: Path) -> None:
    alexnet, heads = hub / ALEXNET_NAME, hub / HEADS_NAME
    heads.symlink_to(files / HEADS_NAME)
    alexnet.write_bytes(b"no weights")
    with pytest.raises(SpearError, match="is not a readable weight file") as error:
        load_lpips()
    assert "\n" not in str(error.value)
    torch.save({"features.0.weight": _Spy()}, alexnet)
    with pytest.raises(SpearError, match="is not a readable weight file"):
        load_lpips()
    torch.save([1], alexnet)
    with pytest.raises(SpearError) as error:
        load_lpips()
    assert str(error.value) == f"{alexnet} holds no state dict; download {ALEXNET_URL} again"
    alexnet.unlink()
    alexnet.symlink_to(files / ALEXNET_NAME)
    heads.unlink()
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, heads)
    with pytest.raises(SpearError) as error:
        load_lpips()
    assert str(error.value) == f"{heads} holds other weights than LPIPS v0.1 with AlexNet; download {HEADS_URL} again"


def test_pictures_are_checked() -> None:
    net, good = Lpips(), np.zeros((1, 40, 40, 3), np.uint8)
    for wrong in (good[0], good[:, :30], good[..., :1], np.zeros((2, 40, 40, 3), np.uint8)):
        with pytest.raises(ValueError, match="pictures must be"):
            net.distance(wrong, good if wrong.shape[1:] == (40, 40, 3) else wrong)
    with pytest.raises(ValueError, match="uint8"):
        net.distance(good / 255, good)  # type: ignore[arg-type]
