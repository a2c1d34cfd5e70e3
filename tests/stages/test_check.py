"""Promises of `spear check`: one flipped bit in any file is found, and whole files are not blamed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from command_line import complaint, done, forked_spear
from made_up import make_clip
from safetensors.torch import save_file

from spear.checkpoint import save_checkpoint
from spear.clip import Clip
from spear.errors import SpearError
from spear.provenance import Record, Source, source, write_sidecar
from spear.stages.check import check

FLIPS = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip, a model and a rendered video with its sidecar."""
    clip = make_clip(tmp_path / "clips" / "a", frames=5)
    clip.write_latents({"picture": torch.zeros(5, 4, 2, 2)}, {})
    save_checkpoint(tmp_path / "models" / "a2lm.safetensors", "a2lm", {"width": 8}, {"w": torch.ones(50)})
    (tmp_path / "out.mp4").write_bytes(clip.face_path.read_bytes())
    made_from = Source("a", "0" * 64)
    write_sidecar(tmp_path / "out.mp4", Record(source(tmp_path / "out.mp4"), made_from, made_from, (), "spear render"))
    return tmp_path


def flip(path: Path, random: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def test_whole_files_are_not_blamed(folder: Path) -> None:
    found = check(folder)
    assert (found.whole, found.damaged, found.unknown) == (8, [], {})


def test_each_of_fifty_flipped_bits_is_found(folder: Path) -> None:
    chance = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "out.mp4.json")
    assert len(files) == 8
    for number in range(FLIPS):
        path = files[number % len(files)]
        before = path.read_bytes()
        flip(path, chance)
        assert [file for file, _ in check(folder).damaged] == [path]
        path.write_bytes(before)
    assert check(folder).damaged == []


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("face.mp4", "delete {clip}/clip.json and run `spear preprocess` again"),
        ("audio.wav", "delete {clip}/clip.json and run `spear preprocess` again"),
        ("landmarks.safetensors", "delete it and run `spear landmarks` again"),
        ("mfcc.safetensors", "delete it and run `spear extract-audio-features --encoder mfcc` again"),
        ("latents.safetensors", "delete it and run `spear train-lm2face --cache-latents` again"),
    ],
)
def test_what_to_do_is_said(folder: Path, name: str, again: str) -> None:
    path = folder / "clips" / "a" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    damaged = f"{path} is damaged: its checksum does not match; {again.format(clip=path.parent)}"
    assert check(folder).damaged == [(path, damaged)]


def test_a_number_that_somebody_changed_is_found(folder: Path) -> None:
    path = folder / "clips" / "a" / "clip.json"
    path.write_text(path.read_text().replace('"width": 256', '"width": 255'))
    again = f"delete {path.parent} and run `spear preprocess` again"
    assert check(folder).damaged == [(path, f"{path} is damaged: its checksum does not match; {again}")]


def test_a_lost_file_is_found(folder: Path) -> None:
    clip = folder / "clips" / "a"
    (clip / "audio.wav").unlink()
    reason = f"{clip} lacks audio.wav; delete {clip} and run `spear preprocess` again"
    assert check(folder).damaged == [(clip / "clip.json", reason)]


def test_what_has_no_checksum_is_counted_not_blamed(folder: Path) -> None:
    """A clip of version 0.1, a note, a hidden file, and a tensor file that another program wrote."""
    path = folder / "clips" / "a" / "clip.json"
    old = json.loads(path.read_text())
    del old["sha256"], old["files_sha256"]
    path.write_text(json.dumps(old))
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden").write_text("mine")
    found = check(folder)
    assert (found.whole, found.damaged) == (5, [])
    assert found.unknown == {".json": 1, ".mp4": 1, ".wav": 1, ".txt": 1}
    assert Clip(path.parent).info.frames == 5
    save_file({"x": torch.zeros(1)}, folder / "foreign.safetensors")
    assert "was not written by spear" in check(folder).damaged[0][1]


def test_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(SpearError, match="holds no file with a checksum; give a folder of clips, models or renders"):
        check(tmp_path)
    with pytest.raises(SpearError, match="nowhere does not exist"):
        check(tmp_path / "nowhere")


def test_the_command(folder: Path) -> None:
    assert done(forked_spear("check", ".", cwd=folder)) == "8 files are what was written\n"
    assert done(forked_spear("check", "models/a2lm.safetensors", cwd=folder)) == "1 files are what was written\n"
    path = folder / "clips" / "a" / "face.mp4"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    run = forked_spear("check", "clips", cwd=folder)
    assert (run.code, run.out.count("damaged: clips/a/face.mp4 is damaged")) == (1, 1)
    assert run.err == "error: 1 of 6 files in clips are damaged; do as said above for each\n"
    assert complaint(forked_spear("check", "nowhere", cwd=folder)).startswith("nowhere does not exist")
