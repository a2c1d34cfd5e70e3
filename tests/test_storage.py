"""Files in a folder and members of a tar read alike; what is cut off gets one line."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from spear.checkpoint import read_tensors, save_tensors
from spear.errors import SpearError
from spear.storage import InFolder, InTar, Member, Storage, Window, index_forgotten


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, list[Storage]]:
    """A tensor file, and the two ways to it."""
    path, tar = tmp_path / "x.safetensors", tmp_path / "all.tar"
    numbers = torch.arange(24, dtype=torch.float16).view(6, 2, 2)
    save_tensors(path, {"numbers": numbers, "more": torch.ones(3), "none": torch.empty(0, 2)}, {"kind": "test"})
    with tarfile.open(tar, "w") as archive:
        archive.add(path, "k.x.safetensors")
    with tarfile.open(tar) as archive:
        info = archive.getmember("k.x.safetensors")
    return path, [InFolder(), InTar({"x.safetensors": Member(tar, info.offset_data, info.size)})]


def test_both_ways_give_the_same(both: tuple[Path, list[Storage]]) -> None:
    path, ways = both
    whole, about = read_tensors(path)
    for way in ways:
        assert way.exists(path)
        assert not way.exists(path.with_name("y.safetensors"))
        assert way.about(path) == about
        assert all(torch.equal(value, whole[name]) for name, value in way.tensors(path).items())
        window = way.window(path)
        assert window.names == ["more", "none", "numbers"]
        for rows in (slice(None), slice(2, 4), slice(4, 99), slice(5, 2)):
            part = window.rows("numbers", rows.start or 0, rows.stop)
            assert part.dtype == torch.float32
            assert torch.equal(part, whole["numbers"][rows].float())
        assert window.rows("none").shape == (0, 2)
        with pytest.raises(SpearError, match="has no tensor 'gone'; make it again"):
            window.rows("gone")
    media = ways[1].media(path)
    assert ways[0].media(path) == str(path)
    assert not isinstance(media, str)
    assert media.read() == path.read_bytes()


@pytest.mark.parametrize("cut", [0, 4, 30, -1], ids=str)
def test_a_file_that_is_cut_off(both: tuple[Path, list[Storage]], cut: int) -> None:
    path, (way, _) = both
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SpearError) as caught:
        way.window(path)
    assert str(caught.value).startswith(f"{path} is not a readable safetensors file (")
    assert str(caught.value).endswith("); make it again")


def test_a_tar_that_is_cut_off(both: tuple[Path, list[Storage]], tmp_path: Path) -> None:
    path, (_, way) = both
    window = way.window(path)
    (tmp_path / "all.tar").write_bytes((tmp_path / "all.tar").read_bytes()[:1000])
    assert isinstance(window, Window)
    with pytest.raises(SpearError, match="is cut off; make it again"):
        window.rows("numbers")
    with pytest.raises(SpearError, match="is not a readable safetensors file"):
        way.tensors(path)


def test_a_flipped_bit_is_noticed_in_a_tar(both: tuple[Path, list[Storage]], tmp_path: Path) -> None:
    path, (_, way) = both
    bytes_of = bytearray((tmp_path / "all.tar").read_bytes())
    place = bytes_of.index(path.read_bytes()) + path.stat().st_size - 1
    bytes_of[place] ^= 1
    (tmp_path / "all.tar").write_bytes(bytes_of)
    with pytest.raises(SpearError, match="is damaged: its checksum does not match"):
        way.tensors(path)


def test_no_index_survives_a_change(tmp_path: Path) -> None:
    (tmp_path / ".index").mkdir()
    (tmp_path / ".index" / "clips.safetensors").write_bytes(b"old")
    with index_forgotten(tmp_path):
        assert not (tmp_path / ".index").exists()
        (tmp_path / ".index").mkdir()
        (tmp_path / ".index" / "clips.safetensors").write_bytes(b"begun before the change")
    assert not (tmp_path / ".index").exists()
