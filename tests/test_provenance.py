"""Promises of spear.provenance: a sidecar tells what a video was made from, and a damaged one gets one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spear.errors import SpearError
from spear.provenance import (
    COMMENT,
    Record,
    Source,
    is_comment,
    read_sidecar,
    remove_sidecar,
    sidecar_path,
    source,
    sources,
    write_sidecar,
)
from spear.version import __version__

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""The SHA-256 of `abc`: FIPS 180-2, appendix B.1."""
RECORD = Record(
    video=Source("out.mp4", ABC),
    audio=Source("speech.wav", ABC),
    ref=Source("face.mp4", ABC),
    weights=(Source("a2lm.safetensors", ABC), Source("lm2face.safetensors", ABC)),
    command="spear render --audio speech.wav --ref face.mp4 -o out.mp4",
)


def test_the_sidecar_is_beside_the_video_and_keeps_its_whole_name() -> None:
    assert sidecar_path(Path("a/out.mp4")) == Path("a/out.mp4.json")
    assert sidecar_path(Path("a/out.mkv")) == Path("a/out.mkv.json")


def test_the_sidecar_says_all_this_and_nothing_else(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "out.mp4", RECORD)
    assert json.loads((tmp_path / "out.mp4.json").read_text()) == {
        "format": 1,
        "says": "Synthetic face: made with SPEAR",
        "spear": __version__,
        "command": "spear render --audio speech.wav --ref face.mp4 -o out.mp4",
        "video": {"name": "out.mp4", "sha256": ABC},
        "audio": {"name": "speech.wav", "sha256": ABC},
        "ref": {"name": "face.mp4", "sha256": ABC},
        "weights": [{"name": "a2lm.safetensors", "sha256": ABC}, {"name": "lm2face.safetensors", "sha256": ABC}],
        "provenance": True,
        "signed": False,
        "watermark": None,
    }


@pytest.mark.parametrize(
    "record",
    [RECORD, replace(RECORD, signed=True, watermark="0101001110001101"), replace(RECORD, provenance=False, weights=())],
)
def test_what_was_written_comes_back(record: Record, tmp_path: Path) -> None:
    write_sidecar(tmp_path / "out.mp4", record)
    assert read_sidecar(tmp_path / "out.mp4") == record


def test_equal_renders_give_equal_sidecars(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_sidecar(tmp_path / name, RECORD)
    assert (tmp_path / "a.mp4.json").read_bytes() == (tmp_path / "b.mp4.json").read_bytes()


def test_without_a_sidecar_there_is_none(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "out.mp4") is None
    remove_sidecar(tmp_path / "out.mp4")
    write_sidecar(tmp_path / "out.mp4", RECORD)
    remove_sidecar(tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_sidecar_gets_one_line(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "out.mp4", RECORD)
    whole = json.loads((tmp_path / "out.mp4.json").read_text())
    bare = {name: value for name, value in whole.items() if name != "command"}
    cases = {
        "[1, 2]": "was not written by spear; rename it to verify the video without it",
        '{"frames": 3}': "was not written by spear; rename it to verify the video without it",
        json.dumps(whole | {"format": 2}): "has format 2, this spear reads format 1; update spear",
        json.dumps(bare): "is damaged ('command'); restore a copy, or render again",
        json.dumps(whole | {"signed": "no"}): (
            "is damaged ('no' where a bool belongs); restore a copy, or render again"
        ),
        json.dumps(whole | {"weights": ["a"]}): (
            "is damaged ('a' where a dict belongs); restore a copy, or render again"
        ),
    }
    path = tmp_path / "out.mp4.json"
    for text, complaint in cases.items():
        path.write_text(text)
        with pytest.raises(SpearError) as caught:
            read_sidecar(tmp_path / "out.mp4")
        assert str(caught.value) == f"{path} {complaint}"
    path.write_text("{")
    with pytest.raises(SpearError, match="cannot read"):
        read_sidecar(tmp_path / "out.mp4")


def test_sources_are_named_without_folders_and_sorted(tmp_path: Path) -> None:
    folder = tmp_path / "encoder" / "deep"
    folder.mkdir(parents=True)
    for path in (folder / "b.safetensors", tmp_path / "encoder" / "c.json", tmp_path / "a.safetensors"):
        path.write_text("abc")
    found = sources([tmp_path / "encoder", tmp_path / "a.safetensors", tmp_path / "a.safetensors"])
    assert found == (Source("a.safetensors", ABC), Source("b.safetensors", ABC), Source("c.json", ABC))


def test_a_source_may_have_another_name_than_its_file(tmp_path: Path) -> None:
    (tmp_path / ".out.x7.mp4").write_text("abc")
    assert source(tmp_path / ".out.x7.mp4", "out.mp4") == Source("out.mp4", ABC)


def test_a_source_that_is_gone_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpearError) as caught:
        source(tmp_path / "gone.wav")
    what = f"cannot read {tmp_path / 'gone.wav'} for its checksum: No such file or directory"
    assert str(caught.value) == f"{what}; check the path and its permissions"


def test_comments_of_all_versions_are_known_and_others_are_not() -> None:
    assert is_comment(COMMENT)
    assert is_comment("Synthetic face: made with SPEAR 7.1")
    for text in ("", "Synthetic face: made with SPEARMINT 2", "made with SPEAR 0.1.0"):
        assert not is_comment(text)
