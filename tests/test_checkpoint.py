"""Promises of spear.checkpoint: tensor files that describe themselves, equal for equal content, safe against damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spear.checkpoint import load_checkpoint, read_about, read_tensors, save_checkpoint, save_tensors
from spear.errors import SpearError
from spear.version import __version__


def complaint(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(SpearError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,  # not contiguous
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
    }
    save_tensors(tmp_path / "a.safetensors", tensors, {"made": "by hand", "list": [1, 2]})
    back, about = read_tensors(tmp_path / "a.safetensors")
    assert about["made"] == "by hand"
    assert about["list"] == [1, 2]
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = torch.ones(3), torch.zeros(2)
    save_tensors(tmp_path / "a.safetensors", {"x": one, "y": two}, {"p": 1, "q": {"r": 2, "s": 3}})
    save_tensors(tmp_path / "b.safetensors", {"y": two, "x": one}, {"q": {"s": 3, "r": 2}, "p": 1})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.zeros(100)}, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    damaged = f"{path} is damaged: its checksum does not match; make it again or restore a copy"
    assert complaint(read_tensors, path) == damaged
    assert read_about(path)["format"] == 1  # the description is still there


def test_a_changed_description_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.zeros(100)}, {"step": 3})
    data = path.read_bytes()
    for here, there in ((b'step\\": 3', b'step\\": 2'), (b"step", b"stap"), (b"sha256", b"sha257")):
        assert here in data
        path.write_bytes(data.replace(here, there))
        assert complaint(read_tensors, path).startswith(f"{path} is damaged: its checksum does not match")


def test_a_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    """Its checksum is of the tensors alone: here of one empty tensor."""
    path = tmp_path / "a.safetensors"
    digest = hashlib.sha256(b"x torch.float32 (0,);").hexdigest()
    about = json.dumps({"format": 1, "sha256": digest, "step": 3}, sort_keys=True)
    save_file({"x": torch.zeros(0)}, path, metadata={"spear": about})
    assert read_tensors(path)[1]["step"] == 3


def test_files_that_are_no_checkpoints_get_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_tensors(whole, {"x": torch.zeros(100)}, {})
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-9])
    (tmp_path / "text.safetensors").write_text("these are no tensors, but enough letters for a header\n")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        path = tmp_path / f"{name}.safetensors"
        message = complaint(read_tensors, path)
        assert message.startswith(f"{path} is not a readable safetensors file (")
        assert message.endswith("); make it again")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    assert complaint(read_tensors, foreign) == (
        f"{foreign} was not written by spear; give a file that a spear command made"
    )
    old = tmp_path / "old.safetensors"
    save_file({"x": torch.zeros(1)}, old, metadata={"spear": '{"format": 0}'})
    assert complaint(read_tensors, old) == (
        f"{old} has format 0, this spear {__version__} reads format 1; make it again"
    )
    later = tmp_path / "later.safetensors"
    save_file({"x": torch.zeros(1)}, later, metadata={"spear": '{"format": 2}'})
    assert complaint(read_tensors, later) == (
        f"{later} has format 2, this spear {__version__} reads format 1; "
        "install the spear that wrote it, or make it again"
    )
    assert complaint(read_tensors, tmp_path / "absent").startswith(f"{tmp_path / 'absent'} does not exist")


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a2lm.safetensors"
    save_checkpoint(path, "a2lm", {"width": 8}, {"w": torch.ones(2)}, step=30)
    weights, about = load_checkpoint(path, "a2lm")
    assert torch.equal(weights["w"], torch.ones(2))
    assert (about["kind"], about["config"], about["step"]) == ("a2lm", {"width": 8}, 30)
    assert complaint(load_checkpoint, path, "lm2face") == (
        f"{path} holds a checkpoint of kind 'a2lm', 'lm2face' is needed here; give that one"
    )


def test_a_net_of_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a2lm.safetensors"
    save_checkpoint(path, "a2lm", {}, {"w": torch.tensor([1.0, float("nan")]), "count": torch.tensor(3)})
    assert complaint(load_checkpoint, path, "a2lm") == (
        f"{path} has weights that are not finite; restore a copy or train it again"
    )


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {"not JSON": {1, 2}})
    assert list(tmp_path.iterdir()) == []
