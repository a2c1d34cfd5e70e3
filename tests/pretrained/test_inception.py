"""The FID network: names, shapes and pools worked by hand; the file's errors; pytorch-fid where it imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spear.errors import SpearError
from spear.pretrained.inception import WEIGHTS_NAME, Inception, Mixed, find_inception_weights, load_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as pytorch-fid's, classifier included, with seeded random numbers in place of the trained ones."""
    torch.manual_seed(0)
    state = Inception().state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    path = tmp_path_factory.mktemp("weights") / WEIGHTS_NAME
    torch.save(state, path)
    return path


def test_names_and_shapes() -> None:
    net = Inception()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    # 94 convolutions with a weight and five batch norm tensors each; 21 785 568 parameters is InceptionV3 without its
    # classifiers (Keras counts 21 768 352 trainable without and 17 216 batch norm scales)
    assert len(shapes) == 94 * 6
    assert sum(p.numel() for p in net.parameters()) == 21_768_352 + 17_216
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_5d.branch_pool.conv.weight"] == (64, 288, 1, 1)
    assert shapes["Mixed_6a.branch3x3dbl_3.conv.weight"] == (96, 96, 3, 3)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6e.branch7x7dbl_4.conv.weight"] == (192, 192, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_mean"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert net.Mixed_7c.branch1x1.bn.eps == 1e-3
    assert "Mixed_6a.branch_pool.conv.weight" not in shapes


@pytest.mark.parametrize(("max_pool", "corner"), [(False, 5.0), (True, 8.0)])
def test_pools_of_fid(max_pool: bool, corner: float) -> None:
    block = Mixed(1, [], pooled=1, max_pool=max_pool).eval()
    torch.nn.init.ones_(block.branch_pool.conv.weight)
    block.branch_pool.bn.eps = 0.0
    # the corner's window holds 2, 4, 6, 8 and five cells of padding: mean 20 / 4 = 5 (20 / 9 would count the padding),
    # maximum 8
    picture = torch.tensor([[2.0, 4.0, 0.0], [6.0, 8.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 1, 3, 3)
    assert block(picture)[0, 0, 0, 0].item() == pytest.approx(corner)


def test_loads_frozen_and_gives_2048_features(weights: Path) -> None:
    net = load_inception(weights)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    features = net.embed(pictures)
    assert features.shape == (2, 2048)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    direct = net(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    np.testing.assert_array_equal(features, direct.numpy())
    assert np.abs(features[0] - features[1]).max() > 0


def test_weights_are_found_in_torch_hubs_cache(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / WEIGHTS_NAME
    with pytest.raises(SpearError) as error:
        find_inception_weights()
    assert str(error.value) == (
        f"no Inception weights at {place}, FID needs them; download https://github.com/mseitzer/pytorch-fid/releases/"
        "download/fid_weights/pt_inception-2015-12-05-6726825d.pth and put it there, "
        "or give it with `--inception-weights FILE`"
    )
    place.parent.mkdir()
    place.symlink_to(weights)
    assert find_inception_weights() == place


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    advice = f"; give pytorch-fid's {WEIGHTS_NAME} with `--inception-weights FILE`"
    path.write_bytes(b"no weights")
    with pytest.raises(SpearError, match="is not a readable weight file") as error:
        load_inception(path)
    assert "\n" not in str(error.value)
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(SpearError) as error:
        load_inception(path)
    assert str(error.value) == f"{path} holds other weights than the FID InceptionV3{advice}"
    torch.save([1], path)
    with pytest.raises(SpearError) as error:
        load_inception(path)
    assert str(error.value) == f"{path} holds no state dict{advice}"


class _Spy:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code in the weight file ran')",))


def test_no_code_in_the_file_runs(tmp_path: Path) -> None:
    torch.save({"fc.weight": _Spy()}, tmp_path / "w.pth")
    with pytest.raises(SpearError, match="is not a readable weight file"):
        load_inception(tmp_path / "w.pth")


def test_as_pytorch_fid(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = pytest.importorskip("pytorch_fid.inception", exc_type=ImportError)
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = reference.InceptionV3().eval()
    pictures = torch.rand(2, 3, 100, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(pictures)[0].flatten(1)
    torch.testing.assert_close(load_inception(weights)(pictures), expected, rtol=1e-5, atol=1e-5)
