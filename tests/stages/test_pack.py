"""`spear pack`: tars that WebDataset can read, equal bytes, and trainings that cannot tell them from the folders."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from command_line import complaint, done, files, forked_spear
from made_up import make_clip

from spear.checkpoint import read_tensors
from spear.clip import Clip
from spear.clip_index import indexed_clips
from spear.face_pairs import read_faces
from spear.stages import pack as stage
from spear.stages.pack import pack


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two splits; one id has dots and a percent sign, one clip has latents."""
    root = tmp_path_factory.mktemp("packed")
    for i, name in enumerate(("a", "b.1%2E", "ü", "v", "w")):
        clip = make_clip(root / "clips" / name, frames=12 + i, seed=i, split="val" if i > 2 else "train")
    clip.write_latents({"picture": torch.randn(16, 2, 3, 3)}, {"vae": "none"})
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "here"))


def webdataset(tar: Path) -> dict[str, dict[str, bytes]]:
    """Samples as WebDataset groups them: the key is the path up to the first dot of the name."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            found = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            assert found, member.name
            data = archive.extractfile(member)
            assert data is not None
            samples.setdefault(found[1], {})[found[2]] = data.read()
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    return samples


def test_the_tars_hold_the_clips(here: Path) -> None:
    assert done(forked_spear("pack", "clips", "shards", cwd=here)).splitlines() == [
        "2 shards done, 0 already there, 0 left out"
    ]
    assert sorted(path.name for path in (here / "shards").iterdir()) == [
        "index.safetensors", "train-00000.json", "train-00000.tar", "val-00000.json", "val-00000.tar",
    ]  # fmt: skip
    samples = webdataset(here / "shards" / "train-00000.tar")
    assert list(samples) == ["a", "b%2E1%252E", "ü"]
    for key, name in zip(samples, ("a", "b.1%2E", "ü"), strict=True):
        assert samples[key] == {path.name: path.read_bytes() for path in (here / "clips" / name).iterdir()}


def test_packed_clips_read_like_folders(here: Path) -> None:
    pack(here / "clips", here / "shards")
    packed, plain = (indexed_clips(here / name) for name in ("shards", "clips"))
    assert packed.ids == plain.ids
    for clip, other in zip(packed, plain, strict=True):
        assert clip.facts == other.facts
        assert (clip.landmarks()[0] == other.landmarks()[0]).all()
        assert torch.equal(clip.features("mfcc", 3, 9), other.features("mfcc", 3, 9))
        assert (read_faces(clip, [0, 5]) == read_faces(other, [0, 5])).all()
    assert torch.equal(*(rows[rows.ids.index("w")].latents([7, 3])["picture"] for rows in (packed, plain)))


def test_equal_clips_give_equal_bytes_and_a_second_run_does_nothing(here: Path) -> None:
    first = pack(here / "clips", here / "one")
    before = files(here / "one")
    again = pack(here / "clips", here / "one")
    assert ((first.done, first.kept), (again.done, again.kept)) == ((2, 0), (0, 2))
    assert files(here / "one") == before
    shutil.copytree(here / "clips", here / "copied")
    pack(here / "copied", here / "two")
    for name in ("train-00000.tar", "val-00000.tar", "index.safetensors"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_small_shards_and_what_is_no_longer_packed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_MB", 1)  # each clip is larger than that
    assert pack(here / "clips", here / "shards", shard_size=10_000).done == 5
    monkeypatch.setattr(stage, "_MB", 1_000_000)
    clip = Clip(here / "clips" / "a")
    clip.write_landmarks(*clip.landmarks(), {"detector": "another"})
    report = pack(here / "clips", here / "shards")
    assert report.done == 2
    assert sorted(path.name for path in (here / "shards").glob("*.tar")) == ["train-00000.tar", "val-00000.tar"]
    assert indexed_clips(here / "shards")[0].storage.about(clip.landmarks_path)["settings"] == {"detector": "another"}


def test_a_pack_that_was_stopped_is_no_pack_until_it_is_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = stage._write, list[Path]()

    def dies(tar: Path, files: list[stage._File]) -> list[tuple[int, int]]:
        calls.append(tar)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(tar, files)

    monkeypatch.setattr(stage, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        pack(here / "clips", here / "shards")
    said = complaint(forked_spear("train-a2lm", "--clips", "shards", cwd=here))
    assert said == "no clips in shards; run `spear preprocess VIDEOS` first, or give the folder with --clips"
    report = pack(here / "clips", here / "shards")
    assert (report.done, report.kept) == (1, 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("gone shards", "gone is not a folder; run `spear preprocess VIDEOS` first, or give the folder with --clips"),
        ("clips clips/shards", "clips/shards is in clips, whose clips are packed; give another folder"),
    ],
)
def test_pack_refuses(here: Path, args: str, message: str) -> None:
    assert complaint(forked_spear("pack", *args.split(), cwd=here)) == message


def test_packed_clips_are_not_packed_again(here: Path) -> None:
    pack(here / "clips", here / "shards")
    assert complaint(forked_spear("pack", "shards", "more", cwd=here)) == (
        "shards holds packed clips; give the folder that they were packed from"
    )


@pytest.mark.parametrize(
    "training", [["train-a2lm", "--epochs", "2"], ["train-lm2face", "--epochs", "1", "--frames-per-clip", "2"]], ids=str
)
def test_trainings_give_the_same_weights_from_both(here: Path, training: list[str]) -> None:
    pack(here / "clips", here / "shards")
    for clips in ("clips", "shards"):
        done(forked_spear(*training, "--clips", clips, "--models", f"of {clips}", cwd=here))
    name = training[0].removeprefix("train-")
    for file in (f"{name}.safetensors", f"{name}.last.safetensors"):
        assert (here / "of clips" / file).read_bytes() == (here / "of shards" / file).read_bytes()
    states = [
        read_tensors(here / f"of {clips}" / f"{name}.state" / "state.safetensors")[0] for clips in ("clips", "shards")
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
